/*
 * MSRs. KVM keeps the few that are hot or part of its own state; every other access
 * leaves KVM and is answered by the policy that all engines share.
 */

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/scope.h"
#include "engine/kvm/vcpu.h"
#include "x86/msr.h"
#include "x86/paravirt.h"

#define FIELD(msr, name)                             \
    {                                                \
        msr, offsetof(struct x86_state, name), #name \
    }

const struct kvm_msr_field kvm_msr_list[] = {
    FIELD(MSR_SYSENTER_CS, sysenter_cs),
    FIELD(MSR_SYSENTER_ESP, sysenter_esp),
    FIELD(MSR_SYSENTER_EIP, sysenter_eip),
    FIELD(MSR_PAT, pat),
    FIELD(MSR_STAR, star),
    FIELD(MSR_LSTAR, lstar),
    FIELD(MSR_CSTAR, cstar),
    FIELD(MSR_SFMASK, sfmask),
    FIELD(MSR_KERNEL_GS_BASE, kernel_gs_base),
    FIELD(MSR_TSC_AUX, tsc_aux),
    {0},
};

#define BOTH_WAYS (KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE)

/* Those above, EFER and the bases of FS and GS; of the TSC only reads, since a write
 * moves it against the clock. With the APIC in KVM its own as well (those of the x2APIC
 * are never filtered), and what belongs to services that need it, if they are offered. */
static const struct {
    uint32_t first, count, flags;
    bool is_of_apic;
    uint32_t service; /* 0: none */
} passed[] = {
    {MSR_APIC_BASE, 1, BOTH_WAYS, true, 0},
    {MSR_TSC_DEADLINE, 1, BOTH_WAYS, true, 0},
    {MSR_PARAVIRT_STEAL, 1, BOTH_WAYS, true, PARAVIRT_STEAL},
    {MSR_PARAVIRT_EOI, 1, BOTH_WAYS, true, PARAVIRT_EOI},
    {MSR_TSC, 1, KVM_MSR_FILTER_READ, false, 0},
    {MSR_SYSENTER_CS, 3, BOTH_WAYS, false, 0},
    {MSR_PAT, 1, BOTH_WAYS, false, 0},
    {MSR_EFER, MSR_SFMASK - MSR_EFER + 1, BOTH_WAYS, false, 0},
    {MSR_FS_BASE, MSR_TSC_AUX - MSR_FS_BASE + 1, BOTH_WAYS, false, 0},
};

static bool is_row_passed(const struct engine *engine, unsigned row)
{
    uint32_t service = passed[row].service;
    return (!passed[row].is_of_apic || engine->has_apic) &&
           (service & engine->config.cpuid->paravirt) == service;
}

int kvm_msr_init(struct engine *engine, struct error *err)
{
    struct kvm_enable_cap exits = {
        .cap = KVM_CAP_X86_USER_SPACE_MSR,
        .args = {KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_INVAL |
                 KVM_MSR_EXIT_REASON_FILTER},
    };
    if (kvm_ioctl_pointer(engine->fd, KVM_ENABLE_CAP, &exits) < 0) {
        return fail(err, errno,
                    "KVM_CAP_X86_USER_SPACE_MSR (the host needs Linux 5.10 or later)");
    }
    uint8_t all[] = {0xff};
    struct kvm_msr_filter filter = {.flags = KVM_MSR_FILTER_DEFAULT_DENY};
    unsigned count = 0;
    for (unsigned i = 0; i < array_size(passed); i++) {
        if (is_row_passed(engine, i)) {
            filter.ranges[count++] = (struct kvm_msr_filter_range){
                .flags = passed[i].flags,
                .base = passed[i].first,
                .nmsrs = passed[i].count,
                .bitmap = all,
            };
        }
    }
    if (kvm_ioctl_pointer(engine->fd, KVM_X86_SET_MSR_FILTER, &filter) < 0) {
        return fail(err, errno, "KVM_X86_SET_MSR_FILTER");
    }
    return 0;
}

/* Room for one entry behind the header. */
union msr_buffer {
    struct kvm_msrs msrs;
    uint8_t bytes[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
};

static bool access_msr(struct engine_vcpu *vcpu, unsigned long request, uint32_t index,
                       uint64_t *value)
{
    union msr_buffer buffer = {.msrs = {.nmsrs = 1}};
    struct kvm_msr_entry *entry = buffer.msrs.entries;
    entry->index = index;
    entry->data = *value;
    errno = EINVAL; /* KVM says only that it took none */
    bool ok = kvm_ioctl_pointer(vcpu->fd, request, &buffer) == 1;
    *value = entry->data;
    return ok;
}

bool kvm_msr_get(struct engine_vcpu *vcpu, uint32_t index, uint64_t *value)
{
    return access_msr(vcpu, KVM_GET_MSRS, index, value);
}

bool kvm_msr_set(struct engine_vcpu *vcpu, uint32_t index, uint64_t value)
{
    return access_msr(vcpu, KVM_SET_MSRS, index, &value);
}

static bool is_passed(const struct engine *engine, uint32_t index)
{
    for (unsigned i = 0; i < array_size(passed); i++) {
        if (is_row_passed(engine, i) && index - passed[i].first < passed[i].count) {
            return true;
        }
    }
    return false;
}

void kvm_msr_exit(struct engine_vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    bool is_write = run->exit_reason == KVM_EXIT_X86_WRMSR;
    uint32_t index = run->msr.index;
    processor_count(&vcpu->processor, is_write ? EXIT_WRMSR : EXIT_RDMSR);
    vcpu->must_settle = true;
    /* KVM has the register and refused the access: it is the guest's fault. */
    if (is_passed(vcpu->engine, index) && !(is_write && index == MSR_TSC)) {
        run->msr.error = 1;
        return;
    }
    if (!is_write) {
        uint64_t value = 0;
        run->msr.error =
            !processor_msr_read(&vcpu->processor, &vcpu->state, index, &value);
        run->msr.data = value;
        return;
    }
    uint64_t base = vcpu->state.apic_base;
    unsigned effects;
    run->msr.error = !processor_msr_write(&vcpu->processor, &vcpu->state, index,
                                          run->msr.data, &effects);
    if (effects & MSR_EFFECT_TSC) {
        kvm_tsc_sync(vcpu);
        if (vcpu->engine->has_apic) { /* a deadline has moved in time */
            kvm_apic_begin(&vcpu->processor);
            kvm_apic_end(&vcpu->processor);
        }
    }
    vcpu->must_set_base |= vcpu->state.apic_base != base;
}
