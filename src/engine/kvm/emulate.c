/* What KVM's own emulator cannot do, the interpreter does: one instruction, or the
 * delivery of one event. */

#include "interpreter/block.h"
#include "engine/kvm/vcpu.h"
#include "interpreter/event.h"
#include "interpreter/run.h"
#include "x86/msr.h"

static void hook_io(struct cpu *cpu, uint16_t port, unsigned size, bool is_write,
                    uint32_t repeat, uint8_t *data)
{
    struct engine_vcpu *vcpu = cpu->opaque;
    struct vcpu_exit exit = {.reason = EXIT_IO,
                             .io = {.port = port,
                                    .size = (uint8_t)size,
                                    .is_write = is_write,
                                    .count = repeat,
                                    .data = data}};
    processor_exit(&vcpu->processor, &exit);
}

static void hook_mmio(struct cpu *cpu, gpa_t gpa, unsigned size, bool is_write,
                      uint8_t *data)
{
    struct engine_vcpu *vcpu = cpu->opaque;
    processor_mmio(&vcpu->processor, &cpu->state, gpa, size, is_write, data);
}

static bool hook_msr_read(struct cpu *cpu, uint32_t index, uint64_t *value)
{
    struct engine_vcpu *vcpu = cpu->opaque;
    return processor_msr_read(&vcpu->processor, &cpu->state, index, value);
}

static bool hook_msr_write(struct cpu *cpu, uint32_t index, uint64_t value)
{
    struct engine_vcpu *vcpu = cpu->opaque;
    unsigned effects;
    bool ok = processor_msr_write(&vcpu->processor, &cpu->state, index, value, &effects);
    if (effects & MSR_EFFECT_PAGING) {
        cpu_flush_all(cpu);
        cpu_update_mode(cpu);
    }
    return ok;
}

static uint64_t hook_get_cr8(struct cpu *cpu)
{
    return lapic_get_cr8(cpu->lapic);
}

static void hook_set_cr8(struct cpu *cpu, uint64_t value)
{
    struct engine_vcpu *vcpu = cpu->opaque;
    processor_set_cr8(&vcpu->processor, &cpu->state, value);
}

static uint64_t hook_now(struct cpu *cpu)
{
    struct engine_vcpu *vcpu = cpu->opaque;
    return processor_now(&vcpu->processor);
}

static uint64_t hook_tsc(struct cpu *cpu)
{
    struct engine_vcpu *vcpu = cpu->opaque;
    return processor_tsc(&vcpu->processor, &cpu->state, hook_now(cpu));
}

static bool hook_hypercall(struct cpu *cpu)
{
    struct engine_vcpu *vcpu = cpu->opaque;
    return processor_hypercall(&vcpu->processor, cpu->reg, cpu->cpl);
}

static void hook_count(struct cpu *cpu, enum exit_reason reason)
{
    struct engine_vcpu *vcpu = cpu->opaque;
    processor_count(&vcpu->processor, reason);
}

/* A locked access across two pages: the other vCPUs are on the host's processor and
 * cannot be stopped within an instruction, so it is not atomic against them. */
static void hook_exclusive(struct cpu *cpu)
{
}

static const struct cpu_hooks hooks = {
    .io = hook_io,
    .mmio = hook_mmio,
    .msr_read = hook_msr_read,
    .msr_write = hook_msr_write,
    .get_cr8 = hook_get_cr8,
    .set_cr8 = hook_set_cr8,
    .tsc = hook_tsc,
    .now = hook_now,
    .hypercall = hook_hypercall,
    .count = hook_count,
    .exclusive_begin = hook_exclusive,
    .exclusive_end = hook_exclusive,
};

static struct cpu *interpreter(struct engine_vcpu *vcpu)
{
    if (!vcpu->cpu) {
        struct error err;
        vcpu->cpu = cpu_new(vcpu->engine->config.memory, vcpu->engine->config.cpuid,
                            vcpu->processor.config.lapic, &hooks, vcpu, &err);
        if (!vcpu->cpu) {
            kvm_fail(vcpu, err.code, "%s", err.message);
        }
    }
    return vcpu->cpu;
}

void kvm_emulate(struct engine_vcpu *vcpu)
{
    struct cpu *cpu = interpreter(vcpu);
    if (!cpu) {
        return;
    }
    kvm_settle(vcpu);
    kvm_state_save(vcpu);
    struct x86_event event = vcpu->state.event;
    vcpu->state.event.pending = false;
    cpu_sync_in(cpu, &vcpu->state);
    block_cache_empty(cpu); /* KVM does not tell which code the guest has written over */
    if (event.pending) {
        event_deliver(cpu, &event, cpu->state.cr2);
    } else {
        cpu_step(cpu);
    }
    cpu_sync_out(cpu, &vcpu->state);
    kvm_state_load(vcpu);
    kvm_tsc_sync(vcpu);
    processor_count(&vcpu->processor, EXIT_EMULATED);
}

void kvm_emulate_fini(struct engine_vcpu *vcpu)
{
    cpu_free(vcpu->cpu);
    vcpu->cpu = NULL;
}
