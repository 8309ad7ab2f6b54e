/* pc-testdev: lines, ports and memory that give back what was written. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include "device/pc/pc_testdev.h"

#include <cmocka.h>

static struct pc_testdev *testdev;
static struct region word, flush, byte, irq, memory;
static int level[PC_TESTDEV_LINES];
static uint64_t forgotten;

static void set_level(void *opaque, unsigned number, int value)
{
    level[number] = value;
}

static void forget_page(void *opaque, uint64_t gpa)
{
    forgotten = gpa;
}

static int setup(void **state)
{
    struct error err;
    struct pc_testdev_bus bus = {.forget_page = forget_page};
    for (unsigned i = 0; i < PC_TESTDEV_LINES; i++) {
        bus.line[i] = (struct irq_line){set_level, NULL, i};
        level[i] = 0;
    }
    testdev = pc_testdev_new("testdev", &bus, &err);
    word = pc_testdev_region(testdev, PC_TESTDEV_WORD, 0xe0);
    flush = pc_testdev_region(testdev, PC_TESTDEV_FLUSH, 0xe4);
    byte = pc_testdev_region(testdev, PC_TESTDEV_BYTE, 0xe8);
    irq = pc_testdev_region(testdev, PC_TESTDEV_IRQ, 0x2000);
    memory = pc_testdev_region(testdev, PC_TESTDEV_MEMORY, 0xff000000);
    return 0;
}

static int teardown(void **state)
{
    pc_testdev_device(testdev)->type->free(pc_testdev_device(testdev));
    return 0;
}

static void test_word_in_any_width(void **state)
{
    struct device *device = pc_testdev_device(testdev);
    word.write(device, 0, 4, 0x11223344);
    word.write(device, 1, 1, 0xaa);
    word.write(device, 2, 2, 0xbbcc);
    assert_int_equal(word.read(device, 0, 4), 0xbbccaa44);
    assert_int_equal(word.read(device, 2, 2), 0xbbcc);
    byte.write(device, 3, 1, 0x77);
    assert_int_equal(word.read(device, 0, 4), 0x77ccaa44);
    assert_int_equal(byte.read(device, 1, 1) & 0xff, 0xaa);
}

static void test_lines(void **state)
{
    struct device *device = pc_testdev_device(testdev);
    irq.write(device, 14, 1, 1);
    assert_int_equal(level[14], 1);
    assert_int_equal(irq.read(device, 14, 1), 1);
    irq.write(device, 3, 1, 0xff);
    irq.write(device, 14, 1, 0);
    assert_int_equal(level[14], 0);
    assert_int_equal(level[3], 1);
    device_reset(device);
    assert_int_equal(level[3], 0);
}

static void test_memory(void **state)
{
    struct device *device = pc_testdev_device(testdev);
    memory.write(device, 0xfff8, 8, 0x1122334455667788);
    memory.write(device, 0xfffa, 2, 0xaabb);
    assert_int_equal(memory.read(device, 0xfff8, 8), 0x11223344aabb7788);
    assert_int_equal(memory.read(device, 0, 4), 0);
}

static void test_page_is_forgotten(void **state)
{
    struct device *device = pc_testdev_device(testdev);
    flush.write(device, 0, 4, 0x12345678);
    assert_int_equal(forgotten, 0x12345000);
    assert_int_equal(flush.read(device, 0, 4), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_word_in_any_width, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lines, setup, teardown),
        cmocka_unit_test_setup_teardown(test_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_page_is_forgotten, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
