#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "base/scope.h"
#include "base/worker.h"

#include <cmocka.h>

struct counter {
    struct worker_job job;
    struct worker_pool *pool;
    _Atomic unsigned *runs;
    unsigned left; /* how often it posts itself again */
};

static void count(struct worker_job *job)
{
    struct counter *counter = container_of(job, struct counter, job);
    atomic_fetch_add(counter->runs, 1);
    if (counter->left-- > 0) {
        worker_post(counter->pool, job);
    }
}

/* Closing runs what was posted, and what that posts. */
static void test_each_job_runs_once(void **state)
{
    struct error err;
    _Atomic unsigned runs = 0;
    struct counter counters[500];
    struct worker_pool *pool = worker_pool_open(&(struct worker_config){"test", 3}, &err);
    assert_non_null(pool);
    for (unsigned i = 0; i < array_size(counters); i++) {
        counters[i] = (struct counter){{count, NULL}, pool, &runs, i % 3};
        worker_post(pool, &counters[i].job);
    }
    worker_pool_close(pool);
    assert_int_equal(runs, 500 + 167 * 0 + 167 * 1 + 166 * 2);
    worker_pool_close(NULL);
}

struct order {
    struct worker_job job;
    unsigned index, *next;
};

static void check_order(struct worker_job *job)
{
    struct order *order = container_of(job, struct order, job);
    assert_int_equal(order->index, (*order->next)++);
}

static void test_first_come_first_served(void **state)
{
    struct error err;
    unsigned next = 0;
    struct order orders[100];
    struct worker_pool *pool = worker_pool_open(&(struct worker_config){"test", 1}, &err);
    for (unsigned i = 0; i < array_size(orders); i++) {
        orders[i] = (struct order){{check_order, NULL}, i, &next};
        worker_post(pool, &orders[i].job);
    }
    worker_pool_close(pool);
    assert_int_equal(next, array_size(orders));
}

/* Two jobs that wait for each other: they run at the same time. */
struct meeting {
    struct worker_job job;
    pthread_barrier_t *barrier;
    sigset_t mask;
};

static void meet(struct worker_job *job)
{
    struct meeting *meeting = container_of(job, struct meeting, job);
    pthread_sigmask(SIG_SETMASK, NULL, &meeting->mask);
    pthread_barrier_wait(meeting->barrier);
}

static void test_jobs_run_side_by_side_without_signals(void **state)
{
    struct error err;
    pthread_barrier_t barrier;
    struct meeting meetings[2] = {{{meet, NULL}, &barrier, {{0}}},
                                  {{meet, NULL}, &barrier, {{0}}}};
    pthread_barrier_init(&barrier, NULL, 2);
    struct worker_pool *pool = worker_pool_open(&(struct worker_config){"test", 2}, &err);
    worker_post(pool, &meetings[0].job);
    worker_post(pool, &meetings[1].job);
    worker_pool_close(pool);
    pthread_barrier_destroy(&barrier);
    assert_int_equal(sigismember(&meetings[0].mask, SIGTERM), 1);
    assert_int_equal(sigismember(&meetings[1].mask, SIGINT), 1);
}

static void count_post(void *opaque)
{
    ++*(unsigned *)opaque;
}

/* Without threads: whoever asks runs what waits, and what that posts. */
static void test_without_threads(void **state)
{
    struct error err;
    _Atomic unsigned runs = 0;
    unsigned posts = 0;
    struct worker_pool *pool =
        worker_pool_open(&(struct worker_config){.name = "test"}, &err);
    assert_non_null(pool);
    worker_pool_set_posted(pool, count_post, &posts);
    struct counter counter = {{count, NULL}, pool, &runs, 2};
    assert_false(worker_pool_has_jobs(pool));
    worker_post(pool, &counter.job);
    assert_true(worker_pool_has_jobs(pool));
    assert_int_equal(runs, 0);
    assert_int_equal(posts, 1);
    worker_pool_run(pool);
    assert_false(worker_pool_has_jobs(pool));
    assert_int_equal(runs, 3);
    assert_int_equal(posts, 3);
    counter.left = 1;
    worker_post(pool, &counter.job);
    worker_pool_close(pool);
    assert_int_equal(runs, 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_job_runs_once),
        cmocka_unit_test(test_without_threads),
        cmocka_unit_test(test_first_come_first_served),
        cmocka_unit_test(test_jobs_run_side_by_side_without_signals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
