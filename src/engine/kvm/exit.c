/* The exits of KVM, one row each: a name, and what is done about it. */

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/scope.h"
#include "engine/kvm/vcpu.h"

static void exit_io(struct engine_vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    struct vcpu_exit exit = {
        .reason = EXIT_IO,
        .io = {.port = run->io.port,
               .size = run->io.size,
               .is_write = run->io.direction == KVM_EXIT_IO_OUT,
               .count = run->io.count,
               .data = (uint8_t *)run + run->io.data_offset},
    };
    vcpu->must_settle = true;
    processor_exit(&vcpu->processor, &exit);
}

static void exit_mmio(struct engine_vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    vcpu->must_settle = true;
    uint64_t base = vcpu->state.apic_base;
    gpa_t gpa = kvm_memory_bus_address(vcpu->engine, run->mmio.phys_addr);
    processor_mmio(&vcpu->processor, &vcpu->state, gpa, run->mmio.len, run->mmio.is_write,
                   run->mmio.data);
    vcpu->must_set_base |= vcpu->state.apic_base != base;
}

static void exit_hlt(struct engine_vcpu *vcpu)
{
    vcpu->state.activity = X86_HALTED;
    processor_count(&vcpu->processor, EXIT_HLT);
}

static void exit_window(struct engine_vcpu *vcpu)
{
    processor_count(&vcpu->processor, EXIT_INTERRUPT_WINDOW);
}

static void exit_tpr(struct engine_vcpu *vcpu)
{
    processor_count(&vcpu->processor, EXIT_CR);
}

static void exit_shutdown(struct engine_vcpu *vcpu)
{
    vcpu->state.activity = X86_SHUTDOWN;
}

/* A signal, or nothing at all: the loop looks at what there is to do. */
static void exit_nothing(struct engine_vcpu *vcpu)
{
}

static void exit_internal(struct engine_vcpu *vcpu)
{
    static const char *const names[] = {
        [KVM_INTERNAL_ERROR_EMULATION] = "emulation",
        [KVM_INTERNAL_ERROR_SIMUL_EX] = "simultaneous exceptions",
        [KVM_INTERNAL_ERROR_DELIVERY_EV] = "event delivery",
        [KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON] = "unexpected exit reason",
    };
    uint32_t error = vcpu->run->internal.suberror;
    if (error == KVM_INTERNAL_ERROR_EMULATION ||
        error == KVM_INTERNAL_ERROR_DELIVERY_EV) {
        kvm_emulate(vcpu);
        return;
    }
    const char *name = error < array_size(names) ? names[error] : NULL;
    kvm_fail(vcpu, 0, "KVM: internal error %u (%s)", error, name ? name : "unknown");
}

static void exit_fail_entry(struct engine_vcpu *vcpu)
{
    kvm_fail(vcpu, 0,
             "KVM: the processor refused to enter the guest: hardware reason 0x%" PRIx64
             " on processor %u",
             (uint64_t)vcpu->run->fail_entry.hardware_entry_failure_reason,
             vcpu->run->fail_entry.cpu);
}

static void exit_unknown(struct engine_vcpu *vcpu)
{
    kvm_fail(vcpu, 0, "KVM: unknown exit: hardware reason 0x%" PRIx64,
             (uint64_t)vcpu->run->hw.hardware_exit_reason);
}

/* No handler: this engine does not ask KVM for such exits. */
static const struct {
    const char *name;
    void (*handle)(struct engine_vcpu *vcpu);
} rows[] = {
    [KVM_EXIT_UNKNOWN] = {"unknown", exit_unknown},
    [KVM_EXIT_EXCEPTION] = {"exception"},
    [KVM_EXIT_IO] = {"port access", exit_io},
    [KVM_EXIT_HYPERCALL] = {"hypercall"},
    [KVM_EXIT_DEBUG] = {"debug", kvm_guest_debug_exit},
    [KVM_EXIT_HLT] = {"halt", exit_hlt},
    [KVM_EXIT_MMIO] = {"memory-mapped access", exit_mmio},
    [KVM_EXIT_IRQ_WINDOW_OPEN] = {"interrupt window", exit_window},
    [KVM_EXIT_SHUTDOWN] = {"shutdown", exit_shutdown},
    [KVM_EXIT_FAIL_ENTRY] = {"entry refused", exit_fail_entry},
    [KVM_EXIT_INTR] = {"signal", exit_nothing},
    [KVM_EXIT_SET_TPR] = {"task priority", exit_tpr},
    [KVM_EXIT_TPR_ACCESS] = {"task priority access"},
    [KVM_EXIT_NMI] = {"NMI", exit_nothing},
    [KVM_EXIT_INTERNAL_ERROR] = {"internal error", exit_internal},
    [KVM_EXIT_SYSTEM_EVENT] = {"system event"},
    [KVM_EXIT_IOAPIC_EOI] = {"end of interrupt", kvm_apic_exit_eoi},
    [KVM_EXIT_HYPERV] = {"Hyper-V"},
    [KVM_EXIT_X86_RDMSR] = {"RDMSR", kvm_msr_exit},
    [KVM_EXIT_X86_WRMSR] = {"WRMSR", kvm_msr_exit},
    [KVM_EXIT_DIRTY_RING_FULL] = {"dirty ring full", kvm_ring_exit_full},
    [KVM_EXIT_AP_RESET_HOLD] = {"reset hold"},
    [KVM_EXIT_X86_BUS_LOCK] = {"bus lock"},
    [KVM_EXIT_XEN] = {"Xen"},
    [KVM_EXIT_NOTIFY] = {"notify"},
};

const char *kvm_exit_name(uint32_t reason)
{
    return reason < array_size(rows) && rows[reason].name ? rows[reason].name : "unnamed";
}

void kvm_exit_handle(struct engine_vcpu *vcpu)
{
    uint32_t reason = vcpu->run->exit_reason;
    if (reason < array_size(rows) && rows[reason].handle) {
        rows[reason].handle(vcpu);
    } else {
        kvm_fail(vcpu, 0, "KVM: exit %u (%s) has no handler", reason,
                 kvm_exit_name(reason));
    }
}
