/* What KVM's own emulator cannot do, the interpreter does: one instruction, or the
 * delivery of one event. */

#include "engine/kvm/vcpu.h"
#include "engine/processor_cpu.h"
#include "interpreter/block.h"
#include "interpreter/event.h"
#include "interpreter/run.h"

static struct cpu *interpreter(struct engine_vcpu *vcpu)
{
    struct error err;
    if (!vcpu->processor.cpu && processor_cpu_open(&vcpu->processor, &err) < 0) {
        kvm_fail(vcpu, err.code, "%s", err.message);
    }
    return vcpu->processor.cpu;
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
    vcpu->state.event = (struct x86_event){0};
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
    processor_cpu_close(&vcpu->processor);
}
