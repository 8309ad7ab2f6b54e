/* The event loop: descriptors, posts, timers on running, paused and virtual clocks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#undef fail /* cmocka has one, too */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/loop.h"

static struct clock clock_;
static struct timer_queue *timers;
static struct loop *loop;

static int open_on(void (*init)(struct clock *))
{
    struct error err;
    init(&clock_);
    timers = timer_queue_new(&clock_);
    loop = loop_open(timers, &err);
    alarm(30); /* a loop that never wakes must not hang the build */
    return loop ? 0 : -1;
}

static int setup(void **unused)
{
    return open_on(clock_init);
}

static int setup_virtual(void **unused)
{
    return open_on(clock_init_virtual);
}

static int teardown(void **unused)
{
    loop_close(loop);
    timer_queue_free(timers);
    alarm(0);
    return 0;
}

static void stop(void *opaque)
{
    loop_stop(loop);
}

static void count_call(void *opaque)
{
    ++*(int *)opaque;
}

static void test_stop_before_run_counts(void **unused)
{
    loop_stop(loop);
    loop_run(loop);
    loop_stop(loop);
    loop_run(loop);
}

static void test_posts_run_in_order_and_once(void **unused)
{
    int calls = 0;
    loop_post(loop, count_call, &calls);
    loop_post(loop, count_call, &calls);
    loop_post(loop, stop, NULL);
    loop_post(loop, count_call, &calls);
    loop_run(loop);
    assert_int_equal(calls, 3);
    loop_stop(loop);
    loop_run(loop);
    assert_int_equal(calls, 3);
}

static void test_unrun_posts_are_dropped(void **unused)
{
    loop_post(loop, stop, NULL);
}

/* Two pipes readable at once; whoever is called first removes both. */
struct pair {
    int first[2], second[2];
    int calls;
};

static void remove_both(void *opaque, int fd, uint32_t events)
{
    struct pair *pair = opaque;
    assert_true(events & EPOLLIN);
    pair->calls++;
    loop_remove(loop, pair->first[0]);
    loop_remove(loop, pair->second[0]);
    loop_post(loop, stop, NULL);
}

static void test_removed_descriptor_is_not_called_again(void **unused)
{
    struct pair pair = {.calls = 0};
    assert_int_equal(pipe(pair.first) | pipe(pair.second), 0);
    assert_int_equal(loop_add(loop, pair.first[0], EPOLLIN, remove_both, &pair, NULL), 0);
    assert_int_equal(loop_add(loop, pair.second[0], EPOLLIN, remove_both, &pair, NULL),
                     0);
    assert_int_equal(write(pair.first[1], "x", 1) + write(pair.second[1], "x", 1), 2);
    loop_run(loop);
    assert_int_equal(pair.calls, 1);
    loop_remove(loop, pair.first[0]); /* unknown by now */
    for (int i = 0; i < 2; i++) {
        close(pair.first[i]);
        close(pair.second[i]);
    }
}

static void stop_when_writable(void *opaque, int fd, uint32_t events)
{
    *(uint32_t *)opaque = events;
    loop_stop(loop);
}

static void test_modify_changes_what_is_watched(void **unused)
{
    int ends[2];
    uint32_t events = 0;
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(loop_modify(loop, ends[1], EPOLLOUT), -ENOENT);
    assert_int_equal(loop_add(loop, ends[1], 0, stop_when_writable, &events, NULL), 0);
    assert_int_equal(loop_modify(loop, ends[1], EPOLLOUT), 0);
    loop_run(loop);
    assert_true(events & EPOLLOUT);
    loop_remove(loop, ends[1]);
    close(ends[0]);
    close(ends[1]);
}

static void test_unwatchable_descriptors_are_refused(void **unused)
{
    struct error err;
    assert_int_equal(loop_add(loop, -1, EPOLLIN, stop_when_writable, NULL, &err), -EBADF);
    int file = open("/proc/self/exe", O_RDONLY);
    assert_int_equal(loop_add(loop, file, EPOLLIN, stop_when_writable, NULL, &err),
                     -EPERM);
    close(file);
}

static void test_timer_stops_the_loop_at_its_time(void **unused)
{
    struct timer timer;
    timer_init(&timer, timers, NULL, stop, NULL);
    uint64_t deadline = clock_now(&clock_) + 2000000;
    timer_set(&timer, deadline);
    loop_run(loop);
    assert_true(clock_now(&clock_) >= deadline);
    /* Absurdly late ones are just late; cancelled ones wake nothing. */
    timer_set(&timer, UINT64_MAX - 1);
    loop_post(loop, stop, NULL);
    loop_run(loop);
    timer_fini(&timer);
}

static void *move_timer_earlier(void *opaque)
{
    usleep(1000);
    timer_set(opaque, 0);
    return NULL;
}

static void test_timer_moved_earlier_by_another_thread(void **unused)
{
    struct timer timer;
    pthread_t thread;
    timer_init(&timer, timers, NULL, stop, NULL);
    timer_set(&timer, 3600 * NS_PER_SECOND);
    assert_int_equal(pthread_create(&thread, NULL, move_timer_earlier, &timer), 0);
    loop_run(loop);
    pthread_join(thread, NULL);
    timer_fini(&timer);
}

static void *resume_soon(void *opaque)
{
    usleep(5000);
    *(_Atomic bool *)opaque = true;
    clock_resume(&clock_);
    return NULL;
}

static void test_timers_wait_while_the_clock_is_paused(void **unused)
{
    struct timer timer;
    pthread_t thread;
    _Atomic bool resumed = false;
    timer_init(&timer, timers, NULL, stop, NULL);
    timer_set(&timer, clock_now(&clock_) + 1000000);
    clock_pause(&clock_);
    assert_int_equal(pthread_create(&thread, NULL, resume_soon, &resumed), 0);
    loop_run(loop);
    assert_true(resumed);
    pthread_join(thread, NULL);
    timer_fini(&timer);
}

static void *advance_soon(void *opaque)
{
    usleep(1000);
    clock_advance(&clock_, 10 * NS_PER_SECOND);
    return NULL;
}

static void test_virtual_clock_runs_timers_when_advanced(void **unused)
{
    struct timer timer;
    pthread_t thread;
    timer_init(&timer, timers, NULL, stop, NULL);
    timer_set(&timer, 10 * NS_PER_SECOND);
    assert_int_equal(pthread_create(&thread, NULL, advance_soon, NULL), 0);
    loop_run(loop);
    pthread_join(thread, NULL);
    timer_set(&timer, 1); /* in the past */
    loop_run(loop);
    timer_fini(&timer);
}

/* Always due again; the loop has to serve others nevertheless. */
static void rearm(void *opaque)
{
    struct timer *timer = opaque;
    timer_set(timer, 0);
}

static void stop_on_read(void *opaque, int fd, uint32_t events)
{
    loop_stop(loop);
}

static void test_a_busy_timer_does_not_starve_descriptors(void **unused)
{
    int ends[2];
    struct timer timer;
    assert_int_equal(pipe(ends), 0);
    timer_init(&timer, timers, NULL, rearm, &timer);
    timer_set(&timer, 0);
    loop_add(loop, ends[0], EPOLLIN, stop_on_read, NULL, NULL);
    assert_int_equal(write(ends[1], "x", 1), 1);
    loop_run(loop);
    timer_fini(&timer);
    loop_remove(loop, ends[0]);
    close(ends[0]);
    close(ends[1]);
}

/* Threads post and set timers while the loop runs them; nothing is lost. */
enum { THREADS = 4, PER_THREAD = 2000 };

struct stress {
    _Atomic int posted;
    int timer_calls;
    struct timer timer[THREADS];
};

static void stress_check(struct stress *stress)
{
    if (stress->posted == THREADS * PER_THREAD && stress->timer_calls >= THREADS) {
        loop_stop(loop);
    }
}

static void stress_post(void *opaque)
{
    struct stress *stress = opaque;
    stress->posted++;
    stress_check(stress);
}

static void stress_timer(void *opaque)
{
    struct stress *stress = opaque;
    stress->timer_calls++;
    stress_check(stress);
}

static struct stress stress;

static void *stress_thread(void *opaque)
{
    struct timer *timer = opaque;
    for (int i = 0; i < PER_THREAD; i++) {
        timer_set(timer, clock_now(&clock_) + NS_PER_SECOND * 3600 - (uint64_t)i);
        loop_post(loop, stress_post, &stress);
    }
    timer_set(timer, clock_now(&clock_) + 100000);
    return NULL;
}

static void test_nothing_is_lost_between_threads(void **unused)
{
    pthread_t thread[THREADS];
    for (int i = 0; i < THREADS; i++) {
        timer_init(&stress.timer[i], timers, NULL, stress_timer, &stress);
        assert_int_equal(
            pthread_create(&thread[i], NULL, stress_thread, &stress.timer[i]), 0);
    }
    loop_run(loop);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(thread[i], NULL);
        timer_fini(&stress.timer[i]);
    }
    assert_int_equal(stress.posted, THREADS * PER_THREAD);
    assert_int_equal(stress.timer_calls, THREADS);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_stop_before_run_counts),
        TEST(test_posts_run_in_order_and_once),
        TEST(test_unrun_posts_are_dropped),
        TEST(test_removed_descriptor_is_not_called_again),
        TEST(test_modify_changes_what_is_watched),
        TEST(test_unwatchable_descriptors_are_refused),
        TEST(test_timer_stops_the_loop_at_its_time),
        TEST(test_timer_moved_earlier_by_another_thread),
        TEST(test_timers_wait_while_the_clock_is_paused),
        cmocka_unit_test_setup_teardown(test_virtual_clock_runs_timers_when_advanced,
                                        setup_virtual, teardown),
        TEST(test_a_busy_timer_does_not_starve_descriptors),
        TEST(test_nothing_is_lost_between_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
