#include "kvm_rig.h"
#include "x86/segment.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

/* The engine over a KVM that is not there: its state, its exits, interrupts and kicks. */

/* --- state --- */

static void test_state_survives(void **unused)
{
    struct fixture *f = *unused;
    struct x86_state before, after;
    fill_state(&before);
    engine_kvm.set_state(f->vcpu, &before);
    memset(&after, 0xaa, sizeof(after));
    engine_kvm.get_state(f->vcpu, &after);
    /* Field by field where there is padding. */
    assert_memory_equal(before.gpr, after.gpr, sizeof(before.gpr));
    assert_int_equal(before.rip, after.rip);
    assert_int_equal(before.rflags, after.rflags);
    for (unsigned i = 0; i < X86_SEGMENT_COUNT; i++) {
        assert_int_equal(before.seg[i].selector, after.seg[i].selector);
        assert_int_equal(before.seg[i].access, after.seg[i].access);
        assert_int_equal(before.seg[i].limit, after.seg[i].limit);
        assert_int_equal(before.seg[i].base, after.seg[i].base);
    }
    assert_int_equal(before.tr.access, after.tr.access);
    assert_int_equal(before.cr0, after.cr0);
    assert_int_equal(before.cr2, after.cr2);
    assert_int_equal(before.cr3, after.cr3);
    assert_memory_equal(before.dr, after.dr, sizeof(before.dr));
    assert_int_equal(before.dr6, after.dr6);
    assert_int_equal(before.star, after.star);
    assert_int_equal(before.lstar, after.lstar);
    assert_int_equal(before.kernel_gs_base, after.kernel_gs_base);
    assert_int_equal(before.tsc_aux, after.tsc_aux);
    assert_int_equal(before.sysenter_eip, after.sysenter_eip);
    assert_int_equal(before.pat, after.pat);
    assert_int_equal(before.mtrr.default_type, after.mtrr.default_type);
    assert_int_equal(before.tsc_offset, after.tsc_offset);
    assert_int_equal(before.xcr0, after.xcr0);
    assert_int_equal(before.fpu.fcw, after.fpu.fcw);
    assert_int_equal(before.fpu.fsw, after.fpu.fsw);
    assert_int_equal(before.fpu.ftw, after.fpu.ftw);
    assert_int_equal(before.fpu.fop, after.fpu.fop);
    assert_int_equal(before.fpu.fip, after.fpu.fip);
    assert_int_equal(before.fpu.mxcsr, after.fpu.mxcsr);
    assert_memory_equal(before.fpu.st, after.fpu.st, sizeof(before.fpu.st));
    if (f->cpuid.xcr0_valid & X86_XCR0_AVX) {
        assert_memory_equal(before.vec, after.vec, sizeof(before.vec));
    }
    assert_true(after.event.pending);
    assert_int_equal(after.event.vector, 14);
    assert_int_equal(after.event.error, 6);
    assert_true(after.nmi_blocked);
}

static void test_waits_for_sipi(void **state)
{
    struct fixture *f = *state;
    struct x86_state waiting;
    x86_state_reset(&waiting, false);
    engine_kvm.set_state(f->vcpu, &waiting);
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_HALTED);
    assert_int_equal(fake_kvm.runs, 0);
    struct apic_message startup = {
        .mode = APIC_STARTUP, .vector = 0x12, .is_assert = true};
    assert_true(lapic_post(&f->lapic, &startup));
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_HALTED); /* the fake's HLT */
    assert_int_equal(fake_kvm.sregs.cs.base, 0x12000);
    assert_int_equal(fake_kvm.regs.rip, 0);
}

/* --- exits --- */

static int run_string_io(struct kvm_run *run)
{
    if (!is_first()) {
        return halt(run);
    }
    run->exit_reason = KVM_EXIT_IO;
    run->io.direction = KVM_EXIT_IO_IN;
    run->io.port = 0x1f0;
    run->io.size = 2;
    run->io.count = 8;
    run->io.data_offset = 4096;
    return 0;
}

static void test_string_io_is_one_exit(void **state)
{
    struct fixture *f = *state;
    f->answer = 0x5a;
    fake_kvm.run = run_string_io;
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_HALTED);
    assert_int_equal(f->exits, 1);
    assert_int_equal(f->exit.io.port, 0x1f0);
    assert_int_equal(f->exit.io.count, 8);
    assert_int_equal(f->exit.io.data[15], 0x5a);
    assert_int_equal(f->stats.exit[EXIT_HLT].count, 1);
}

static int run_mmio(struct kvm_run *run)
{
    if (!is_first()) {
        return halt(run);
    }
    run->exit_reason = KVM_EXIT_MMIO;
    run->mmio.phys_addr = 0xfee00020;
    run->mmio.len = 4;
    run->mmio.is_write = 0;
    memset(run->mmio.data, 0xee, 8);
    return 0;
}

static int run_device(struct kvm_run *run)
{
    int code = run_mmio(run);
    run->mmio.phys_addr = 0xd0000000;
    return code;
}

static void test_mmio_goes_to_the_apic_or_out(void **state)
{
    struct fixture *f = *state;
    f->answer = 0x77;
    fake_kvm.run = run_mmio;
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_HALTED);
    assert_int_equal(f->exits, 0);
    fake_kvm.runs = 0;
    fake_kvm.run = run_device;
    struct apic_message wake = {.mode = APIC_NMI, .is_assert = true};
    lapic_post(&f->lapic, &wake);
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_HALTED);
    assert_int_equal(fake_kvm.nmis, 1);
    assert_int_equal(f->exits, 1);
    assert_int_equal(f->exit.mmio.gpa, 0xd0000000);
}

static unsigned msr_error;
static uint64_t msr_value;

static int run_rdmsr(struct kvm_run *run)
{
    if (!is_first()) {
        msr_error = run->msr.error;
        msr_value = run->msr.data;
        return halt(run);
    }
    run->exit_reason = KVM_EXIT_X86_RDMSR;
    run->msr.index = MSR_MTRRCAP;
    run->msr.reason = KVM_MSR_EXIT_REASON_FILTER;
    return 0;
}

static int run_rdmsr_unknown(struct kvm_run *run)
{
    int code = run_rdmsr(run);
    if (is_first()) {
        run->msr.index = 0x12345;
    }
    return code;
}

static void test_msrs_are_the_policys(void **state)
{
    struct fixture *f = *state;
    fake_kvm.run = run_rdmsr;
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_HALTED);
    assert_int_equal(msr_error, 0);
    assert_int_equal(msr_value & 0xff, X86_MTRR_VARIABLE);
    struct apic_message wake = {.mode = APIC_NMI, .is_assert = true};
    lapic_post(&f->lapic, &wake);
    fake_kvm.runs = 0;
    fake_kvm.run = run_rdmsr_unknown;
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_HALTED);
    assert_int_equal(msr_error, 1);
    assert_int_equal(f->exit.reason, EXIT_MSR_READ);
}

static void test_interpreter_does_what_kvm_cannot(void **state)
{
    struct fixture *f = *state;
    static const uint8_t code[] = {0xb8, 0x34, 0x12}; /* mov ax, 1234h */
    assert_true(ram_write(f->memory, 0x1000, code, sizeof(code)));
    struct x86_state real;
    x86_state_reset(&real, true);
    real.seg[X86_CS] = x86_segment_real(0);
    real.rip = 0x1000;
    engine_kvm.set_state(f->vcpu, &real);
    fake_kvm.run = run_emulation_failure;
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_HALTED);
    assert_int_equal(fake_kvm.regs.rax, 0x1234);
    assert_int_equal(fake_kvm.regs.rip, 0x1003);
    assert_int_equal(f->stats.exit[EXIT_EMULATED].count, 1);
}

static int run_window(struct kvm_run *run)
{
    if (is_first()) {
        assert_true(run->request_interrupt_window);
        run->exit_reason = KVM_EXIT_IRQ_WINDOW_OPEN;
        run->ready_for_interrupt_injection = 1;
        return 0;
    }
    return halt(run);
}

static void test_interrupt_waits_for_its_window(void **state)
{
    struct fixture *f = *state;
    struct lapic_effect effect;
    lapic_mmio_write(&f->lapic, 0, 0xf0, 0x1ff, &effect);
    struct apic_message message = {.vector = 0x44, .is_assert = true};
    assert_true(lapic_post(&f->lapic, &message));
    fake_kvm.run = run_window;
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_HALTED);
    assert_int_equal(fake_kvm.interrupt, 0x44);
    assert_int_equal(f->stats.exit[EXIT_INTERRUPT_WINDOW].count, 1);
    assert_int_equal(f->stats.exit[EXIT_INTERRUPT].count, 1);
}

static int run_kicked_within_io(struct kvm_run *run)
{
    if (is_first()) {
        engine_kvm.kick(current->vcpu, true);
        return run_string_io(run);
    }
    /* The access completes first. */
    assert_int_equal(run->immediate_exit, 1);
    return EINTR;
}

static void test_kick_lets_the_access_complete(void **state)
{
    struct fixture *f = *state;
    fake_kvm.run = run_kicked_within_io;
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_KICKED);
    assert_int_equal(fake_kvm.runs, 2);
    assert_int_equal(f->exits, 1);
}

static void test_kick_is_not_lost_before_run(void **state)
{
    struct fixture *f = *state;
    engine_kvm.kick(f->vcpu, true);
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_KICKED);
    assert_int_equal(fake_kvm.runs, 0);
}

static int run_shutdown(struct kvm_run *run)
{
    run->exit_reason = KVM_EXIT_SHUTDOWN;
    return 0;
}

static void test_triple_fault_is_a_shutdown(void **state)
{
    struct fixture *f = *state;
    struct x86_state after;
    fake_kvm.run = run_shutdown;
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_SHUTDOWN);
    engine_kvm.get_state(f->vcpu, &after);
    assert_int_equal(after.activity, X86_SHUTDOWN);
}

static void test_doorbells_are_ioeventfds(void **state)
{
    struct fixture *f = *state;
    const struct engine_doorbell bell = {.gpa = 0xd0000050, .value = 3, .fd = 77};
    assert_int_equal(engine_kvm.doorbell(f->engine, &bell, true, &f->err), 0);
    assert_int_equal(fake_kvm.doorbell.addr, 0xd0000050);
    assert_int_equal(fake_kvm.doorbell.len, 4);
    assert_int_equal(fake_kvm.doorbell.datamatch, 3);
    assert_int_equal(fake_kvm.doorbell.fd, 77);
    assert_int_equal(fake_kvm.doorbell.flags, KVM_IOEVENTFD_FLAG_DATAMATCH);
    assert_int_equal(engine_kvm.doorbell(f->engine, &bell, false, &f->err), 0);
    assert_true(fake_kvm.doorbell.flags & KVM_IOEVENTFD_FLAG_DEASSIGN);
}

static uint32_t bad_reason;

static int run_bad(struct kvm_run *run)
{
    run->exit_reason = bad_reason;
    run->internal.suberror = KVM_INTERNAL_ERROR_SIMUL_EX;
    return 0;
}

static int run_error(struct kvm_run *run)
{
    return EFAULT;
}

static void expect_failure(struct fixture *f, const char *words)
{
    struct error err = {0};
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_FAILED);
    engine_kvm.failure(f->vcpu, &err);
    assert_int_not_equal(err.code, 0);
    if (!strstr(err.message, words)) {
        fail_msg("'%s' does not say '%s'", err.message, words);
    }
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_FAILED);
}

static void test_other_exits_fail_by_name(void **state)
{
    static const struct {
        uint32_t reason;
        const char *words;
    } cases[] = {
        {KVM_EXIT_UNKNOWN, "unknown exit"},
        {KVM_EXIT_FAIL_ENTRY, "refused to enter"},
        {KVM_EXIT_INTERNAL_ERROR, "simultaneous exceptions"},
        {KVM_EXIT_HYPERCALL, "hypercall"},
        {KVM_EXIT_DEBUG, "debug"},
        {12345, "12345"},
    };
    fake_kvm.run = run_bad;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        bad_reason = cases[i].reason;
        expect_failure(*state, cases[i].words);
        teardown(state);
        setup(state);
        fake_kvm.run = run_bad;
    }
    fake_kvm.run = run_error;
    expect_failure(*state, "Bad address");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_state_survives),
        TEST(test_waits_for_sipi),
        TEST(test_string_io_is_one_exit),
        TEST(test_mmio_goes_to_the_apic_or_out),
        TEST(test_msrs_are_the_policys),
        TEST(test_interpreter_does_what_kvm_cannot),
        TEST(test_interrupt_waits_for_its_window),
        TEST(test_kick_lets_the_access_complete),
        TEST(test_kick_is_not_lost_before_run),
        TEST(test_triple_fault_is_a_shutdown),
        TEST(test_doorbells_are_ioeventfds),
        TEST(test_other_exits_fail_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
