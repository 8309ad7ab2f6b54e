#include "device/pc/rtc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "device/pc/calendar.h"

#define START_SECONDS 1709164797 /* 2024-02-28 23:59:57 UTC, a Wednesday */

struct fixture {
    struct clock clock;
    struct timer_queue *timers;
    struct rtc *rtc;
    struct region ports;
    int level;
    unsigned edges;
};

static void record_line(void *opaque, unsigned number, int level)
{
    struct fixture *f = opaque;
    f->edges += level && !f->level;
    f->level = level;
}

static uint8_t get(struct fixture *f, uint8_t index)
{
    f->ports.write(f->ports.device, 0, 1, index);
    return (uint8_t)f->ports.read(f->ports.device, 1, 1);
}

static void put(struct fixture *f, uint8_t index, uint8_t value)
{
    f->ports.write(f->ports.device, 0, 1, index | 0x80); /* NMI mask: ignored */
    f->ports.write(f->ports.device, 1, 1, value);
}

static void wait_ns(struct fixture *f, uint64_t ns)
{
    uint64_t end = clock_now(&f->clock) + ns;
    while (timer_queue_next(f->timers) <= end) {
        uint64_t next = timer_queue_next(f->timers), now = clock_now(&f->clock);
        clock_advance(&f->clock, next > now ? next - now : 0);
        timer_queue_run(f->timers);
    }
    clock_advance(&f->clock, end - clock_now(&f->clock));
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct error err;
    struct rtc_config config = {
        .wall_ns = START_SECONDS * 1000000000ll,
        .low_memory = 512ull << 20,
        .high_memory = 1ull << 30,
    };
    clock_init_virtual(&f->clock);
    f->timers = timer_queue_new(&f->clock);
    f->rtc =
        rtc_new("rtc", f->timers, (struct irq_line){record_line, f, 8}, &config, &err);
    assert_non_null(f->rtc);
    f->ports = rtc_region(f->rtc, 0x70);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    struct device *device = rtc_device(f->rtc);
    device->type->free(device);
    timer_queue_free(f->timers);
    free(f);
    return 0;
}

static void assert_time(struct fixture *f, const uint8_t expected[8])
{
    static const uint8_t index[] = {RTC_CENTURY, 9, 8, 7, 6, 4, 2, 0};
    for (unsigned i = 0; i < sizeof(index); i++) {
        assert_int_equal(get(f, index[i]), expected[i]);
    }
}

static void test_time_runs_over_a_leap_day(void **state)
{
    struct fixture *f = *state;
    assert_time(f, (uint8_t[]){0x20, 0x24, 0x02, 0x28, 4, 0x23, 0x59, 0x57});
    wait_ns(f, 3 * NS_PER_SECOND);
    assert_time(f, (uint8_t[]){0x20, 0x24, 0x02, 0x29, 5, 0x00, 0x00, 0x00});
    wait_ns(f, 86400 * NS_PER_SECOND);
    assert_time(f, (uint8_t[]){0x20, 0x24, 0x03, 0x01, 6, 0x00, 0x00, 0x00});
}

static void test_formats(void **state)
{
    struct fixture *f = *state;
    put(f, 0x0b, 0x06); /* binary, 24 hours */
    assert_time(f, (uint8_t[]){20, 24, 2, 28, 4, 23, 59, 57});
    put(f, 0x0b, 0x00); /* BCD, 12 hours */
    assert_int_equal(get(f, 4), 0x91);
    wait_ns(f, 3 * NS_PER_SECOND);
    assert_int_equal(get(f, 4), 0x12); /* midnight is 12 AM */
    wait_ns(f, 12 * 3600 * NS_PER_SECOND);
    assert_int_equal(get(f, 4), 0x92); /* noon is 12 PM */
}

static void test_setting_the_time(void **state)
{
    struct fixture *f = *state;
    put(f, 0x0b, 0x82);
    put(f, 0x0a, 0x76); /* divider in reset, as Linux does */
    static const uint8_t index[] = {RTC_CENTURY, 9, 8, 7, 4, 2, 0};
    static const uint8_t value[] = {0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x58};
    for (unsigned i = 0; i < sizeof(index); i++) {
        put(f, index[i], value[i]);
    }
    wait_ns(f, 10 * NS_PER_SECOND);
    assert_int_equal(get(f, 0), 0x58); /* held */
    put(f, 0x0b, 0x02);
    put(f, 0x0a, 0x26);
    wait_ns(f, NS_PER_SECOND / 2 - 1);
    assert_int_equal(get(f, 0), 0x58);
    wait_ns(f, 1);
    assert_int_equal(get(f, 0), 0x59); /* half a second after the divider starts */
    wait_ns(f, NS_PER_SECOND);
    assert_time(f, (uint8_t[]){0x20, 0x00, 0x01, 0x01, 7, 0x00, 0x00, 0x00});
}

static void test_update_in_progress(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(get(f, 0x0a) & 0x80, 0);
    wait_ns(f, NS_PER_SECOND - 2228000);
    assert_int_equal(get(f, 0x0a) & 0x80, 0x80);
    assert_int_equal(get(f, 0), 0x57);
    wait_ns(f, 2228000);
    assert_int_equal(get(f, 0x0a) & 0x80, 0);
    assert_int_equal(get(f, 0), 0x58);
}

static void test_update_interrupt(void **state)
{
    struct fixture *f = *state;
    put(f, 0x0b, 0x12);
    wait_ns(f, NS_PER_SECOND);
    assert_int_equal(f->level, 1);
    wait_ns(f, 5 * NS_PER_SECOND);
    assert_int_equal(f->edges, 1); /* nobody has read register C */
    assert_int_equal(get(f, 0x0c) & 0x90, 0x90);
    assert_int_equal(f->level, 0);
    assert_int_equal(get(f, 0x0c), 0);
    wait_ns(f, NS_PER_SECOND);
    assert_int_equal(f->edges, 2);
}

static void test_periodic_interrupt(void **state)
{
    struct fixture *f = *state;
    put(f, 0x0a, 0x2f); /* 2 Hz */
    get(f, 0x0c);
    put(f, 0x0b, 0x42);
    for (unsigned i = 1; i <= 10; i++) {
        wait_ns(f, NS_PER_SECOND / 2);
        assert_int_equal(f->edges, i);
        assert_int_equal(get(f, 0x0c) & 0xc0, 0xc0);
    }
}

static void test_alarm(void **state)
{
    struct fixture *f = *state;
    put(f, 0x05, 0x00);
    put(f, 0x03, 0x01);
    put(f, 0x01, 0x30); /* 00:01:30 */
    put(f, 0x0b, 0x22);
    wait_ns(f, 92 * NS_PER_SECOND);
    assert_int_equal(f->edges, 0);
    wait_ns(f, NS_PER_SECOND);
    assert_int_equal(f->edges, 1);
    assert_int_equal(get(f, 0x0c) & 0xa0, 0xa0);
    put(f, 0x05, 0xff); /* any hour */
    wait_ns(f, 3600 * NS_PER_SECOND);
    assert_int_equal(f->edges, 2);
    get(f, 0x0c);
    put(f, 0x03, 0x99); /* never */
    wait_ns(f, 100 * 3600 * NS_PER_SECOND);
    assert_int_equal(f->edges, 2);
}

static void test_memory(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(get(f, 0x15) | get(f, 0x16) << 8, 640);
    assert_int_equal(get(f, 0x17) | get(f, 0x18) << 8, 0xffff);
    assert_int_equal(get(f, 0x34) | get(f, 0x35) << 8, (512 - 16) * 16);
    assert_int_equal(get(f, 0x5b) | get(f, 0x5c) << 8 | get(f, 0x5d) << 16, 0x4000);
    put(f, 0x0f, 0x5a);
    device_reset(rtc_device(f->rtc));
    assert_int_equal(get(f, 0x0f), 0x5a);
    assert_int_equal(get(f, 0x0d), 0x80);
    assert_int_equal(get(f, 0), 0x57); /* the battery keeps time */
}

static void test_calendar_round_trip(void **state)
{
    for (int64_t seconds = -70000000000; seconds < 300000000000; seconds += 8640001017) {
        struct calendar date = calendar_from_seconds(seconds);
        assert_in_range(date.month, 1, 12);
        assert_in_range(date.day, 1, 31);
        assert_true(calendar_to_seconds(&date) == seconds);
    }
    struct calendar leap = calendar_from_seconds(951782400); /* 2000-02-29, a Tuesday */
    assert_int_equal(leap.day, 29);
    assert_int_equal(leap.weekday, 2);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_time_runs_over_a_leap_day),
        TEST(test_formats),
        TEST(test_setting_the_time),
        TEST(test_update_in_progress),
        TEST(test_update_interrupt),
        TEST(test_periodic_interrupt),
        TEST(test_alarm),
        TEST(test_memory),
        cmocka_unit_test(test_calendar_round_trip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
