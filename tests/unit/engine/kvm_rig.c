#include "kvm_rig.h"

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
