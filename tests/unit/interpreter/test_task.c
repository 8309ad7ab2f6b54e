/* Task switches: what each cause saves, loads and marks, and where each fault arrives. */
#include "fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define SEL_TASK     0x60
#define SEL_GATE     0x68
#define SEL_TASK16   0x70
#define SEL_HANDLER  0x78 /* a task for faults in tasks */
#define SEL_LDT      0x80
#define GDT_ENTRIES  17

#define TASK         0x22000u
#define TASK16       0x22400u
#define HANDLER      0x22800u
#define TASK_CODE    0x24000u /* 64 bytes of HLT */
#define HANDLER_CODE 0x25000u
#define TASK_STACK   0x26000u
#define DIRECTORY    0x30000u

#define TSS32        0x9u
#define TSS32_BUSY   0xbu
#define TSS16        0x1u

#define FLAG_TEST    (X86_FLAG_1 | X86_FLAG_CF | X86_FLAG_SF)

static void put_descriptor(struct fixture *f, uint16_t selector, uint32_t base,
                           uint32_t limit, unsigned access)
{
    uint64_t raw = (limit & 0xffff) | (uint64_t)(limit & 0xf0000) << 32 |
                   (uint64_t)(base & 0xffffff) << 16 |
                   (uint64_t)(base & 0xff000000) << 32 | (uint64_t)access << 40;
    fixture_write(f, FIXTURE_GDT + (selector & ~7u), 8, raw);
}

static void put_task_gate(struct fixture *f, uint64_t at, uint16_t selector, unsigned dpl)
{
    fixture_write(f, at, 8, (uint64_t)selector << 16 | (uint64_t)(0x85 | dpl << 5) << 40);
}

static unsigned type_of(struct fixture *f, uint16_t selector)
{
    return (unsigned)fixture_read(f, FIXTURE_GDT + (selector & ~7u) + 5, 1) & 0x1f;
}

static void put_task(struct fixture *f, uint32_t at, uint32_t eip)
{
    memset(f->ram + at, 0, 104);
    fixture_write(f, at + 4, 4, TASK_STACK);
    fixture_write(f, at + 8, 4, SEL_DATA);
    fixture_write(f, at + 32, 4, eip);
    fixture_write(f, at + 36, 4, FLAG_TEST);
    for (unsigned i = 0; i < 8; i++) {
        fixture_write(f, at + 40 + i * 4, 4, 0x11110000u + i);
    }
    fixture_write(f, at + 56, 4, TASK_STACK);
    for (unsigned i = 0; i < 6; i++) {
        fixture_write(f, at + 72 + i * 4, 4, i == X86_CS ? SEL_CODE32 : SEL_DATA);
    }
}

static void put_task16(struct fixture *f, uint32_t at, uint16_t ip)
{
    memset(f->ram + at, 0, 44);
    fixture_write(f, at + 14, 2, ip);
    fixture_write(f, at + 16, 2, FLAG_TEST);
    for (unsigned i = 0; i < 8; i++) {
        fixture_write(f, at + 18 + i * 2, 2, 0x2200 + i);
    }
    for (unsigned i = 0; i < 4; i++) {
        fixture_write(f, at + 34 + i * 2, 2, i == X86_CS ? SEL_CODE32 : SEL_DATA);
    }
}

static int setup(void **state)
{
    struct fixture *f = fixture_protected();
    *state = f;
    f->cpu->state.gdtr.limit = GDT_ENTRIES * 8 - 1;
    put_descriptor(f, SEL_TSS, FIXTURE_TSS, 0x67, 0x80 | TSS32_BUSY);
    put_descriptor(f, SEL_TASK, TASK, 0x67, 0x80 | TSS32);
    put_descriptor(f, SEL_TASK16, TASK16, 0x2b, 0x80 | TSS16);
    put_descriptor(f, SEL_HANDLER, HANDLER, 0x67, 0x80 | TSS32);
    put_descriptor(f, SEL_LDT, 0x28000, 0xff, 0x82);
    put_task_gate(f, FIXTURE_GDT + SEL_GATE, SEL_TASK, 0);
    put_task(f, TASK, TASK_CODE);
    put_task(f, HANDLER, HANDLER_CODE);
    memset(f->ram + TASK_CODE, 0xf4, 64);
    memset(f->ram + HANDLER_CODE, 0xf4, 64);
    return 0;
}

static int teardown(void **state)
{
    fixture_free(*state);
    return 0;
}

static void jump(struct fixture *f, uint16_t selector)
{
    const uint8_t code[] = {
        0xea, 0, 0, 0, 0, (uint8_t)selector, (uint8_t)(selector >> 8)};
    fixture_run(f, code, sizeof(code));
}

static void call(struct fixture *f, uint16_t selector)
{
    const uint8_t code[] = {0x9a, 0, 0, 0, 0, (uint8_t)selector, (uint8_t)(selector >> 8),
                            0xf4};
    fixture_run(f, code, sizeof(code));
}

static uint16_t task_of(const struct fixture *f)
{
    return f->cpu->state.tr.selector;
}

/* Frames of 32-bit handlers. */
static uint32_t frame32(const struct fixture *f, unsigned n)
{
    return (uint32_t)fixture_read(f, f->cpu->reg[X86_RSP] + n * 4, 4);
}

static void test_jump_saves_and_loads(void **state)
{
    struct fixture *f = *state;
    f->cpu->reg[X86_RBX] = 0xb0b0b0b0;
    f->cpu->state.dr7 = 0x400 | 0x3ff;
    jump(f, SEL_TASK);

    assert_int_equal(f->cpu->rip, TASK_CODE + 1);
    assert_int_equal(task_of(f), SEL_TASK);
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(f->cpu->reg[i], i == X86_RSP ? TASK_STACK : 0x11110000u + i);
    }
    assert_int_equal(cpu_rflags(f->cpu), FLAG_TEST);
    assert_true(f->cpu->state.cr0 & X86_CR0_TS);
    assert_int_equal(f->cpu->state.dr7, 0x400 | 0x2aa); /* L0 to L3 and LE go */
    assert_int_equal(type_of(f, SEL_TSS), TSS32);
    assert_int_equal(type_of(f, SEL_TASK), TSS32_BUSY);
    /* The old task. */
    assert_int_equal(fixture_read(f, FIXTURE_TSS + 32, 4), FIXTURE_CODE + 7);
    assert_int_equal(fixture_read(f, FIXTURE_TSS + 36, 4), X86_FLAG_1);
    assert_int_equal(fixture_read(f, FIXTURE_TSS + 40 + X86_RBX * 4, 4), 0xb0b0b0b0);
    assert_int_equal(fixture_read(f, FIXTURE_TSS + 56, 4), FIXTURE_STACK);
    assert_int_equal(fixture_read(f, FIXTURE_TSS + 72 + X86_CS * 4, 2), SEL_CODE32);
    assert_int_equal(fixture_read(f, FIXTURE_TSS + 72 + X86_SS * 4, 2), SEL_DATA);
    assert_int_equal(fixture_read(f, TASK, 2), 0); /* no link */
}

static void test_call_nests_and_returns(void **state)
{
    struct fixture *f = *state;
    f->ram[TASK_CODE] = 0xcf; /* iret, then the HLT at which the task goes on */
    call(f, SEL_GATE);

    assert_int_equal(f->cpu->rip, FIXTURE_CODE + 8);
    assert_int_equal(task_of(f), SEL_TSS);
    assert_int_equal(fixture_read(f, TASK, 2), SEL_TSS);
    assert_int_equal(type_of(f, SEL_TSS), TSS32_BUSY);
    assert_int_equal(type_of(f, SEL_TASK), TSS32);
    assert_int_equal(fixture_read(f, TASK + 32, 4), TASK_CODE + 1);
    /* NT was set within, and is gone from the image. */
    assert_int_equal(fixture_read(f, TASK + 36, 4), FLAG_TEST);
    assert_int_equal(f->cpu->reg[X86_RSP], FIXTURE_STACK);
}

static void test_call_sets_nt(void **state)
{
    struct fixture *f = *state;
    call(f, SEL_TASK);
    assert_int_equal(task_of(f), SEL_TASK);
    assert_int_equal(cpu_rflags(f->cpu), FLAG_TEST | X86_FLAG_NT);
    assert_int_equal(type_of(f, SEL_TSS), TSS32_BUSY);
}

static void test_exception_pushes_its_error_there(void **state)
{
    struct fixture *f = *state;
    put_task_gate(f, FIXTURE_IDT + X86_GP * 8, SEL_TASK, 0);
    f->cpu->reg[X86_RAX] = SEL_BEYOND;
    RUN_BYTES(f, 0x8e, 0xd8); /* mov ds, ax */
    assert_int_equal(task_of(f), SEL_TASK);
    assert_int_equal(f->cpu->reg[X86_RSP], TASK_STACK - 4);
    assert_int_equal(frame32(f, 0), SEL_BEYOND);
    assert_int_equal(fixture_read(f, FIXTURE_TSS + 32, 4), FIXTURE_CODE);
    assert_true(fixture_read(f, FIXTURE_TSS + 36, 4) & X86_FLAG_RF);
}

static void test_int_through_a_task_gate(void **state)
{
    struct fixture *f = *state;
    put_task_gate(f, FIXTURE_IDT + 0x40 * 8, SEL_TASK, 0);
    RUN_BYTES(f, 0xcd, 0x40);
    assert_int_equal(task_of(f), SEL_TASK);
    assert_int_equal(f->cpu->reg[X86_RSP], TASK_STACK);
    assert_int_equal(fixture_read(f, FIXTURE_TSS + 32, 4), FIXTURE_CODE + 2);
    assert_false(fixture_read(f, FIXTURE_TSS + 36, 4) & X86_FLAG_RF);
}

/* Refused: the fault is the old task's, which is as it was. */
static void test_refusals(void **state)
{
    static const struct {
        uint16_t selector;
        uint32_t limit;
        unsigned access;
        int vector;
        uint32_t error;
    } rows[] = {
        {SEL_TASK, 0x66, 0x80 | TSS32, X86_TS, SEL_TASK},
        {SEL_TASK, 0x67, 0x80 | TSS32_BUSY, X86_GP, SEL_TASK},
        {SEL_TASK, 0x67, TSS32, X86_NP, SEL_TASK},
        {SEL_TASK, 0x2a, 0x80 | TSS16, X86_TS, SEL_TASK},
        {SEL_TASK | 3, 0x67, 0x80 | TSS32, X86_GP, SEL_TASK}, /* RPL > DPL */
        {SEL_GATE, 0x67, 0x80 | TSS32_BUSY, X86_GP, SEL_TASK},
        {SEL_GATE, 0x67, TSS32, X86_NP, SEL_TASK},
        {SEL_GATE, 0x67, 0x92, X86_GP, SEL_TASK}, /* no TSS behind the gate */
    };
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        teardown(state);
        setup(state);
        struct fixture *f = *state;
        put_descriptor(f, SEL_TASK, TASK, rows[i].limit, rows[i].access);
        jump(f, rows[i].selector);
        assert_int_equal(fixture_vector(f), rows[i].vector);
        assert_int_equal(frame32(f, 0), rows[i].error);
        assert_int_equal(frame32(f, 1), FIXTURE_CODE);
        assert_int_equal(task_of(f), SEL_TSS);
        assert_int_equal(type_of(f, SEL_TSS), TSS32_BUSY);
        assert_int_equal(fixture_read(f, FIXTURE_TSS + 32, 4), 0);
        assert_false(f->cpu->state.cr0 & X86_CR0_TS);
    }
}

static void test_return_to_what_is_not_busy(void **state)
{
    struct fixture *f = *state;
    fixture_write(f, FIXTURE_TSS, 2, SEL_TASK);
    f->cpu->state.rflags |= X86_FLAG_NT;
    RUN_BYTES(f, 0xcf);
    assert_int_equal(fixture_vector(f), X86_TS);
    assert_int_equal(frame32(f, 0), SEL_TASK);
    assert_int_equal(task_of(f), SEL_TSS);
}

/* What the new task's selectors lead to: the fault arrives in the new task, before its
 * first instruction. A task takes it, since the stack may be what is wrong. */
static void test_faults_in_the_new_task(void **state)
{
    static const struct {
        unsigned offset;
        uint16_t selector;
        int vector;
        uint32_t error;
    } rows[] = {
        {72 + X86_DS * 4, SEL_BEYOND, X86_TS, SEL_BEYOND},
        {72 + X86_ES * 4, SEL_ABSENT, X86_NP, SEL_ABSENT},
        {72 + X86_FS * 4, SEL_TSS, X86_TS, SEL_TSS},
        {72 + X86_SS * 4, 0, X86_TS, 0},
        {72 + X86_SS * 4, SEL_ABSENT, X86_SS_FAULT, SEL_ABSENT},
        {72 + X86_SS * 4, SEL_USER_DATA, X86_TS, SEL_USER_DATA & ~3},
        {72 + X86_CS * 4, 0, X86_TS, 0},
        {72 + X86_CS * 4, SEL_DATA, X86_TS, SEL_DATA},
        {72 + X86_CS * 4, SEL_USER_CODE32 & ~3, X86_TS, SEL_USER_CODE32 & ~3},
        {96, SEL_DATA, X86_TS, SEL_DATA},
        {96, SEL_LDT | 4, X86_TS, SEL_LDT | 4},
        {96, SEL_BEYOND, X86_TS, SEL_BEYOND},
    };
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        teardown(state);
        setup(state);
        struct fixture *f = *state;
        fixture_write(f, TASK + rows[i].offset, 2, rows[i].selector);
        put_task_gate(f, FIXTURE_IDT + (unsigned)rows[i].vector * 8, SEL_HANDLER, 0);
        jump(f, SEL_TASK);
        assert_int_equal(f->cpu->rip, HANDLER_CODE + 1);
        assert_int_equal(task_of(f), SEL_HANDLER);
        assert_int_equal(frame32(f, 0), rows[i].error);
        assert_int_equal(fixture_read(f, HANDLER, 2), SEL_TASK);
        /* The new task was never executed, and is saved as it was loaded. */
        assert_int_equal(fixture_read(f, TASK + 32, 4), TASK_CODE);
        assert_int_equal(fixture_read(f, TASK + rows[i].offset, 2), rows[i].selector);
    }
}

static void test_target_outside_the_code_segment(void **state)
{
    struct fixture *f = *state;
    fixture_write(f, FIXTURE_GDT + SEL_CODE32, 8, 0x004f9b000000ffff);
    fixture_write(f, TASK + 32, 4, 0x100000);
    jump(f, SEL_TASK);
    assert_int_equal(fixture_vector(f), X86_GP);
    assert_int_equal(task_of(f), SEL_TASK);
    assert_int_equal(frame32(f, 0), 0);
    assert_int_equal(frame32(f, 1), 0x100000);
}

static void test_local_descriptor_table(void **state)
{
    struct fixture *f = *state;
    fixture_write(f, TASK + 96, 2, SEL_LDT);
    fixture_write(f, 0x28000 + 8, 8, 0x00cf92000000ffff);
    fixture_write(f, TASK + 72 + X86_GS * 4, 2, 8 | 4);
    jump(f, SEL_TASK);
    assert_int_equal(f->cpu->rip, TASK_CODE + 1);
    assert_int_equal(f->cpu->state.ldtr.base, 0x28000);
    assert_int_equal(f->cpu->state.seg[X86_GS].limit, UINT32_MAX);
    assert_int_equal(fixture_read(f, 0x28000 + 13, 1), 0x93); /* accessed */
}

static void test_trap_bit(void **state)
{
    struct fixture *f = *state;
    fixture_write(f, TASK + 100, 1, 1);
    jump(f, SEL_TASK);
    assert_int_equal(fixture_vector(f), X86_DB);
    assert_int_equal(frame32(f, 0), TASK_CODE);
    assert_int_equal(f->cpu->state.dr6, 0xffff0ff0 | 1u << 15);
}

static void test_16_bit_task(void **state)
{
    struct fixture *f = *state;
    static const uint8_t code[] = {0xea, 0, 0, 0, 0, SEL_TASK16, 0};
    put_task16(f, TASK16, 0x5000);
    memset(f->ram + 0x5000 + 0x20000, 0xf4, 1);
    /* Code below 64K: a segment of its own, based where there is room. */
    put_descriptor(f, SEL_CODE32, 0x20000, 0xffff, 0x9b);
    f->cpu->reg[X86_RBP] = 0x12345678;
    fixture_run(f, code, sizeof(code));

    assert_int_equal(task_of(f), SEL_TASK16);
    assert_int_equal(f->cpu->rip, 0x5001);
    assert_int_equal((uint16_t)f->cpu->reg[X86_RBX], 0x2200 + X86_RBX);
    assert_int_equal(cpu_rflags(f->cpu), FLAG_TEST);
    assert_true(f->cpu->state.seg[X86_FS].access & X86_ACCESS_UNUSABLE);
    assert_int_equal(type_of(f, SEL_TASK16), 3);
    assert_int_equal(fixture_read(f, FIXTURE_TSS + 40 + X86_RBP * 4, 4), 0x12345678);
}

static void test_leaving_a_16_bit_task(void **state)
{
    struct fixture *f = *state;
    put_descriptor(f, SEL_TASK16, TASK16, 0x2b, 0x80 | 3);
    f->cpu->state.tr = (struct x86_segment){SEL_TASK16, 0x83, 0x2b, TASK16};
    f->cpu->reg[X86_RBP] = 0x12345678;
    jump(f, SEL_TASK);
    assert_int_equal(task_of(f), SEL_TASK);
    assert_int_equal(fixture_read(f, TASK16 + 14, 2), (FIXTURE_CODE + 7) & 0xffff);
    assert_int_equal(fixture_read(f, TASK16 + 18 + X86_RBP * 2, 2), 0x5678);
    assert_int_equal(fixture_read(f, TASK16 + 34 + X86_CS * 2, 2), SEL_CODE32);
    assert_int_equal(fixture_read(f, TASK16 + 42, 2), 0); /* LDT: not saved */
    assert_int_equal(type_of(f, SEL_TASK16), TSS16);
}

static void test_task_of_virtual_8086_mode(void **state)
{
    struct fixture *f = *state;
    fixture_write(f, TASK + 32, 4, 0x10);
    fixture_write(f, TASK + 36, 4, X86_FLAG_1 | X86_FLAG_VM);
    fixture_write(f, TASK + 72 + X86_CS * 4, 2, 0x2400);
    fixture_write(f, TASK + 72 + X86_DS * 4, 2, 0x1234);
    f->ram[0x24010] = 0xcc; /* int3: leaves by the gate of vm86 mode */
    jump(f, SEL_TASK);
    /* IOPL 0: INT3 is not sensitive, but its gate's DPL is 0. */
    assert_int_equal(fixture_vector(f), X86_GP);
    assert_int_equal(task_of(f), SEL_TASK);
    assert_int_equal(frame32(f, 0), X86_BP * 8 + 2);
    assert_int_equal(frame32(f, 1), 0x10);
    assert_int_equal(frame32(f, 2), 0x2400);
    assert_int_equal(frame32(f, 3), X86_FLAG_1 | X86_FLAG_VM | X86_FLAG_RF);
    assert_int_equal(frame32(f, 7), 0x1234); /* DS */
}

/* 4M pages, the first one mapped to itself. */
static void enable_paging(struct fixture *f)
{
    struct x86_state state;
    fixture_write(f, DIRECTORY, 8, 0x83);
    fixture_write(f, DIRECTORY + 0x1000, 4, 0x83);
    fixture_write(f, DIRECTORY + 0x1000 + 4, 4, 0x83);
    cpu_sync_out(f->cpu, &state);
    state.cr0 |= X86_CR0_PG;
    state.cr4 |= X86_CR4_PSE;
    state.cr3 = DIRECTORY;
    cpu_sync_in(f->cpu, &state);
}

static void test_address_space(void **state)
{
    struct fixture *f = *state;
    /* In the new space only, the second 4M are the first again. */
    fixture_write(f, TASK + 28, 4, DIRECTORY + 0x1000);
    fixture_write(f, TASK + 32, 4, TASK_CODE + 0x400000);
    enable_paging(f);
    jump(f, SEL_TASK);
    assert_int_equal(f->cpu->rip, TASK_CODE + 0x400000 + 1);
    assert_int_equal(f->cpu->state.cr3, DIRECTORY + 0x1000);
}

static void test_task_that_is_not_in_memory(void **state)
{
    struct fixture *f = *state;
    put_descriptor(f, SEL_TASK, 0x800000, 0x67, 0x80 | TSS32);
    enable_paging(f);
    jump(f, SEL_TASK);
    assert_int_equal(fixture_vector(f), X86_PF);
    assert_int_equal(f->cpu->state.cr2, 0x800000);
    assert_int_equal(task_of(f), SEL_TSS);
    assert_int_equal(type_of(f, SEL_TSS), TSS32_BUSY);
    assert_int_equal(fixture_read(f, FIXTURE_TSS + 32, 4), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(jump_saves_and_loads),
        TEST(call_nests_and_returns),
        TEST(call_sets_nt),
        TEST(exception_pushes_its_error_there),
        TEST(int_through_a_task_gate),
        TEST(refusals),
        TEST(return_to_what_is_not_busy),
        TEST(faults_in_the_new_task),
        TEST(target_outside_the_code_segment),
        TEST(local_descriptor_table),
        TEST(trap_bit),
        TEST(16_bit_task),
        TEST(leaving_a_16_bit_task),
        TEST(task_of_virtual_8086_mode),
        TEST(address_space),
        TEST(task_that_is_not_in_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
