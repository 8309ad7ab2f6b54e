#include "device/pc/ioapic.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define LEVEL  0x8000u
#define MASKED 0x10000u

struct fixture {
    struct ioapic *ioapic;
    struct region region;
    unsigned count;
    struct apic_message last;
    bool is_waiting;
};

static void record_message(void *opaque, const struct apic_message *message)
{
    struct fixture *f = opaque;
    f->count++;
    f->last = *message;
}

static bool tell_waiting(void *opaque, const struct apic_message *message)
{
    struct fixture *f = opaque;
    assert_int_equal(message->vector, 0x41);
    return f->is_waiting;
}

static uint32_t get(struct fixture *f, uint8_t index)
{
    f->region.write(f->region.device, 0x00, 4, index);
    return (uint32_t)f->region.read(f->region.device, 0x10, 4);
}

static void put(struct fixture *f, uint8_t index, uint32_t value)
{
    f->region.write(f->region.device, 0x00, 4, index);
    f->region.write(f->region.device, 0x10, 4, value);
}

static void drive(struct fixture *f, unsigned input, int level)
{
    struct irq_line line = ioapic_input(f->ioapic, input);
    irq_set(&line, level);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct error err;
    struct ioapic_bus bus = {record_message, f, tell_waiting};
    f->ioapic = ioapic_new("ioapic", 2, &bus, &err);
    assert_non_null(f->ioapic);
    f->region = ioapic_region(f->ioapic, 0xfec00000);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    struct device *device = ioapic_device(f->ioapic);
    device->type->free(device);
    free(f);
    return 0;
}

static void test_a_line_tells_whether_its_edge_was_taken(void **state)
{
    struct fixture *f = *state;
    struct irq_line line = ioapic_input(f->ioapic, 4);
    assert_int_equal(irq_get_state(&line), IRQ_MASKED);
    put(f, 0x18, 0x41);
    assert_int_equal(irq_get_state(&line), IRQ_TAKEN);
    f->is_waiting = true;
    assert_int_equal(irq_get_state(&line), IRQ_WAITING);
    put(f, 0x18, 0x41 | MASKED);
    assert_int_equal(irq_get_state(&line), IRQ_MASKED);
}

static void test_registers(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(get(f, 0), 0x02000000);
    assert_int_equal(get(f, 1), 0x00170020);
    assert_int_equal(get(f, 0x10), MASKED);
    put(f, 0x11, 0xffffffff);
    put(f, 0x10, 0xffffffff);
    assert_int_equal(get(f, 0x11), 0xff000000);
    assert_int_equal(get(f, 0x10), 0x0001afff); /* status, remote IRR are read-only */
    assert_int_equal(get(f, 0x40), 0);
    put(f, 0x40, 1);
}

static void test_edge(void **state)
{
    struct fixture *f = *state;
    drive(f, 4, 1); /* masked: lost */
    put(f, 0x19, 0x05000000);
    put(f, 0x18, 0x0831); /* logical, fixed, edge, vector 31h */
    assert_int_equal(f->count, 0);
    drive(f, 4, 0);
    drive(f, 4, 1);
    drive(f, 4, 1);
    assert_int_equal(f->count, 1);
    assert_int_equal(f->last.destination, 5);
    assert_true(f->last.is_logical);
    assert_int_equal(f->last.vector, 0x31);
    assert_false(f->last.is_level);
    assert_int_equal(get(f, 0x18), 0x0831);
}

static void test_level_waits_for_eoi(void **state)
{
    struct fixture *f = *state;
    put(f, 0x22, LEVEL | 0x41);
    drive(f, 9, 1);
    assert_int_equal(f->count, 1);
    assert_true(f->last.is_level);
    assert_int_equal(get(f, 0x22), LEVEL | 0x4041);
    drive(f, 9, 0);
    drive(f, 9, 1);
    assert_int_equal(f->count, 1);
    ioapic_eoi(f->ioapic, 0x42); /* another's */
    assert_int_equal(f->count, 1);
    ioapic_eoi(f->ioapic, 0x41); /* still asserted: again */
    assert_int_equal(f->count, 2);
    drive(f, 9, 0);
    ioapic_eoi(f->ioapic, 0x41);
    assert_int_equal(f->count, 2);
    assert_int_equal(get(f, 0x22), LEVEL | 0x41);
}

static void test_eoi_register(void **state)
{
    struct fixture *f = *state;
    put(f, 0x22, LEVEL | 0x41);
    drive(f, 9, 1);
    drive(f, 9, 0);
    f->region.write(f->region.device, 0x40, 4, 0x41);
    assert_int_equal(get(f, 0x22), LEVEL | 0x41);
}

static void test_level_asserted_before_unmasking(void **state)
{
    struct fixture *f = *state;
    put(f, 0x22, LEVEL | MASKED | 0x41);
    drive(f, 9, 1);
    assert_int_equal(f->count, 0);
    put(f, 0x22, LEVEL | 0x41);
    assert_int_equal(f->count, 1);
}

static void test_switching_to_edge_ends_service(void **state)
{
    struct fixture *f = *state;
    put(f, 0x22, LEVEL | 0x41);
    drive(f, 9, 1);
    drive(f, 9, 0);
    put(f, 0x22, MASKED | 0x41);
    put(f, 0x22, LEVEL | 0x41);
    assert_int_equal(get(f, 0x22), LEVEL | 0x41);
}

static void test_delivery_modes(void **state)
{
    struct fixture *f = *state;
    for (unsigned mode = 0; mode < 8; mode++) {
        bool is_reserved = mode == 3 || mode == 6;
        unsigned before = f->count;
        put(f, 0x18, mode << 8 | 0x31);
        drive(f, 4, 1);
        drive(f, 4, 0);
        assert_int_equal(f->count, before + !is_reserved);
        if (!is_reserved) {
            assert_int_equal(f->last.mode, mode);
        }
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_a_line_tells_whether_its_edge_was_taken),
        TEST(test_registers),
        TEST(test_edge),
        TEST(test_level_waits_for_eoi),
        TEST(test_eoi_register),
        TEST(test_level_asserted_before_unmasking),
        TEST(test_switching_to_edge_ends_service),
        TEST(test_delivery_modes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
