/* The APIC as an array of registers and back. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "x86/lapic.h"

#include <cmocka.h>

enum { VERSION = 0x30, PPR = 0xa0, TIMER = 0x320, INITIAL = 0x380, CURRENT = 0x390 };
enum { DIVIDE = 0x3e0, ONE_SHOT = 0, TSC = 2 << 17, IRR = 0x200, BY_1 = 0xb };

static struct lapic lapic, other;
static struct lapic_effect effect;
static uint8_t image[LAPIC_IMAGE_SIZE];

static uint32_t word(unsigned offset)
{
    uint32_t value;
    memcpy(&value, image + offset, sizeof(value));
    return value;
}

static void put_word(unsigned offset, uint32_t value)
{
    memcpy(image + offset, &value, sizeof(value));
}

static void start(uint32_t mode)
{
    lapic_reset(&lapic, 3, 2000000);
    lapic_reset(&other, 3, 2000000);
    lapic_mmio_write(&lapic, 0, 0xf0, 0x1ff, &effect);
    lapic_mmio_write(&lapic, 0, TIMER, mode | 0xec, &effect);
    lapic_mmio_write(&lapic, 0, DIVIDE, BY_1, &effect);
}

static void test_registers_come_over(void **unused)
{
    start(ONE_SHOT);
    const struct apic_message message = {.vector = 0x45, .is_assert = true};
    lapic_post(&lapic, &message);
    lapic_export(&lapic, 0, true, image);
    put_word(PPR, 0x40);           /* follows from others */
    put_word(VERSION, 0x01050014); /* another implementation's */
    put_word(0x304, 0x12345678);   /* between two registers */
    lapic_import(&other, image);
    assert_int_equal(lapic_pending(&other), 0x45);
    assert_memory_equal(lapic.regs, other.regs, sizeof(lapic.regs));
}

static void test_timer_comes_over_in_its_place(void **unused)
{
    start(ONE_SHOT);
    lapic_mmio_write(&lapic, 1000, INITIAL, 500, &effect);
    lapic_export(&lapic, 1200, true, image);
    assert_int_equal(word(INITIAL), 500);
    assert_int_equal(word(CURRENT), 300);
    lapic_import(&other, image);
    assert_false(lapic_import_timer(&other, 9000, image));
    assert_int_equal(lapic_timer_deadline(&other), 9300);
    assert_int_equal(lapic_mmio_read(&other, 9100, CURRENT), 200);
    /* What is due is due. */
    put_word(CURRENT, 0);
    lapic_import_timer(&other, 9000, image);
    assert_true(lapic_timer_run(&other, 9000));
    assert_int_equal(lapic_pending(&other), 0xec);
}

static void test_timer_can_be_left_out(void **unused)
{
    start(ONE_SHOT);
    lapic_mmio_write(&lapic, 1000, INITIAL, 500, &effect);
    lapic_export(&lapic, 1200, false, image);
    assert_int_equal(word(INITIAL), 0);
    assert_int_equal(word(CURRENT), 0);
    lapic_import(&lapic, image);
    assert_int_equal(lapic_timer_deadline(&lapic), 1500);
    /* Expired, and delivered: it must not fire again. */
    lapic_timer_run(&lapic, 2000);
    lapic_export(&lapic, 2000, true, image);
    assert_int_equal(word(INITIAL), 0);
}

static void test_deadline_is_in_no_register(void **unused)
{
    start(TSC);
    lapic_export(&lapic, 0, true, image);
    lapic_import(&other, image);
    assert_true(lapic_import_timer(&other, 0, image));
    assert_int_equal(lapic_timer_deadline(&other), LAPIC_TIMER_STOPPED);
    lapic_import_deadline(&other, 1000, 2000, 6000); /* 2 GHz: 2000 ns ahead */
    assert_int_equal(other.tsc_deadline, 6000);
    assert_int_equal(lapic_timer_deadline(&other), 3000);
    lapic_import_deadline(&other, 1000, 2000, 0);
    assert_int_equal(lapic_timer_deadline(&other), LAPIC_TIMER_STOPPED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_registers_come_over),
        cmocka_unit_test(test_timer_comes_over_in_its_place),
        cmocka_unit_test(test_timer_can_be_left_out),
        cmocka_unit_test(test_deadline_is_in_no_register),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
