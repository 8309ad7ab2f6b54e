/* The CPU model as KVM is told it, and what of a model this KVM cannot do. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/scope.h"
#include "engine/kvm/bench.h"
#include "engine/kvm/vcpu.h"
#include "x86/cpuid_table.h"
#include "x86/paravirt.h"

#define KVM_CPUID_FEATURES 0x40000001u
#define ENTRIES_MAX        256
/* SDM 2A, leaf 7 EBX. */
#define CPUID_AVX512F (1u << 16)

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

/*
 * There are KVMs that show a guest features of the processor beneath whatever they are
 * told, those that user code executes natively and finds anyway. Reading back tells.
 */
static struct kvm_cpuid2 *read_back(int device, const struct kvm_cpuid2 *given,
                                    struct error *err)
{
    struct kvm_cpuid2 *shown = entries_new(ENTRIES_MAX);
    int vm = kvm_ioctl(device, KVM_CREATE_VM, 0);
    int vcpu = vm < 0 ? -1 : kvm_ioctl(vm, KVM_CREATE_VCPU, 0);
    if (!shown || vcpu < 0 || kvm_ioctl_pointer(vcpu, KVM_SET_CPUID2, given) < 0 ||
        kvm_ioctl_pointer(vcpu, KVM_GET_CPUID2, shown) < 0) {
        fail(err, shown ? errno : ENOMEM, "cannot tell what CPUID shows under KVM");
        free(shown);
        shown = NULL;
    }
    kvm_host_close(vcpu);
    kvm_host_close(vm);
    return shown;
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

static bool has_feature(struct kvm_cpuid2 *cpuid, enum cpu_feature feature)
{
    const struct cpuid_feature_row *row = &cpuid_features[feature];
    struct kvm_cpuid_entry2 *entry = find_entry(cpuid, row->leaf, row->subleaf);
    return entry && *entry_register(entry, row->reg) >> row->bit & 1;
}

/* What KVM shows a processor without any feature. */
static struct kvm_cpuid2 *forced_entries(int device, struct error *err)
{
    static const uint32_t leaves[] = {0,   1,          6,          7,
                                      0xd, 0x80000000, 0x80000001, 0x80000007};
    struct kvm_cpuid2 *none = entries_new(array_size(leaves));
    if (!none) {
        fail(err, ENOMEM, "cannot make a CPU model");
        return NULL;
    }
    for (unsigned i = 0; i < array_size(leaves); i++) {
        uint32_t leaf = leaves[i];
        none->entries[i].function = leaf;
        none->entries[i].flags =
            leaf == 7 || leaf == 0xd ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0;
        none->entries[i].eax = leaf == 0 ? 0x16 : leaf == 0x80000000 ? 0x80000008 : 0;
    }
    struct kvm_cpuid2 *forced = read_back(device, none, err);
    free(none);
    return forced;
}

/* KVM's own where the APICs are. */
#define PARAVIRT_OF_APIC \
    (PARAVIRT_IPI | PARAVIRT_YIELD | PARAVIRT_STEAL | PARAVIRT_EOI | PARAVIRT_TLB_FLUSH)
/* Without: hypercalls are still KVM's, and it does not know APICs of ours; nobody else
 * can flush a TLB in it. */
#define PARAVIRT_WITHOUT_APIC (PARAVIRT_STEAL | PARAVIRT_EOI)

/* There are KVMs whose emulator executes VMCALL by having the processor execute it again,
 * for ever, as they do in ring 0 if they emulate all of it. */
static bool do_hypercalls_end(void)
{
    static const uint8_t code[] = {0x0f, 0x01, 0xc1, 0xf4}; /* vmcall; hlt */
    struct kvm_bench bench;
    bool do_end = false;
    if (kvm_bench_open(&bench, NULL) >= 0) {
        kvm_bench_put(&bench, code, sizeof(code));
        do_end = kvm_bench_start(&bench, 0, 0) && kvm_bench_run(&bench) >= 0 &&
                 bench.run->exit_reason == KVM_EXIT_HLT;
    }
    kvm_bench_close(&bench);
    return do_end;
}

/* What this KVM says it has, and what it shows in any case. */
struct host {
    struct kvm_cpuid2 *supported, *forced;
    bool has_apic;
};

static void host_fini(struct host *host)
{
    free(host->supported);
    free(host->forced);
}

static int host_init(struct host *host, int device, struct error *err)
{
    host->has_apic = kvm_apic_is_offered(device);
    host->supported = supported_entries(device, err);
    host->forced = host->supported ? forced_entries(device, err) : NULL;
    if (!host->forced) {
        host_fini(host);
        *host = (struct host){0};
        return -err->code;
    }
    return 0;
}

static int host_open(struct host *host, struct error *err)
{
    *host = (struct host){0};
    int device = kvm_open_device(err);
    int result = device < 0 ? device : host_init(host, device, err);
    kvm_host_close(device);
    return result;
}

struct lack {
    struct cpuid_set features;
    uint32_t paravirt;
};

static uint32_t offered_services(const struct host *host)
{
    struct kvm_cpuid_entry2 *leaf =
        host->supported ? find_entry(host->supported, KVM_CPUID_FEATURES, 0) : NULL;
    return leaf ? leaf->eax : 0;
}

static struct lack find_missing(const struct engine_config *use, const struct host *host)
{
    const struct cpuid_policy *policy = use->cpuid;
    bool has_apic = host->has_apic && !use->is_debugged;
    const uint32_t hypercalls = policy->paravirt & (PARAVIRT_IPI | PARAVIRT_YIELD);
    struct lack lack = {.paravirt =
                            policy->paravirt & PARAVIRT_OF_APIC &
                            ~(has_apic ? offered_services(host) : PARAVIRT_WITHOUT_APIC)};
    if (has_apic && hypercalls && !do_hypercalls_end()) {
        lack.paravirt |= hypercalls;
    }
    for (unsigned i = 0; host->forced && i < CPU_FEATURE_COUNT; i++) {
        if (cpuid_has(policy, i) && !is_own(i) && !has_feature(host->supported, i) &&
            !has_feature(host->forced, i)) {
            lack.features.bits[i / 64] |= 1ull << i % 64;
        }
    }
    return lack;
}

struct list {
    char *text;
    size_t size, length;
    unsigned count;
};

static void add_name(struct list *list, const char *name)
{
    list->count++;
    if (list->length < list->size) {
        list->length +=
            (size_t)snprintf(list->text + list->length, list->size - list->length, "%s%s",
                             list->length ? ", " : "", name);
    }
}

static unsigned list_missing(const struct lack *lack, char *names, size_t size)
{
    struct list list = {names, size, 0, 0};
    names[0] = '\0';
    for (unsigned i = 0; i < CPU_FEATURE_COUNT; i++) {
        if (lack->features.bits[i / 64] >> i % 64 & 1) {
            add_name(&list, cpuid_features[i].name);
        }
    }
    uint32_t features;
    const char *name;
    for (unsigned i = 0; (name = paravirt_service_name(i, &features)); i++) {
        if (lack->paravirt & features) {
            char text[40];
            snprintf(text, sizeof(text), "paravirtual %s", name);
            add_name(&list, text);
        }
    }
    return list.count;
}

/* Bits that no row of the table knows count as one. */
static unsigned list_excess(const struct cpuid_policy *policy, const struct host *host,
                            char *names, size_t size)
{
    struct list list = {names, size, 0, 0};
    names[0] = '\0';
    struct kvm_cpuid_entry2 *leaf = host->forced ? find_entry(host->forced, 7, 0) : NULL;
    uint32_t rest = leaf ? leaf->ebx : 0;
    for (unsigned i = 0; host->forced && i < CPU_FEATURE_COUNT; i++) {
        const struct cpuid_feature_row *row = &cpuid_features[i];
        if (row->leaf == 7 && row->reg == CPUID_EBX) {
            rest &= ~(1u << row->bit);
        }
        if (has_feature(host->forced, i) && !cpuid_has(policy, i) && !is_own(i)) {
            add_name(&list, row->name);
        }
    }
    if (rest) {
        add_name(&list, rest & CPUID_AVX512F ? "AVX-512 and others" : "others");
    }
    return list.count;
}

unsigned kvm_cpuid_missing(const struct engine_config *use, char *names, size_t size)
{
    struct host host;
    struct error err;
    host_open(&host, &err);
    const struct lack lack = find_missing(use, &host);
    host_fini(&host);
    return list_missing(&lack, names, size);
}

unsigned kvm_cpuid_excess(const struct cpuid_policy *policy, char *names, size_t size)
{
    struct host host;
    struct error err;
    host_open(&host, &err);
    unsigned count = list_excess(policy, &host, names, size);
    host_fini(&host);
    return count;
}

int kvm_cpuid_fit(const struct engine_config *use, struct cpuid_policy *policy,
                  struct error *err)
{
    struct host host;
    int result = host_open(&host, err);
    if (result < 0) {
        return result;
    }
    const struct lack lack = find_missing(use, &host);
    host_fini(&host);
    cpuid_policy_remove(policy, &lack.features, lack.paravirt);
    return 0;
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
    struct host host;
    char names[160];
    int result = host_init(&host, engine->device, err);
    if (result < 0) {
        return result;
    }
    const struct lack lack = find_missing(&engine->config, &host);
    bool has_excess = list_excess(policy, &host, names, sizeof(names));
    host_fini(&host);
    if (has_excess) {
        log_info("KVM: the guest sees more features than its model has: %s", names);
    }
    if (list_missing(&lack, names, sizeof(names))) {
        return fail_plain(err, ENOTSUP, "KVM lacks features of the CPU model here: %s",
                          names);
    }
    engine->cpuid = entries_new(policy->leaf_count);
    if (!engine->cpuid) {
        return fail(err, ENOMEM, "cannot make the CPU model");
    }
    fill_entries(policy, engine->cpuid);
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
    /* Hypercalls and registers of services that the model does not have are none. */
    struct kvm_enable_cap enforce = {.cap = KVM_CAP_ENFORCE_PV_FEATURE_CPUID,
                                     .args = {1}};
    if (kvm_ioctl(vcpu->engine->device, KVM_CHECK_EXTENSION, enforce.cap) > 0 &&
        kvm_ioctl_pointer(vcpu->fd, KVM_ENABLE_CAP, &enforce) < 0) {
        return fail(err, errno, "KVM_CAP_ENFORCE_PV_FEATURE_CPUID");
    }
    return 0;
}
