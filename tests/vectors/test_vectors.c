/* The runner, on vectors of our own in the format of the published ones. */
#include "known.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "x86/flags.h"

/* A growing file. */
struct writer {
    uint8_t data[4096];
    size_t size;
};

static void put(struct writer *writer, const void *from, size_t size)
{
    assert_true(writer->size + size <= sizeof(writer->data));
    memcpy(writer->data + writer->size, from, size);
    writer->size += size;
}

static void put32(struct writer *writer, uint32_t value)
{
    put(writer, &value, 4);
}

static void put_chunk(struct writer *writer, const char *name, const void *data,
                      size_t size)
{
    put(writer, name, 4);
    put32(writer, (uint32_t)size);
    put(writer, data, size);
}

struct state {
    uint16_t present;
    uint16_t reg[MOO_REGISTER_COUNT];
    unsigned ram_count;
    struct moo_byte ram[8];
};

static void put_state(struct writer *writer, const char *name, const struct state *state)
{
    struct writer inner = {.size = 0}, part = {.size = 0};
    put(&part, &state->present, 2);
    for (unsigned i = 0; i < MOO_REGISTER_COUNT; i++) {
        if (state->present >> i & 1) {
            put(&part, &state->reg[i], 2);
        }
    }
    put_chunk(&inner, "REGS", part.data, part.size);
    part.size = 0;
    put32(&part, state->ram_count);
    for (unsigned i = 0; i < state->ram_count; i++) {
        put32(&part, state->ram[i].address);
        put(&part, &state->ram[i].value, 1);
    }
    put_chunk(&inner, "RAM ", part.data, part.size);
    put_chunk(writer, name, inner.data, inner.size);
}

/* One test at 1000:0100 with SS:SP 2000:0100; DS 3000. */
struct sample {
    const uint8_t bytes[4];
    unsigned byte_count;
    struct state final;
    uint16_t ax, flags;
};

static void put_sample(struct writer *writer, const struct sample *sample)
{
    struct state initial = {.present = (1u << MOO_REGISTER_COUNT) - 1};
    struct writer body = {.size = 0}, part = {.size = 0};
    initial.reg[MOO_AX] = sample->ax;
    initial.reg[MOO_FLAGS] = sample->flags | 0xf002;
    initial.reg[MOO_CS] = 0x1000;
    initial.reg[MOO_IP] = 0x100;
    initial.reg[MOO_SS] = 0x2000;
    initial.reg[MOO_SP] = 0x100;
    initial.reg[MOO_DS] = 0x3000;
    for (unsigned i = 0; i < sample->byte_count; i++) {
        initial.ram[initial.ram_count++] =
            (struct moo_byte){0x10100 + i, sample->bytes[i]};
    }
    put32(&body, 7);
    put32(&part, 4);
    put(&part, "test", 4);
    put_chunk(&body, "NAME", part.data, part.size);
    part.size = 0;
    put32(&part, sample->byte_count);
    put(&part, sample->bytes, sample->byte_count);
    put_chunk(&body, "BYTS", part.data, part.size);
    put_state(&body, "INIT", &initial);
    put_state(&body, "FINA", &sample->final);
    put_chunk(&body, "LATE", "whatever", 8); /* what a later version adds */
    put_chunk(writer, "TEST", body.data, body.size);
}

static void put_header(struct writer *writer, const char *cpu)
{
    struct writer header = {.size = 0};
    put32(&header, 1);
    put32(&header, 1);
    put(&header, cpu, 4);
    put_chunk(writer, "MOO ", header.data, header.size);
}

static int open_writer(struct moo_file *file, const struct writer *writer, size_t size,
                       struct error *err)
{
    uint8_t *copy = malloc(size);
    memcpy(copy, writer->data, size);
    return moo_parse(file, copy, size, err);
}

/* Runs one sample; true if it agrees. */
static bool run(const char *cpu, const struct sample *sample, char *difference,
                struct known *known)
{
    struct writer writer = {.size = 0};
    struct moo_file file;
    struct moo_test test;
    struct vector_machine machine;
    struct error err;
    enum vector_family family = strcmp(cpu, "C286") ? FAMILY_8086 : FAMILY_80286;
    put_header(&writer, cpu);
    put_sample(&writer, sample);
    assert_int_equal(open_writer(&file, &writer, writer.size, &err), 0);
    assert_int_equal(moo_next(&file, &test, &err), 1);
    assert_int_equal(test.index, 7);
    assert_string_equal(test.name, "test");
    assert_int_equal(vector_machine_init(&machine, family, &err), 0);
    *known = known_about(&test, family);
    bool is_same = vector_run(&machine, &test, known->undefined, known->pushes_flags,
                              difference, 128);
    assert_int_equal(moo_next(&file, &test, &err), 0);
    vector_machine_fini(&machine);
    moo_close(&file);
    return is_same;
}

static const struct sample increment = {
    .bytes = {0x40}, /* inc ax */
    .byte_count = 1,
    .ax = 0xffff,
    .flags = X86_FLAG_CF,
    .final = {.present = 1u << MOO_AX | 1u << MOO_IP | 1u << MOO_FLAGS,
              .reg = {[MOO_AX] = 0,
                      [MOO_IP] = 0x101,
                      [MOO_FLAGS] = 0xf002 | X86_FLAG_CF | X86_FLAG_ZF | X86_FLAG_AF |
                                    X86_FLAG_PF}},
};

static void test_agreement(void **state)
{
    struct known known;
    char difference[128] = "";
    assert_true(run("8086", &increment, difference, &known));
    assert_null(known.difference);
}

static void test_80286_executes_the_halt(void **state)
{
    struct known known;
    char difference[128];
    struct sample sample = increment;
    assert_false(run("C286", &sample, difference, &known));
    assert_string_equal(difference, "ip: captured 0101, ours 0102");
    sample.final.reg[MOO_IP] = 0x102;
    assert_true(run("C286", &sample, difference, &known));
}

static void test_register_that_differs(void **state)
{
    struct known known;
    char difference[128];
    struct sample sample = increment;
    sample.final.reg[MOO_AX] = 1;
    assert_false(run("8086", &sample, difference, &known));
    assert_string_equal(difference, "ax: captured 0001, ours 0000");
}

static void test_register_that_should_not_change(void **state)
{
    struct known known;
    char difference[128];
    struct sample sample = increment;
    sample.final.present &= (uint16_t) ~(1u << MOO_AX);
    assert_false(run("8086", &sample, difference, &known));
    assert_string_equal(difference, "ax: captured ffff, ours 0000");
}

static void test_memory_that_differs(void **state)
{
    struct known known;
    char difference[128];
    /* mov [0x20], al, captured with another value, and without any write */
    struct sample sample = {
        .bytes = {0xa2, 0x20, 0x00},
        .byte_count = 3,
        .ax = 0x12,
        .final = {.present = 1u << MOO_IP,
                  .reg = {[MOO_IP] = 0x103},
                  .ram_count = 1,
                  .ram = {{0x30020, 0x12}}},
    };
    assert_true(run("8086", &sample, difference, &known));
    sample.final.ram[0].value = 0x13;
    assert_false(run("8086", &sample, difference, &known));
    assert_string_equal(difference, "memory at 30020: captured 13, ours 12");
    sample.final.ram_count = 0;
    assert_false(run("8086", &sample, difference, &known));
    assert_string_equal(difference, "memory at 30020: captured 00, ours 12");
}

static void test_undefined_flags_do_not_count(void **state)
{
    struct known known;
    char difference[128];
    struct sample sample = {
        .bytes = {0x0c, 0x00}, /* or al, 0: AF is undefined */
        .byte_count = 2,
        .ax = 1,
        .final = {.present = 1u << MOO_IP | 1u << MOO_FLAGS,
                  .reg = {[MOO_IP] = 0x102, [MOO_FLAGS] = 0xf002 | X86_FLAG_AF}},
    };
    assert_true(run("8086", &sample, difference, &known));
    sample.final.reg[MOO_FLAGS] |= X86_FLAG_CF;
    assert_false(run("8086", &sample, difference, &known));
}

static void test_known_difference(void **state)
{
    struct known known;
    char difference[128];
    const struct sample sample = {
        .bytes = {0x54}, /* push sp */
        .byte_count = 1,
        .final = {.present = 1u << MOO_IP | 1u << MOO_SP,
                  .reg = {[MOO_IP] = 0x101, [MOO_SP] = 0xfe},
                  .ram_count = 2,
                  .ram = {{0x200fe, 0xfe}, {0x200ff, 0x00}}},
    };
    assert_false(run("8086", &sample, difference, &known));
    assert_non_null(known.difference);
    assert_false(run("C286", &sample, difference, &known));
    assert_null(known.difference);
}

static void test_damaged_files(void **state)
{
    struct writer writer = {.size = 0};
    struct moo_file file;
    struct moo_test test;
    struct error err;
    put_header(&writer, "8086");
    size_t header = writer.size;
    put_sample(&writer, &increment);

    assert_int_equal(open_writer(&file, &writer, 7, &err), -EINVAL);
    moo_close(&file);
    assert_int_equal(open_writer(&file, &writer, writer.size - 1, &err), 0);
    assert_int_equal(moo_next(&file, &test, &err), -EINVAL);
    moo_close(&file);
    /* Lengths within that do not fit. */
    for (size_t place = header + 8 + 4 + 4; place < writer.size; place += 37) {
        struct writer damaged = writer;
        memset(damaged.data + place, 0xff, 4);
        assert_int_equal(open_writer(&file, &damaged, damaged.size, &err), 0);
        int status = moo_next(&file, &test, &err);
        assert_true(status == 1 || status == -EINVAL);
        moo_close(&file);
    }
    assert_int_equal(moo_open(&file, "/nonexistent/00.MOO", &err), -ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_agreement),
        cmocka_unit_test(test_80286_executes_the_halt),
        cmocka_unit_test(test_register_that_differs),
        cmocka_unit_test(test_register_that_should_not_change),
        cmocka_unit_test(test_memory_that_differs),
        cmocka_unit_test(test_undefined_flags_do_not_count),
        cmocka_unit_test(test_known_difference),
        cmocka_unit_test(test_damaged_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
