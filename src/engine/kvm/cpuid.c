/* The CPU model as KVM is told it: the common policy, without what this KVM cannot do. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/scope.h"
#include "engine/kvm/vcpu.h"
#include "x86/cpuid_table.h"
#include "x86/paravirt.h"

#define ENTRIES_MAX 256

/* Ours whatever KVM supports: the local APIC and what only describes the model. */
static const enum cpu_feature own_features[] = {
    CPU_APIC,       CPU_X2APIC,     CPU_TSC_DEADLINE,  CPU_ARAT, CPU_HTT,
    CPU_CMP_LEGACY, CPU_HYPERVISOR, CPU_INVARIANT_TSC, CPU_MTRR, CPU_TSC_ADJUST,
};

static bool is_own(enum cpu_feature feature)
{
    for (unsigned i = 0; i < array_size(own_features); i++) {
        if (own_features[i] == feature) {
            return true;
        }
    }
    return false;
}

static struct kvm_cpuid2 *entries_new(unsigned count)
{
    struct kvm_cpuid2 *cpuid =
        calloc(1, sizeof(*cpuid) + count * sizeof(cpuid->entries[0]));
    if (cpuid) {
        cpuid->nent = count;
    }
    return cpuid;
}

static struct kvm_cpuid2 *supported_entries(int device, struct error *err)
{
    struct kvm_cpuid2 *cpuid = entries_new(ENTRIES_MAX);
    if (!cpuid || kvm_ioctl_pointer(device, KVM_GET_SUPPORTED_CPUID, cpuid) < 0) {
        fail(err, cpuid ? errno : ENOMEM, "KVM_GET_SUPPORTED_CPUID");
        free(cpuid);
        return NULL;
    }
    return cpuid;
}

static struct kvm_cpuid_entry2 *find_entry(struct kvm_cpuid2 *cpuid, uint32_t leaf,
                                           uint32_t subleaf)
{
    for (unsigned i = 0; i < cpuid->nent; i++) {
        struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];
        if (entry->function == leaf &&
            (!(entry->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) ||
             entry->index == subleaf)) {
            return entry;
        }
    }
    return NULL;
}

static uint32_t *entry_register(struct kvm_cpuid_entry2 *entry, enum cpuid_register reg)
{
    uint32_t *registers[] = {&entry->eax, &entry->ebx, &entry->ecx, &entry->edx};
    return registers[reg];
}

static bool is_supported(struct kvm_cpuid2 *supported, enum cpu_feature feature)
{
    const struct cpuid_feature_row *row = &cpuid_features[feature];
    if (is_own(feature)) {
        return true;
    }
    struct kvm_cpuid_entry2 *entry = find_entry(supported, row->leaf, row->subleaf);
    return entry && *entry_register(entry, row->reg) >> row->bit & 1;
}

static void remove_feature(struct kvm_cpuid2 *cpuid, enum cpu_feature feature)
{
    const struct cpuid_feature_row *row = &cpuid_features[feature];
    struct kvm_cpuid_entry2 *entry = find_entry(cpuid, row->leaf, row->subleaf);
    if (entry) {
        *entry_register(entry, row->reg) &= ~(1u << row->bit);
    }
    if (row->leaf == 1 && row->reg == CPUID_EDX && CPUID_AMD_REPEATED >> row->bit & 1 &&
        (entry = find_entry(cpuid, 0x80000001, 0))) {
        entry->edx &= ~(1u << row->bit);
    }
}

unsigned kvm_cpuid_missing(const struct cpuid_policy *policy, char *names, size_t size)
{
    unsigned count = 0;
    size_t length = 0;
    struct error err;
    names[0] = '\0';
    int device = kvm_open_device(&err);
    struct kvm_cpuid2 *supported = device < 0 ? NULL : supported_entries(device, &err);
    for (unsigned i = 0; supported && i < CPU_FEATURE_COUNT; i++) {
        if (!cpuid_has(policy, i) || is_supported(supported, i)) {
            continue;
        }
        count++;
        if (length < size) {
            length += (size_t)snprintf(names + length, size - length, "%s%s",
                                       length ? ", " : "", cpuid_features[i].name);
        }
    }
    free(supported);
    kvm_host_close(device);
    return count;
}

/* The policy's leaves, and their dynamic bits as after a reset: KVM keeps OSXSAVE, APIC
 * and the XSAVE sizes up to date itself. */
static void fill_entries(const struct cpuid_policy *policy, struct kvm_cpuid2 *cpuid)
{
    struct x86_state state;
    x86_state_reset(&state, true);
    for (unsigned i = 0; i < policy->leaf_count; i++) {
        const struct cpuid_leaf *leaf = &policy->leaf[i];
        struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];
        uint32_t out[4];
        cpuid_execute(policy, &state, 0, leaf->leaf, leaf->subleaf, out);
        *entry = (struct kvm_cpuid_entry2){
            .function = leaf->leaf,
            .index = leaf->subleaf,
            .flags = leaf->has_subleaves ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
            .eax = out[0],
            .ebx = out[1],
            .ecx = out[2],
            .edx = out[3],
        };
    }
}

int kvm_cpuid_init(struct engine *engine, struct error *err)
{
    const struct cpuid_policy *policy = engine->config.cpuid;
    struct kvm_cpuid2 *supported = supported_entries(engine->device, err);
    if (!supported) {
        return -err->code;
    }
    engine->cpuid = entries_new(policy->leaf_count);
    if (!engine->cpuid) {
        free(supported);
        return fail(err, ENOMEM, "cannot make the CPU model");
    }
    fill_entries(policy, engine->cpuid);
    for (unsigned i = 0; i < CPU_FEATURE_COUNT; i++) {
        if (!is_supported(supported, i)) {
            remove_feature(engine->cpuid, i);
        }
    }
    free(supported);
    /* Hypercalls are KVM's own, and it does not know our APICs. */
    struct kvm_cpuid_entry2 *paravirt = find_entry(engine->cpuid, 0x40000001, 0);
    if (paravirt) {
        paravirt->eax &= ~(PARAVIRT_IPI | PARAVIRT_YIELD);
    }
    return 0;
}

int kvm_cpuid_set(struct engine_vcpu *vcpu, struct error *err)
{
    struct kvm_cpuid2 *cpuid = vcpu->engine->cpuid;
    uint32_t id = vcpu->processor.config.lapic->id;
    for (unsigned i = 0; i < cpuid->nent; i++) {
        struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];
        if (entry->function == 1) {
            entry->ebx = (entry->ebx & 0x00ffffffu) | id << 24;
        } else if (entry->function == 0xb || entry->function == 0x1f) {
            entry->edx = id;
        }
    }
    if (kvm_ioctl_pointer(vcpu->fd, KVM_SET_CPUID2, cpuid) < 0) {
        return fail(err, errno, "KVM_SET_CPUID2 (%u leaves)", cpuid->nent);
    }
    return 0;
}
