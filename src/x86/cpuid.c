#include "x86/cpuid.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/scope.h"
#include "x86/cpuid_host.h"
#include "x86/cpuid_leaf.h"
#include "x86/cpuid_table.h"

#define APIC_GLOBAL_ENABLE (1ull << 11)
#define CPUS_MAX           255u /* xAPIC IDs have 8 bits, and 255 is the broadcast */

/* A named model is an x86-64 level of the psABI; level 0 takes what the host has. */
struct model {
    const char *name;
    unsigned level;
};

static const struct model models[] = {
    {"host", 0},
    {"x86-64-v1", 1},
    {"x86-64-v2", 2},
    {"x86-64-v3", 3},
};

static const struct model *find_model(const char *name, struct error *err)
{
    for (unsigned i = 0; i < array_size(models); i++) {
        if (!name || strcmp(models[i].name, name) == 0) {
            return &models[i];
        }
    }
    fail_plain(
        err, EINVAL,
        "unknown CPU model '%s': the known ones are host, x86-64-v1, x86-64-v2 and "
        "x86-64-v3",
        name);
    return NULL;
}

static enum cpu_vendor host_vendor(const struct cpuid_host *host)
{
    uint32_t out[4];
    char name[13] = "";
    cpuid_host_read(host, 0, 0, out);
    memcpy(name, &out[1], 4);
    memcpy(name + 4, &out[3], 4);
    memcpy(name + 8, &out[2], 4);
    if (strcmp(name, "GenuineIntel") == 0) {
        return CPU_VENDOR_INTEL;
    }
    bool is_amd = strcmp(name, "AuthenticAMD") == 0 || strcmp(name, "HygonGenuine") == 0;
    return is_amd ? CPU_VENDOR_AMD : CPU_VENDOR_OTHER;
}

static bool host_has(const struct cpuid_host *host, const struct cpuid_feature_row *row)
{
    uint32_t out[4];
    cpuid_host_read(host, row->leaf, row->subleaf, out);
    return out[row->reg] >> row->bit & 1;
}

static void set_feature(struct cpuid_policy *policy, unsigned feature, bool value)
{
    uint64_t mask = 1ull << (feature % 64);
    if (value) {
        policy->features[feature / 64] |= mask;
    } else {
        policy->features[feature / 64] &= ~mask;
    }
}

static bool is_candidate(const struct cpuid_policy *policy, const struct cpuid_host *host,
                         unsigned feature, unsigned level)
{
    const struct cpuid_feature_row *row = &cpuid_features[feature];
    if (row->amd_only && policy->vendor != CPU_VENDOR_AMD) {
        return false;
    }
    switch (feature) {
    case CPU_HTT: /* APM 3 E.3.2, SDM 2A: several logical processors per package */
    case CPU_CMP_LEGACY:
        return policy->cpus > 1;
    case CPU_AVX: { /* also needs the host's kernel to keep the state */
        const uint64_t state = X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX;
        if ((host->xcr0 & state) != state) {
            return false;
        }
        break;
    }
    case CPU_XSAVE:
        if (host->xcr0 == 0) {
            return false;
        }
        break;
    default:
        break;
    }
    bool is_of_model = level == 0 || (row->level && row->level <= level) ||
                       (row->since && row->since <= level);
    switch (row->provider) {
    case CPUID_OURS:
        return is_of_model;
    case CPUID_HOST:
        return is_of_model && host_has(host, row);
    default:
        return false;
    }
}

/* Drops what needs something that is not there, until nothing more falls. */
static void enforce_dependencies(struct cpuid_policy *policy)
{
    bool changed;
    do {
        changed = false;
        for (unsigned i = 0; i < CPU_FEATURE_COUNT; i++) {
            if (cpuid_has(policy, (enum cpu_feature)i) &&
                !cpuid_has(policy, cpuid_features[i].needs)) {
                set_feature(policy, i, false);
                changed = true;
            }
        }
    } while (changed);
}

/* Every model stands on level 1; a named one on its own level. */
static int check_level(const struct cpuid_policy *policy, const struct model *model,
                       struct error *err)
{
    unsigned level = model->level ? model->level : 1;
    for (unsigned i = 0; i < CPU_FEATURE_COUNT; i++) {
        const struct cpuid_feature_row *row = &cpuid_features[i];
        if (row->level && row->level <= level &&
            !cpuid_has(policy, (enum cpu_feature)i)) {
            return fail_plain(err, ENOTSUP,
                              "CPU model %s needs %s, which this host lacks", model->name,
                              row->name);
        }
    }
    return 0;
}

static uint8_t host_physical_bits(const struct cpuid_host *host)
{
    uint32_t out[4];
    cpuid_host_read(host, 0x80000008, 0, out);
    unsigned bits = out[0] & 0xff;
    return (uint8_t)(bits < 36 ? 36 : bits > 52 ? 52 : bits);
}

static void make_brand(const struct cpuid_host *host, const struct model *model,
                       char brand[48])
{
    memset(brand, 0, 48);
    if (model->level) {
        snprintf(brand, 48, "Doppel %s processor", model->name);
        return;
    }
    for (unsigned i = 0; i < 3; i++) {
        uint32_t out[4];
        cpuid_host_read(host, 0x80000002 + i, 0, out);
        memcpy(brand + 16 * i, out, 16);
    }
}

/* What follows from the features. */
static void finish(struct cpuid_policy *policy, const struct cpuid_host *host,
                   const char brand[48])
{
    policy->immunities = cpuid_has(policy, CPU_ARCH_CAPABILITIES) ? host->immunities : 0;
    policy->xcr0_valid =
        (cpuid_has(policy, CPU_XSAVE) ? X86_XCR0_X87 | X86_XCR0_SSE : 0) |
        (cpuid_has(policy, CPU_AVX) ? X86_XCR0_AVX : 0) |
        (cpuid_has(policy, CPU_PKU) ? X86_XCR0_PKRU : 0);
    cpuid_build_leaves(policy, host, brand);
}

int cpuid_policy_init_from(struct cpuid_policy *policy, const struct cpuid_config *config,
                           const struct cpuid_host *host, struct error *err)
{
    const struct model *model = find_model(config->model, err);
    if (!model) {
        return -EINVAL;
    }
    if (config->cpus == 0 || config->cpus > CPUS_MAX) {
        return fail_plain(err, EINVAL, "%u processors: the range is 1 to %u",
                          config->cpus, CPUS_MAX);
    }
    *policy = (struct cpuid_policy){
        .vendor = host_vendor(host),
        .physical_bits = host_physical_bits(host),
        .linear_bits = 48,
        .tsc_khz = config->tsc_khz ? config->tsc_khz : cpuid_host_tsc_khz(),
        .cpus = config->cpus,
        .paravirt = config->hide_hypervisor ? 0 : config->paravirt,
    };
    for (unsigned i = 0; i < CPU_FEATURE_COUNT; i++) {
        set_feature(policy, i, is_candidate(policy, host, i, model->level));
    }
    if (config->hide_hypervisor) {
        set_feature(policy, CPU_HYPERVISOR, false);
    }
    enforce_dependencies(policy);
    int result = check_level(policy, model, err);
    if (result < 0) {
        return result;
    }
    char brand[48];
    make_brand(host, model, brand);
    finish(policy, host, brand);
    return 0;
}

void cpuid_policy_remove(struct cpuid_policy *policy, const struct cpuid_set *features,
                         uint32_t paravirt)
{
    struct cpuid_host host;
    uint32_t text[12];
    struct x86_state state = {0};
    cpuid_host_init(&host);
    for (unsigned i = 0; i < 3; i++) {
        cpuid_execute(policy, &state, 0, 0x80000002 + i, 0, &text[4 * i]);
    }
    for (unsigned i = 0; i < CPU_FEATURE_COUNT; i++) {
        if (features->bits[i / 64] >> i % 64 & 1) {
            set_feature(policy, i, false);
        }
    }
    policy->paravirt &= ~paravirt;
    enforce_dependencies(policy);
    char brand[48];
    memcpy(brand, text, sizeof(brand));
    finish(policy, &host, brand);
}

int cpuid_policy_init(struct cpuid_policy *policy, const struct cpuid_config *config,
                      struct error *err)
{
    struct cpuid_host host;
    cpuid_host_init(&host);
    return cpuid_policy_init_from(policy, config, &host, err);
}

/* Rates that no arithmetic here overflows with. */
#define TSC_KHZ_MIN 100000u
#define TSC_KHZ_MAX 100000000u

static int check_numbers(const struct cpuid_policy *policy, struct error *err)
{
    if (policy->leaf_count > CPUID_LEAVES_MAX || policy->cpus == 0 ||
        policy->cpus > CPUS_MAX) {
        return fail_plain(err, EINVAL, "the CPU model is malformed");
    }
    if (policy->tsc_khz < TSC_KHZ_MIN || policy->tsc_khz > TSC_KHZ_MAX) {
        return fail_plain(err, EINVAL, "the CPU model has a TSC of %u kHz",
                          policy->tsc_khz);
    }
    return 0;
}

int cpuid_policy_check(const struct cpuid_policy *policy, const struct cpuid_policy *host,
                       struct error *err)
{
    int result = check_numbers(policy, err);
    if (result < 0) {
        return result;
    }
    if (policy->vendor != host->vendor) {
        return fail_plain(err, ENOTSUP,
                          "the CPU model is of another vendor than this host's");
    }
    for (unsigned i = 0; i < CPU_FEATURE_COUNT; i++) {
        if (cpuid_has(policy, i) && !cpuid_has(host, i)) {
            return fail_plain(err, ENOTSUP, "the CPU model has %s, which this host lacks",
                              cpuid_features[i].name);
        }
    }
    if (policy->physical_bits > host->physical_bits ||
        policy->linear_bits != host->linear_bits) {
        return fail_plain(err, ENOTSUP,
                          "the CPU model has addresses of %u and %u bits, this host of "
                          "%u and %u",
                          policy->physical_bits, policy->linear_bits, host->physical_bits,
                          host->linear_bits);
    }
    if (policy->immunities & ~host->immunities) {
        return fail_plain(err, ENOTSUP,
                          "the guest was told that its processor is immune to attacks "
                          "(ARCH_CAPABILITIES %#llx) to which this host's is not",
                          (unsigned long long)policy->immunities);
    }
    if (policy->xcr0_valid & ~host->xcr0_valid) {
        return fail_plain(err, ENOTSUP,
                          "the CPU model has XSAVE components that this host lacks");
    }
    return 0;
}

static const struct cpuid_leaf *find_leaf(const struct cpuid_policy *policy,
                                          uint32_t leaf, uint32_t subleaf)
{
    for (unsigned i = 0; i < policy->leaf_count; i++) {
        const struct cpuid_leaf *row = &policy->leaf[i];
        if (row->leaf == leaf && (!row->has_subleaves || row->subleaf == subleaf)) {
            return row;
        }
    }
    return NULL;
}

/* What the model says may have come from a stranger: within a page, or as usual. */
uint32_t cpuid_pkru_offset(const struct cpuid_policy *policy)
{
    const struct cpuid_leaf *leaf = find_leaf(policy, 0xd, XSAVE_PKRU);
    bool is_good = leaf && leaf->ebx >= XSAVE_EXTENDED && leaf->ebx <= 4096 - 8;
    return is_good ? leaf->ebx : cpuid_usual_pkru_offset(policy->vendor);
}

/* The last leaf of the range that the leaf belongs to, or 0 if there is no such range. */
static uint32_t range_last(const struct cpuid_policy *policy, uint32_t leaf)
{
    const struct cpuid_leaf *first = find_leaf(policy, leaf & 0xffff0000u, 0);
    return first ? first->eax : 0;
}

/* SDM 4, IA32_MISC_ENABLE bit 22: for systems that cannot cope with more. */
static uint32_t basic_last(const struct x86_state *state, uint32_t last)
{
    return state->misc_enable & X86_MISC_LIMIT_CPUID && last > 2 ? 2 : last;
}

/* SDM 2A: beyond the last leaf an Intel processor answers as for its last basic leaf, an
 * AMD one with zeros. A hypervisor's range is ours, and ends in zeros. */
static uint32_t effective_leaf(const struct cpuid_policy *policy,
                               const struct x86_state *state, uint32_t leaf)
{
    bool is_hypervisor = leaf >> 28 == 4;
    if (policy->vendor != CPU_VENDOR_INTEL || is_hypervisor) {
        return leaf;
    }
    uint32_t last = basic_last(state, range_last(policy, 0));
    bool is_basic = leaf < 0x10000;
    return leaf > (is_basic ? last : range_last(policy, leaf)) ? last : leaf;
}

/* The bits that depend on the processor's state. */
static void adjust(const struct cpuid_policy *policy, const struct x86_state *state,
                   uint32_t apic_id, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    const uint32_t apic = 1u << 9, osxsave = 1u << 27, nx = 1u << 20, ospke = 1u << 4;
    const bool apic_enabled = state->apic_base & APIC_GLOBAL_ENABLE;
    switch (leaf) {
    case 0:
        out[0] = basic_last(state, out[0]);
        break;
    case 1:
        out[1] |= apic_id << 24;
        out[2] |= state->cr4 & X86_CR4_OSXSAVE ? osxsave : 0;
        out[3] &= apic_enabled ? ~0u : ~apic;
        break;
    case 7:
        out[2] |= subleaf == 0 && state->cr4 & X86_CR4_PKE ? ospke : 0;
        break;
    case 0xb:
        out[2] = (out[2] & ~0xffu) | (subleaf & 0xff);
        out[3] = apic_id;
        break;
    case 0xd:
        if (policy->xcr0_valid && subleaf == 0) {
            out[1] = cpuid_xsave_size(policy, state->xcr0);
        } else if (cpuid_has(policy, CPU_XSAVEC) && subleaf == 1) {
            out[1] = cpuid_xsavec_size(state->xcr0 | state->xss);
        }
        break;
    case 0x80000001:
        out[3] &= apic_enabled ? ~0u : ~apic;
        out[3] &= state->misc_enable & X86_MISC_XD_DISABLE ? ~nx : ~0u;
        break;
    default:
        break;
    }
}

void cpuid_execute(const struct cpuid_policy *policy, const struct x86_state *state,
                   uint32_t apic_id, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    leaf = effective_leaf(policy, state, leaf);
    const struct cpuid_leaf *row = find_leaf(policy, leaf, subleaf);
    memset(out, 0, 4 * sizeof(out[0]));
    if (row) {
        out[0] = row->eax;
        out[1] = row->ebx;
        out[2] = row->ecx;
        out[3] = row->edx;
    }
    adjust(policy, state, apic_id, leaf, subleaf, out);
}
