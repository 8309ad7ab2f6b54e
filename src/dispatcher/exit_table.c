/* The exit table: one handler for each reason that leaves an engine. */

#include <assert.h>
#include <inttypes.h>
#include <x86intrin.h>

#include "base/log.h"
#include "dispatcher/vcpu.h"

static void exit_io(struct vcpu *vcpu, struct vcpu_exit *exit)
{
    bus_repeat(&vcpu->vm->ports, exit->io.port, exit->io.size, exit->io.count,
               exit->io.is_write, exit->io.data);
}

static void exit_mmio(struct vcpu *vcpu, struct vcpu_exit *exit)
{
    bus_access(&vcpu->vm->mmio, exit->mmio.gpa, exit->mmio.size, exit->mmio.is_write,
               exit->mmio.data);
}

static void exit_ipi(struct vcpu *vcpu, struct vcpu_exit *exit)
{
    vm_apic_send(vcpu->vm, &exit->ipi, (int)vcpu->index);
}

static void exit_eoi(struct vcpu *vcpu, struct vcpu_exit *exit)
{
    struct vm *vm = vcpu->vm;
    if (vm->eoi) {
        vm->eoi(vm->eoi_opaque, exit->eoi_vector);
    }
}

static void exit_intack(struct vcpu *vcpu, struct vcpu_exit *exit)
{
    struct vm *vm = vcpu->vm;
    exit->intack_vector = vm->intack ? vm->intack(vm->intack_opaque) : -1;
}

static void exit_timer(struct vcpu *vcpu, struct vcpu_exit *exit)
{
    pthread_mutex_lock(&vcpu->timer_lock);
    vcpu->deadline_ns = lapic_timer_deadline(&vcpu->lapic);
    if (vcpu->deadline_ns < vcpu->armed_ns) {
        vcpu->armed_ns = vcpu->deadline_ns;
        timer_set(&vcpu->apic_timer, vcpu->armed_ns);
    }
    pthread_mutex_unlock(&vcpu->timer_lock);
    paravirt_account(vcpu);
}

static void exit_msr_read(struct vcpu *vcpu, struct vcpu_exit *exit)
{
    if (paravirt_msr(vcpu, exit)) {
        return;
    }
    log_guest("vCPU %u: RDMSR of unknown %#" PRIx32, vcpu->index, exit->msr.index);
    exit->msr.is_fault = true;
}

static void exit_msr_write(struct vcpu *vcpu, struct vcpu_exit *exit)
{
    if (paravirt_msr(vcpu, exit)) {
        return;
    }
    log_guest("vCPU %u: WRMSR of %#" PRIx64 " to unknown %#" PRIx32, vcpu->index,
              exit->msr.value, exit->msr.index);
    exit->msr.is_fault = true;
}

static void exit_hypercall(struct vcpu *vcpu, struct vcpu_exit *exit)
{
    paravirt_hypercall(vcpu, exit);
}

static void exit_tsc(struct vcpu *vcpu, struct vcpu_exit *exit)
{
    paravirt_tsc_moved(vcpu, exit->tsc_offset);
}

static void (*const handlers[EXIT_REASON_COUNT])(struct vcpu *, struct vcpu_exit *) = {
    [EXIT_IO] = exit_io,
    [EXIT_MMIO] = exit_mmio,
    [EXIT_IPI] = exit_ipi,
    [EXIT_EOI] = exit_eoi,
    [EXIT_INTACK] = exit_intack,
    [EXIT_TIMER] = exit_timer,
    [EXIT_MSR_READ] = exit_msr_read,
    [EXIT_MSR_WRITE] = exit_msr_write,
    [EXIT_TSC] = exit_tsc,
    [EXIT_HYPERCALL] = exit_hypercall,
};

void vcpu_exit_handle(void *opaque, struct vcpu_exit *exit)
{
    struct vcpu *vcpu = opaque;
    assert(exit->reason < EXIT_REASON_COUNT && handlers[exit->reason]);
    uint64_t start = __rdtsc();
    handlers[exit->reason](vcpu, exit);
    if (vcpu->vm->trace.exit) {
        vcpu->vm->trace.exit(vcpu->vm->trace.opaque, vcpu->stats.retired, exit);
    }
    uint64_t ticks = __rdtsc() - start;
    vcpu_count(vcpu, exit->reason,
               (uint64_t)((unsigned __int128)ticks * vcpu->vm->tsc_to_ns >> 32));
}
