#include "device/pc/pit8254.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

struct fixture {
    struct clock clock;
    struct timer_queue *timers;
    struct pit8254 *pit;
    struct region ports, port_b;
    int level;
    unsigned edges;
    uint64_t edge_ns; /* of the latest edge */
    enum irq_state line_state;
};

static void record_line(void *opaque, unsigned number, int level)
{
    struct fixture *f = opaque;
    if (level && !f->level) {
        f->edges++;
        f->edge_ns = clock_now(&f->clock);
    }
    f->level = level;
}

static enum irq_state tell_state(void *opaque, unsigned number)
{
    struct fixture *f = opaque;
    return f->line_state;
}

static void out(struct fixture *f, unsigned port, uint8_t value)
{
    f->ports.write(f->ports.device, port, 1, value);
}

static uint8_t in(struct fixture *f, unsigned port)
{
    return (uint8_t)f->ports.read(f->ports.device, port, 1);
}

static uint8_t in_port_b(struct fixture *f)
{
    return (uint8_t)f->port_b.read(f->port_b.device, 0, 1);
}

static void out_port_b(struct fixture *f, uint8_t value)
{
    f->port_b.write(f->port_b.device, 0, 1, value);
}

static void write_count(struct fixture *f, unsigned channel, unsigned count)
{
    out(f, channel, count & 0xff);
    out(f, channel, count >> 8 & 0xff);
}

static unsigned read_count(struct fixture *f, unsigned channel)
{
    unsigned low = in(f, channel);
    return low | (unsigned)in(f, channel) << 8;
}

/* Moves guest time to the first nanosecond of an absolute tick, running timers late. */
static void go_to_tick(struct fixture *f, uint64_t tick)
{
    uint64_t ns = (uint64_t)(((unsigned __int128)tick * NS_PER_SECOND + PIT8254_HZ - 1) /
                             PIT8254_HZ);
    clock_advance(&f->clock, ns - clock_now(&f->clock));
}

/* Runs each timer exactly when it is due, until the given guest time. */
static unsigned run_until(struct fixture *f, uint64_t end_ns)
{
    unsigned calls = 0;
    for (;;) {
        uint64_t next = timer_queue_next(f->timers);
        if (next > end_ns) {
            break;
        }
        if (next > clock_now(&f->clock)) {
            clock_advance(&f->clock, next - clock_now(&f->clock));
        }
        calls += timer_queue_run(f->timers);
    }
    clock_advance(&f->clock, end_ns - clock_now(&f->clock));
    return calls;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct error err;
    clock_init_virtual(&f->clock);
    f->timers = timer_queue_new(&f->clock);
    f->pit = pit8254_new("pit", f->timers,
                         (struct irq_line){record_line, f, 0, tell_state}, &err);
    assert_non_null(f->pit);
    f->ports = pit8254_region(f->pit, 0x40);
    f->port_b = pit8254_port_b_region(f->pit, 0x61);
    f->edges = 0;
    f->line_state = IRQ_TAKEN;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    struct device *device = pit8254_device(f->pit);
    device->type->free(device);
    timer_queue_free(f->timers);
    free(f);
    return 0;
}

static void test_periodic_without_drift(void **state)
{
    struct fixture *f = *state;
    out(f, 3, 0x34); /* channel 0, mode 2 */
    write_count(f, 0, 1193);
    run_until(f, 1000 * NS_PER_SECOND);
    /* 1000 s hold 1193182000 ticks; the first period starts one tick after the write. */
    assert_int_equal(f->edges, (1193182000u - 1) / 1193);
    assert_int_equal(pit8254_ticks_dropped(f->pit), 0);
}

static void test_late_host_catches_up(void **state)
{
    struct fixture *f = *state;
    out(f, 3, 0x34);
    write_count(f, 0, 11932); /* about 100 Hz */
    run_until(f, NS_PER_SECOND);
    unsigned before = f->edges;
    clock_advance(&f->clock, NS_PER_SECOND / 10); /* ten ticks pass unnoticed */
    timer_queue_run(f->timers);
    assert_int_equal(f->edges, before + 1); /* not in a bunch */
    run_until(f, 2 * NS_PER_SECOND);
    assert_int_equal(f->edges, (2386364u - 1) / 11932);
    assert_int_equal(pit8254_ticks_dropped(f->pit), 0);
}

/* The guest's processor has no time: what it does not take is not lost. */
static void test_edges_wait_for_the_one_before(void **state)
{
    struct fixture *f = *state;
    out(f, 3, 0x34);
    write_count(f, 0, 11932);
    run_until(f, NS_PER_SECOND / 100 + NS_PER_SECOND / 1000);
    assert_int_equal(f->edges, 1);
    f->line_state = IRQ_WAITING;
    unsigned calls = run_until(f, NS_PER_SECOND / 2);
    assert_int_equal(f->edges, 1);
    assert_in_range(calls, 90, 110); /* it looks twice in a period */
    f->line_state = IRQ_TAKEN;
    run_until(f, NS_PER_SECOND / 2 + NS_PER_SECOND / 50);
    assert_in_range(f->edges, 10, 18); /* at most eight times the rate */
    run_until(f, NS_PER_SECOND);
    assert_int_equal(f->edges, (1193182u - 1) / 11932);
    /* A line that nobody looks at is no reason to save anything up. */
    f->line_state = IRQ_MASKED;
    run_until(f, 2 * NS_PER_SECOND);
    assert_int_equal(f->edges, (2386364u - 1) / 11932);
    assert_int_equal(pit8254_ticks_dropped(f->pit), 0);
}

static void test_hour_of_absence_is_not_replayed(void **state)
{
    struct fixture *f = *state;
    out(f, 3, 0x34);
    write_count(f, 0, 11932);
    clock_advance(&f->clock, 3600 * NS_PER_SECOND);
    timer_queue_run(f->timers);
    run_until(f, 3610 * NS_PER_SECOND);
    assert_in_range(f->edges, 1098, 1102); /* one second's worth and ten seconds' */
    assert_true(pit8254_ticks_dropped(f->pit) > 350000);
}

static void test_tiny_counts_do_not_storm(void **state)
{
    struct fixture *f = *state;
    for (unsigned mode = 2; mode <= 3; mode++) {
        for (unsigned count = 1; count <= 2; count++) {
            out(f, 3, (uint8_t)(0x30 | mode << 1));
            write_count(f, 0, count);
            unsigned calls = run_until(f, clock_now(&f->clock) + NS_PER_SECOND / 10);
            assert_in_range(calls, 1000, 2001); /* 50 us apart */
        }
    }
}

static void test_mode_0_interrupts_once(void **state)
{
    struct fixture *f = *state;
    out(f, 3, 0x30);
    assert_int_equal(f->level, 0);
    write_count(f, 0, 1000);
    run_until(f, NS_PER_SECOND);
    assert_int_equal(f->edges, 1);
    assert_int_equal(f->level, 1);
    assert_int_equal(f->edge_ns, (1001 * NS_PER_SECOND + PIT8254_HZ - 1) / PIT8254_HZ);
}

static void test_mode_4_strobes_once(void **state)
{
    struct fixture *f = *state;
    out(f, 3, 0x38);
    write_count(f, 0, 500);
    run_until(f, NS_PER_SECOND);
    assert_int_equal(f->edges, 1);
}

static void test_new_count_waits_for_the_period(void **state)
{
    struct fixture *f = *state;
    out(f, 3, 0x34);
    write_count(f, 0, 1000);
    go_to_tick(f, 500);
    write_count(f, 0, 3000);
    assert_int_equal(read_count(f, 0), 1000 - 499);
    run_until(f, NS_PER_SECOND);
    /* edges at ticks 1001, 4001, 7001 ... */
    assert_int_equal(f->edges, 1 + (PIT8254_HZ - 1001) / 3000);
}

static void test_latch_and_read_back(void **state)
{
    struct fixture *f = *state;
    out(f, 3, 0x34);
    write_count(f, 0, 1000);
    go_to_tick(f, 11);
    out(f, 3, 0x00);
    go_to_tick(f, 101);
    out(f, 3, 0x00); /* ignored: the first is unread */
    assert_int_equal(read_count(f, 0), 990);
    assert_int_equal(read_count(f, 0), 900);
    out(f, 3, 0xc2);                  /* status and count of channel 0 */
    assert_int_equal(in(f, 0), 0xb4); /* OUT high, count in effect, both bytes, mode 2 */
    assert_int_equal(read_count(f, 0), 900);
    out(f, 3, 0x36);
    out(f, 3, 0xe2);
    assert_int_equal(in(f, 0), 0xf6); /* null count: nothing loaded yet */
}

static void test_square_wave_counts_by_two(void **state)
{
    struct fixture *f = *state;
    out(f, 3, 0xb6);
    out_port_b(f, 1);
    write_count(f, 2, 101);
    go_to_tick(f, 1);
    assert_int_equal(read_count(f, 2), 100);
    go_to_tick(f, 1 + 50);
    assert_int_equal(read_count(f, 2), 0);
    assert_int_equal(in_port_b(f) & 0x20, 0x20);
    go_to_tick(f, 1 + 51);
    assert_int_equal(in_port_b(f) & 0x20, 0);
    assert_int_equal(read_count(f, 2), 100);
    go_to_tick(f, 1 + 101);
    assert_int_equal(in_port_b(f) & 0x20, 0x20);
}

static void test_bcd(void **state)
{
    struct fixture *f = *state;
    out(f, 3, 0xb1); /* channel 2, mode 0, BCD */
    out_port_b(f, 1);
    write_count(f, 2, 0x1000);
    go_to_tick(f, 2);
    assert_int_equal(read_count(f, 2), 0x0999);
    go_to_tick(f, 1002);
    assert_int_equal(read_count(f, 2), 0x9999);
    write_count(f, 2, 0);
    go_to_tick(f, 1004);
    assert_int_equal(read_count(f, 2), 0x9999);
}

static void test_single_byte_access(void **state)
{
    struct fixture *f = *state;
    out_port_b(f, 1);
    out(f, 3, 0x90); /* low byte, mode 0 */
    out(f, 2, 0x80);
    go_to_tick(f, 2);
    assert_int_equal(in(f, 2), 0x7f);
    out(f, 3, 0xa0); /* high byte */
    out(f, 2, 0x80);
    go_to_tick(f, 4);
    assert_int_equal(in(f, 2), 0x7f);
    assert_int_equal(in(f, 2), 0x7f);
}

static void test_gate_of_channel_2(void **state)
{
    struct fixture *f = *state;
    out(f, 3, 0xb0);
    write_count(f, 2, 100);
    go_to_tick(f, 50);
    assert_int_equal(read_count(f, 2), 100); /* gate low */
    out_port_b(f, 1);
    go_to_tick(f, 90);
    assert_int_equal(read_count(f, 2), 60);
    out_port_b(f, 0);
    go_to_tick(f, 500);
    assert_int_equal(read_count(f, 2), 60);
    out_port_b(f, 1);
    go_to_tick(f, 560);
    assert_int_equal(in_port_b(f) & 0x20, 0x20);
}

static void test_one_shot_by_gate(void **state)
{
    struct fixture *f = *state;
    out(f, 3, 0xb2); /* mode 1 */
    write_count(f, 2, 100);
    go_to_tick(f, 200);
    assert_int_equal(in_port_b(f) & 0x20, 0x20);
    out_port_b(f, 1);
    go_to_tick(f, 201 + 99);
    assert_int_equal(in_port_b(f) & 0x20, 0);
    go_to_tick(f, 201 + 100);
    assert_int_equal(in_port_b(f) & 0x20, 0x20);
}

/* The way Linux calibrates the TSC: 50 ms in channel 2, polled in port 61h. */
static void test_calibration_by_channel_2(void **state)
{
    struct fixture *f = *state;
    unsigned latch = PIT8254_HZ / 20;
    out_port_b(f, (uint8_t)((in_port_b(f) & ~2u) | 1));
    out(f, 3, 0xb0);
    write_count(f, 2, latch);
    uint64_t start = clock_now(&f->clock);
    while (!(in_port_b(f) & 0x20)) {
        clock_advance(&f->clock, 1000);
        assert_true(clock_now(&f->clock) - start < NS_PER_SECOND);
    }
    assert_in_range(clock_now(&f->clock) - start, 50000000 - 2000, 50000000 + 2000);
}

static void test_refresh_toggles(void **state)
{
    struct fixture *f = *state;
    go_to_tick(f, 0);
    assert_int_equal(in_port_b(f) & 0x10, 0);
    go_to_tick(f, 18);
    assert_int_equal(in_port_b(f) & 0x10, 0x10);
    go_to_tick(f, 36);
    assert_int_equal(in_port_b(f) & 0x10, 0);
}

/* Saved when the count had run out and nobody had noticed yet. */
static void test_loading_delivers_an_edge_once(void **state)
{
    struct fixture *f = *state;
    uint8_t saved[1024];
    struct device *device = pit8254_device(f->pit);
    size_t size = device_state_size(device->type);
    assert_in_range(size, 1, sizeof(saved));
    out(f, 3, 0x30); /* channel 0, both bytes, mode 0 */
    write_count(f, 0, 1000);
    go_to_tick(f, 5000);
    device_save(device, saved);
    device_reset(device);
    f->level = 0;
    f->edges = 0;
    assert_int_equal(device_load(device, saved, size, NULL), 0);
    assert_int_equal(f->level, 0);
    timer_queue_run(f->timers);
    assert_int_equal(f->edges, 1);
    assert_int_equal(f->level, 1);
    device_save(device, saved);
    assert_int_equal(device_load(device, saved, size, NULL), 0);
    assert_int_equal(f->level, 1);
    timer_queue_run(f->timers);
    assert_int_equal(f->edges, 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_periodic_without_drift),
        TEST(test_late_host_catches_up),
        TEST(test_edges_wait_for_the_one_before),
        TEST(test_hour_of_absence_is_not_replayed),
        TEST(test_tiny_counts_do_not_storm),
        TEST(test_mode_0_interrupts_once),
        TEST(test_mode_4_strobes_once),
        TEST(test_new_count_waits_for_the_period),
        TEST(test_latch_and_read_back),
        TEST(test_square_wave_counts_by_two),
        TEST(test_bcd),
        TEST(test_single_byte_access),
        TEST(test_gate_of_channel_2),
        TEST(test_one_shot_by_gate),
        TEST(test_calibration_by_channel_2),
        TEST(test_refresh_toggles),
        TEST(test_loading_delivers_an_edge_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
