#include "device/pc/acpi_pm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define STATUS  ACPI_PM_EVENT
#define ENABLE  (ACPI_PM_EVENT + 2)
#define CONTROL ACPI_PM_CONTROL

struct fixture {
    struct clock clock;
    struct timer_queue *timers;
    struct acpi_pm *pm;
    struct region block, reset;
    int level;
    unsigned power_offs, resets;
};

static void record_line(void *opaque, unsigned number, int level)
{
    ((struct fixture *)opaque)->level = level;
}

static void count_power_off(void *opaque)
{
    ((struct fixture *)opaque)->power_offs++;
}

static void count_reset(void *opaque)
{
    ((struct fixture *)opaque)->resets++;
}

static uint64_t in(struct fixture *f, unsigned offset, unsigned size)
{
    uint64_t value = f->block.read(f->block.device, offset, size);
    return size == 4 ? (uint32_t)value : size == 2 ? (uint16_t)value : (uint8_t)value;
}

static void out(struct fixture *f, unsigned offset, unsigned size, uint64_t value)
{
    f->block.write(f->block.device, offset, size, value);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct error err;
    struct acpi_pm_actions actions = {count_power_off, count_reset, f, 5};
    clock_init_virtual(&f->clock);
    f->timers = timer_queue_new(&f->clock);
    f->pm = acpi_pm_new("pm", f->timers, (struct irq_line){record_line, f, 9}, &actions,
                        &err);
    assert_non_null(f->pm);
    f->block = acpi_pm_region(f->pm, 0x600);
    f->reset = acpi_pm_reset_region(f->pm, 0xcf9);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    struct device *device = acpi_pm_device(f->pm);
    device->type->free(device);
    timer_queue_free(f->timers);
    free(f);
    return 0;
}

static void test_power_button(void **state)
{
    struct fixture *f = *state;
    acpi_pm_power_button(f->pm);
    assert_int_equal(f->level, 0);
    assert_int_equal(in(f, STATUS, 2), 0x0100);
    out(f, ENABLE, 2, 0x0100);
    assert_int_equal(f->level, 1);
    out(f, STATUS, 2, 0x00ff);
    assert_int_equal(f->level, 1);
    out(f, STATUS, 2, 0x0100);
    assert_int_equal(f->level, 0);
    assert_int_equal(in(f, STATUS, 4), 0x01000000);
}

static void test_soft_off(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(in(f, CONTROL, 2), 0x0001); /* ACPI mode, always */
    out(f, CONTROL, 2, 5 << 10);
    assert_int_equal(f->power_offs, 0);
    out(f, CONTROL, 2, 1 << 13 | 3 << 10); /* a state that is not offered */
    assert_int_equal(f->power_offs, 0);
    out(f, CONTROL, 2, 1 << 13 | 5 << 10);
    assert_int_equal(f->power_offs, 1);
    assert_int_equal(in(f, CONTROL, 2), 5 << 10 | 1); /* SLP_EN reads as 0 */
}

static void test_timer_rate(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(in(f, ACPI_PM_TIMER, 4), 0);
    clock_advance(&f->clock, 1000 * NS_PER_SECOND);
    assert_int_equal(in(f, ACPI_PM_TIMER, 4), (uint32_t)(1000ull * 3579545));
    out(f, ACPI_PM_TIMER, 4, 0);
    assert_int_equal(in(f, ACPI_PM_TIMER, 4), (uint32_t)(1000ull * 3579545));
}

static void test_timer_carry(void **state)
{
    struct fixture *f = *state;
    out(f, ENABLE, 2, 0x0001);
    uint64_t carry = ((1ull << 31) * NS_PER_SECOND + 3579544) / 3579545;
    assert_true(timer_queue_next(f->timers) == carry);
    clock_advance(&f->clock, carry - 1);
    timer_queue_run(f->timers);
    assert_int_equal(f->level, 0);
    clock_advance(&f->clock, 1);
    timer_queue_run(f->timers);
    assert_int_equal(f->level, 1);
    assert_int_equal(in(f, ACPI_PM_TIMER, 4), 0x80000000u);
    out(f, STATUS, 1, 0x01);
    assert_int_equal(f->level, 0);
    clock_advance(&f->clock, carry);
    timer_queue_run(f->timers);
    assert_int_equal(f->level, 1); /* and when it falls again */
}

static void test_reset_register(void **state)
{
    struct fixture *f = *state;
    f->reset.write(f->reset.device, 0, 1, 0x02);
    assert_int_equal(f->resets, 0);
    assert_int_equal(f->reset.read(f->reset.device, 0, 1), 0x02);
    f->reset.write(f->reset.device, 0, 1, ACPI_PM_RESET_VALUE);
    assert_int_equal(f->resets, 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_power_button), TEST(test_soft_off),       TEST(test_timer_rate),
        TEST(test_timer_carry),  TEST(test_reset_register),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
