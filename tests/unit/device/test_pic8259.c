#include "device/pc/pic8259.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

struct fixture {
    struct pic8259 *pic;
    struct region region[3];
    int output;
};

static void record_output(void *opaque, unsigned number, int level)
{
    ((struct fixture *)opaque)->output = level;
}

static void out(struct fixture *f, enum pic8259_block block, unsigned offset,
                uint8_t value)
{
    struct region *region = &f->region[block];
    region->write(region->device, offset, 1, value);
}

static uint8_t in(struct fixture *f, enum pic8259_block block, unsigned offset)
{
    struct region *region = &f->region[block];
    return (uint8_t)region->read(region->device, offset, 1);
}

static void drive(struct fixture *f, unsigned input, int level)
{
    struct irq_line line = pic8259_input(f->pic, input);
    irq_set(&line, level);
}

/* Vectors 30h to 3fh, nothing masked. */
static void program(struct fixture *f, uint8_t icw4)
{
    for (unsigned n = 0; n < 2; n++) {
        out(f, n, 0, 0x11);
        out(f, n, 1, n == 0 ? 0x30 : 0x38);
        out(f, n, 1, n == 0 ? 0x04 : 0x02);
        out(f, n, 1, icw4);
        out(f, n, 1, 0x00);
    }
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct error err;
    f->pic = pic8259_new("pic", (struct irq_line){record_output, f, 0}, &err);
    assert_non_null(f->pic);
    for (unsigned block = 0; block < 3; block++) {
        f->region[block] = pic8259_region(f->pic, block, 0);
    }
    program(f, 0x01);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    struct device *device = pic8259_device(f->pic);
    device->type->free(device);
    free(f);
    return 0;
}

static void test_mask_reads_back(void **state)
{
    struct fixture *f = *state;
    out(f, PIC8259_MASTER, 1, 0xfb);
    assert_int_equal(in(f, PIC8259_MASTER, 1), 0xfb);
    assert_int_equal(in(f, PIC8259_SLAVE, 1), 0x00);
}

static void test_edge_is_served_once(void **state)
{
    struct fixture *f = *state;
    drive(f, 4, 1);
    assert_int_equal(f->output, 1);
    assert_int_equal(pic8259_acknowledge(f->pic), 0x34);
    assert_int_equal(f->output, 0);
    out(f, PIC8259_MASTER, 0, 0x20);
    assert_int_equal(f->output, 0); /* still high, but no new edge */
    drive(f, 4, 0);
    drive(f, 4, 1);
    assert_int_equal(f->output, 1);
}

static void test_priority_and_nesting(void **state)
{
    struct fixture *f = *state;
    drive(f, 5, 1);
    drive(f, 3, 1);
    assert_int_equal(pic8259_acknowledge(f->pic), 0x33);
    assert_int_equal(f->output, 0); /* 5 waits for the end of 3 */
    drive(f, 1, 1);
    assert_int_equal(pic8259_acknowledge(f->pic), 0x31);
    out(f, PIC8259_MASTER, 0, 0x0b);
    assert_int_equal(in(f, PIC8259_MASTER, 0), 0x0a);
    out(f, PIC8259_MASTER, 0, 0x20); /* ends 1, the highest in service */
    assert_int_equal(in(f, PIC8259_MASTER, 0), 0x08);
    out(f, PIC8259_MASTER, 0, 0x63); /* ends 3 by name */
    assert_int_equal(pic8259_acknowledge(f->pic), 0x35);
}

static void test_slave_through_cascade(void **state)
{
    struct fixture *f = *state;
    drive(f, 12, 1);
    assert_int_equal(pic8259_acknowledge(f->pic), 0x3c);
    drive(f, 8, 1); /* above 12, but the master nests on input 2 */
    assert_int_equal(f->output, 0);
    out(f, PIC8259_SLAVE, 0, 0x20);
    out(f, PIC8259_MASTER, 0, 0x20);
    assert_int_equal(f->output, 1);
    assert_int_equal(pic8259_acknowledge(f->pic), 0x38);
}

static void test_special_fully_nested(void **state)
{
    struct fixture *f = *state;
    program(f, 0x11);
    drive(f, 12, 1);
    assert_int_equal(pic8259_acknowledge(f->pic), 0x3c);
    drive(f, 14, 1); /* below what the slave serves */
    assert_int_equal(f->output, 0);
    drive(f, 8, 1);
    assert_int_equal(f->output, 1);
    assert_int_equal(pic8259_acknowledge(f->pic), 0x38);
}

static void test_spurious(void **state)
{
    struct fixture *f = *state;
    drive(f, 3, 1);
    drive(f, 3, 0);
    assert_int_equal(f->output, 0);
    assert_int_equal(pic8259_acknowledge(f->pic), 0x37);
    out(f, PIC8259_MASTER, 0, 0x0b);
    assert_int_equal(in(f, PIC8259_MASTER, 0), 0x00);
}

static void test_level_triggered(void **state)
{
    struct fixture *f = *state;
    out(f, PIC8259_ELCR, 0, 0xff);
    out(f, PIC8259_ELCR, 1, 0xff);
    assert_int_equal(in(f, PIC8259_ELCR, 0), 0xf8);
    assert_int_equal(in(f, PIC8259_ELCR, 1), 0xde);
    drive(f, 11, 1);
    assert_int_equal(pic8259_acknowledge(f->pic), 0x3b);
    out(f, PIC8259_SLAVE, 0, 0x20);
    out(f, PIC8259_MASTER, 0, 0x20);
    assert_int_equal(f->output, 1); /* still asserted */
    drive(f, 11, 0);
    assert_int_equal(f->output, 0);
}

static void test_rotation(void **state)
{
    struct fixture *f = *state;
    drive(f, 4, 1);
    drive(f, 6, 1);
    assert_int_equal(pic8259_acknowledge(f->pic), 0x34);
    out(f, PIC8259_MASTER, 0, 0xa0); /* rotate: 4 becomes the lowest */
    drive(f, 4, 0);
    drive(f, 4, 1);
    assert_int_equal(pic8259_acknowledge(f->pic), 0x36);
    out(f, PIC8259_MASTER, 0, 0x20);
    out(f, PIC8259_MASTER, 0, 0xc0 | 3); /* 3 the lowest, so 4 the highest */
    drive(f, 0, 1);
    assert_int_equal(pic8259_acknowledge(f->pic), 0x34);
}

static void test_automatic_eoi(void **state)
{
    struct fixture *f = *state;
    program(f, 0x03);
    drive(f, 1, 1);
    assert_int_equal(pic8259_acknowledge(f->pic), 0x31);
    out(f, PIC8259_MASTER, 0, 0x0b);
    assert_int_equal(in(f, PIC8259_MASTER, 0), 0x00);
}

static void test_special_mask(void **state)
{
    struct fixture *f = *state;
    drive(f, 1, 1);
    assert_int_equal(pic8259_acknowledge(f->pic), 0x31);
    drive(f, 5, 1);
    assert_int_equal(f->output, 0);
    out(f, PIC8259_MASTER, 1, 0x02);
    out(f, PIC8259_MASTER, 0, 0x68);
    assert_int_equal(f->output, 1); /* 1 is masked and no longer in the way */
    assert_int_equal(pic8259_acknowledge(f->pic), 0x35);
    out(f, PIC8259_MASTER, 0, 0x20); /* ends 5: 1 is masked */
    out(f, PIC8259_MASTER, 0, 0x0b);
    assert_int_equal(in(f, PIC8259_MASTER, 0), 0x02);
}

static void test_poll(void **state)
{
    struct fixture *f = *state;
    out(f, PIC8259_MASTER, 0, 0x0c);
    assert_int_equal(in(f, PIC8259_MASTER, 0), 0x00);
    drive(f, 6, 1);
    out(f, PIC8259_MASTER, 0, 0x0c);
    assert_int_equal(in(f, PIC8259_MASTER, 0), 0x86);
    assert_int_equal(f->output, 0);
    out(f, PIC8259_MASTER, 0, 0x0b);
    assert_int_equal(in(f, PIC8259_MASTER, 0), 0x40);
}

static void test_a_line_tells_whether_its_edge_was_taken(void **state)
{
    struct fixture *f = *state;
    struct irq_line line = pic8259_input(f->pic, 12);
    assert_int_equal(irq_get_state(&line), IRQ_TAKEN);
    drive(f, 12, 1);
    assert_int_equal(irq_get_state(&line), IRQ_WAITING);
    assert_int_equal(pic8259_acknowledge(f->pic), 0x3c);
    assert_int_equal(irq_get_state(&line), IRQ_TAKEN); /* high, and in service */
    out(f, PIC8259_SLAVE, 1, 0x10);
    assert_int_equal(irq_get_state(&line), IRQ_MASKED);
    device_reset(pic8259_device(f->pic));
    assert_int_equal(irq_get_state(&line), IRQ_MASKED);
}

static void test_silent_until_programmed(void **state)
{
    struct fixture *f = *state;
    device_reset(pic8259_device(f->pic));
    drive(f, 4, 1);
    assert_int_equal(f->output, 0);
    out(f, PIC8259_MASTER, 0, 0x11);
    drive(f, 5, 1);
    assert_int_equal(f->output, 0); /* in the middle of initialization */
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_mask_reads_back),
        TEST(test_edge_is_served_once),
        TEST(test_priority_and_nesting),
        TEST(test_slave_through_cascade),
        TEST(test_special_fully_nested),
        TEST(test_spurious),
        TEST(test_level_triggered),
        TEST(test_rotation),
        TEST(test_automatic_eoi),
        TEST(test_special_mask),
        TEST(test_poll),
        TEST(test_a_line_tells_whether_its_edge_was_taken),
        TEST(test_silent_until_programmed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
