#include "base/worker.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

struct worker_pool {
    pthread_mutex_t lock;
    pthread_cond_t posted; /* a job, or is_closing */
    struct worker_job *first, **last;
    bool is_closing;
    void (*posted_fn)(void *opaque); /* see worker_pool_set_posted */
    void *posted_opaque;
    char name[16]; /* the kernel keeps 15 characters of a thread's name */
    void (*begin)(void);
    unsigned thread_count;
    pthread_t thread[];
};

static struct worker_job *job_take_locked(struct worker_pool *pool)
{
    struct worker_job *job = pool->first;
    if (job) {
        pool->first = job->next;
        if (!pool->first) {
            pool->last = &pool->first;
        }
    }
    return job;
}

static struct worker_job *job_take(struct worker_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    while (!pool->first && !pool->is_closing) {
        pthread_cond_wait(&pool->posted, &pool->lock);
    }
    struct worker_job *job = job_take_locked(pool);
    pthread_mutex_unlock(&pool->lock);
    return job;
}

static void *worker_main(void *opaque)
{
    struct worker_pool *pool = opaque;
    struct worker_job *job;
    pthread_setname_np(pthread_self(), pool->name);
    if (pool->begin) {
        pool->begin();
    }
    while ((job = job_take(pool))) {
        job->run(job);
    }
    return NULL;
}

static int create_thread(pthread_t *thread, void *(*main)(void *), void *opaque)
{
    return pthread_create(thread, NULL, main, opaque);
}

/* Signals belong to the thread that asked for them. */
static int start_threads(struct worker_pool *pool, const struct worker_config *config)
{
    int (*create)(pthread_t *, void *(*)(void *), void *) =
        config->create ? config->create : create_thread;
    sigset_t all, before;
    int result = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (result == 0 && pool->thread_count < config->threads) {
        result = create(&pool->thread[pool->thread_count], worker_main, pool);
        pool->thread_count += result == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return result;
}

struct worker_pool *worker_pool_open(const struct worker_config *config,
                                     struct error *err)
{
    struct worker_pool *pool =
        calloc(1, sizeof(*pool) + config->threads * sizeof(pool->thread[0]));
    if (!pool) {
        fail(err, ENOMEM, "cannot make %s threads", config->name);
        return NULL;
    }
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->posted, NULL);
    pool->last = &pool->first;
    snprintf(pool->name, sizeof(pool->name), "%s", config->name);
    pool->begin = config->begin;
    int result = start_threads(pool, config);
    if (result) {
        fail(err, result, "cannot start %s threads", config->name);
        worker_pool_close(pool);
        return NULL;
    }
    return pool;
}

void worker_pool_close(struct worker_pool *pool)
{
    if (!pool) {
        return;
    }
    pthread_mutex_lock(&pool->lock);
    pool->is_closing = true;
    pthread_cond_broadcast(&pool->posted);
    pthread_mutex_unlock(&pool->lock);
    for (unsigned i = 0; i < pool->thread_count; i++) {
        pthread_join(pool->thread[i], NULL);
    }
    worker_pool_run(pool);
    pthread_cond_destroy(&pool->posted);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

void worker_pool_set_posted(struct worker_pool *pool, void (*posted)(void *opaque),
                            void *opaque)
{
    pool->posted_fn = posted;
    pool->posted_opaque = opaque;
}

bool worker_pool_has_jobs(struct worker_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    bool has_jobs = pool->first;
    pthread_mutex_unlock(&pool->lock);
    return has_jobs;
}

void worker_pool_run(struct worker_pool *pool)
{
    for (;;) {
        pthread_mutex_lock(&pool->lock);
        struct worker_job *job = job_take_locked(pool);
        pthread_mutex_unlock(&pool->lock);
        if (!job) {
            return;
        }
        job->run(job);
    }
}

void worker_post(struct worker_pool *pool, struct worker_job *job)
{
    job->next = NULL;
    pthread_mutex_lock(&pool->lock);
    *pool->last = job;
    pool->last = &job->next;
    pthread_cond_signal(&pool->posted);
    pthread_mutex_unlock(&pool->lock);
    if (pool->posted_fn) {
        pool->posted_fn(pool->posted_opaque);
    }
}
