#include "dispatcher/bus.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "engine/script/script.h"

struct call {
    bool is_write;
    uint64_t offset;
    unsigned size;
    uint64_t value;
};

/* Remembers its calls; reads answer with the bytes' own offsets. */
struct recorder {
    struct device device;
    unsigned count;
    struct call call[16];
};

static void record(struct recorder *recorder, struct call call)
{
    /* The bus holds the lock, so nobody else gets it. */
    assert_int_not_equal(pthread_mutex_trylock(&recorder->device.lock), 0);
    assert_true(recorder->count < 16);
    recorder->call[recorder->count++] = call;
}

static uint64_t recorder_read(struct device *device, uint64_t offset, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++) {
        value |= ((offset + i) & 0xff) << (8 * i);
    }
    record((struct recorder *)device, (struct call){false, offset, size, value});
    return value;
}

static void recorder_write(struct device *device, uint64_t offset, unsigned size,
                           uint64_t value)
{
    record((struct recorder *)device, (struct call){true, offset, size, value});
}

static const struct device_type recorder_type = {.name = "recorder"};

static void add(struct bus *bus, struct recorder *recorder, const char *name,
                uint64_t base, uint64_t size, uint8_t min, uint8_t max)
{
    memset(recorder, 0, sizeof(*recorder));
    device_init(&recorder->device, &recorder_type, name);
    struct region region = {&recorder->device, base,          size, min, max,
                            recorder_read,     recorder_write};
    struct error err;
    assert_int_equal(bus_add(bus, &region, &err), 0);
}

static void expect_calls(const struct recorder *recorder, const struct call *calls,
                         unsigned count)
{
    assert_int_equal(recorder->count, count);
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(recorder->call[i].is_write, calls[i].is_write);
        assert_int_equal(recorder->call[i].offset, calls[i].offset);
        assert_int_equal(recorder->call[i].size, calls[i].size);
        assert_int_equal(recorder->call[i].value, calls[i].value);
    }
}

static void test_passes_fitting_access_whole(void **state)
{
    struct bus bus;
    struct recorder a;
    bus_init(&bus, "memory");
    add(&bus, &a, "a", 0x1000, 0x100, 1, 8);
    uint32_t data = 0;
    bus_access(&bus, 0x1010, 4, false, (uint8_t *)&data);
    assert_int_equal(data, 0x13121110);
    uint64_t wide = 0x1122334455667788;
    bus_access(&bus, 0x1020, 8, true, (uint8_t *)&wide);
    expect_calls(&a,
                 (struct call[]){{false, 0x10, 4, 0x13121110},
                                 {true, 0x20, 8, 0x1122334455667788}},
                 2);
    assert_int_equal(bus.lookups_missed, 0);
}

static void test_splits_wide_and_misaligned(void **state)
{
    struct bus bus;
    struct recorder a;
    bus_init(&bus, "memory");
    add(&bus, &a, "a", 0x1000, 0x100, 1, 4);
    uint8_t data[9];
    bus_access(&bus, 0x1003, 9, false, data);
    for (unsigned i = 0; i < 9; i++) {
        assert_int_equal(data[i], 3 + i);
    }
    expect_calls(&a,
                 (struct call[]){{false, 3, 1, 0x03},
                                 {false, 4, 4, 0x07060504},
                                 {false, 8, 4, 0x0b0a0908}},
                 3);
}

static void test_word_write_to_byte_ports_takes_both(void **state)
{
    struct bus bus;
    struct recorder a;
    bus_init(&bus, "port");
    add(&bus, &a, "a", 0x3f8, 8, 1, 1);
    uint16_t data = 0xbbaa;
    bus_access(&bus, 0x3f9, 2, true, (uint8_t *)&data);
    expect_calls(&a, (struct call[]){{true, 1, 1, 0xaa}, {true, 2, 1, 0xbb}}, 2);
}

static void test_narrow_access_to_wide_registers(void **state)
{
    struct bus bus;
    struct recorder a;
    bus_init(&bus, "memory");
    add(&bus, &a, "a", 0x1000, 0x20, 4, 4);
    uint8_t data[2] = {0};
    bus_access(&bus, 0x1011, 2, false, data);
    assert_int_equal(data[0], 0x11);
    assert_int_equal(data[1], 0x12);
    expect_calls(
        &a, (struct call[]){{false, 0x10, 4, 0x13121110}, {false, 0x10, 4, 0x13121110}},
        2);
    /* A byte write has no byte enables to travel with: dropped. */
    bus_access(&bus, 0x1010, 1, true, data);
    assert_int_equal(a.count, 2);
}

static void test_nobody_answers_with_ones(void **state)
{
    struct bus bus;
    struct recorder a;
    struct recorder b;
    bus_init(&bus, "port");
    uint32_t data = 0;
    bus_access(&bus, 0x80, 4, false, (uint8_t *)&data);
    assert_int_equal(data, 0xffffffff);

    add(&bus, &b, "b", 0x102, 1, 1, 1);
    add(&bus, &a, "a", 0x100, 1, 1, 1);
    uint8_t wide[5] = {0};
    bus_access(&bus, 0xff, 5, false, wide);
    assert_memory_equal(wide, ((uint8_t[]){0xff, 0x00, 0xff, 0x00, 0xff}), 5);
    bus_access(&bus, 0xff, 5, true, wide);
    expect_calls(&a, (struct call[]){{false, 0, 1, 0}, {true, 0, 1, 0}}, 2);
    expect_calls(&b, (struct call[]){{false, 0, 1, 0}, {true, 0, 1, 0}}, 2);
    assert_int_equal(bus.lookups_missed, 3);
}

static void test_top_of_the_address_space(void **state)
{
    struct bus bus;
    struct recorder a;
    bus_init(&bus, "memory");
    add(&bus, &a, "a", UINT64_MAX - 3, 4, 1, 4);
    uint64_t data = 0;
    bus_access(&bus, UINT64_MAX - 7, 8, false, (uint8_t *)&data);
    assert_int_equal(data, 0x03020100ffffffff);
}

static void test_overlap_names_both(void **state)
{
    struct bus bus;
    struct recorder a;
    struct recorder b;
    bus_init(&bus, "port");
    add(&bus, &a, "serial0", 0x3f8, 8, 1, 1);
    add(&bus, &b, "other", 0x400, 8, 1, 1);
    static const struct {
        uint64_t base, size;
        bool is_good;
    } cases[] = {
        {0x3f8, 8, false}, {0x3f0, 9, false},     {0x3ff, 1, false},
        {0x3fc, 1, false}, {0x3f0, 8, true},      {0x408, 1, true},
        {0x100, 0, false}, {0x3e0, 0x100, false}, {8, UINT64_MAX, false},
    };
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct region region = {.device = &b.device,
                                .base = cases[i].base,
                                .size = cases[i].size,
                                .min_size = 1,
                                .max_size = 1};
        struct error err = {0};
        assert_int_equal(bus_add(&bus, &region, &err) == 0, cases[i].is_good);
    }
    struct region region = {
        .device = &b.device, .base = 0x3fc, .size = 1, .min_size = 1, .max_size = 1};
    struct error err;
    assert_true(bus_add(&bus, &region, &err) < 0);
    assert_non_null(strstr(err.message, "serial0"));
    assert_non_null(strstr(err.message, "other"));
    region = (struct region){
        .device = &b.device, .base = 0x500, .size = 1, .min_size = 3, .max_size = 4};
    assert_true(bus_add(&bus, &region, &err) < 0);
}

static void test_table_has_an_end(void **state)
{
    struct bus bus;
    struct recorder a;
    bus_init(&bus, "port");
    add(&bus, &a, "a", 0xffff, 1, 1, 1);
    struct region region = {.device = &a.device, .size = 1, .min_size = 1, .max_size = 1};
    struct error err;
    for (unsigned i = 1; i < BUS_REGIONS_MAX; i++) {
        region.base = i * 7 % 1024 * 16;
        assert_int_equal(bus_add(&bus, &region, &err), 0);
    }
    for (unsigned i = 1; i < bus.count; i++) {
        assert_true(bus.region[i - 1].base < bus.region[i].base);
    }
    region.base = 3;
    assert_int_equal(bus_add(&bus, &region, &err), -ENOSPC);
}

static void test_string_move_repeats_at_one_address(void **state)
{
    struct bus bus;
    struct recorder a;
    bus_init(&bus, "port");
    add(&bus, &a, "a", 0x1f0, 8, 1, 2);
    uint16_t data[3] = {0};
    bus_repeat(&bus, 0x1f0, 2, 3, false, (uint8_t *)data);
    expect_calls(&a,
                 (struct call[]){
                     {false, 0, 2, 0x0100}, {false, 0, 2, 0x0100}, {false, 0, 2, 0x0100}},
                 3);
    assert_int_equal(data[2], 0x0100);
    /* Beyond every region, and across the end of one. */
    bus_repeat(&bus, 0x300, 2, 2, false, (uint8_t *)data);
    assert_int_equal(data[1], 0xffff);
    bus_repeat(&bus, 0x1f7, 2, 2, false, (uint8_t *)data);
    assert_int_equal(data[0], 0xff07);
    assert_int_equal(data[1], 0xff07);
    assert_int_equal(bus.lookups_missed, 4);
}

static void test_script_drives_a_device(void **state)
{
    struct bus ports;
    struct bus mmio;
    struct recorder a;
    struct recorder b;
    bus_init(&ports, "port");
    bus_init(&mmio, "memory");
    add(&ports, &a, "a", 0x60, 5, 1, 1);
    add(&mmio, &b, "b", 0xd0000000, 0x1000, 4, 4);
    struct bus_pair pair = {&ports, &mmio};
    static const struct script_step steps[] = {
        SCRIPT_OUT(0x64, 1, 0xfe),
        SCRIPT_IN(0x61, 1, 0x01),
        SCRIPT_LOAD(0xd0000100, 4, 0x03020100),
        SCRIPT_STORE(0xd0000050, 4, 0x12345678),
        SCRIPT_IN(0x61, 1, 0x77),
        SCRIPT_IN(0x61, 1, 0x78),
        {SCRIPT_END},
    };
    struct script_failure failure =
        script_play(steps, (struct vcpu_sink){bus_pair_exit, &pair});
    assert_true(failure.has_failed);
    assert_int_equal(failure.step, 4);
    assert_int_equal(failure.expected, 0x77);
    assert_int_equal(failure.got, 0x01);
    assert_int_equal(a.count, 4);
    expect_calls(
        &b, (struct call[]){{false, 0x100, 4, 0x03020100}, {true, 0x50, 4, 0x12345678}},
        2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_passes_fitting_access_whole),
        cmocka_unit_test(test_splits_wide_and_misaligned),
        cmocka_unit_test(test_word_write_to_byte_ports_takes_both),
        cmocka_unit_test(test_narrow_access_to_wide_registers),
        cmocka_unit_test(test_nobody_answers_with_ones),
        cmocka_unit_test(test_top_of_the_address_space),
        cmocka_unit_test(test_overlap_names_both),
        cmocka_unit_test(test_table_has_an_end),
        cmocka_unit_test(test_string_move_repeats_at_one_address),
        cmocka_unit_test(test_script_drives_a_device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
