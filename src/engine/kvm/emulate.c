/*
 * What KVM cannot do, the interpreter does. What KVM's own emulator leaves: an
 * instruction, or the delivery of an event. Where such instructions are close together
 * the state would be moved for each, so the interpreter then goes on for a while. And
 * debugging, unless guest_debug.c can: as long as a debugger has points, or steps, its
 * processors run here altogether.
 */

#include <x86intrin.h>

#include "engine/kvm/vcpu.h"
#include "engine/processor_cpu.h"
#include "interpreter/block.h"
#include "interpreter/debug.h"
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

/* Bounds how long an interrupt waits, which KVM would not let wait. */
#define STEPS_MOST 4096u

/* As many as pay: twice as many as the last time if KVM has not got on since for as long
 * as that took, else one. */
static unsigned choose_steps(struct engine_vcpu *vcpu, uint64_t now)
{
    unsigned twice = 2 * vcpu->emulated_steps;
    bool is_close = now - vcpu->emulated_end < vcpu->emulated_ticks;
    return !is_close || twice == 0 ? 1 : twice < STEPS_MOST ? twice : STEPS_MOST;
}

/* Whoever kicks sets immediate_exit. What another ring is like KVM may know better. */
static void step(struct engine_vcpu *vcpu, unsigned count)
{
    struct cpu *cpu = vcpu->processor.cpu;
    const unsigned cpl = cpu->cpl;
    vcpu->emulated_steps = 0;
    do {
        cpu_step(cpu);
        vcpu->emulated_steps++;
    } while (vcpu->emulated_steps < count && cpu->cpl == cpl &&
             cpu->state.activity == X86_RUNNING &&
             !__atomic_load_n(&vcpu->run->immediate_exit, __ATOMIC_RELAXED));
}

void kvm_emulate(struct engine_vcpu *vcpu)
{
    struct cpu *cpu = vcpu->processor.cpu;
    if (vcpu->has_guest_debug) {
        /* It then has to look at the points as well. */
        vcpu->must_interpret = vcpu->has_stopped = true;
        return;
    }
    uint64_t start = __rdtsc();
    unsigned steps = choose_steps(vcpu, start);
    move_in(vcpu);
    struct x86_event event = cpu->state.event;
    cpu->state.event = (struct x86_event){0};
    if (event.pending) {
        event_deliver(cpu, &event, cpu->state.cr2);
    } else {
        step(vcpu, steps);
    }
    move_out(vcpu);
    vcpu->emulated_end = __rdtsc();
    vcpu->emulated_ticks = vcpu->emulated_end - start;
    processor_count(&vcpu->processor, EXIT_EMULATED);
}

enum run_result kvm_interpret(struct engine_vcpu *vcpu)
{
    move_in(vcpu);
    atomic_store(&vcpu->is_interpreting, true);
    struct cpu *cpu = vcpu->processor.cpu;
    enum run_result result = RUN_FAILED;
    if (vcpu->has_stopped && cpu->rip == vcpu->stopped_rip) {
        debug_skip(cpu);
    }
    vcpu->has_stopped = false;
    if (!vcpu->failure.code) {
        result = processor_cpu_run(&vcpu->processor);
    }
    if (result == RUN_DEBUG && vcpu->processor.stop.reason == DEBUG_POINT) {
        vcpu->has_stopped = vcpu->processor.stop.kind == DEBUG_EXECUTE;
        vcpu->stopped_rip = cpu->rip;
    }
    atomic_store(&vcpu->is_interpreting, false);
    move_out(vcpu);
    return vcpu->failure.code ? RUN_FAILED : result;
}

int kvm_debug(struct engine_vcpu *vcpu, const struct debug_control *control,
              struct error *err)
{
    vcpu->control = control ? *control : (struct debug_control){0};
    vcpu->is_debugged = vcpu->control.step || vcpu->control.count;
    vcpu->fits_guest_debug = kvm_guest_debug_fits(vcpu->engine, &vcpu->control);
    return processor_cpu_debug(&vcpu->processor, control, err);
}
