/* Timers: order, re-arming, cancelling, and both against the thread that runs them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "base/scope.h"
#include "base/timer.h"

static struct clock clock_;
static struct timer_queue *queue;
static char trace[64];

struct named {
    struct timer timer;
    char name;
    uint64_t again_ns; /* re-arms that much after its deadline; 0: not */
    uint64_t due_ns;
};

static void record(void *opaque)
{
    struct named *named = opaque;
    size_t used = strlen(trace);
    assert_true(used + 1 < sizeof(trace));
    trace[used] = named->name;
    if (named->again_ns) {
        named->due_ns += named->again_ns;
        timer_set(&named->timer, named->due_ns);
    }
}

static void named_set(struct named *named, char name, uint64_t deadline_ns)
{
    if (!named->timer.queue) {
        timer_init(&named->timer, queue, NULL, record, named);
    }
    named->name = name;
    named->due_ns = deadline_ns;
    timer_set(&named->timer, deadline_ns);
}

static int setup(void **unused)
{
    clock_init_virtual(&clock_);
    queue = timer_queue_new(&clock_);
    memset(trace, 0, sizeof(trace));
    return queue ? 0 : -1;
}

static int teardown(void **unused)
{
    timer_queue_free(queue);
    return 0;
}

static void test_due_timers_run_earliest_first(void **unused)
{
    struct named timers[5] = {0};
    named_set(&timers[0], 'd', 40);
    named_set(&timers[1], 'a', 10);
    named_set(&timers[2], 'c', 30);
    named_set(&timers[3], 'b', 20);
    named_set(&timers[4], 'e', 50);
    assert_int_equal(timer_queue_next(queue), 10);
    assert_int_equal(timer_queue_run(queue), 0);
    clock_advance(&clock_, 40);
    assert_int_equal(timer_queue_run(queue), 4);
    assert_string_equal(trace, "abcd");
    assert_int_equal(timer_queue_next(queue), 50);
    timer_fini(&timers[4].timer);
    assert_int_equal(timer_queue_next(queue), TIMER_NEVER);
}

static void test_equal_deadlines_run_in_order_of_arming(void **unused)
{
    struct named timers[8] = {0};
    for (unsigned i = 0; i < array_size(timers); i++) {
        named_set(&timers[i], (char)('a' + i), 7);
    }
    timer_set(&timers[0].timer, 7); /* armed again: now the last */
    clock_advance(&clock_, 7);
    timer_queue_run(queue);
    assert_string_equal(trace, "bcdefgha");
}

static void test_periodic_timer_catches_up(void **unused)
{
    struct named named = {.again_ns = 10};
    named_set(&named, 'p', 10);
    clock_advance(&clock_, 35);
    assert_int_equal(timer_queue_run(queue), 3);
    assert_int_equal(timer_queue_next(queue), 40);
    clock_advance(&clock_, 100);
    assert_int_equal(timer_queue_run_some(queue, 2), 2);
    assert_int_equal(timer_queue_next(queue), 60);
    timer_fini(&named.timer);
}

static void test_cancelled_and_moved_timers(void **unused)
{
    struct named cancelled = {0}, moved = {0}, idle = {0};
    named_set(&cancelled, 'x', 5);
    named_set(&moved, 'm', 5);
    named_set(&idle, 'i', TIMER_NEVER);
    timer_cancel(&cancelled.timer);
    timer_cancel(&cancelled.timer);
    timer_set(&moved.timer, 20);
    clock_advance(&clock_, 10);
    assert_int_equal(timer_queue_run(queue), 0);
    assert_int_equal(moved.timer.deadline_ns, 20);
    timer_set(&moved.timer, TIMER_NEVER);
    assert_int_equal(timer_queue_next(queue), TIMER_NEVER);
    named_set(&moved, 'm', 3); /* in the past: due at once */
    assert_int_equal(timer_queue_run(queue), 1);
    struct timer zero = {0};
    timer_cancel(&zero);
    timer_fini(&zero);
}

static void test_paused_clock_runs_nothing(void **unused)
{
    struct named named = {0};
    named_set(&named, 'a', 5);
    clock_advance(&clock_, 10);
    clock_pause(&clock_);
    assert_int_equal(timer_queue_run(queue), 0);
    clock_resume(&clock_);
    assert_int_equal(timer_queue_run(queue), 1);
}

static void count_call(void *opaque)
{
    ++*(int *)opaque;
}

static void test_wake_when_the_earliest_becomes_earlier(void **unused)
{
    int wakes = 0;
    struct named a = {0}, b = {0};
    timer_queue_set_wake(queue, count_call, &wakes);
    named_set(&a, 'a', 100);
    assert_int_equal(wakes, 1);
    named_set(&b, 'b', 200);
    assert_int_equal(wakes, 1);
    named_set(&b, 'b', 50);
    assert_int_equal(wakes, 2);
    timer_set(&b.timer, 60); /* later */
    assert_int_equal(wakes, 2);
    timer_fini(&a.timer);
    timer_fini(&b.timer);
    assert_int_equal(wakes, 2);
}

/* Random operations against a plain array. */
static void test_heap_against_a_model(void **unused)
{
    enum { COUNT = 40, STEPS = 20000 };
    static struct named timers[COUNT];
    static uint64_t model[COUNT];
    uint32_t seed = 12345;
    memset(timers, 0, sizeof(timers));
    for (unsigned i = 0; i < COUNT; i++) {
        named_set(&timers[i], '.', TIMER_NEVER);
        model[i] = TIMER_NEVER;
    }
    for (unsigned step = 0; step < STEPS; step++) {
        seed = seed * 1664525 + 1013904223;
        unsigned i = (seed >> 8) % COUNT;
        model[i] = seed & 0x80 ? TIMER_NEVER : 1000 + (seed >> 16) % 1000;
        timer_set(&timers[i].timer, model[i]);
        uint64_t earliest = TIMER_NEVER;
        for (unsigned k = 0; k < COUNT; k++) {
            earliest = model[k] < earliest ? model[k] : earliest;
        }
        assert_int_equal(timer_queue_next(queue), earliest);
    }
    for (unsigned i = 0; i < COUNT; i++) {
        timer_fini(&timers[i].timer);
    }
    assert_int_equal(timer_queue_next(queue), TIMER_NEVER);
}

/*
 * A device in two threads: one re-arms and cancels under the device's lock, the other
 * runs the queue. The function must find the deadline that was set last, and reached.
 */
struct device {
    struct timer timer;
    pthread_mutex_t lock;
    uint64_t expected_ns; /* under lock; TIMER_NEVER when cancelled */
    unsigned calls;
    _Atomic bool wrong;
    _Atomic bool stop;
};

static void device_expired(void *opaque)
{
    struct device *device = opaque;
    if (device->expected_ns > clock_now(&clock_)) {
        device->wrong = true;
    }
    device->expected_ns = TIMER_NEVER;
    device->calls++;
}

static void *run_queue(void *opaque)
{
    struct device *device = opaque;
    while (!device->stop) {
        timer_queue_run(queue);
    }
    return NULL;
}

static void test_rearming_against_the_runner(void **unused)
{
    struct device device = {.expected_ns = TIMER_NEVER};
    pthread_t thread;
    pthread_mutex_init(&device.lock, NULL);
    timer_init(&device.timer, queue, &device.lock, device_expired, &device);
    assert_int_equal(pthread_create(&thread, NULL, run_queue, &device), 0);
    bool met = false; /* the runner has had its share, however busy the machine is */
    for (unsigned i = 0; i < 30000 || !met; i++) {
        if (i % 256 == 0) {
            sched_yield();
        }
        pthread_mutex_lock(&device.lock);
        met = device.calls >= 100;
        uint64_t now = clock_now(&clock_);
        /* Due at once, then moved or cancelled before the lock is given up, often. */
        timer_set(&device.timer, now);
        device.expected_ns = now;
        if (i % 3 == 1) {
            timer_set(&device.timer, now + 2);
            device.expected_ns = now + 2;
        } else if (i % 3 == 2) {
            timer_cancel(&device.timer);
            device.expected_ns = TIMER_NEVER;
        }
        pthread_mutex_unlock(&device.lock);
        clock_advance(&clock_, 1);
    }
    device.stop = true;
    pthread_join(thread, NULL);
    timer_fini(&device.timer);
    assert_false(device.wrong);
    pthread_mutex_destroy(&device.lock);
}

/* Its function takes a while; timer_fini must not return before it did. */
struct slow {
    struct timer timer;
    _Atomic bool entered, finished;
};

static void slow_expired(void *opaque)
{
    struct slow *slow = opaque;
    slow->entered = true;
    uint64_t end = clock_host_ns() + 2000000;
    while (clock_host_ns() < end) {
    }
    timer_set(&slow->timer, 0);
    slow->finished = true;
}

static void *run_once(void *opaque)
{
    timer_queue_run_some(queue, 1);
    return NULL;
}

static void test_fini_waits_for_the_call_under_way(void **unused)
{
    struct slow slow = {0};
    pthread_t thread;
    timer_init(&slow.timer, queue, NULL, slow_expired, &slow);
    timer_set(&slow.timer, 0);
    assert_int_equal(pthread_create(&thread, NULL, run_once, NULL), 0);
    while (!slow.entered) {
    }
    timer_fini(&slow.timer);
    assert_true(slow.finished);
    assert_int_equal(timer_queue_next(queue), TIMER_NEVER);
    pthread_join(thread, NULL);
}

static void fini_itself(void *opaque)
{
    timer_fini(opaque);
}

static void test_a_timer_may_end_itself(void **unused)
{
    struct timer timer;
    timer_init(&timer, queue, NULL, fini_itself, &timer);
    timer_set(&timer, 0);
    assert_int_equal(timer_queue_run(queue), 1);
}

static void test_lateness_is_counted(void **unused)
{
    struct named a = {0}, b = {0};
    const struct lateness *lateness = timer_queue_lateness(queue);
    named_set(&a, 'a', 1000);
    named_set(&b, 'b', 5000000);
    clock_advance(&clock_, 1500);
    assert_int_equal(timer_queue_run(queue), 1);
    assert_int_equal(lateness->worst_ns, 500);
    clock_advance(&clock_, 7000000);
    assert_int_equal(timer_queue_run(queue), 1);
    assert_int_equal(lateness->worst_ns, 2001500);
    assert_int_equal(lateness_total(lateness), 2);
    timer_note_missed(&a.timer, 3);
    assert_int_equal(lateness->missed, 3);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_due_timers_run_earliest_first),
        TEST(test_equal_deadlines_run_in_order_of_arming),
        TEST(test_periodic_timer_catches_up),
        TEST(test_cancelled_and_moved_timers),
        TEST(test_paused_clock_runs_nothing),
        TEST(test_wake_when_the_earliest_becomes_earlier),
        TEST(test_heap_against_a_model),
        TEST(test_rearming_against_the_runner),
        TEST(test_fini_waits_for_the_call_under_way),
        TEST(test_a_timer_may_end_itself),
        TEST(test_lateness_is_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
