#include "fixture.h"
#include "x86/segment.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "interpreter/event.h"

static int setup(void **state)
{
    *state = fixture_long();
    return 0;
}

static int setup_protected(void **state)
{
    *state = fixture_protected();
    return 0;
}

static int setup_real(void **state)
{
    *state = fixture_real();
    return 0;
}

static int teardown(void **state)
{
    fixture_free(*state);
    return 0;
}

static void test_fault_pushes_an_aligned_frame(void **state)
{
    struct fixture *f = *state;
    f->cpu->reg[X86_RSP] = FIXTURE_STACK - 3;
    RUN_BYTES(f, 0x0f, 0x0b); /* ud2 */
    assert_int_equal(fixture_vector(f), X86_UD);
    assert_int_equal(f->cpu->reg[X86_RSP], FIXTURE_STACK - 16 - 40);
    assert_int_equal(fixture_frame(f, 0), FIXTURE_CODE);
    assert_int_equal(fixture_frame(f, 1), SEL_CODE64);
    assert_int_equal(fixture_frame(f, 2), X86_FLAG_1 | X86_FLAG_RF);
    assert_int_equal(fixture_frame(f, 3), FIXTURE_STACK - 3);
    assert_int_equal(fixture_frame(f, 4), SEL_DATA);
}

static void test_page_fault_tells_address_and_cause(void **state)
{
    struct fixture *f = *state;
    fixture_map(f, 0x30000, 0);
    f->cpu->reg[X86_RBX] = 0x30123;
    RUN_BYTES(f, 0x8a, 0x03); /* mov al, [rbx] */
    assert_int_equal(fixture_vector(f), X86_PF);
    assert_int_equal(fixture_frame(f, 0), 0);
    assert_int_equal(f->cpu->state.cr2, 0x30123);
}

static void test_selector_beyond_the_table(void **state)
{
    struct fixture *f = *state;
    f->cpu->reg[X86_RAX] = SEL_BEYOND | 2;
    RUN_BYTES(f, 0x8e, 0xd8); /* mov ds, ax */
    assert_int_equal(fixture_vector(f), X86_GP);
    assert_int_equal(fixture_frame(f, 0), SEL_BEYOND);
}

static void test_segment_not_present(void **state)
{
    struct fixture *f = *state;
    f->cpu->reg[X86_RAX] = SEL_ABSENT;
    RUN_BYTES(f, 0x8e, 0xd8);
    assert_int_equal(fixture_vector(f), X86_NP);
    assert_int_equal(fixture_frame(f, 0), SEL_ABSENT);
}

static void test_int_through_a_gate_beyond_the_table(void **state)
{
    struct fixture *f = *state;
    f->cpu->state.idtr.limit = 0x7fff & (0x80 * 16 - 1);
    RUN_BYTES(f, 0xcd, 0x80); /* int 0x80 */
    assert_int_equal(fixture_vector(f), X86_GP);
    assert_int_equal(fixture_frame(f, 0), 0x80 * 8 + 2);
    /* The instruction itself faults. */
    assert_int_equal(fixture_frame(f, 1), FIXTURE_CODE);
}

/* iretq to ring 3, from a frame the test lays on the stack. */
static void go_to_ring3(struct fixture *f, const uint8_t *code, size_t size)
{
    static const uint8_t iretq[] = {0x48, 0xcf};
    const uint64_t frame[] = {FIXTURE_DATA, SEL_USER_CODE64, X86_FLAG_1, FIXTURE_USER,
                              SEL_USER_DATA};
    memcpy(f->ram + FIXTURE_DATA, code, size);
    memcpy(f->ram + FIXTURE_STACK - sizeof(frame), frame, sizeof(frame));
    f->cpu->reg[X86_RSP] = FIXTURE_STACK - sizeof(frame);
    fixture_run(f, iretq, sizeof(iretq));
}

static void test_interrupt_from_ring3_takes_rsp0(void **state)
{
    struct fixture *f = *state;
    static const uint8_t code[] = {0xcd, 0x40}; /* int 0x40 */
    fixture_gate(f, 0x40, FIXTURE_HANDLERS + 0x40 * 16, X86_TYPE_INTERRUPT_GATE, 3, 0);
    go_to_ring3(f, code, sizeof(code));
    assert_int_equal(fixture_vector(f), 0x40);
    assert_int_equal(f->cpu->cpl, 0);
    assert_int_equal(f->cpu->reg[X86_RSP], FIXTURE_RSP0 - 40);
    assert_int_equal(fixture_frame(f, 0), FIXTURE_DATA + 2);
    assert_int_equal(fixture_frame(f, 1), SEL_USER_CODE64);
    assert_int_equal(fixture_frame(f, 3), FIXTURE_USER);
    assert_int_equal(fixture_frame(f, 4), SEL_USER_DATA);
    assert_int_equal(f->cpu->state.seg[X86_SS].selector, 0);
}

/* A data segment that ring 3 may not use: its selector goes, its base stays. */
static void test_return_to_ring3_drops_segments(void **state)
{
    struct fixture *f = *state;
    static const uint8_t code[] = {0xcd, 0x40}; /* int 0x40 */
    fixture_gate(f, 0x40, FIXTURE_HANDLERS + 0x40 * 16, X86_TYPE_INTERRUPT_GATE, 3, 0);
    f->cpu->state.seg[X86_GS] = x86_segment_flat_data(SEL_DATA, 0);
    f->cpu->state.seg[X86_GS].base = 0x123456789000;
    go_to_ring3(f, code, sizeof(code));
    assert_int_equal(f->cpu->state.seg[X86_GS].selector, 0);
    assert_true(f->cpu->state.seg[X86_GS].access & X86_ACCESS_UNUSABLE);
    assert_int_equal(f->cpu->state.seg[X86_GS].base, 0x123456789000);
}

static void test_int_needs_the_gates_privilege(void **state)
{
    struct fixture *f = *state;
    static const uint8_t code[] = {0xcd, 0x40};
    fixture_gate(f, X86_GP, FIXTURE_HANDLERS + X86_GP * 16, X86_TYPE_INTERRUPT_GATE, 0,
                 1);
    go_to_ring3(f, code, sizeof(code));
    assert_int_equal(fixture_vector(f), X86_GP);
    assert_int_equal(f->cpu->reg[X86_RSP], FIXTURE_IST1 - 48);
    assert_int_equal(fixture_frame(f, 0), 0x40 * 8 + 2);
    assert_int_equal(fixture_frame(f, 1), FIXTURE_DATA);
}

static void test_privileged_instructions_fault_in_ring3(void **state)
{
    struct fixture *f = *state;
    static const uint8_t code[] = {0xf4}; /* hlt */
    go_to_ring3(f, code, sizeof(code));
    assert_int_equal(fixture_vector(f), X86_GP);
    assert_int_equal(fixture_frame(f, 0), 0);
}

static void test_popf_keeps_if_and_iopl_in_ring3(void **state)
{
    struct fixture *f = *state;
    /* push 0x3302; popfq; int3 */
    static const uint8_t code[] = {0x68, 0x02, 0x32, 0, 0, 0x9d, 0xcc};
    fixture_gate(f, X86_BP, FIXTURE_HANDLERS + X86_BP * 16, X86_TYPE_INTERRUPT_GATE, 3,
                 0);
    go_to_ring3(f, code, sizeof(code));
    assert_int_equal(fixture_vector(f), X86_BP);
    assert_int_equal(fixture_frame(f, 2), X86_FLAG_1);
}

static void test_syscall_and_back(void **state)
{
    struct fixture *f = *state;
    static const uint8_t code[] = {0x0f, 0x05, 0xcc};   /* syscall; int3 */
    static const uint8_t kernel[] = {0x48, 0x0f, 0x07}; /* sysretq */
    memcpy(f->ram + 0x11000, kernel, sizeof(kernel));
    f->cpu->state.lstar = 0x11000;
    f->cpu->state.star = (uint64_t)(SEL_USER_CODE32 & ~3) << 48 | (uint64_t)SEL_CODE64
                                                                      << 32;
    fixture_gate(f, X86_BP, FIXTURE_HANDLERS + X86_BP * 16, X86_TYPE_INTERRUPT_GATE, 3,
                 0);
    go_to_ring3(f, code, sizeof(code));
    assert_int_equal(fixture_vector(f), X86_BP);
    assert_int_equal(fixture_frame(f, 0), FIXTURE_DATA + 3);
    assert_int_equal(fixture_frame(f, 1), SEL_USER_CODE64);
    assert_int_equal(fixture_frame(f, 4), SEL_USER_DATA);
    assert_int_equal(f->cpu->reg[X86_RCX], FIXTURE_DATA + 2);
}

static void test_fault_on_an_absent_stack_is_a_double_fault(void **state)
{
    struct fixture *f = *state;
    fixture_gate(f, X86_DF, FIXTURE_HANDLERS + X86_DF * 16, X86_TYPE_INTERRUPT_GATE, 0,
                 1);
    fixture_map(f, 0x31000, 0);
    f->cpu->reg[X86_RSP] = 0x32000;
    f->cpu->reg[X86_RBX] = 0x31800;
    RUN_BYTES(f, 0x8a, 0x03); /* the page fault cannot be pushed: another page fault */
    assert_int_equal(fixture_vector(f), X86_DF);
    assert_int_equal(fixture_frame(f, 0), 0);
    assert_int_equal(fixture_frame(f, 1), FIXTURE_CODE);
    assert_int_equal(fixture_frame(f, 4), 0x32000);
}

static void test_no_table_at_all_shuts_down(void **state)
{
    struct fixture *f = *state;
    f->cpu->state.idtr.limit = 0;
    RUN_BYTES(f, 0x0f, 0x0b);
    assert_int_equal(f->cpu->state.activity, X86_SHUTDOWN);
    assert_int_equal(f->cpu->rip, FIXTURE_CODE);
    assert_int_equal(f->cpu->reg[X86_RSP], FIXTURE_STACK);
}

static void test_nmi_is_blocked_until_iret(void **state)
{
    struct fixture *f = *state;
    const struct x86_event nmi = {.vector = X86_NMI, .type = X86_EVENT_NMI};
    event_deliver(f->cpu, &nmi, 0);
    assert_true(f->cpu->state.nmi_blocked);
    f->ram[FIXTURE_HANDLERS + X86_NMI * 16] = 0x48; /* iretq */
    f->ram[FIXTURE_HANDLERS + X86_NMI * 16 + 1] = 0xcf;
    RUN_BYTES(f, 0xf4);
    assert_false(f->cpu->state.nmi_blocked);
    assert_int_equal(f->cpu->rip, FIXTURE_CODE + 1);
    assert_int_equal(f->cpu->reg[X86_RSP], FIXTURE_STACK);
}

static void test_lar_and_lsl(void **state)
{
    struct fixture *f = *state;
    f->cpu->reg[X86_RCX] = SEL_USER_CODE64;
    RUN_BYTES(f, 0x0f, 0x02, 0xc1, 0x0f, 0x03, 0xd1,
              0xf4); /* lar eax, ecx; lsl edx, ecx */
    assert_int_equal(f->cpu->reg[X86_RAX], 0x00affb00);
    assert_int_equal(f->cpu->reg[X86_RDX], 0xffffffff);
    assert_true(f->cpu->arith & ARITH_ZF);
}

static void test_far_return_within_the_level(void **state)
{
    struct fixture *f = *state;
    fixture_write(f, FIXTURE_STACK - 16, 8, 0x12000);
    fixture_write(f, FIXTURE_STACK - 8, 8, SEL_CONFORMING);
    f->cpu->reg[X86_RSP] = FIXTURE_STACK - 16;
    f->ram[0x12000] = 0xf4;
    RUN_BYTES(f, 0x48, 0xcb); /* retfq */
    assert_int_equal(f->cpu->rip, 0x12001);
    assert_int_equal(f->cpu->state.seg[X86_CS].selector, SEL_CONFORMING);
    assert_int_equal(f->cpu->reg[X86_RSP], FIXTURE_STACK);
}

/* SDM 3A 5.8.3.1, APM 2 4.8.3: where the upper half would have a type there is none. */
static void test_upper_half_of_a_long_descriptor_has_no_type(void **state)
{
    struct fixture *f = *state;
    f->cpu->reg[X86_RCX] = SEL_TSS;
    RUN_BYTES(f, 0x0f, 0x02, 0xc1, 0xf4); /* lar eax, ecx */
    assert_true(f->cpu->arith & ARITH_ZF);
    for (unsigned bit = 40; bit < 45; bit++) {
        uint64_t high = fixture_read(f, FIXTURE_GDT + SEL_TSS + 8, 8);
        fixture_write(f, FIXTURE_GDT + SEL_TSS + 8, 8, high | 1ull << bit);
        f->cpu->state.activity = X86_RUNNING;
        f->cpu->rip = FIXTURE_CODE;
        RUN_BYTES(f, 0x0f, 0x02, 0xc1, 0xf4);
        assert_false(f->cpu->arith & ARITH_ZF);
        f->cpu->state.activity = X86_RUNNING;
        f->cpu->rip = FIXTURE_CODE;
        f->ram[FIXTURE_GDT + SEL_TSS + 5] = 0x89; /* available */
        RUN_BYTES(f, 0x0f, 0x00, 0xd9);           /* ltr cx */
        assert_int_equal(fixture_vector(f), X86_GP);
        assert_int_equal(fixture_frame(f, 0), SEL_TSS);
        fixture_write(f, FIXTURE_GDT + SEL_TSS + 8, 8, high);
    }
}

/* From ring 3 to a ring 0 stack whose pointer is beyond its segment's limit. */
static void test_no_room_on_the_inner_stack(void **state)
{
    struct fixture *f = *state;
    struct x86_state user;
    /* A data segment of 4 KiB in SEL_ABSENT's place, whose stack would begin above it. */
    fixture_write(f, FIXTURE_GDT + SEL_ABSENT, 8, 0x0040920000000fffull);
    fixture_write(f, FIXTURE_TSS + 4, 4, FIXTURE_RSP0);
    fixture_write(f, FIXTURE_TSS + 8, 4, SEL_ABSENT);
    /* #SS through a task-free way out: the handlers' stack is the same, so it cannot be
     * delivered either, nor #DF: what came first is in `fault`. */
    cpu_sync_out(f->cpu, &user);
    user.seg[X86_CS] = x86_segment_flat_code(SEL_USER_CODE32, false, 3);
    user.seg[X86_SS] = x86_segment_flat_data(SEL_USER_DATA, 3);
    user.gpr[X86_RSP] = FIXTURE_USER;
    cpu_sync_in(f->cpu, &user);
    fixture_write(f, FIXTURE_IDT + 0x40 * 8, 8,
                  (FIXTURE_HANDLERS + 0x40 * 16) | (uint64_t)SEL_CODE32 << 16 |
                      0xeeull << 40);
    RUN_BYTES(f, 0xcd, 0x40); /* int 0x40 */
    assert_int_equal(f->cpu->state.activity, X86_SHUTDOWN);
    assert_int_equal(f->cpu->fault.vector, X86_SS_FAULT);
    assert_int_equal(f->cpu->fault.error & 0xfffc, SEL_ABSENT);
}

/* 64 gates before the end of 32 bits of linear addresses, the others from 0 on. */
static void test_table_goes_on_at_zero(void **state)
{
    struct fixture *f = *state;
    fixture_write(f, 0, 8, fixture_read(f, FIXTURE_IDT + 0x40 * 8, 8));
    f->cpu->state.idtr.base = 0x100000000ull - 0x40 * 8;
    RUN_BYTES(f, 0xcd, 0x40); /* int 0x40 */
    assert_int_equal(fixture_vector(f), 0x40);
}

static void test_protected_mode_frame(void **state)
{
    struct fixture *f = *state;
    RUN_BYTES(f, 0xcd, 0x21); /* int 0x21 */
    assert_int_equal(fixture_vector(f), 0x21);
    assert_int_equal(f->cpu->reg[X86_RSP], FIXTURE_STACK - 12);
    assert_int_equal(fixture_read(f, FIXTURE_STACK - 12, 4), FIXTURE_CODE + 2);
    assert_int_equal(fixture_read(f, FIXTURE_STACK - 8, 4), SEL_CODE32);
}

static void test_real_mode_frame(void **state)
{
    struct fixture *f = *state;
    RUN_BYTES(f, 0xcd, 0x21);
    assert_int_equal(fixture_vector(f), 0x21);
    assert_int_equal(f->cpu->reg[X86_RSP], 0xffea);
    assert_int_equal(fixture_read(f, 0x3ffea, 2), 2);
    assert_int_equal(fixture_read(f, 0x3ffec, 2), FIXTURE_CODE >> 4);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_fault_pushes_an_aligned_frame),
        TEST(test_page_fault_tells_address_and_cause),
        TEST(test_selector_beyond_the_table),
        TEST(test_segment_not_present),
        TEST(test_int_through_a_gate_beyond_the_table),
        TEST(test_interrupt_from_ring3_takes_rsp0),
        TEST(test_return_to_ring3_drops_segments),
        TEST(test_int_needs_the_gates_privilege),
        TEST(test_privileged_instructions_fault_in_ring3),
        TEST(test_popf_keeps_if_and_iopl_in_ring3),
        TEST(test_syscall_and_back),
        TEST(test_fault_on_an_absent_stack_is_a_double_fault),
        TEST(test_no_table_at_all_shuts_down),
        TEST(test_nmi_is_blocked_until_iret),
        TEST(test_lar_and_lsl),
        TEST(test_far_return_within_the_level),
        TEST(test_upper_half_of_a_long_descriptor_has_no_type),
        cmocka_unit_test_setup_teardown(test_no_room_on_the_inner_stack, setup_protected,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_table_goes_on_at_zero, setup_protected,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_protected_mode_frame, setup_protected,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_real_mode_frame, setup_real, teardown),
    };
    return cmocka_run_group_tests_name("interpreter_event", tests, NULL, NULL);
}
