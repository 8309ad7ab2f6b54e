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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
