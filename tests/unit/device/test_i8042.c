#include "device/pc/i8042.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

struct fixture {
    struct i8042 *i8042;
    struct region data, command, port_a;
    int level;
    unsigned edges, resets;
    bool a20;
};

static void record_line(void *opaque, unsigned number, int level)
{
    struct fixture *f = opaque;
    f->edges += level && !f->level;
    f->level = level;
}

static void count_reset(void *opaque)
{
    ((struct fixture *)opaque)->resets++;
}

static void record_a20(void *opaque, bool is_enabled)
{
    ((struct fixture *)opaque)->a20 = is_enabled;
}

static void command(struct fixture *f, uint8_t value)
{
    f->command.write(f->command.device, 0, 1, value);
}

static void data(struct fixture *f, uint8_t value)
{
    f->data.write(f->data.device, 0, 1, value);
}

static uint8_t status(struct fixture *f)
{
    return (uint8_t)f->command.read(f->command.device, 0, 1);
}

/* A response, which must be there at once. */
static uint8_t response(struct fixture *f)
{
    assert_int_equal(status(f) & 0x01, 0x01);
    uint8_t value = (uint8_t)f->data.read(f->data.device, 0, 1);
    assert_int_equal(status(f) & 0x01, 0);
    return value;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct error err;
    struct i8042_actions actions = {count_reset, record_a20, f};
    f->i8042 = i8042_new("kbc", (struct irq_line){record_line, f, 1}, &actions, &err);
    assert_non_null(f->i8042);
    f->data = i8042_data_region(f->i8042, 0x60);
    f->command = i8042_command_region(f->i8042, 0x64);
    f->port_a = i8042_port_a_region(f->i8042, 0x92);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    struct device *device = i8042_device(f->i8042);
    device->type->free(device);
    free(f);
    return 0;
}

static void test_controller_probe(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(status(f) & 0x11, 0x10); /* nothing to read, not locked */
    command(f, 0x20);
    uint8_t config = response(f);
    command(f, 0x60);
    data(f, (config | 0x10) & 0xfe);
    command(f, 0x20);
    assert_int_equal(response(f), (config | 0x10) & 0xfe);
    command(f, 0xaa);
    assert_int_equal(response(f), 0x55);
    command(f, 0xab);
    assert_int_equal(response(f), 0x00);
}

static void test_no_mouse(void **state)
{
    struct fixture *f = *state;
    command(f, 0xd3);
    data(f, 0x5a);
    assert_int_equal(status(f) & 0x20, 0); /* not marked as the mouse's */
    response(f);
    command(f, 0xa9);
    assert_int_not_equal(response(f), 0x00);
}

static void test_no_keyboard(void **state)
{
    struct fixture *f = *state;
    data(f, 0xff);
    assert_int_equal(f->edges, 1);
    assert_int_equal(status(f) & 0x41, 0x41);
    assert_int_equal(response(f), 0xfe);
    assert_int_equal(status(f) & 0x40, 0);
    assert_int_equal(f->level, 0);
    data(f, 0xed);
    data(f, 0x00);
    assert_int_equal(f->edges, 3); /* each answer is an edge */
}

static void test_command_byte_gates_the_line(void **state)
{
    struct fixture *f = *state;
    command(f, 0x60);
    data(f, 0x44);
    data(f, 0xff);
    assert_int_equal(f->level, 0);
    command(f, 0x60);
    data(f, 0x45);
    assert_int_equal(f->level, 1);
}

static void test_reset_pulse(void **state)
{
    struct fixture *f = *state;
    command(f, 0xff);
    assert_int_equal(f->resets, 0);
    command(f, 0xfe);
    assert_int_equal(f->resets, 1);
    command(f, 0xd1);
    data(f, 0x02);
    assert_int_equal(f->resets, 2);
    f->port_a.write(f->port_a.device, 0, 1, 0x03);
    assert_int_equal(f->resets, 3);
}

static void test_a20(void **state)
{
    struct fixture *f = *state;
    assert_true(f->a20);
    command(f, 0xd1);
    data(f, 0xdd);
    assert_false(f->a20);
    assert_int_equal(f->port_a.read(f->port_a.device, 0, 1), 0x00);
    f->port_a.write(f->port_a.device, 0, 1, 0x02);
    assert_true(f->a20);
    command(f, 0xd0);
    assert_int_equal(response(f) & 0x03, 0x03);
    device_reset(i8042_device(f->i8042));
    assert_true(f->a20);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_controller_probe), TEST(test_no_mouse),
        TEST(test_no_keyboard),      TEST(test_command_byte_gates_the_line),
        TEST(test_reset_pulse),      TEST(test_a20),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
