/* The clock: stands still when paused, and says so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>

#include "base/clock.h"

static void count_call(void *opaque)
{
    ++*(int *)opaque;
}

static void test_virtual_clock_moves_only_when_advanced(void **unused)
{
    struct clock clock;
    int calls = 0;
    clock_init_virtual(&clock);
    clock_set_changed(&clock, count_call, &calls);
    assert_int_equal(clock_now(&clock), 0);
    clock_advance(&clock, 5);
    clock_advance(&clock, NS_PER_SECOND);
    assert_int_equal(clock_now(&clock), NS_PER_SECOND + 5);
    assert_int_equal(calls, 2);
    assert_int_equal(clock_host_deadline(&clock, 2 * NS_PER_SECOND), UINT64_MAX);
}

static void test_virtual_clock_follows_its_counter(void **unused)
{
    struct clock clock;
    _Atomic uint64_t counter = 1000;
    clock_init_virtual(&clock);
    clock_advance(&clock, 5);
    clock_set_counter(&clock, &counter);
    assert_int_equal(clock_now(&clock), 5);
    counter += 7;
    assert_int_equal(clock_now(&clock), 12);
    clock_advance(&clock, 100);
    assert_int_equal(clock_now(&clock), 112);
    clock_pause(&clock);
    clock_set(&clock, 3000000);
    clock_resume(&clock);
    assert_int_equal(clock_now(&clock), 3000000);
    counter += 1;
    assert_int_equal(clock_now(&clock), 3000001);
    assert_int_equal(clock_host_deadline(&clock, 3000002), UINT64_MAX);
}

static void test_real_clock_runs_from_zero(void **unused)
{
    struct clock clock;
    clock_init(&clock);
    uint64_t first = clock_now(&clock), last;
    assert_true(first < NS_PER_SECOND);
    do {
        last = clock_now(&clock);
        assert_true(last >= first);
    } while (last == first);
}

static void test_paused_clock_stands_still_and_goes_on(void **unused)
{
    struct clock clock;
    int calls = 0;
    clock_init(&clock);
    clock_set_changed(&clock, count_call, &calls);
    clock_pause(&clock);
    clock_pause(&clock);
    uint64_t paused = clock_now(&clock);
    uint64_t host = clock_host_ns();
    while (clock_host_ns() - host < 1000000) {
    }
    assert_int_equal(clock_now(&clock), paused);
    assert_int_equal(clock_host_deadline(&clock, paused + 1), UINT64_MAX);
    uint64_t before = clock_host_ns();
    clock_resume(&clock);
    clock_resume(&clock);
    /* Between both readings of the host, less than that has gone by for the guest. */
    uint64_t now = clock_now(&clock);
    assert_true(now >= paused && now - paused <= clock_host_ns() - before);
    assert_int_equal(calls, 2);
}

static void test_deadlines_are_host_times(void **unused)
{
    struct clock clock;
    clock_init(&clock);
    uint64_t guest = clock_now(&clock), host = clock_host_ns();
    uint64_t deadline = clock_host_deadline(&clock, guest + NS_PER_SECOND);
    assert_true(deadline <= host + NS_PER_SECOND);
    assert_true(deadline + NS_PER_SECOND > host);
    assert_true(clock_host_deadline(&clock, 0) <= clock_host_ns());
    /* Absurd ones do not wrap around. */
    assert_int_equal(clock_host_deadline(&clock, UINT64_MAX - 1), UINT64_MAX);
}

struct race {
    struct clock clock;
    _Atomic bool stop;
    _Atomic bool went_back;
};

static void *read_clock(void *opaque)
{
    struct race *race = opaque;
    uint64_t last = 0;
    while (!race->stop) {
        uint64_t now = clock_now(&race->clock);
        if (now < last) {
            race->went_back = true;
        }
        last = now;
    }
    return NULL;
}

static void test_readers_never_see_it_go_back(void **unused)
{
    struct race race = {0};
    pthread_t thread;
    clock_init(&race.clock);
    assert_int_equal(pthread_create(&thread, NULL, read_clock, &race), 0);
    uint64_t end = clock_host_ns() + 20000000;
    while (clock_host_ns() < end) {
        clock_pause(&race.clock);
        clock_resume(&race.clock);
    }
    race.stop = true;
    pthread_join(thread, NULL);
    assert_false(race.went_back);
}

static void test_a_paused_clock_can_be_set(void **unused)
{
    struct clock clock;
    clock_init(&clock);
    clock_pause(&clock);
    clock_set(&clock, 3600 * NS_PER_SECOND);
    assert_int_equal(clock_now(&clock), 3600 * NS_PER_SECOND);
    clock_resume(&clock);
    assert_in_range(clock_now(&clock), 3600 * NS_PER_SECOND, 3660 * NS_PER_SECOND);
}

static void test_scaling_does_not_overflow(void **unused)
{
    assert_int_equal(scale_u64(UINT64_MAX, 1000, 1000), UINT64_MAX);
    assert_int_equal(scale_u64(3600 * NS_PER_SECOND, 3000000, 1000000),
                     10800000000000ull);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_virtual_clock_moves_only_when_advanced),
        cmocka_unit_test(test_virtual_clock_follows_its_counter),
        cmocka_unit_test(test_real_clock_runs_from_zero),
        cmocka_unit_test(test_paused_clock_stands_still_and_goes_on),
        cmocka_unit_test(test_deadlines_are_host_times),
        cmocka_unit_test(test_readers_never_see_it_go_back),
        cmocka_unit_test(test_a_paused_clock_can_be_set),
        cmocka_unit_test(test_scaling_does_not_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
