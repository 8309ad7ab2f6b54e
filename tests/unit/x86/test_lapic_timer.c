/* The APIC timer: counts, modes, lateness and absurd values. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "x86/lapic.h"

/* Last: cmocka defines fail() as a macro. */
#include <cmocka.h>

enum { LVT_TIMER = 0x320, INITIAL = 0x380, CURRENT = 0x390, DIVIDE = 0x3e0 };
enum { ONE_SHOT = 0, PERIODIC = 1 << 17, TSC = 2 << 17, MASKED = 1 << 16 };
enum { BY_1 = 0xb, BY_2 = 0, BY_16 = 3, BY_128 = 0xa };

static struct lapic lapic;
static struct lapic_effect effect;

static uint32_t get(uint64_t now, uint32_t offset)
{
    return lapic_mmio_read(&lapic, now, offset);
}

static void put(uint64_t now, uint32_t offset, uint32_t value)
{
    lapic_mmio_write(&lapic, now, offset, value, &effect);
}

static bool fired(void)
{
    if (lapic_pending(&lapic) != 0xec) {
        return false;
    }
    lapic_acknowledge(&lapic, 0xec);
    put(0, 0xb0, 0);
    return true;
}

static void start(uint32_t mode, uint32_t divide)
{
    lapic_reset(&lapic, 0, 2500000);
    put(0, 0xf0, 0x1ff);
    put(0, LVT_TIMER, mode | 0xec);
    put(0, DIVIDE, divide);
}

static void test_one_shot(void **unused)
{
    start(ONE_SHOT, BY_16);
    put(1000, INITIAL, 100);
    assert_true(effect.what & LAPIC_EFFECT_TIMER);
    assert_int_equal(lapic_timer_deadline(&lapic), 2600);
    assert_int_equal(get(1000, CURRENT), 100);
    assert_int_equal(get(1015, CURRENT), 100);
    assert_int_equal(get(1016, CURRENT), 99);
    assert_int_equal(get(2599, CURRENT), 1);
    assert_int_equal(get(2600, CURRENT), 0);
    assert_int_equal(get(9999, CURRENT), 0);
    assert_false(lapic_timer_run(&lapic, 2599));
    assert_false(fired());
    assert_true(lapic_timer_run(&lapic, 2600));
    assert_true(fired());
    assert_int_equal(lapic_timer_deadline(&lapic), LAPIC_TIMER_STOPPED);
    assert_false(lapic_timer_run(&lapic, 99999));
    assert_int_equal(get(99999, INITIAL), 100);
}

static void test_divisors(void **unused)
{
    static const struct {
        uint32_t code, divisor;
    } cases[] = {{0, 2}, {1, 4}, {2, 8}, {3, 16}, {8, 32}, {9, 64}, {10, 128}, {11, 1}};

    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        start(ONE_SHOT, cases[i].code);
        put(7, INITIAL, 10);
        assert_int_equal(lapic_timer_deadline(&lapic), 7 + 10 * cases[i].divisor);
    }
}

static void test_periodic_without_drift(void **unused)
{
    start(PERIODIC, BY_1);
    put(500, INITIAL, 1000000);
    assert_true(lapic_timer_run(&lapic, 1000700)); /* late by 200 ns */
    assert_true(fired());
    assert_int_equal(lapic_timer_deadline(&lapic), 2000500);
    assert_int_equal(get(1000700, CURRENT), 999800);
    /* three periods missed: one interrupt, phase kept */
    assert_int_equal(get(5000600, CURRENT), 999900);
    assert_true(lapic_timer_run(&lapic, 5000600));
    assert_true(fired());
    assert_false(fired());
    assert_int_equal(lapic_timer_deadline(&lapic), 6000500);
    assert_false(lapic_timer_run(&lapic, 5000600));
}

static void test_masked_timer_counts_silently(void **unused)
{
    start(PERIODIC | MASKED, BY_1);
    put(0, INITIAL, 50000);
    assert_true(lapic_timer_run(&lapic, 50000));
    assert_false(fired());
    assert_int_equal(get(60000, CURRENT), 40000);
    put(60000, LVT_TIMER, PERIODIC | 0xec);
    assert_true(lapic_timer_run(&lapic, 100000));
    assert_true(fired());
}

static void test_stop_and_restart(void **unused)
{
    start(ONE_SHOT, BY_1);
    put(0, INITIAL, 50000);
    put(10, INITIAL, 0);
    assert_true(effect.what & LAPIC_EFFECT_TIMER);
    assert_int_equal(lapic_timer_deadline(&lapic), LAPIC_TIMER_STOPPED);
    assert_int_equal(get(20, CURRENT), 0);
    /* What was due when the next count is written has fired before it. */
    put(100, INITIAL, 50);
    put(200, INITIAL, 70);
    assert_true(fired());
    assert_int_equal(lapic_timer_deadline(&lapic), 270);
}

static void test_mode_changes(void **unused)
{
    start(ONE_SHOT, BY_1);
    put(0, INITIAL, 100000);
    put(30000, LVT_TIMER, PERIODIC | 0xec); /* the count goes on */
    assert_int_equal(get(30000, CURRENT), 70000);
    assert_true(lapic_timer_run(&lapic, 100000));
    assert_int_equal(lapic_timer_deadline(&lapic), 200000);
    put(150000, LVT_TIMER, ONE_SHOT | 0xec);
    assert_int_equal(get(150000, CURRENT), 50000);
    assert_true(lapic_timer_run(&lapic, 200000));
    assert_int_equal(lapic_timer_deadline(&lapic), LAPIC_TIMER_STOPPED);
    put(200000, LVT_TIMER, PERIODIC | 0xec); /* expired stays expired */
    assert_int_equal(get(200001, CURRENT), 0);

    put(200000, INITIAL, 100000);
    put(200001, LVT_TIMER, TSC | 0xec);
    assert_int_equal(lapic_timer_deadline(&lapic), LAPIC_TIMER_STOPPED);
    assert_int_equal(get(200001, INITIAL), 0);
    put(200002, INITIAL, 5); /* ignored */
    assert_int_equal(get(200001, INITIAL), 0);
    assert_int_equal(lapic_timer_deadline(&lapic), LAPIC_TIMER_STOPPED);
}

static void test_divide_changes_under_way(void **unused)
{
    start(ONE_SHOT, BY_1);
    put(0, INITIAL, 1000);
    put(400, DIVIDE, BY_2);
    assert_int_equal(get(400, CURRENT), 600);
    assert_int_equal(lapic_timer_deadline(&lapic), 400 + 1200);
    assert_true(effect.what & LAPIC_EFFECT_TIMER);
}

static void test_absurdly_short_period(void **unused)
{
    uint64_t now = 0;
    unsigned runs = 0;

    start(PERIODIC, BY_1);
    put(0, INITIAL, 1);
    assert_int_equal(lapic_timer_deadline(&lapic), 1);
    while (now < 1000000) {
        now = lapic_timer_deadline(&lapic);
        assert_true(lapic_timer_run(&lapic, now));
        assert_true(fired());
        assert_true(lapic_timer_deadline(&lapic) > now);
        runs++;
    }
    assert_in_range(runs, 2, 100);
    assert_int_equal(get(now, CURRENT), 1);
    put(now, LVT_TIMER, ONE_SHOT | 0xec);
    assert_true(lapic_timer_deadline(&lapic) <= now + 1);

    start(PERIODIC, BY_1);
    put(0, INITIAL, 7000);
    lapic_timer_run(&lapic, 7000);
    assert_int_equal(lapic_timer_deadline(&lapic) % 7000, 0); /* the phase is kept */
    assert_int_equal(get(7001, CURRENT), 6999);
    assert_int_equal(get(14001, CURRENT), 6999);
}

static void test_longest_period(void **unused)
{
    start(PERIODIC, BY_128);
    put(5, INITIAL, 0xffffffff);
    assert_int_equal(lapic_timer_deadline(&lapic), 5 + 0xffffffffull * 128);
    assert_int_equal(get(5, CURRENT), 0xffffffff);
    assert_true(lapic_timer_run(&lapic, UINT64_MAX - 1));
    assert_true(lapic_timer_deadline(&lapic) > UINT64_MAX - 1);
}

static uint64_t deadline_msr(uint64_t tsc)
{
    uint64_t value;

    assert_true(lapic_msr_read(&lapic, 0, tsc, MSR_TSC_DEADLINE, &value));
    return value;
}

static void test_tsc_deadline(void **unused)
{
    start(TSC, BY_1);
    /* 2.5 GHz: 2501 ticks are 1000.4 ns, rounded up */
    assert_true(lapic_msr_write(&lapic, 100, 10000, MSR_TSC_DEADLINE, 12501, &effect));
    assert_true(effect.what & LAPIC_EFFECT_TIMER);
    assert_int_equal(lapic_timer_deadline(&lapic), 1101);
    assert_int_equal(deadline_msr(12500), 12501);
    assert_int_equal(deadline_msr(12501), 0);
    assert_int_equal(get(200, CURRENT), 0);
    assert_false(lapic_timer_run(&lapic, 1100));
    assert_true(lapic_timer_run(&lapic, 1101));
    assert_true(fired());
    assert_int_equal(deadline_msr(0), 0);

    /* in the past: at once */
    assert_true(lapic_msr_write(&lapic, 2000, 20000, MSR_TSC_DEADLINE, 1, &effect));
    assert_true(effect.what & LAPIC_EFFECT_RECHECK);
    assert_true(fired());
    assert_int_equal(lapic_timer_deadline(&lapic), LAPIC_TIMER_STOPPED);
    assert_int_equal(deadline_msr(0), 0);

    /* disarmed */
    lapic_msr_write(&lapic, 2000, 20000, MSR_TSC_DEADLINE, 30000, &effect);
    lapic_msr_write(&lapic, 2001, 20003, MSR_TSC_DEADLINE, 0, &effect);
    assert_int_equal(lapic_timer_deadline(&lapic), LAPIC_TIMER_STOPPED);

    /* absurdly far: armed, and never */
    lapic_msr_write(&lapic, 2000, 20000, MSR_TSC_DEADLINE, UINT64_MAX, &effect);
    assert_int_equal(deadline_msr(20000), UINT64_MAX);
    assert_int_equal(
        lapic_timer_deadline(&lapic),
        2000 + (uint64_t)(((unsigned __int128)(UINT64_MAX - 20000) * 2 + 4) / 5));
    lapic.tsc_khz = 1;
    lapic_msr_write(&lapic, 2000, 20000, MSR_TSC_DEADLINE, UINT64_MAX, &effect);
    assert_int_equal(lapic_timer_deadline(&lapic), UINT64_MAX);
    assert_false(lapic_timer_run(&lapic, UINT64_MAX - 1));
}

static void test_tsc_deadline_needs_its_mode(void **unused)
{
    start(ONE_SHOT, BY_1);
    assert_true(lapic_msr_write(&lapic, 0, 0, MSR_TSC_DEADLINE, 5000, &effect));
    assert_int_equal(deadline_msr(0), 0);
    assert_int_equal(lapic_timer_deadline(&lapic), LAPIC_TIMER_STOPPED);

    start(TSC, BY_1);
    lapic_msr_write(&lapic, 0, 0, MSR_TSC_DEADLINE, 5000, &effect);
    put(1, LVT_TIMER, ONE_SHOT | 0xec);
    assert_int_equal(deadline_msr(0), 0);
    assert_int_equal(lapic_timer_deadline(&lapic), LAPIC_TIMER_STOPPED);
}

static void test_tsc_moved_under_a_deadline(void **unused)
{
    start(TSC, BY_1);
    lapic_tsc_changed(&lapic, 0, 77, &effect);
    assert_int_equal(effect.what, 0);
    lapic_msr_write(&lapic, 0, 0, MSR_TSC_DEADLINE, 25000, &effect);
    assert_int_equal(lapic_timer_deadline(&lapic), 10000);
    lapic_tsc_changed(&lapic, 100, 0, &effect);
    assert_int_equal(lapic_timer_deadline(&lapic), 10100);
    lapic_tsc_changed(&lapic, 200, 30000, &effect);
    assert_true(effect.what & LAPIC_EFFECT_RECHECK);
    assert_true(fired());
}

static void test_lost_interrupts_are_counted(void **unused)
{
    start(PERIODIC, BY_1);
    put(0, INITIAL, 100000);
    assert_int_equal(lapic_timer_missed(&lapic, 99999), 0);
    assert_int_equal(lapic_timer_missed(&lapic, 199999), 0);
    assert_int_equal(lapic_timer_missed(&lapic, 350000), 2);
    assert_true(lapic_timer_run(&lapic, 350000));
    assert_int_equal(lapic_timer_missed(&lapic, 399999), 0);
    /* The one before is not taken yet. */
    assert_int_equal(lapic_timer_missed(&lapic, 400000), 1);
    assert_true(fired());
    assert_int_equal(lapic_timer_missed(&lapic, 400000), 0);
    put(400000, LVT_TIMER, PERIODIC | 0x10000 | 0xec);
    assert_int_equal(lapic_timer_missed(&lapic, 900000), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_shot),
        cmocka_unit_test(test_divisors),
        cmocka_unit_test(test_periodic_without_drift),
        cmocka_unit_test(test_masked_timer_counts_silently),
        cmocka_unit_test(test_stop_and_restart),
        cmocka_unit_test(test_mode_changes),
        cmocka_unit_test(test_divide_changes_under_way),
        cmocka_unit_test(test_absurdly_short_period),
        cmocka_unit_test(test_longest_period),
        cmocka_unit_test(test_tsc_deadline),
        cmocka_unit_test(test_tsc_deadline_needs_its_mode),
        cmocka_unit_test(test_tsc_moved_under_a_deadline),
        cmocka_unit_test(test_lost_interrupts_are_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
