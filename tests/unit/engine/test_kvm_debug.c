#include "kvm_rig.h"
#include "x86/flags.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

/* A debugger's points and steps. */

/* While a debugger has points or steps KVM is not entered; afterwards it goes on from
 * where the interpreter stopped. */
static void test_debugger_runs_the_interpreter(void **unused)
{
    struct fixture *f = *unused;
    static const uint8_t code[] = {0x40, 0x40, 0x40, 0x40, 0xf4}; /* inc ax, hlt */
    struct debug_control control = {.count = 1, .point = {{DEBUG_EXECUTE, 0x1002, 1}}};
    struct debug_stop stop;
    struct x86_state state;
    assert_true(ram_write(f->memory, 0x1000, code, sizeof(code)));
    x86_state_reset(&state, true);
    state.seg[X86_CS].selector = 0;
    state.seg[X86_CS].base = 0;
    state.rip = 0x1000;
    state.gpr[X86_RAX] = 0;
    engine_kvm.set_state(f->vcpu, &state);
    assert_int_equal(engine_kvm.debug(f->vcpu, &control, NULL), 0);
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_DEBUG);
    engine_kvm.debug_stop(f->vcpu, &stop);
    assert_int_equal(stop.reason, DEBUG_POINT);
    engine_kvm.get_state(f->vcpu, &state);
    assert_int_equal(state.rip, 0x1002);
    assert_int_equal(state.gpr[X86_RAX], 2);
    control.step = true;
    assert_int_equal(engine_kvm.debug(f->vcpu, &control, NULL), 0);
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_DEBUG);
    engine_kvm.debug_stop(f->vcpu, &stop);
    assert_int_equal(stop.reason, DEBUG_STEPPED);
    engine_kvm.kick(f->vcpu, true);
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_KICKED);
    assert_int_equal(fake_kvm.runs, 0);
    assert_int_equal(fake_kvm.regs.rip, 0x1003);
    assert_int_equal(engine_kvm.debug(f->vcpu, NULL, NULL), 0);
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_HALTED);
    assert_int_equal(fake_kvm.runs, 1);
    assert_int_equal(fake_kvm.regs.rip, 0x1003);
}

/* --- Points and steps by KVM --- */

enum { STORE = 0x4000, NOP = 0x4007, OUT = 0x4008, STORED = 0x5000 };

/* What the engine tries KVM with, and the test's guest: mov [0x5000], al; nop; out. */
static uint64_t length_at(uint64_t rip)
{
    return rip == STORE ? NOP - STORE : rip == NOP ? OUT - NOP : 2;
}

static int exit_debug(struct kvm_run *run, uint64_t dr6)
{
    run->exit_reason = KVM_EXIT_DEBUG;
    run->debug.arch =
        (struct kvm_debug_exit_arch){.exception = 1, .pc = fake_kvm.regs.rip, .dr6 = dr6};
    return 0;
}

/* The points of that type (SDM 3B 18.2.4) at the address, as DR6 has them. */
static uint64_t points_at(uint64_t address, unsigned type)
{
    const uint64_t *dr = (const uint64_t *)fake_kvm.guest_debug.arch.debugreg;
    uint64_t hits = 0;
    for (unsigned i = 0; i < 4; i++) {
        bool is_enabled = dr[7] >> 2 * i & 3;
        if (is_enabled && dr[i] == address && (dr[7] >> (16 + 4 * i) & 3) == type) {
            hits |= 1ull << i;
        }
    }
    return fake_kvm.guest_debug.control & KVM_GUESTDBG_USE_HW_BP ? hits : 0;
}

/* A KVM that delivers. */
static int run_debugged(struct kvm_run *run)
{
    struct kvm_regs *regs = &fake_kvm.regs;
    if (run->immediate_exit) {
        return EINTR;
    }
    for (;;) {
        uint64_t hits = points_at(regs->rip, 0);
        if (hits && !(regs->rflags & X86_FLAG_RF)) {
            return exit_debug(run, hits);
        }
        regs->rflags &= ~(uint64_t)X86_FLAG_RF;
        uint64_t rip = regs->rip;
        regs->rip += length_at(rip);
        if (rip == OUT) {
            run->exit_reason = KVM_EXIT_IO;
            run->io.direction = KVM_EXIT_IO_OUT;
            run->io.port = 0x80;
            run->io.size = run->io.count = 1;
            run->io.data_offset = 4096;
            if (current->vcpu) { /* else it is being tried */
                engine_kvm.kick(current->vcpu, true);
            }
            return 0;
        }
        hits = rip == STORE ? points_at(STORED, 1) : 0;
        if (fake_kvm.guest_debug.control & KVM_GUESTDBG_SINGLESTEP) {
            hits |= 1u << 14;
        }
        if (hits) {
            return exit_debug(run, hits);
        }
    }
}

static struct fixture *debugged_new(void)
{
    struct fixture *f = fixture_new();
    f->is_debugged = true;
    fake_kvm.has_guest_debug = true;
    fake_kvm.run = run_debugged;
    return f;
}

static void load_guest(struct fixture *f)
{
    static const uint8_t code[] = {0x66, 0x67, 0xa2, 0x00, 0x50,
                                   0x00, 0x00, 0x90, 0xe6, 0x80};
    struct x86_state state;
    assert_true(ram_write(f->memory, STORE, code, sizeof(code)));
    x86_state_reset(&state, true);
    state.seg[X86_CS].selector = 0;
    state.seg[X86_CS].base = 0;
    state.rip = STORE;
    engine_kvm.set_state(f->vcpu, &state);
    fake_kvm.runs = 0;
}

static struct fixture *debugged(void)
{
    struct fixture *f = debugged_new();
    assert_true(fixture_open(f));
    load_guest(f);
    return f;
}

static void done(struct fixture *f)
{
    fixture_close(f);
    fixture_free(f);
}

static struct debug_stop run_to_stop(struct fixture *f)
{
    struct debug_stop stop;
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_DEBUG);
    engine_kvm.debug_stop(f->vcpu, &stop);
    assert_int_equal(fake_kvm.guest_debug.control, 0); /* only within run() */
    return stop;
}

static void test_breakpoints_of_kvm(void **unused)
{
    struct fixture *f = debugged();
    struct debug_control control = {.count = 1, .point = {{DEBUG_EXECUTE, NOP, 1}}};
    assert_int_equal(engine_kvm.debug(f->vcpu, &control, NULL), 0);
    struct debug_stop stop = run_to_stop(f);
    assert_int_equal(stop.reason, DEBUG_POINT);
    assert_int_equal(stop.kind, DEBUG_EXECUTE);
    assert_int_equal(stop.address, NOP);
    assert_int_equal(fake_kvm.regs.rip, NOP);
    assert_true(fake_kvm.runs > 0);
    /* It goes on from there, the point still set. */
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_KICKED);
    assert_int_equal(f->exit.reason, EXIT_IO);
    assert_int_equal(f->exit.io.port, 0x80);
    done(f);
}

static void test_watchpoints_of_kvm(void **unused)
{
    struct fixture *f = debugged();
    struct debug_control control = {
        .count = 2, .point = {{DEBUG_EXECUTE, 0x9000, 1}, {DEBUG_WRITE, STORED, 4}}};
    assert_int_equal(engine_kvm.debug(f->vcpu, &control, NULL), 0);
    struct debug_stop stop = run_to_stop(f);
    assert_int_equal(stop.reason, DEBUG_POINT);
    assert_int_equal(stop.kind, DEBUG_WRITE);
    assert_int_equal(stop.address, STORED);
    assert_int_equal(fake_kvm.regs.rip, NOP);
    done(f);
}

static int run_halt(struct kvm_run *run)
{
    run->exit_reason = KVM_EXIT_HLT;
    return run->immediate_exit ? EINTR : 0;
}

static void test_steps_of_kvm(void **unused)
{
    struct fixture *f = debugged();
    struct debug_control control = {.step = true};
    struct lapic_effect effect;
    struct apic_message message = {.vector = 0x44, .is_assert = true};
    lapic_mmio_write(&f->lapic, 0, 0xf0, 0x1ff, &effect);
    assert_true(lapic_post(&f->lapic, &message)); /* held back */
    assert_int_equal(engine_kvm.debug(f->vcpu, &control, NULL), 0);
    assert_int_equal(run_to_stop(f).reason, DEBUG_STEPPED);
    assert_int_equal(fake_kvm.regs.rip, NOP);
    assert_int_equal(run_to_stop(f).reason, DEBUG_STEPPED);
    assert_int_equal(fake_kvm.regs.rip, OUT);
    fake_kvm.run = run_halt;
    assert_int_equal(run_to_stop(f).reason, DEBUG_STEPPED);
    assert_int_equal(fake_kvm.interrupt, 0);
    done(f);
}

/* A trap of the guest's own making is the guest's. */
static int run_trap(struct kvm_run *run)
{
    if (is_first()) {
        return exit_debug(run, 1u << 14);
    }
    engine_kvm.kick(current->vcpu, true);
    return EINTR;
}

static void test_traps_of_the_guest_are_its_own(void **unused)
{
    struct fixture *f = debugged();
    struct debug_control control = {.count = 1, .point = {{DEBUG_EXECUTE, 0x9000, 1}}};
    assert_int_equal(engine_kvm.debug(f->vcpu, &control, NULL), 0);
    fake_kvm.run = run_trap;
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_KICKED);
    assert_int_equal(fake_kvm.events.exception.injected, 1);
    assert_int_equal(fake_kvm.events.exception.nr, 1);
    assert_true(fake_kvm.debugregs.dr6 & 1u << 14);
    done(f);
}

static void expect_interpreted(struct fixture *f, const struct debug_control *control)
{
    struct debug_stop stop;
    assert_int_equal(engine_kvm.debug(f->vcpu, control, NULL), 0);
    fake_kvm.runs = 0;
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_DEBUG);
    engine_kvm.debug_stop(f->vcpu, &stop);
    assert_int_equal(stop.reason, DEBUG_POINT);
    assert_int_equal(fake_kvm.runs, 0);
}

static void test_what_does_not_fit_is_interpreted(void **unused)
{
    static const struct debug_control cases[] = {
        {.count = 5, .point = {{DEBUG_EXECUTE, NOP, 1}}},
        {.count = 1, .point = {{DEBUG_WRITE, STORED - 1, 2}}}, /* not aligned */
        {.count = 1, .point = {{DEBUG_WRITE, STORED, 16}}},
        {.count = 2, .point = {{DEBUG_EXECUTE, NOP, 1}, {DEBUG_READ, 0x9000, 1}}},
    };
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct fixture *f = debugged();
        expect_interpreted(f, &cases[i]);
        done(f);
    }
    /* The guest uses the registers itself. */
    struct fixture *f = debugged();
    fake_kvm.debugregs.dr7 = 0x401;
    expect_interpreted(
        f, &(struct debug_control){.count = 1, .point = {{DEBUG_EXECUTE, NOP, 1}}});
    done(f);
}

/* KVM cannot do an instruction: the interpreter does, and stops where it has to; then KVM
 * goes on from there. */
static void test_the_interpreter_takes_over(void **unused)
{
    struct fixture *f = debugged();
    struct debug_control control = {.count = 1, .point = {{DEBUG_EXECUTE, NOP, 1}}};
    assert_int_equal(engine_kvm.debug(f->vcpu, &control, NULL), 0);
    fake_kvm.run = run_emulation_failure;
    struct debug_stop stop = run_to_stop(f);
    assert_int_equal(stop.reason, DEBUG_POINT);
    assert_int_equal(stop.address, NOP);
    assert_int_equal(fake_kvm.runs, 1);
    assert_int_equal(fake_kvm.regs.rip, NOP);
    fake_kvm.run = run_debugged;
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_KICKED);
    assert_int_equal(f->exit.io.port, 0x80);
    done(f);
}

/* Then it stops there all the same, or says why not. */
static unsigned stop_despite_failure(unsigned at)
{
    struct fixture *f = debugged_new();
    struct debug_control control = {.count = 1, .point = {{DEBUG_EXECUTE, NOP, 1}}};
    unsigned descriptors = count_entries("/proc/self/fd");
    fake_kvm.fail_at = at;
    if (fixture_open(f)) {
        load_guest(f);
        assert_int_equal(engine_kvm.debug(f->vcpu, &control, NULL), 0);
        enum run_result result = engine_kvm.run(f->vcpu);
        if (result == RUN_FAILED) {
            engine_kvm.failure(f->vcpu, &f->err);
        } else {
            assert_int_equal(result, RUN_DEBUG);
            assert_int_equal(fake_kvm.regs.rip, NOP);
        }
    }
    unsigned calls = fake_kvm.calls;
    assert_true(f->err.code == 0 || strlen(f->err.message) > 10);
    fixture_close(f);
    assert_int_equal(count_entries("/proc/self/fd"), descriptors);
    fixture_free(f);
    return calls;
}

static void test_each_call_fails_in_turn(void **unused)
{
    unsigned calls = stop_despite_failure(0);
    assert_true(calls > 100);
    for (unsigned at = 1; at <= calls; at++) {
        stop_despite_failure(at);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_debugger_runs_the_interpreter),
        cmocka_unit_test(test_breakpoints_of_kvm),
        cmocka_unit_test(test_watchpoints_of_kvm),
        cmocka_unit_test(test_steps_of_kvm),
        cmocka_unit_test(test_traps_of_the_guest_are_its_own),
        cmocka_unit_test(test_what_does_not_fit_is_interpreted),
        cmocka_unit_test(test_the_interpreter_takes_over),
        cmocka_unit_test(test_each_call_fails_in_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
