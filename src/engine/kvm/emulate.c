/*
 * What KVM cannot do, the interpreter does. What KVM's own emulator leaves: one
 * instruction, or the delivery of one event. Debugging: as long as a debugger has points,
 * or steps, its processors run here altogether, since KVM's breakpoints are few and not
 * every host delivers them.
 */

#include "engine/kvm/vcpu.h"
#include "engine/processor_cpu.h"
#include "interpreter/block.h"
#include "interpreter/event.h"
#include "interpreter/run.h"

/* KVM's state into the interpreter, and back. */
static void move_in(struct engine_vcpu *vcpu)
{
    kvm_settle(vcpu);
    kvm_state_save(vcpu);
    cpu_sync_in(vcpu->processor.cpu, &vcpu->state);
    /* KVM does not tell which code the guest has written over. */
    block_cache_empty(vcpu->processor.cpu);
}

static void move_out(struct engine_vcpu *vcpu)
{
    cpu_sync_out(vcpu->processor.cpu, &vcpu->state);
    kvm_state_load(vcpu);
    kvm_tsc_sync(vcpu);
}

void kvm_emulate(struct engine_vcpu *vcpu)
{
    struct cpu *cpu = vcpu->processor.cpu;
    move_in(vcpu);
    struct x86_event event = cpu->state.event;
    cpu->state.event = (struct x86_event){0};
    if (event.pending) {
        event_deliver(cpu, &event, cpu->state.cr2);
    } else {
        cpu_step(cpu);
    }
    move_out(vcpu);
    processor_count(&vcpu->processor, EXIT_EMULATED);
}

enum run_result kvm_interpret(struct engine_vcpu *vcpu)
{
    move_in(vcpu);
    atomic_store(&vcpu->is_interpreting, true);
    enum run_result result = RUN_FAILED;
    if (!vcpu->failure.code) {
        result = processor_cpu_run(&vcpu->processor);
    }
    atomic_store(&vcpu->is_interpreting, false);
    move_out(vcpu);
    return vcpu->failure.code ? RUN_FAILED : result;
}

int kvm_debug(struct engine_vcpu *vcpu, const struct debug_control *control,
              struct error *err)
{
    vcpu->is_debugged = control && (control->step || control->count);
    return processor_cpu_debug(&vcpu->processor, control, err);
}
