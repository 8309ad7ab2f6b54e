/* Virtual-8086 mode with and without its extensions, and protected-mode virtual
 * interrupts. */
#include "fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define IOPL3        X86_FLAG_IOPL
#define VM86_CODE    0x20000u /* CS 2000 */
#define VM86_STACK   0x30000u /* SS 3000, SP 100 */
#define VM86_HANDLER 0x28000u /* CS 2800 */
#define REDIRECTION  0x68u    /* behind the 104 bytes of the TSS */
#define IO_BITMAP    0x88u

static int setup(void **state)
{
    struct fixture *f = fixture_protected();
    *state = f;
    f->cpu->state.tr.limit = IO_BITMAP + 0x2000;
    fixture_write(f, FIXTURE_TSS + 102, 2, IO_BITMAP);
    memset(f->ram + FIXTURE_TSS + REDIRECTION, 0xff, 32);
    for (unsigned vector = 0; vector < 256; vector++) {
        f->ram[FIXTURE_IDT + vector * 8 + 5] |= 0x60; /* for everybody */
    }
    return 0;
}

static int teardown(void **state)
{
    fixture_free(*state);
    return 0;
}

/* Executes 8086 code in virtual-8086 mode until something leaves it. */
static void run_vm86(struct fixture *f, uint64_t cr4, uint64_t flags, const void *code,
                     size_t size)
{
    static const uint16_t selector[] = {0x1111, 0x2000, 0x3000, 0x4444, 0x5555, 0x6666};
    struct x86_state state;
    cpu_sync_out(f->cpu, &state);
    for (unsigned i = 0; i < X86_SEGMENT_COUNT; i++) {
        state.seg[i] = x86_segment_real(selector[i]);
        state.seg[i].access |= 3u << X86_ACCESS_DPL_SHIFT;
    }
    state.cr4 = cr4;
    state.rflags = X86_FLAG_1 | X86_FLAG_VM | flags;
    state.rip = 0;
    state.gpr[X86_RSP] = 0x100;
    memcpy(f->ram + VM86_CODE, code, size);
    cpu_sync_in(f->cpu, &state);
    fixture_go(f);
}
#define RUN_VM86(f, cr4, flags, ...)                           \
    do {                                                       \
        static const uint8_t bytes_[] = {__VA_ARGS__};         \
        run_vm86((f), (cr4), (flags), bytes_, sizeof(bytes_)); \
    } while (0)

static uint32_t frame32(const struct fixture *f, unsigned n)
{
    return (uint32_t)fixture_read(f, f->cpu->reg[X86_RSP] + n * 4, 4);
}

/* The vector's own handler in the 8086 program: HLT, which faults to ring 0. */
static void redirect(struct fixture *f, uint8_t vector)
{
    f->ram[FIXTURE_TSS + REDIRECTION + vector / 8] &= (uint8_t) ~(1u << vector % 8);
    fixture_write(f, vector * 4, 4, (VM86_HANDLER >> 4) << 16 | 0x10);
    f->ram[VM86_HANDLER + 0x10] = 0xf4;
}

static void test_interrupt_leaves_the_mode(void **state)
{
    struct fixture *f = *state;
    RUN_VM86(f, 0, IOPL3, 0xcd, 0x40); /* int 0x40 */
    assert_int_equal(fixture_vector(f), 0x40);
    assert_int_equal(f->cpu->reg[X86_RSP], FIXTURE_RSP0 - 9 * 4);
    assert_int_equal(frame32(f, 0), 2);
    assert_int_equal(frame32(f, 1), 0x2000);
    assert_int_equal(frame32(f, 2), X86_FLAG_1 | X86_FLAG_VM | IOPL3);
    assert_int_equal(frame32(f, 3), 0x100);
    assert_int_equal(frame32(f, 4), 0x3000);
    assert_int_equal(frame32(f, 5), 0x1111);
    assert_int_equal(frame32(f, 6), 0x4444);
    assert_int_equal(frame32(f, 7), 0x5555);
    assert_int_equal(frame32(f, 8), 0x6666);
    assert_true(f->cpu->state.seg[X86_DS].access & X86_ACCESS_UNUSABLE);
    assert_false(f->cpu->state.rflags & X86_FLAG_VM);
}

static void test_sensitive_instructions_fault_below_iopl_3(void **state)
{
    static const uint8_t code[][2] = {
        {0xcd, 0x40}, {0xfa}, {0xfb}, {0x9c}, {0x9d}, {0xcf}, {0xf4},
    };
    for (unsigned i = 0; i < sizeof(code) / sizeof(code[0]); i++) {
        teardown(state);
        setup(state);
        run_vm86(*state, 0, 2u << X86_FLAG_IOPL_SHIFT, code[i], 2);
        assert_int_equal(fixture_vector(*state), X86_GP);
        assert_int_equal(frame32(*state, 0), 0);
        assert_int_equal(frame32(*state, 1), 0);
    }
}

static void test_ports_ask_the_bitmap_even_at_iopl_3(void **state)
{
    struct fixture *f = *state;
    f->ram[FIXTURE_TSS + IO_BITMAP + 0x80 / 8] = 0xfe;
    RUN_VM86(f, 0, IOPL3, 0xe6, 0x80, 0xe6, 0x81); /* out 0x80, al; out 0x81, al */
    assert_int_equal(fixture_vector(f), X86_GP);
    assert_int_equal(f->port, 0x80);
    assert_int_equal(frame32(f, 1), 2);
}

static void test_redirection_at_iopl_3(void **state)
{
    struct fixture *f = *state;
    redirect(f, 0x21);
    RUN_VM86(f, X86_CR4_VME, IOPL3 | X86_FLAG_IF, 0xcd, 0x21);
    assert_int_equal(fixture_vector(f), X86_GP); /* of the HLT there */
    assert_int_equal(frame32(f, 1), 0x10);
    assert_int_equal(frame32(f, 2), VM86_HANDLER >> 4);
    assert_false(frame32(f, 3) & X86_FLAG_IF);
    assert_int_equal(fixture_read(f, VM86_STACK + 0xfa, 2), 2);
    assert_int_equal(fixture_read(f, VM86_STACK + 0xfc, 2), 0x2000);
    assert_int_equal(fixture_read(f, VM86_STACK + 0xfe, 2),
                     X86_FLAG_1 | X86_FLAG_IF | IOPL3);
}

static void test_redirection_below_iopl_3_uses_vif(void **state)
{
    struct fixture *f = *state;
    redirect(f, 0x21);
    RUN_VM86(f, X86_CR4_VME, X86_FLAG_VIF | X86_FLAG_IF, 0xcd, 0x21);
    assert_int_equal(frame32(f, 2), VM86_HANDLER >> 4);
    assert_false(frame32(f, 3) & X86_FLAG_VIF);
    assert_true(frame32(f, 3) & X86_FLAG_IF); /* the real one stays */
    assert_int_equal(fixture_read(f, VM86_STACK + 0xfe, 2),
                     X86_FLAG_1 | X86_FLAG_IF | IOPL3);
}

static void test_vectors_that_are_not_redirected(void **state)
{
    struct fixture *f = *state;
    redirect(f, 0x21);
    RUN_VM86(f, X86_CR4_VME, 0, 0xcd, 0x22);
    assert_int_equal(fixture_vector(f), X86_GP);
    assert_int_equal(frame32(f, 2), 0x2000);
    teardown(state);
    setup(state);
    f = *state;
    RUN_VM86(f, X86_CR4_VME, IOPL3, 0xcd, 0x22);
    assert_int_equal(fixture_vector(f), 0x22);
    /* INT3 never is. */
    teardown(state);
    setup(state);
    f = *state;
    redirect(f, X86_BP);
    RUN_VM86(f, X86_CR4_VME, 0, 0xcc);
    assert_int_equal(fixture_vector(f), X86_BP);
}

static void test_map_outside_the_tss(void **state)
{
    struct fixture *f = *state;
    f->cpu->state.tr.limit = REDIRECTION + 3;
    redirect(f, 0x21);
    RUN_VM86(f, X86_CR4_VME, IOPL3, 0xcd, 0x21);
    assert_int_equal(fixture_vector(f), X86_GP);
    assert_int_equal(frame32(f, 2), 0x2000);
}

static void test_virtual_interrupt_flag(void **state)
{
    struct fixture *f = *state;
    /* sti; pushf; cli; pushf; popf; hlt */
    RUN_VM86(f, X86_CR4_VME, X86_FLAG_IF, 0xfb, 0x9c, 0xfa, 0x9c, 0x9d, 0xf4);
    assert_int_equal(fixture_vector(f), X86_GP);
    assert_int_equal(fixture_read(f, VM86_STACK + 0xfe, 2),
                     X86_FLAG_1 | X86_FLAG_IF | IOPL3);
    assert_int_equal(fixture_read(f, VM86_STACK + 0xfc, 2), X86_FLAG_1 | IOPL3);
    assert_int_equal(frame32(f, 1), 5);
    assert_int_equal(frame32(f, 3) & (X86_FLAG_VIF | X86_FLAG_IF | X86_FLAG_IOPL),
                     X86_FLAG_IF);
}

static void test_iret_of_the_8086_program(void **state)
{
    struct fixture *f = *state;
    fixture_write(f, VM86_STACK + 0x100, 2, 0x10);
    fixture_write(f, VM86_STACK + 0x102, 2, VM86_HANDLER >> 4);
    fixture_write(f, VM86_STACK + 0x104, 2, X86_FLAG_1 | X86_FLAG_IF | X86_FLAG_CF);
    f->ram[VM86_HANDLER + 0x10] = 0xf4;
    RUN_VM86(f, X86_CR4_VME, 0, 0xcf);
    assert_int_equal(fixture_vector(f), X86_GP);
    assert_int_equal(frame32(f, 1), 0x10);
    assert_int_equal(frame32(f, 2), VM86_HANDLER >> 4);
    assert_int_equal(frame32(f, 3),
                     X86_FLAG_1 | X86_FLAG_VM | X86_FLAG_VIF | X86_FLAG_CF | X86_FLAG_RF);
    assert_int_equal(frame32(f, 4), 0x106);
}

static void test_pending_virtual_interrupt(void **state)
{
    static const uint8_t code[][1] = {{0xfb}, {0xcf}, {0x9d}}; /* sti; iret; popf */
    for (unsigned i = 0; i < 3; i++) {
        teardown(state);
        setup(state);
        struct fixture *f = *state;
        for (unsigned slot = 0; slot < 3; slot++) {
            fixture_write(f, VM86_STACK + 0x100 + slot * 2, 2, X86_FLAG_IF);
        }
        run_vm86(f, X86_CR4_VME, X86_FLAG_VIP, code[i], 1);
        assert_int_equal(fixture_vector(f), X86_GP);
        assert_int_equal(frame32(f, 1), 0);
    }
}

/* Ring 3 of protected mode: only CLI and STI know VIF. */
static void test_protected_mode_virtual_interrupts(void **state)
{
    struct fixture *f = *state;
    static const uint8_t code[] = {0xfb, 0x90, 0xfa, 0xfb, 0xf4}; /* sti ... hlt */
    struct x86_state saved;
    cpu_sync_out(f->cpu, &saved);
    saved.cr4 = X86_CR4_PVI;
    saved.seg[X86_CS] = x86_segment_flat_code(SEL_USER_CODE32, false, 3);
    saved.seg[X86_SS] = x86_segment_flat_data(SEL_USER_DATA, 3);
    saved.gpr[X86_RSP] = FIXTURE_USER;
    cpu_sync_in(f->cpu, &saved);
    fixture_run(f, code, sizeof(code));
    assert_int_equal(fixture_vector(f), X86_GP);
    assert_int_equal(frame32(f, 1), FIXTURE_CODE + 4);
    assert_int_equal(frame32(f, 3), X86_FLAG_1 | X86_FLAG_VIF | X86_FLAG_RF);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(interrupt_leaves_the_mode),
        TEST(sensitive_instructions_fault_below_iopl_3),
        TEST(ports_ask_the_bitmap_even_at_iopl_3),
        TEST(redirection_at_iopl_3),
        TEST(redirection_below_iopl_3_uses_vif),
        TEST(vectors_that_are_not_redirected),
        TEST(map_outside_the_tss),
        TEST(virtual_interrupt_flag),
        TEST(iret_of_the_8086_program),
        TEST(pending_virtual_interrupt),
        TEST(protected_mode_virtual_interrupts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
