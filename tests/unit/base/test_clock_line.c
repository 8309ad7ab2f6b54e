/* The clock along lines, on a host whose time the tests make. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/clock.h"

#define MS             1000000ull
#define TICKS_PER_1000 2100 /* ns, by the nominal rate */

/* Its clock runs slow_ppm slower than the nominal rate, and reading one takes time. */
struct host {
    uint64_t ns, ticks;
    int64_t slow_ppm;
    uint64_t owed; /* millionths of a nanosecond */
    uint64_t read_ns;
    unsigned ns_reads;
};

static struct host host;
static struct clock clock_;

static void pass(uint64_t ns)
{
    host.ticks += ns * TICKS_PER_1000 / 1000;
    unsigned __int128 millionths =
        (unsigned __int128)ns * (uint64_t)(1000000 - host.slow_ppm) + host.owed;
    host.ns += (uint64_t)(millionths / 1000000);
    host.owed = (uint64_t)(millionths % 1000000);
}

static uint64_t read_ns(void *opaque)
{
    host.ns_reads++;
    pass(host.read_ns);
    return host.ns;
}

static uint64_t read_ticks(void *opaque)
{
    pass(10);
    return host.ticks;
}

static const struct clock_host with_ticks = {.ns = read_ns, .ticks = read_ticks};

static void start(void)
{
    host = (struct host){.ns = 1000 * NS_PER_SECOND, .ticks = 77, .read_ns = 20};
    clock_init_on(&clock_, &with_ticks);
}

/* Until there is a line. */
static void draw(void)
{
    struct clock_line line;
    for (unsigned i = 0; i < 3 && !clock_get_line(&clock_, &line); i++) {
        pass(CLOCK_LINE_NS);
    }
    assert_true(clock_get_line(&clock_, &line));
}

static uint64_t expected_ns(void)
{
    return host.ns - clock_.offset_ns;
}

/* How far readings may be from the host's clock: its rate may change by 2000 ppm within a
 * line, and reading takes time. */
#define TOLERANCE 25000

/* Reads the clock; not behind the last reading, and where the host is. */
static void look(uint64_t *last)
{
    uint64_t now = clock_now(&clock_);
    assert_true(now >= *last);
    assert_in_range(now + TOLERANCE, expected_ns(), expected_ns() + 2 * TOLERANCE);
    *last = now;
}

static void test_a_line_is_read_without_the_hosts_clock(void **unused)
{
    uint64_t last = 0;
    start();
    look(&last);
    draw();
    look(&last);
    unsigned reads = host.ns_reads;
    for (unsigned i = 0; i < 90; i++) {
        pass(MS / 10);
        look(&last);
    }
    assert_int_equal(host.ns_reads, reads);
    pass(MS * 3 / 2);
    look(&last);
    assert_true(host.ns_reads > reads);
}

static void test_no_line_before_two_measurements_agree(void **unused)
{
    struct clock_line line;
    start();
    assert_false(clock_get_line(&clock_, &line));
    pass(CLOCK_LINE_NS);
    assert_false(clock_get_line(&clock_, &line));
    pass(CLOCK_LINE_NS);
    assert_true(clock_get_line(&clock_, &line));
}

static void test_a_host_without_a_counter(void **unused)
{
    const struct clock_host plain = {.ns = read_ns};
    struct clock_line line;
    start();
    clock_init_on(&clock_, &plain);
    for (unsigned i = 0; i < 10; i++) {
        pass(CLOCK_LINE_NS);
        uint64_t now = clock_now(&clock_);
        assert_int_equal(now, expected_ns());
        assert_false(clock_get_line(&clock_, &line));
    }
}

static void test_a_copy_tells_what_the_clock_tells(void **unused)
{
    struct clock_line copy;
    start();
    draw();
    assert_true(clock_get_line(&clock_, &copy));
    for (unsigned i = 0; i < 9; i++) {
        pass(MS);
        uint64_t now = clock_now(&clock_);
        assert_true(clock_line_covers(&copy, host.ticks));
        assert_int_equal(clock_line_at(&copy, host.ticks), now);
    }
    /* What it covers is told no other way later, either. */
    uint64_t ticks = copy.start + copy.length - 1;
    pass(20 * MS);
    assert_true(clock_line_at(&copy, ticks) <= clock_now(&clock_));
    assert_false(clock_line_covers(&copy, host.ticks));
    assert_false(clock_line_covers(&copy, copy.start - 1));
}

/* NTP makes the host's clock faster and slower; and there are hours of rest. */
static void test_no_drift_over_days(void **unused)
{
    static const int64_t slow[] = {0, 500, -500, 499, 1000, -1000, 3, -120};
    uint64_t last = 0;
    start();
    draw();
    srandom(1);
    for (unsigned day = 0; day < 100; day++) {
        for (unsigned i = 0; i < 1000; i++) {
            if (i % 100 == 0) {
                host.slow_ppm = slow[(unsigned)random() % 8];
            }
            pass((uint64_t)random() % (4 * MS));
            look(&last);
        }
        pass(24 * 3600 * NS_PER_SECOND);
        look(&last);
    }
}

/* A line that is steeper than what follows: flatter ones lead back to the host's clock.
 */
static void test_ahead_of_the_host_time_goes_on_slowly(void **unused)
{
    start();
    draw();
    uint64_t last = clock_now(&clock_);
    host.slow_ppm = 1500;
    pass(9 * MS);
    look(&last);
    uint64_t ahead = last - expected_ns();
    assert_in_range(ahead, 5000, TOLERANCE);
    for (unsigned i = 0; i < 10; i++) {
        uint64_t before = last;
        pass(2 * MS);
        look(&last);
        assert_true(last > before + MS);
    }
    assert_true(last < expected_ns() + 1000);
}

static void test_behind_the_host_time_leaps(void **unused)
{
    struct clock_line line;
    start();
    draw();
    uint64_t last = clock_now(&clock_);
    host.slow_ppm = -1500;
    pass(9 * MS);
    look(&last);
    assert_true(expected_ns() - last > 5000);
    pass(2 * MS);
    look(&last);
    assert_true(expected_ns() - last < 1000);
    assert_true(clock_get_line(&clock_, &line));
}

/* A suspended host's clock stands still; its counter goes on, or begins anew. */
static void test_the_host_is_suspended(void **unused)
{
    for (unsigned begins_anew = 0; begins_anew < 2; begins_anew++) {
        struct clock_line line;
        start();
        pass(3600 * NS_PER_SECOND);
        draw();
        uint64_t last = clock_now(&clock_);
        pass(4 * MS);
        if (begins_anew) {
            host.ticks = 5;
        } else {
            host.ticks += 3600 * NS_PER_SECOND;
        }
        for (unsigned i = 0; i < 20; i++) {
            uint64_t before = last;
            pass(4 * MS);
            last = clock_now(&clock_);
            /* The line that was in force reached beyond the suspend. */
            assert_true(last >= before && last < expected_ns() + CLOCK_LINE_NS);
            assert_true(i < 2 || (last > before && last < expected_ns() + TOLERANCE));
        }
        assert_true(clock_get_line(&clock_, &line));
    }
}

/* Its kernel has turned away from the counter. */
static void test_a_clock_that_takes_long_has_no_lines(void **unused)
{
    struct clock_line line;
    uint64_t last = 0;
    start();
    draw();
    host.read_ns = 3000;
    pass(11 * MS);
    for (unsigned i = 0; i < 10; i++) {
        look(&last);
        assert_false(clock_get_line(&clock_, &line));
        pass(6 * MS);
    }
    host.read_ns = 20;
    draw();
    look(&last);
}

/* Its processors' counters differ. */
static void test_counters_that_jump_have_no_lines(void **unused)
{
    struct clock_line line;
    start();
    draw();
    uint64_t last = clock_now(&clock_);
    for (unsigned i = 0; i < 40; i++) {
        uint64_t before = last;
        host.ticks += i % 2 ? 1000000 : -1000000ull;
        pass(11 * MS);
        last = clock_now(&clock_);
        assert_true(last >= before);
        assert_false(clock_get_line(&clock_, &line));
        assert_in_range(last, expected_ns() - 1000, expected_ns());
    }
}

static void test_pause_resume_and_set(void **unused)
{
    struct clock_line line;
    start();
    draw();
    for (unsigned i = 0; i < 20; i++) {
        uint64_t before = clock_now(&clock_);
        pass(i * MS);
        clock_pause(&clock_);
        uint64_t paused = clock_now(&clock_);
        assert_in_range(paused, before + i * MS, before + i * MS + 1000);
        assert_false(clock_get_line(&clock_, &line));
        pass(i % 3 * NS_PER_SECOND);
        assert_int_equal(clock_now(&clock_), paused);
        if (i % 2) {
            clock_set(&clock_, paused + 123);
        }
        clock_resume(&clock_);
        uint64_t now = clock_now(&clock_);
        assert_in_range(now, paused + i % 2 * 123, paused + i % 2 * 123 + 1000);
        assert_true(clock_get_line(&clock_, &line));
    }
    /* Before a time that has been: a restored guest. */
    clock_pause(&clock_);
    clock_set(&clock_, 5);
    clock_resume(&clock_);
    assert_in_range(clock_now(&clock_), 5, 1005);
}

/* Who sleeps until a deadline finds it reached, or is told what is left. */
static void test_deadlines(void **unused)
{
    start();
    draw();
    assert_int_equal(clock_host_deadline(&clock_, UINT64_MAX - 1), UINT64_MAX);
    clock_pause(&clock_);
    clock_set(&clock_, 3600 * 24000 * NS_PER_SECOND); /* more than the host's uptime */
    clock_resume(&clock_);
    for (unsigned i = 0; i < 200; i++) {
        host.slow_ppm = i % 5 ? 0 : (int64_t)(i % 7) * 150 - 450;
        uint64_t guest_ns = clock_now(&clock_) + i * i * 1000 + 1;
        uint64_t last_ns = host.ns;
        unsigned sleeps = 0;
        while (clock_now(&clock_) < guest_ns) {
            uint64_t until_ns = clock_host_deadline(&clock_, guest_ns);
            assert_true(until_ns >= last_ns);
            assert_true(++sleeps < 5);
            last_ns = until_ns;
            if (until_ns > host.ns) {
                pass(until_ns - host.ns + 1);
            }
        }
        assert_true(clock_now(&clock_) < guest_ns + TOLERANCE);
        assert_true(clock_host_deadline(&clock_, guest_ns) <= host.ns);
    }
    clock_pause(&clock_);
    assert_int_equal(clock_host_deadline(&clock_, UINT64_MAX - 1), UINT64_MAX);
}

/* ---- threads ---------------------------------------------------------------------- */

#define READERS 4

/* Time that flies, so that a line is short, with a rate that wavers. */
static _Atomic uint64_t flying;

static uint64_t fly_ticks(void *opaque)
{
    return atomic_fetch_add(&flying, 1500);
}

static uint64_t fly_ns(void *opaque)
{
    uint64_t ticks = fly_ticks(opaque);
    uint64_t phase = ticks % 200000000;
    uint64_t wave = phase < 100000000 ? phase : 200000000 - phase;
    return ticks / 2 + wave / 2500;
}

struct race {
    struct clock clock;
    _Atomic uint64_t latest;
    _Atomic bool stop;
    _Atomic bool went_back;
    _Atomic uint64_t copies;
};

/* As translated code reads it: by a copy of the line as long as that serves. */
static uint64_t read_by_copy(struct race *race, struct clock_line *copy)
{
    uint64_t ticks = fly_ticks(NULL);
    if (clock_line_covers(copy, ticks)) {
        race->copies++;
        return clock_line_at(copy, ticks);
    }
    clock_get_line(&race->clock, copy);
    return clock_now(&race->clock);
}

static void *race_reader(void *opaque)
{
    struct race *race = opaque;
    struct clock_line copy = {0};
    for (unsigned i = 0; !race->stop; i++) {
        uint64_t seen = race->latest;
        uint64_t now = i % 2 ? read_by_copy(race, &copy) : clock_now(&race->clock);
        if (now < seen) {
            race->went_back = true;
        }
        atomic_compare_exchange_strong(&race->latest, &seen, now);
    }
    return NULL;
}

static void test_threads_that_draw_and_read(void **unused)
{
    static struct race race;
    const struct clock_host host_that_flies = {.ns = fly_ns, .ticks = fly_ticks};
    pthread_t thread[READERS];
    clock_init_on(&race.clock, &host_that_flies);
    for (unsigned i = 0; i < READERS; i++) {
        assert_int_equal(pthread_create(&thread[i], NULL, race_reader, &race), 0);
    }
    /* Some hundred lines. */
    while (flying < 20 * NS_PER_SECOND && !race.went_back) {
        clock_now(&race.clock);
    }
    race.stop = true;
    for (unsigned i = 0; i < READERS; i++) {
        pthread_join(thread[i], NULL);
    }
    assert_false(race.went_back);
    assert_true(race.copies > 0);
    uint64_t ns = fly_ns(NULL) - race.clock.offset_ns;
    assert_in_range(clock_now(&race.clock), ns - 50000, ns + 50000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_line_is_read_without_the_hosts_clock),
        cmocka_unit_test(test_no_line_before_two_measurements_agree),
        cmocka_unit_test(test_a_host_without_a_counter),
        cmocka_unit_test(test_a_copy_tells_what_the_clock_tells),
        cmocka_unit_test(test_no_drift_over_days),
        cmocka_unit_test(test_ahead_of_the_host_time_goes_on_slowly),
        cmocka_unit_test(test_behind_the_host_time_leaps),
        cmocka_unit_test(test_the_host_is_suspended),
        cmocka_unit_test(test_a_clock_that_takes_long_has_no_lines),
        cmocka_unit_test(test_counters_that_jump_have_no_lines),
        cmocka_unit_test(test_pause_resume_and_set),
        cmocka_unit_test(test_deadlines),
        cmocka_unit_test(test_threads_that_draw_and_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
