#pragma once
/* A few threads that do what may block: the others hand them jobs and go on. */

#include <pthread.h>
#include <stdbool.h>

#include "base/error.h"

struct worker_pool;

/* Embedded in what the job is about; owned by the pool from worker_post until run is
 * called. */
struct worker_job {
    void (*run)(struct worker_job *job); /* in one of the threads; may post jobs */
    struct worker_job *next;             /* the pool's */
};

struct worker_config {
    const char *name; /* of its threads, for the debugger */
    unsigned threads; /* 0: jobs wait for worker_pool_run */
    /* As pthread_create; NULL: that. */
    int (*create)(pthread_t *thread, void *(*main)(void *), void *opaque);
    void (*begin)(void); /* first thing in each thread; NULL: nothing */
};

/* Starts all its threads at once; signals are blocked in them. */
struct worker_pool *worker_pool_open(const struct worker_config *config,
                                     struct error *err);
/* Runs what was posted, then ends the threads. Accepts NULL. */
void worker_pool_close(struct worker_pool *pool);
/* For a pool without threads: posted is called, in the posting thread, when a job begins
 * to wait. Before there are jobs. */
void worker_pool_set_posted(struct worker_pool *pool, void (*posted)(void *opaque),
                            void *opaque);
/* Runs what waits, and what that posts, in the calling thread. */
void worker_pool_run(struct worker_pool *pool);
/* Do jobs wait? Asked by the thread that would run them. */
bool worker_pool_has_jobs(struct worker_pool *pool);
/* Thread-safe; never blocks and never fails. Jobs begin in the order of posting. */
void worker_post(struct worker_pool *pool, struct worker_job *job);
