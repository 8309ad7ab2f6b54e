#include "kvm_rig.h"

#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct fixture *current;

static void note(void *opaque, struct vcpu_exit *exit)
{
    struct fixture *f = opaque;
    if (exit->reason == EXIT_TIMER || exit->reason == EXIT_TSC) {
        return;
    }
    f->exit = *exit;
    f->exits++;
    if (exit->reason == EXIT_IO) {
        size_t size = (size_t)exit->io.size * exit->io.count;
        memcpy(f->data, exit->io.data, size);
        if (!exit->io.is_write) {
            memset(exit->io.data, f->answer, size);
        }
    } else if (exit->reason == EXIT_MMIO && !exit->mmio.is_write) {
        memset(exit->mmio.data, f->answer, exit->mmio.size);
    } else if (exit->reason == EXIT_MSR_READ || exit->reason == EXIT_MSR_WRITE) {
        exit->msr.is_fault = true;
    }
}

bool fixture_open(struct fixture *f)
{
    struct engine_config config = {.memory = f->memory,
                                   .clock = &f->clock,
                                   .cpuid = &f->cpuid,
                                   .cpus = 1,
                                   .is_debugged = f->is_debugged};
    f->engine = engine_kvm.open(&config, &f->err);
    if (!f->engine) {
        return false;
    }
    struct vcpu_config vcpu = {.is_bootstrap = true,
                               .lapic = &f->lapic,
                               .paravirt = &f->paravirt,
                               .sink = {note, f},
                               .stats = &f->stats};
    f->vcpu = engine_kvm.vcpu_open(f->engine, &vcpu, &f->err);
    return f->vcpu;
}

void fixture_close(struct fixture *f)
{
    engine_kvm.vcpu_close(f->vcpu);
    engine_kvm.close(f->engine);
    f->vcpu = NULL;
    f->engine = NULL;
}

struct fixture *fixture_new(void)
{
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    struct cpuid_config cpuid = {.cpus = 1};
    assert_int_equal(cpuid_policy_init(&f->cpuid, &cpuid, NULL), 0);
    clock_init(&f->clock);
    lapic_reset(&f->lapic, 0, f->cpuid.tsc_khz);
    f->memory = memory_new(4 << 20, NULL);
    assert_non_null(f->memory);
    int64_t frame = memory_add_frames(f->memory, RAM_SIZE, NULL);
    assert_int_equal(memory_map(f->memory, 0, RAM_SIZE, (frame_t)frame, SLOT_RAM, NULL),
                     0);
    fake_kvm_install();
    current = f;
    return f;
}

void fixture_free(struct fixture *f)
{
    kvm_set_calls(NULL);
    memory_free(f->memory);
    free(f);
}

int setup(void **state)
{
    struct fixture *f = fixture_new();
    if (!fixture_open(f)) {
        fail_msg("%s", f->err.message);
    }
    *state = f;
    return 0;
}

int teardown(void **state)
{
    fixture_close(*state);
    fixture_free(*state);
    return 0;
}

unsigned count_entries(const char *path)
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

bool is_first(void)
{
    return fake_kvm.runs == 1;
}

int halt(struct kvm_run *run)
{
    run->exit_reason = KVM_EXIT_HLT;
    return run->immediate_exit ? EINTR : 0;
}

int run_emulation_failure(struct kvm_run *run)
{
    if (!is_first()) {
        return halt(run);
    }
    run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
    run->internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
    return 0;
}

void fill_state(struct x86_state *state)
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

void push_dirty(unsigned at, uint32_t slot, uint64_t page)
{
    fake_kvm.ring[at] = (struct kvm_dirty_gfn){
        .flags = KVM_DIRTY_GFN_F_DIRTY, .slot = slot, .offset = page};
}
