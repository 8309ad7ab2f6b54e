/* The guest's debug registers, RF, single steps and steps from branch to branch. */
#include "fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "interpreter/breakpoint.h"
#include "interpreter/run.h"

#define DR6_NONE   0xffff0ff0u
#define EXECUTE(i) (2ull << (i)*2)
#define WRITE1(i)  (EXECUTE(i) | 1ull << (16 + (i)*4))
#define WRITE4(i)  (EXECUTE(i) | 0xdull << (16 + (i)*4))
#define WRITE8(i)  (EXECUTE(i) | 0x9ull << (16 + (i)*4))
#define ACCESS4(i) (EXECUTE(i) | 0xfull << (16 + (i)*4))
#define PORT2(i)   (EXECUTE(i) | 0x6ull << (16 + (i)*4))

static int setup(void **state)
{
    *state = fixture_long();
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

static void arm(struct fixture *f, unsigned i, uint64_t address, uint64_t dr7)
{
    f->cpu->state.dr[i] = address;
    f->cpu->state.dr7 |= dr7;
    breakpoint_update(f->cpu);
}

static void test_instruction_breakpoint(void **state)
{
    struct fixture *f = *state;
    arm(f, 2, FIXTURE_CODE + 1, EXECUTE(2));
    f->cpu->reg[X86_RAX] = 5;
    RUN_BYTES(f, 0x90, 0xff, 0xc0, 0xf4); /* nop; inc eax; hlt */
    assert_int_equal(fixture_vector(f), X86_DB);
    assert_int_equal(f->cpu->state.dr6, DR6_NONE | 4);
    assert_int_equal(fixture_frame(f, 0), FIXTURE_CODE + 1);
    assert_false(fixture_frame(f, 2) & X86_FLAG_RF); /* that is the handler's choice */
    assert_int_equal(f->cpu->reg[X86_RAX], 5);
}

/* Code that was decoded, and chained, before the breakpoint came. */
static void test_breakpoint_in_decoded_code(void **state)
{
    struct fixture *f = *state;
    static const uint8_t code[] = {
        0xff, 0xc9,             /* again: dec ecx */
        0x75, 0xfc,             /* jnz again */
        0x0f, 0x23, 0xf8,       /* mov dr7, rax */
        0xb9, 2,    0,    0, 0, /* mov ecx, 2 */
        0xeb, 0xf2,             /* jmp again */
    };
    f->cpu->reg[X86_RCX] = 100;
    f->cpu->reg[X86_RAX] = 0x400 | EXECUTE(0);
    f->cpu->state.dr[0] = FIXTURE_CODE;
    fixture_run(f, code, sizeof(code));
    assert_int_equal(fixture_vector(f), X86_DB);
    assert_int_equal(fixture_frame(f, 0), FIXTURE_CODE);
    assert_int_equal(f->cpu->reg[X86_RCX], 2);
}

/* mov ss, eax; inc ecx; hlt, with a breakpoint at the second. */
static void test_load_of_ss_hides_a_breakpoint_on_intel(void **state)
{
    struct fixture *f = *state;
    static const enum cpu_vendor vendors[] = {CPU_VENDOR_AMD, CPU_VENDOR_INTEL};
    for (unsigned i = 0; i < 2; i++) {
        f->cpuid.vendor = vendors[i];
        arm(f, 0, FIXTURE_CODE + 2, EXECUTE(0));
        f->cpu->reg[X86_RAX] = SEL_DATA;
        RUN_BYTES(f, 0x8e, 0xd0, 0xff, 0xc1, 0xf4);
        assert_int_equal(fixture_vector(f), vendors[i] == CPU_VENDOR_AMD ? X86_DB : -1);
        teardown(state);
        setup(state);
        f = *state;
    }
}

static void test_disabled_or_elsewhere(void **state)
{
    struct fixture *f = *state;
    arm(f, 0, FIXTURE_CODE + 1, 0);
    arm(f, 1, FIXTURE_CODE + 2, EXECUTE(1)); /* within an instruction */
    RUN_BYTES(f, 0x90, 0xff, 0xc0, 0xf4);
    assert_int_equal(fixture_vector(f), -1);
    assert_int_equal(f->cpu->state.dr6, DR6_NONE);
}

/* IRET with RF in its image: one instruction without its breakpoint. */
static void test_resume_flag(void **state)
{
    struct fixture *f = *state;
    const uint64_t frame[] = {FIXTURE_DATA, SEL_CODE64, X86_FLAG_1 | X86_FLAG_RF,
                              FIXTURE_STACK, SEL_DATA};
    static const uint8_t code[] = {0xff, 0xc0, 0xff, 0xc8}; /* inc eax; dec eax */
    memcpy(f->ram + FIXTURE_DATA, code, sizeof(code));
    memcpy(f->ram + FIXTURE_STACK - sizeof(frame), frame, sizeof(frame));
    f->cpu->reg[X86_RSP] = FIXTURE_STACK - sizeof(frame);
    f->cpu->reg[X86_RAX] = 5;
    arm(f, 0, FIXTURE_DATA, EXECUTE(0));
    arm(f, 1, FIXTURE_DATA + 2, EXECUTE(1));
    RUN_BYTES(f, 0x48, 0xcf); /* iretq */
    assert_int_equal(fixture_vector(f), X86_DB);
    assert_int_equal(f->cpu->state.dr6, DR6_NONE | 2);
    assert_int_equal(fixture_frame(f, 0), FIXTURE_DATA + 2);
    assert_int_equal(f->cpu->reg[X86_RAX], 6);
}

/* RF held for a NOP; a far return behind it is another instruction. */
static void test_far_transfer_does_not_bring_rf_back(void **state)
{
    struct fixture *f = *state;
    struct x86_state saved;
    cpu_sync_out(f->cpu, &saved);
    saved.rflags |= X86_FLAG_RF;
    saved.gpr[X86_RSP] = FIXTURE_STACK - 16;
    cpu_sync_in(f->cpu, &saved);
    fixture_write(f, FIXTURE_STACK - 16, 8, FIXTURE_DATA);
    fixture_write(f, FIXTURE_STACK - 8, 8, SEL_CODE64);
    f->ram[FIXTURE_DATA] = 0xf4;
    arm(f, 0, FIXTURE_DATA, EXECUTE(0));
    RUN_BYTES(f, 0x90, 0x48, 0xcb); /* nop; retfq */
    assert_int_equal(fixture_vector(f), X86_DB);
    assert_int_equal(fixture_frame(f, 0), FIXTURE_DATA);
}

/* RF held for a NOP, or for the INT1 itself, which completes. */
static void test_int1_does_not_push_rf(void **state)
{
    static const uint8_t code[] = {0x90, 0xf1, 0xf4}; /* nop; int1; hlt */
    for (unsigned begin = 0; begin < 2; begin++) {
        struct fixture *f = *state;
        struct x86_state saved;
        cpu_sync_out(f->cpu, &saved);
        saved.rflags |= X86_FLAG_RF;
        saved.rip = FIXTURE_CODE + begin;
        cpu_sync_in(f->cpu, &saved);
        memcpy(f->ram + FIXTURE_CODE, code, sizeof(code));
        fixture_go(f);
        assert_int_equal(fixture_vector(f), X86_DB);
        assert_int_equal(fixture_frame(f, 0), FIXTURE_CODE + 2);
        assert_false(fixture_frame(f, 2) & X86_FLAG_RF);
        teardown(state);
        setup(state);
    }
}

static void test_saved_state_shows_rf_only_while_it_holds(void **state)
{
    struct fixture *f = *state;
    struct x86_state saved;
    cpu_sync_out(f->cpu, &saved);
    saved.rflags |= X86_FLAG_RF;
    cpu_sync_in(f->cpu, &saved);
    cpu_sync_out(f->cpu, &saved);
    assert_true(saved.rflags & X86_FLAG_RF);
    RUN_BYTES(f, 0x90, 0xf4);
    cpu_sync_out(f->cpu, &saved);
    assert_false(saved.rflags & X86_FLAG_RF);
}

static void test_write_traps_behind_the_instruction(void **state)
{
    struct fixture *f = *state;
    /* mov eax, [rbx]; mov [rbx + 2], cx; nop; nop */
    static const uint8_t code[] = {0x8b, 0x03, 0x66, 0x89, 0x4b, 0x02, 0x90, 0x90};
    fixture_write(f, FIXTURE_DATA, 8, 0x1122334455667788);
    f->cpu->reg[X86_RBX] = FIXTURE_DATA;
    f->cpu->reg[X86_RCX] = 0xabcd;
    arm(f, 3, FIXTURE_DATA, WRITE4(3));
    fixture_run(f, code, sizeof(code));
    assert_int_equal(fixture_vector(f), X86_DB);
    assert_int_equal(f->cpu->state.dr6, DR6_NONE | 8);
    assert_int_equal(fixture_frame(f, 0), FIXTURE_CODE + 6);
    assert_int_equal(fixture_read(f, FIXTURE_DATA, 4), 0xabcd7788);
    assert_int_equal(f->cpu->reg[X86_RAX], 0x55667788);
}

static void test_sizes_and_kinds(void **state)
{
    static const struct {
        uint64_t dr7;
        int offset;      /* of the breakpoint from the access */
        uint8_t code[3]; /* an access of 4 bytes at RBX */
        bool hits;
    } rows[] = {
        {WRITE1(0), 3, {0x89, 0x03, 0xf4}, true},
        {WRITE1(0), 4, {0x89, 0x03, 0xf4}, false},
        {WRITE4(0), -1, {0x89, 0x03, 0xf4}, false}, /* aligned down to -4 */
        {WRITE4(0), 3, {0x89, 0x03, 0xf4}, true},
        {WRITE4(0), 4, {0x89, 0x03, 0xf4}, false},
        {WRITE8(0), -8, {0x89, 0x03, 0xf4}, false},
        {WRITE8(0), 7, {0x89, 0x03, 0xf4}, true},
        {WRITE4(0), 0, {0x8b, 0x03, 0xf4}, false},
        {ACCESS4(0), 0, {0x8b, 0x03, 0xf4}, true},
        {ACCESS4(0), 0, {0x89, 0x03, 0xf4}, true},
        {ACCESS4(0), 4, {0x8b, 0x03, 0xf4}, false},
        {ACCESS4(0), 0, {0x01, 0x03, 0xf4}, true},
    };
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        teardown(state);
        setup(state);
        struct fixture *f = *state;
        f->cpu->reg[X86_RBX] = FIXTURE_DATA + 0x100;
        arm(f, 0, FIXTURE_DATA + 0x100 + (uint64_t)rows[i].offset, rows[i].dr7);
        fixture_run(f, rows[i].code, sizeof(rows[i].code));
        assert_int_equal(fixture_vector(f), rows[i].hits ? X86_DB : -1);
        assert_int_equal(f->cpu->state.dr6, DR6_NONE | rows[i].hits);
    }
}

/* The page is in the TLB already, and comes back when the breakpoint goes. */
static void test_page_known_before(void **state)
{
    struct fixture *f = *state;
    static const uint8_t code[] = {
        0x89, 0x03,       /* mov [rbx], eax */
        0x0f, 0x23, 0xfa, /* mov dr7, rdx */
        0x89, 0x03,       /* mov [rbx], eax */
        0xf4,
    };
    f->cpu->reg[X86_RBX] = FIXTURE_DATA;
    f->cpu->reg[X86_RDX] = 0x400 | WRITE4(1);
    f->cpu->state.dr[1] = FIXTURE_DATA;
    fixture_run(f, code, sizeof(code));
    assert_int_equal(fixture_vector(f), X86_DB);
    assert_int_equal(fixture_frame(f, 0), FIXTURE_CODE + 7);
}

/* In code that goes from block to block without asking. */
static void test_write_in_a_loop(void **state)
{
    struct fixture *f = *state;
    static const uint8_t code[] = {
        0x88, 0x03,             /* again: mov [rbx], al */
        0x48, 0x83, 0xc3, 0x20, /* add rbx, 32 */
        0xff, 0xc9,             /* dec ecx */
        0x75, 0xf6,             /* jnz again */
        0xf4,
    };
    f->cpu->reg[X86_RBX] = FIXTURE_DATA;
    f->cpu->reg[X86_RCX] = 10;
    arm(f, 0, FIXTURE_DATA + 4 * 32, WRITE1(0));
    fixture_run(f, code, sizeof(code));
    assert_int_equal(fixture_vector(f), X86_DB);
    assert_int_equal(fixture_frame(f, 0), FIXTURE_CODE + 2);
    assert_int_equal(f->cpu->reg[X86_RCX], 6);
}

static void test_what_faults_does_not_trap(void **state)
{
    struct fixture *f = *state;
    /* A store across two pages, of which the second is not there. */
    f->cpu->reg[X86_RBX] = FIXTURE_DATA + 0xffe;
    fixture_map(f, FIXTURE_DATA + 0x1000, 0);
    arm(f, 0, FIXTURE_DATA + 0xffe, WRITE1(0));
    RUN_BYTES(f, 0x89, 0x03);
    assert_int_equal(fixture_vector(f), X86_PF);
    assert_int_equal(f->cpu->state.dr6, DR6_NONE);
    assert_int_equal(f->cpu->debug_traps, 0);
}

static void test_repetition_stops_at_its_element(void **state)
{
    struct fixture *f = *state;
    f->cpu->reg[X86_RDI] = FIXTURE_DATA;
    f->cpu->reg[X86_RCX] = 10;
    arm(f, 0, FIXTURE_DATA + 4, WRITE1(0));
    RUN_BYTES(f, 0xf3, 0xaa, 0xf4); /* rep stosb */
    assert_int_equal(fixture_vector(f), X86_DB);
    assert_int_equal(f->cpu->reg[X86_RCX], 5);
    assert_int_equal(f->cpu->reg[X86_RDI], FIXTURE_DATA + 5);
    assert_int_equal(fixture_frame(f, 0), FIXTURE_CODE);
    assert_true(fixture_frame(f, 2) & X86_FLAG_RF);
}

static void test_load_of_ss_delays_the_trap(void **state)
{
    struct fixture *f = *state;
    fixture_write(f, FIXTURE_DATA, 2, SEL_DATA);
    f->cpu->reg[X86_RBX] = FIXTURE_DATA;
    arm(f, 0, FIXTURE_DATA, ACCESS4(0));
    RUN_BYTES(f, 0x8e, 0x13, 0x90, 0x90); /* mov ss, [rbx]; nop; nop */
    assert_int_equal(fixture_vector(f), X86_DB);
    assert_int_equal(fixture_frame(f, 0), FIXTURE_CODE + 3);
    assert_int_equal(f->cpu->state.dr6, DR6_NONE | 1);
}

/* mov ss, [rbx]; nop; nop, saved and loaded again behind the first. */
static void test_delayed_trap_is_saved(void **state)
{
    struct fixture *f = *state;
    static const uint8_t code[] = {0x8e, 0x13, 0x90, 0x90};
    memcpy(f->ram + FIXTURE_CODE, code, sizeof(code));
    fixture_write(f, FIXTURE_DATA, 2, SEL_DATA);
    f->cpu->reg[X86_RBX] = FIXTURE_DATA;
    arm(f, 0, FIXTURE_DATA, ACCESS4(0));
    cpu_step(f->cpu);
    struct x86_state saved;
    cpu_sync_out(f->cpu, &saved);
    assert_int_equal(saved.rip, FIXTURE_CODE + 2);
    assert_int_equal(saved.interrupt_shadow, X86_SHADOW_SS);
    assert_int_equal(saved.held_debug, 1);
    assert_int_equal(saved.dr6, DR6_NONE);

    teardown(state);
    setup(state);
    f = *state;
    memcpy(f->ram + FIXTURE_CODE, code, sizeof(code));
    cpu_sync_in(f->cpu, &saved);
    fixture_go(f);
    assert_int_equal(fixture_vector(f), X86_DB);
    assert_int_equal(fixture_frame(f, 0), FIXTURE_CODE + 3);
    assert_int_equal(f->cpu->state.dr6, DR6_NONE | 1);
    cpu_sync_out(f->cpu, &saved);
    assert_int_equal(saved.interrupt_shadow, X86_SHADOW_NONE);
    assert_int_equal(saved.held_debug, 0);
}

/* mov ss, [rbx]; nop; hlt, with a breakpoint at the second, one instruction at a time, as
 * when an interrupt waits. */
static void test_step_behind_ss_keeps_what_is_delayed(void **state)
{
    static const uint8_t code[] = {0x8e, 0x13, 0x90, 0xf4};
    static const enum cpu_vendor vendors[] = {CPU_VENDOR_AMD, CPU_VENDOR_INTEL};
    for (unsigned i = 0; i < 2; i++) {
        struct fixture *f = *state;
        bool is_amd = vendors[i] == CPU_VENDOR_AMD;
        f->cpuid.vendor = vendors[i];
        memcpy(f->ram + FIXTURE_CODE, code, sizeof(code));
        fixture_write(f, FIXTURE_DATA, 2, SEL_DATA);
        f->cpu->reg[X86_RBX] = FIXTURE_DATA;
        arm(f, 0, FIXTURE_DATA, ACCESS4(0));
        arm(f, 1, FIXTURE_CODE + 2, EXECUTE(1));
        cpu_step(f->cpu);
        cpu_step(f->cpu);
        fixture_go(f);
        assert_int_equal(fixture_vector(f), X86_DB);
        assert_int_equal(fixture_frame(f, 0), FIXTURE_CODE + (is_amd ? 2 : 3));
        assert_int_equal(f->cpu->state.dr6, DR6_NONE | (is_amd ? 3 : 1));
        teardown(state);
        setup(state);
    }
}

/* STI behind a load of SS that was long ago: its shadow hides no breakpoint. */
static void test_sti_does_not_hide_a_breakpoint(void **state)
{
    struct fixture *f = *state;
    f->cpuid.vendor = CPU_VENDOR_INTEL;
    arm(f, 0, FIXTURE_CODE + 4, EXECUTE(0));
    f->cpu->reg[X86_RAX] = SEL_DATA;
    RUN_BYTES(f, 0x8e, 0xd0, 0x90, 0xfb, 0x90, 0xf4); /* mov ss, eax; nop; sti; nop */
    assert_int_equal(fixture_vector(f), X86_DB);
    assert_int_equal(fixture_frame(f, 0), FIXTURE_CODE + 4);
}

/* mov ss, eax; at: dec ecx; jnz at; hlt: hidden at the first arrival alone. */
static void test_load_of_ss_hides_a_breakpoint_once(void **state)
{
    struct fixture *f = *state;
    f->cpuid.vendor = CPU_VENDOR_INTEL;
    arm(f, 0, FIXTURE_CODE + 2, EXECUTE(0));
    f->cpu->reg[X86_RAX] = SEL_DATA;
    f->cpu->reg[X86_RCX] = 5;
    RUN_BYTES(f, 0x8e, 0xd0, 0xff, 0xc9, 0x75, 0xfc, 0xf4);
    assert_int_equal(fixture_vector(f), X86_DB);
    assert_int_equal(fixture_frame(f, 0), FIXTURE_CODE + 2);
    assert_int_equal(f->cpu->reg[X86_RCX], 4);
}

static void test_int1_takes_the_delayed_trap_along(void **state)
{
    struct fixture *f = *state;
    fixture_write(f, FIXTURE_DATA, 2, SEL_DATA);
    f->cpu->reg[X86_RBX] = FIXTURE_DATA;
    arm(f, 0, FIXTURE_DATA, ACCESS4(0));
    RUN_BYTES(f, 0x8e, 0x13, 0xf1, 0xf4); /* mov ss, [rbx]; int1; hlt */
    assert_int_equal(fixture_vector(f), X86_DB);
    assert_int_equal(fixture_frame(f, 0), FIXTURE_CODE + 3);
    assert_int_equal(f->cpu->state.dr6, DR6_NONE | 1);
    assert_int_equal(f->cpu->debug_traps, 0);
}

static void test_port(void **state)
{
    struct fixture *f = *state;
    f->cpu->state.cr4 |= X86_CR4_DE;
    arm(f, 0, 0x60, PORT2(0));
    RUN_BYTES(f, 0xe6, 0x62, 0xe6, 0x61, 0xf4); /* out 0x62, al; out 0x61, al */
    assert_int_equal(fixture_vector(f), X86_DB);
    assert_int_equal(f->cpu->state.dr6, DR6_NONE | 1);
    assert_int_equal(fixture_frame(f, 0), FIXTURE_CODE + 4);
    assert_int_equal(f->port, 0x61);
}

static void test_port_needs_de(void **state)
{
    struct fixture *f = *state;
    arm(f, 0, 0x60, PORT2(0));
    RUN_BYTES(f, 0xe6, 0x60, 0xf4);
    assert_int_equal(fixture_vector(f), -1);
}

static void test_general_detect(void **state)
{
    struct fixture *f = *state;
    f->cpu->state.dr7 |= 1ull << 13;
    f->cpu->reg[X86_RAX] = 1;
    RUN_BYTES(f, 0x0f, 0x23, 0xc0); /* mov dr0, rax */
    assert_int_equal(fixture_vector(f), X86_DB);
    assert_int_equal(f->cpu->state.dr6, DR6_NONE | 1u << 13);
    assert_int_equal(fixture_frame(f, 0), FIXTURE_CODE);
    assert_true(fixture_frame(f, 2) & X86_FLAG_RF); /* SDM 3B 18.3.1.1: as of any fault */
    assert_int_equal(f->cpu->state.dr[0], 0);
    assert_false(f->cpu->state.dr7 & 1ull << 13); /* the handler may use them */
}

static void set_tracing(struct fixture *f)
{
    cpu_set_rflags(f->cpu, cpu_rflags(f->cpu) | X86_FLAG_TF);
}

/* One trap tells all that happened. */
static void test_step_and_write_in_one(void **state)
{
    struct fixture *f = *state;
    f->cpu->reg[X86_RBX] = FIXTURE_DATA;
    arm(f, 0, FIXTURE_DATA, WRITE4(0));
    set_tracing(f);
    RUN_BYTES(f, 0x89, 0x03, 0x90);
    assert_int_equal(fixture_vector(f), X86_DB);
    assert_int_equal(f->cpu->state.dr6, DR6_NONE | 1u << 14 | 1);
    assert_int_equal(fixture_frame(f, 0), FIXTURE_CODE + 2);
}

static void test_step_in_a_repetition_shows_rf(void **state)
{
    struct fixture *f = *state;
    f->cpu->reg[X86_RDI] = FIXTURE_DATA;
    f->cpu->reg[X86_RCX] = 2;
    set_tracing(f);
    RUN_BYTES(f, 0xf3, 0xaa, 0xf4);
    assert_int_equal(fixture_vector(f), X86_DB);
    assert_int_equal(f->cpu->reg[X86_RCX], 1);
    assert_true(fixture_frame(f, 2) & X86_FLAG_RF);
}

/* SDM 2A, HLT: a debug exception resumes execution. */
static void test_step_ends_a_halt(void **state)
{
    struct fixture *f = *state;
    set_tracing(f);
    RUN_BYTES(f, 0xf4, 0x90); /* the processor halts, with TF set */
    assert_int_equal(fixture_vector(f), X86_DB);
    assert_int_equal(fixture_frame(f, 0), FIXTURE_CODE + 1);
}

static void test_step_by_branches(void **state)
{
    static const struct {
        uint8_t code[8];
        uint64_t stops; /* behind: offset of the saved RIP, or 0: never */
    } rows[] = {
        {{0x90, 0x90, 0xeb, 0x01, 0x90, 0x90, 0xf4}, 5},       /* jmp */
        {{0x90, 0x31, 0xc0, 0x75, 0x01, 0x90, 0xf4}, 0},       /* jnz, not taken */
        {{0x90, 0x31, 0xc0, 0x74, 0x01, 0x90, 0xf4}, 6},       /* jz, taken */
        {{0xe8, 0x00, 0x00, 0x00, 0x00, 0x90, 0xf4}, 5},       /* call behind itself */
        {{0x90, 0x0f, 0x20, 0xc0, 0x0f, 0x22, 0xc0, 0xf4}, 0}, /* mov cr0: no branch */
    };
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        teardown(state);
        setup(state);
        struct fixture *f = *state;
        f->cpu->state.debugctl = DEBUGCTL_BTF;
        set_tracing(f);
        fixture_run(f, rows[i].code, sizeof(rows[i].code));
        assert_int_equal(fixture_vector(f), rows[i].stops ? X86_DB : -1);
        if (rows[i].stops) {
            assert_int_equal(fixture_frame(f, 0), FIXTURE_CODE + rows[i].stops);
            assert_int_equal(f->cpu->state.debugctl, 0);
        }
    }
}

static void test_real_mode_linear_address(void **state)
{
    struct fixture *f = *state;
    arm(f, 0, FIXTURE_CODE + 1, EXECUTE(0));
    RUN_BYTES(f, 0x90, 0x40, 0xf4);
    assert_int_equal(fixture_vector(f), X86_DB);
    assert_int_equal(f->cpu->state.dr6, DR6_NONE | 1);
}

static void test_predicate_for_engines(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(f->cpu->needs_interpreter, 0);
    arm(f, 0, FIXTURE_DATA, EXECUTE(0));
    assert_int_equal(f->cpu->needs_interpreter, NEEDS_BREAK);
    arm(f, 1, FIXTURE_DATA, WRITE4(1));
    set_tracing(f);
    assert_int_equal(f->cpu->needs_interpreter, NEEDS_STEP | NEEDS_BREAK | NEEDS_WATCH);
    f->cpu->state.dr7 = 0x400;
    breakpoint_update(f->cpu);
    cpu_set_rflags(f->cpu, X86_FLAG_1);
    assert_int_equal(f->cpu->needs_interpreter, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(instruction_breakpoint),
        TEST(breakpoint_in_decoded_code),
        TEST(load_of_ss_hides_a_breakpoint_on_intel),
        TEST(delayed_trap_is_saved),
        TEST(step_behind_ss_keeps_what_is_delayed),
        TEST(sti_does_not_hide_a_breakpoint),
        TEST(load_of_ss_hides_a_breakpoint_once),
        TEST(disabled_or_elsewhere),
        TEST(resume_flag),
        TEST(far_transfer_does_not_bring_rf_back),
        TEST(int1_does_not_push_rf),
        TEST(saved_state_shows_rf_only_while_it_holds),
        TEST(write_traps_behind_the_instruction),
        TEST(sizes_and_kinds),
        TEST(page_known_before),
        TEST(write_in_a_loop),
        TEST(what_faults_does_not_trap),
        TEST(repetition_stops_at_its_element),
        TEST(load_of_ss_delays_the_trap),
        TEST(int1_takes_the_delayed_trap_along),
        TEST(step_ends_a_halt),
        TEST(port),
        TEST(port_needs_de),
        TEST(general_detect),
        TEST(step_and_write_in_one),
        TEST(step_in_a_repetition_shows_rf),
        TEST(step_by_branches),
        TEST(predicate_for_engines),
        cmocka_unit_test_setup_teardown(test_real_mode_linear_address, setup_real,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
