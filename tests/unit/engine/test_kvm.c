#include "engine/kvm/speed.h"
#include "kvm_rig.h"
#include "x86/segment.h"

#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* The engine over a KVM that is not there: what it asks for, how it answers exits, and
 * that it survives each call failing. */

static unsigned count_entries(const char *path)
{
    DIR *directory = opendir(path);
    assert_non_null(directory);
    unsigned count = 0;
    while (readdir(directory)) {
        count++;
    }
    closedir(directory);
    return count;
}

/* --- CPU model --- */

static bool is_subset(const struct cpuid_policy *part, const struct cpuid_policy *whole)
{
    return !((part->features[0] & ~whole->features[0]) |
             (part->features[1] & ~whole->features[1]));
}

static void test_model_is_fitted_to_what_kvm_has(void **state)
{
    struct fixture *f = fixture_new();
    const struct engine_config use = {.cpuid = &f->cpuid};
    char names[200];
    fake_kvm.unsupported_ebx7 = 1u << 7 | 1u << 20; /* SMEP, SMAP */
    assert_int_equal(engine_kvm.missing(&use, names, sizeof(names)), 2);
    assert_string_equal(names, "SMEP, SMAP");
    assert_false(fixture_open(f));
    assert_non_null(strstr(f->err.message, "SMEP, SMAP"));
    fixture_close(f);
    const struct cpuid_policy before = f->cpuid;
    assert_int_equal(engine_kvm.fit(&use, &f->cpuid, &f->err), 0);
    assert_false(cpuid_has(&f->cpuid, CPU_SMEP));
    assert_true(is_subset(&f->cpuid, &before));
    assert_true(fixture_open(f));
    fixture_close(f);
    fixture_free(f);
}

/* Shown whatever it is told: the guest has them, and they are not missing. */
static void test_model_knows_what_kvm_adds(void **state)
{
    struct fixture *f = fixture_new();
    const struct engine_config use = {.cpuid = &f->cpuid};
    char names[200];
    fake_kvm.unsupported_ebx7 = 1u << 7;
    fake_kvm.forced_ebx7 = 1u << 7 | 1u << 16;
    assert_int_equal(engine_kvm.missing(&use, names, sizeof(names)), 0);
    assert_int_equal(kvm_cpuid_excess(&f->cpuid, names, sizeof(names)), 1);
    assert_string_equal(names, "AVX-512 and others");
    fake_kvm.forced_ebx7 = 1u << 7;
    assert_int_equal(kvm_cpuid_excess(&f->cpuid, names, sizeof(names)), 0);
    fixture_free(f);
}

/* --- state --- */

static void fill(struct x86_state *state)
{
    x86_state_reset(state, true);
    for (unsigned i = 0; i < X86_GPR_COUNT; i++) {
        state->gpr[i] = 0x1111111111111111ull * i;
    }
    for (unsigned i = 0; i < 32; i++) {
        for (unsigned j = 0; j < 16; j++) {
            state->vec[j].u8[i] = (uint8_t)(i * 16 + j);
        }
    }
    for (unsigned i = 0; i < 8; i++) {
        memset(state->fpu.st[i], (int)i + 1, 10);
    }
    state->fpu.fcw = 0x27f;
    state->fpu.fsw = 0x3800;
    state->fpu.ftw = 0x80;
    state->fpu.fop = 0x123;
    state->fpu.fip = 0x1234567890;
    state->fpu.fdp = 0x9876543210;
    state->rip = 0xfff1;
    state->rflags |= X86_FLAG_IF | X86_FLAG_CF;
    state->cr2 = 0x5000;
    state->cr3 = 0x3000;
    state->dr[0] = 0x10;
    state->dr[3] = 0x13;
    state->star = 1;
    state->lstar = 2;
    state->kernel_gs_base = 3;
    state->tsc_aux = 4;
    state->sysenter_eip = 5;
    state->mtrr.default_type = 0xc06;
    state->tsc_offset = 7;
    state->seg[X86_DS].selector = 0x23;
    state->seg[X86_DS].access = X86_ACCESS_UNUSABLE | X86_ACCESS_DPL;
    state->event = (struct x86_event){.pending = true,
                                      .vector = 14,
                                      .type = X86_EVENT_EXCEPTION,
                                      .has_error = true,
                                      .error = 6};
    state->nmi_blocked = true;
}

static void test_state_survives(void **unused)
{
    struct fixture *f = *unused;
    struct x86_state before, after;
    fill(&before);
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

/* What run functions give before the HLT that ends them. */
static bool is_first(void)
{
    return fake_kvm.runs == 1;
}

static int halt(struct kvm_run *run)
{
    run->exit_reason = KVM_EXIT_HLT;
    return run->immediate_exit ? EINTR : 0;
}

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

static int run_emulation_failure(struct kvm_run *run)
{
    if (!is_first()) {
        return halt(run);
    }
    run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
    run->internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
    return 0;
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

/* --- speed --- */

static int run_at_once(struct kvm_run *run)
{
    run->exit_reason = KVM_EXIT_IO;
    return 0;
}

static int run_without_end(struct kvm_run *run)
{
    return EINTR; /* the limit's signal */
}

static void test_measures_a_fast_host(void **state)
{
    struct kvm_speed speed;
    struct error err;
    char text[200];
    fake_kvm.run = run_at_once;
    assert_int_equal(kvm_speed_measure(&speed, &err), 0);
    assert_true(speed.ring0_mips >= KVM_WORTH_MIPS);
    assert_true(speed.ring3_mips >= KVM_WORTH_MIPS);
    assert_false(kvm_speed_is_interpreting(&speed));
    kvm_speed_describe(&speed, text, sizeof(text));
    assert_non_null(strstr(text, "executes ring 0"));
}

static void test_gives_up_on_a_host_that_hangs(void **state)
{
    struct kvm_speed speed;
    struct error err;
    char text[200];
    fake_kvm.run = run_without_end;
    assert_int_equal(kvm_speed_measure(&speed, &err), 0);
    assert_true(kvm_speed_is_interpreting(&speed));
    kvm_speed_describe(&speed, text, sizeof(text));
    assert_non_null(strstr(text, "does not finish"));
}

static void test_measures_nothing_when_kvm_fails(void **state)
{
    struct kvm_speed speed;
    for (unsigned at = 1; at <= 5; at++) {
        struct error err = {0};
        unsigned descriptors = count_entries("/proc/self/fd");
        fake_kvm.calls = 0;
        fake_kvm.fail_at = at;
        assert_true(kvm_speed_measure(&speed, &err) < 0);
        assert_true(err.message[0]);
        assert_int_equal(count_entries("/proc/self/fd"), descriptors);
    }
}

/* --- memory --- */

static void push(unsigned at, uint32_t slot, uint64_t page)
{
    fake_kvm.ring[at] = (struct kvm_dirty_gfn){
        .flags = KVM_DIRTY_GFN_F_DIRTY, .slot = slot, .offset = page};
}

static int run_full(struct kvm_run *run)
{
    if (!is_first()) {
        return halt(run);
    }
    push(2, 0, 9);
    run->exit_reason = KVM_EXIT_DIRTY_RING_FULL;
    return 0;
}

static void test_dirty_ring_reaches_the_frames(void **unused)
{
    struct fixture *f = fixture_new();
    uint64_t bitmap;
    fake_kvm.has_ring = true;
    assert_true(fixture_open(f));
    memory_dirty_start(f->memory);
    push(0, 0, 3);
    push(1, 0, 5);
    memory_dirty_fetch(f->memory, 0, 16, &bitmap);
    assert_int_equal(bitmap, 1 << 3 | 1 << 5);
    assert_int_equal(fake_kvm.ring[0].flags, KVM_DIRTY_GFN_F_RESET);
    assert_int_equal(fake_kvm.ring[1].flags, KVM_DIRTY_GFN_F_RESET);
    assert_int_equal(fake_kvm.ring_resets, 1);
    memory_dirty_fetch(f->memory, 0, 16, &bitmap);
    assert_int_equal(bitmap, 0);
    assert_int_equal(fake_kvm.ring_resets, 1);
    /* A full one, and entries that name nothing. */
    fake_kvm.run = run_full;
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_HALTED);
    push(3, 0, 1u << 30);
    push(4, 77, 0);
    memory_dirty_fetch(f->memory, 0, 16, &bitmap);
    assert_int_equal(bitmap, 1 << 9);
    assert_int_equal(fake_kvm.ring_resets, 3);
    memory_dirty_stop(f->memory);
    fixture_close(f);
    fixture_free(f);
}

/* --- every call fails in turn --- */

static unsigned count_fake_mappings(void)
{
    char line[512];
    unsigned count = 0;
    FILE *maps = fopen("/proc/self/maps", "re");
    assert_non_null(maps);
    while (fgets(line, sizeof(line), maps)) {
        count += strstr(line, "fake-vcpu") != NULL;
    }
    fclose(maps);
    return count;
}

/* With APICs in KVM a halt is no exit, and a kick ends it. */
static int run_failure_and_kick(struct kvm_run *run)
{
    if (is_first()) {
        return run_emulation_failure(run);
    }
    engine_kvm.kick(current->vcpu, true);
    return EINTR;
}

/* Opens, loads and saves state, runs, changes memory. True: nothing failed. */
static bool use_everything(struct fixture *f, bool has_apic)
{
    fake_kvm.has_apic = fake_kvm.has_ring =
        has_apic; /* all, or as little as there can be */
    if (!fixture_open(f)) {
        return false;
    }
    const struct apic_message level = {.vector = 0x40, .is_level = true};
    engine_kvm.route(f->engine, 4, &level);
    struct x86_state state;
    fill(&state);
    engine_kvm.set_state(f->vcpu, &state);
    memory_dirty_start(f->memory);
    if (fake_kvm.ring) {
        push(0, 0, 3);
    }
    fake_kvm.run = has_apic ? run_failure_and_kick : run_emulation_failure;
    fake_kvm.runs = 0;
    struct lapic_effect effect;
    lapic_mmio_write(&f->lapic, 0, 0xf0, 0x1ff, &effect);
    struct apic_message nmi = {.mode = APIC_NMI, .is_assert = true};
    lapic_post(&f->lapic, &nmi);
    enum run_result result = engine_kvm.run(f->vcpu);
    engine_kvm.get_state(f->vcpu, &state);
    memory_dirty_stop(f->memory);
    if (result != RUN_FAILED) {
        engine_kvm.kick(f->vcpu, true);
        result = engine_kvm.run(f->vcpu);
    }
    if (result == RUN_FAILED) {
        engine_kvm.failure(f->vcpu, &f->err);
        return false;
    }
    return true;
}

/* Calls whose failure has a way around: a register that this KVM does not have, the older
 * way to set the TSC, a log that then counts everything as dirty, an optional
 * capability. */
static bool may_fail(unsigned long request)
{
    return request == KVM_SET_DEVICE_ATTR || request == KVM_GET_MSRS ||
           request == KVM_SET_MSRS || request == KVM_GET_DIRTY_LOG ||
           request == KVM_CHECK_EXTENSION;
}

static void fail_call(unsigned at, bool has_apic)
{
    struct fixture *f = fixture_new();
    unsigned descriptors = count_entries("/proc/self/fd");
    unsigned threads = count_entries("/proc/self/task");
    fake_kvm.fail_at = at;
    bool worked = use_everything(f, has_apic);
    assert_true(fake_kvm.calls >= at);
    if (!worked) {
        assert_int_not_equal(f->err.code, 0);
        assert_true(strlen(f->err.message) > 10);
    } else if (!may_fail(fake_kvm.failed_request)) {
        fail_msg("call %u (0x%lx) failed unnoticed", at, fake_kvm.failed_request);
    }
    fixture_close(f);
    assert_int_equal(count_entries("/proc/self/fd"), descriptors);
    assert_int_equal(count_entries("/proc/self/task"), threads);
    assert_int_equal(count_fake_mappings(), 0);
    assert_null(f->memory->listener);
    fixture_free(f);
}

static void fail_each(bool has_apic)
{
    struct fixture *f = fixture_new();
    assert_true(use_everything(f, has_apic));
    unsigned calls = fake_kvm.calls;
    fixture_close(f);
    fixture_free(f);
    assert_true(calls > 100);
    for (unsigned at = 1; at <= calls; at++) {
        fail_call(at, has_apic);
    }
}

static void test_every_call_fails_in_turn(void **unused)
{
    fail_each(false);
}

static void test_every_call_fails_in_turn_of_a_kvm_that_has_all(void **unused)
{
    fail_each(true);
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
        TEST(test_debugger_runs_the_interpreter),
        TEST(test_interrupt_waits_for_its_window),
        TEST(test_kick_lets_the_access_complete),
        TEST(test_kick_is_not_lost_before_run),
        TEST(test_triple_fault_is_a_shutdown),
        TEST(test_other_exits_fail_by_name),
        TEST(test_measures_a_fast_host),
        TEST(test_gives_up_on_a_host_that_hangs),
        TEST(test_measures_nothing_when_kvm_fails),
        cmocka_unit_test(test_dirty_ring_reaches_the_frames),
        cmocka_unit_test(test_model_is_fitted_to_what_kvm_has),
        cmocka_unit_test(test_model_knows_what_kvm_adds),
        cmocka_unit_test(test_every_call_fails_in_turn),
        cmocka_unit_test(test_every_call_fails_in_turn_of_a_kvm_that_has_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
