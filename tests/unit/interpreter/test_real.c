/* Real mode, and what is left in it of protected mode's segments: "unreal" mode. */
#include "fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static int setup(void **state)
{
    *state = fixture_real();
    return 0;
}

static int teardown(void **state)
{
    fixture_free(*state);
    return 0;
}

static void set_segment(struct fixture *f, enum x86_segment_register reg,
                        const struct x86_segment *segment)
{
    struct x86_state state;
    cpu_sync_out(f->cpu, &state);
    state.seg[reg] = *segment;
    cpu_sync_in(f->cpu, &state);
}

static void test_limits_stay_when_protected_mode_is_left(void **state)
{
    struct fixture *f = *state;
    const struct x86_segment big = {0, 0x8093, UINT32_MAX, 0};
    set_segment(f, X86_DS, &big);
    fixture_write(f, 0x120010, 4, 0xcafebabe);
    f->cpu->reg[X86_RBX] = 0x100010;
    f->cpu->reg[X86_RCX] = 0x2000;
    /* mov ds, cx; mov eax, [ebx]; hlt: the base moves, the limit stays */
    RUN_BYTES(f, 0x8e, 0xd9, 0x66, 0x67, 0x8b, 0x03, 0xf4);
    assert_int_equal(fixture_vector(f), -1);
    assert_int_equal((uint32_t)f->cpu->reg[X86_RAX], 0xcafebabe);
    assert_int_equal(f->cpu->state.seg[X86_DS].limit, UINT32_MAX);
}

static void test_limit_of_64k(void **state)
{
    struct fixture *f = *state;
    f->cpu->reg[X86_RBX] = 0x10000;
    RUN_BYTES(f, 0x67, 0x8a, 0x03); /* mov al, [ebx] */
    assert_int_equal(fixture_vector(f), X86_GP);
}

static void test_word_at_the_end_of_a_segment(void **state)
{
    struct fixture *f = *state;
    f->cpu->reg[X86_RBX] = 0xffff;
    RUN_BYTES(f, 0x8b, 0x07); /* mov ax, [bx] */
    assert_int_equal(fixture_vector(f), X86_GP);
    teardown(state);
    setup(state);
    f = *state;
    f->cpu->reg[X86_RBP] = 0xffff;
    RUN_BYTES(f, 0x8b, 0x46, 0x00); /* mov ax, [bp] */
    assert_int_equal(fixture_vector(f), X86_SS_FAULT);
}

static void test_pusha_near_the_end(void **state)
{
    for (unsigned sp = 7; sp <= 15; sp += 2) {
        teardown(state);
        setup(state);
        struct fixture *f = *state;
        f->cpu->reg[X86_RSP] = sp;
        RUN_BYTES(f, 0x60);
        assert_int_equal(fixture_vector(f), X86_GP);
    }
}

static void test_enter_keeps_the_upper_half(void **state)
{
    struct fixture *f = *state;
    f->cpu->reg[X86_RSP] = 0x12340100;
    RUN_BYTES(f, 0x66, 0xc8, 0, 0, 0, 0xf4); /* enter, 32-bit operands, 16-bit stack */
    assert_int_equal(f->cpu->reg[X86_RBP], 0x123400fc);
    assert_int_equal(f->cpu->reg[X86_RSP], 0x123400fc);
}

static void test_vectors_outside_the_table(void **state)
{
    struct fixture *f = *state;
    f->cpu->state.idtr.limit = 0x21 * 4 - 1;
    RUN_BYTES(f, 0xcd, 0x21);
    assert_int_equal(fixture_vector(f), X86_GP);
}

#define FAR_DATA 0x80000u

/* Executes code with DS at FAR_DATA and BX; its exception or -1. */
static int run_at(void **state, enum cpu_vendor vendor, unsigned bx, const void *code,
                  size_t size)
{
    const struct x86_segment segment = {FAR_DATA >> 4, 0x93, 0xffff, FAR_DATA};
    teardown(state);
    setup(state);
    struct fixture *f = *state;
    f->cpuid.vendor = vendor;
    set_segment(f, X86_DS, &segment);
    fixture_write(f, FAR_DATA + 0xfff8, 8, 0x1122334455667788);
    fixture_write(f, FAR_DATA, 8, 0x8765432112345678);
    f->cpu->reg[X86_RBX] = bx;
    fixture_run(f, code, size);
    return fixture_vector(f);
}

#define CODE(bytes) bytes, sizeof(bytes) - 1

/* On Intel's processors each part has an offset of its own, and behind the last comes 0.
 */
static void test_parts_wrap_around(void **state)
{
    const enum cpu_vendor intel = CPU_VENDOR_INTEL;
    assert_int_equal(run_at(state, intel, 0xfffe, CODE("\xc4\x07\xf4")), -1); /* LES */
    struct fixture *f = *state;
    assert_int_equal(f->cpu->state.seg[X86_ES].selector, 0x5678);
    assert_int_equal(f->cpu->reg[X86_RAX] & 0xffff, 0x1122);
    assert_int_equal(run_at(state, intel, 0xfffd, CODE("\xc4\x07\xf4")), X86_GP);

    const char store[] = "\xdb\xe3\xd9\xe8\xdb\x3f\xf4"; /* FNINIT; FLD1; FSTP */
    assert_int_equal(run_at(state, intel, 0xfff8, CODE(store)), -1);
    assert_int_equal(fixture_read(*state, FAR_DATA + 0xfff8, 8), 1ull << 63);
    assert_int_equal(fixture_read(*state, FAR_DATA, 4), 0x12343fff);
    assert_int_equal(run_at(state, intel, 0xfff7, CODE(store)), X86_GP);
    assert_int_equal(fixture_read(*state, FAR_DATA + 0xfff7, 8), 1ull << 63);
    assert_int_equal(fixture_read(*state, FAR_DATA, 4), 0x12345678);

    const char environment[] = "\xdb\xe3\xd9\x37\xf4"; /* FNSTENV */
    assert_int_equal(run_at(state, intel, 0xfff8, CODE(environment)), -1);
    assert_int_equal(fixture_read(*state, FAR_DATA + 0xfff8, 4), 0x037f);
    assert_int_equal(fixture_read(*state, FAR_DATA + 4, 4), 0x87650000);
    assert_int_equal(run_at(state, intel, 0xfff9, CODE(environment)), X86_GP);
    assert_int_equal(fixture_read(*state, FAR_DATA + 0xfff9, 4), 0x037f);
    assert_int_equal(fixture_read(*state, FAR_DATA, 4), 0x12345678);

    assert_int_equal(run_at(state, intel, 0xff00, CODE("\x0f\xae\x07\xf4")), -1);
    /* MXCSR's reserved bits, if they are at 0xff18. */
    assert_int_equal(run_at(state, intel, 0xff00, CODE("\x0f\xae\x0f\xf4")), -1);
}

/* BOUND looks at the second only if the index is not below the first. */
static void test_bounds_wrap_around(void **state)
{
    const char code[] = "\xb8\x00\x20\x62\x07\xf4"; /* MOV AX, 2000; BOUND AX, [bx] */
    assert_int_equal(run_at(state, CPU_VENDOR_INTEL, 0xfffe, CODE(code)), -1);
    assert_int_equal(run_at(state, CPU_VENDOR_INTEL, 0xfffd, CODE(code)), X86_BR);
}

static void test_operands_are_whole_on_amd(void **state)
{
    const enum cpu_vendor amd = CPU_VENDOR_AMD;
    assert_int_equal(run_at(state, amd, 0xfffe, CODE("\xc4\x07\xf4")), X86_GP);
    assert_int_equal(run_at(state, amd, 0xfff8, CODE("\xdb\x2f\xf4")), X86_GP);
    assert_int_equal(run_at(state, amd, 0xfffe, CODE("\x62\x07\xf4")), X86_GP);
    assert_int_equal(run_at(state, amd, 0xff00, CODE("\x0f\xae\x07\xf4")), X86_GP);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(limits_stay_when_protected_mode_is_left),
        TEST(limit_of_64k),
        TEST(word_at_the_end_of_a_segment),
        TEST(pusha_near_the_end),
        TEST(enter_keeps_the_upper_half),
        TEST(vectors_outside_the_table),
        TEST(parts_wrap_around),
        TEST(bounds_wrap_around),
        TEST(operands_are_whole_on_amd),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
