#include "x86/cpuid_leaf.h"

#include <assert.h>
#include <string.h>

#include "x86/cpuid_table.h"

#define BASIC_LAST         0x16u
#define HYPERVISOR_LAST    0x40000010u
#define EXTENDED_INTEL     0x80000008u
#define EXTENDED_AMD       0x80000021u

#define LEAF_7_EBX_AVX512F (1u << 16)

#define XSAVE_AVX_SIZE     256u
#define XSAVE_PKRU_SIZE    8u

/* The longest ratio that survives `crystal in kHz * numerator` in 32 bits, which is how
 * guests multiply. */
#define CRYSTAL_RATIO_MAX (UINT32_MAX / (CPUID_APIC_BUS_HZ / 1000))

/* SDM 1 13.4: legacy region and header, then AVX at its one place in either form; PKRU
 * has one of its own in the standard form, behind what we do not offer. */
uint32_t cpuid_xsave_size(const struct cpuid_policy *policy, uint64_t components)
{
    return components & X86_XCR0_PKRU ? cpuid_pkru_offset(policy) + XSAVE_PKRU_SIZE
                                      : cpuid_xsavec_size(components);
}

uint32_t cpuid_xsavec_size(uint64_t components)
{
    return XSAVE_EXTENDED + (components & X86_XCR0_AVX ? XSAVE_AVX_SIZE : 0) +
           (components & X86_XCR0_PKRU ? XSAVE_PKRU_SIZE : 0);
}

uint32_t cpuid_usual_pkru_offset(enum cpu_vendor vendor)
{
    return vendor == CPU_VENDOR_AMD ? 2432 : 2688;
}

/* Leaves are added in ascending order. */
static struct cpuid_leaf *add(struct cpuid_policy *policy, uint32_t leaf, uint32_t eax,
                              uint32_t ebx, uint32_t ecx, uint32_t edx)
{
    assert(policy->leaf_count < CPUID_LEAVES_MAX);
    struct cpuid_leaf *row = &policy->leaf[policy->leaf_count++];
    *row =
        (struct cpuid_leaf){.leaf = leaf, .eax = eax, .ebx = ebx, .ecx = ecx, .edx = edx};
    return row;
}

static void add_sub(struct cpuid_policy *policy, uint32_t leaf, uint32_t subleaf,
                    uint32_t eax, uint32_t ebx, uint32_t ecx, uint32_t edx)
{
    struct cpuid_leaf *row = add(policy, leaf, eax, ebx, ecx, edx);
    row->subleaf = subleaf;
    row->has_subleaves = true;
}

/* The feature bits that the table places in one register. */
static uint32_t feature_word(const struct cpuid_policy *policy, uint32_t leaf,
                             uint32_t subleaf, enum cpuid_register reg)
{
    uint32_t word = 0;
    for (unsigned i = 0; i < CPU_FEATURE_COUNT; i++) {
        const struct cpuid_feature_row *row = &cpuid_features[i];
        if (row->leaf == leaf && row->subleaf == subleaf && row->reg == reg &&
            cpuid_has(policy, (enum cpu_feature)i)) {
            word |= 1u << row->bit;
        }
    }
    return word;
}

/* Bits of the APIC ID that number the cores: ceil(log2(cpus)). */
static unsigned core_bits(const struct cpuid_policy *policy)
{
    return policy->cpus > 1 ? 32 - (unsigned)__builtin_clz(policy->cpus - 1) : 0;
}

static bool is_amd(const struct cpuid_policy *policy)
{
    return policy->vendor == CPU_VENDOR_AMD;
}

/*
 * Family, model and stepping are the host's, unless the host has AVX-512: programs exist
 * that conclude this from the model alone (GCC's target_clones with "arch=" do) and would
 * execute what is not offered. They see the vendor's last model before it: Skylake as
 * sold to clients (SDM 4, table 2-1), Zen 3.
 */
static uint32_t processor_signature(const struct cpuid_policy *policy,
                                    const struct cpuid_host *host)
{
    uint32_t out[4];
    cpuid_host_read(host, 7, 0, out);
    bool has_avx512 = out[CPUID_EBX] & LEAF_7_EBX_AVX512F;
    if (has_avx512 && policy->vendor == CPU_VENDOR_INTEL) {
        return 0x000506e3;
    }
    if (has_avx512 && policy->vendor == CPU_VENDOR_AMD) {
        return 0x00a00f11;
    }
    cpuid_host_read(host, 1, 0, out);
    return out[0] & 0x0fff3fffu;
}

static void add_identity(struct cpuid_policy *policy, const struct cpuid_host *host)
{
    uint32_t out[4];
    cpuid_host_read(host, 0, 0, out);
    add(policy, 0, BASIC_LAST, out[1], out[2], out[3]);

    const uint32_t signature = processor_signature(policy, host);
    const uint32_t clflush_size = 64 / 8;
    const uint32_t ids = 1u << core_bits(policy);
    add(policy, 1, signature, clflush_size << 8 | (ids < 255 ? ids : 255) << 16,
        feature_word(policy, 1, 0, CPUID_ECX), feature_word(policy, 1, 0, CPUID_EDX));

    cpuid_host_read(host, 2, 0, out);
    add(policy, 2, out[0], out[1], out[2], out[3]);
}

/*
 * Deterministic cache parameters (Intel). Sizes are the host's; who shares them is ours:
 * the first two levels belong to a core, the third to all.
 */
static void add_caches(struct cpuid_policy *policy, const struct cpuid_host *host)
{
    const uint32_t ids = 1u << core_bits(policy);
    const uint32_t core_ids = ids <= 64 ? ids : 64; /* 6 bits, less one */
    for (uint32_t subleaf = 0; subleaf < 8; subleaf++) {
        uint32_t out[4];
        cpuid_host_read(host, 4, subleaf, out);
        if ((out[0] & 0x1f) == 0) {
            break;
        }
        uint32_t level = out[0] >> 5 & 7;
        uint32_t sharing = level >= 3 ? ids - 1 : 0;
        uint32_t eax = (out[0] & 0x3fff) | sharing << 14 | (core_ids - 1) << 26;
        add_sub(policy, 4, subleaf, eax, out[1], out[2], out[3]);
    }
}

/* One socket of `cpus` cores with one thread each; APIC ID = core number. The APIC ID in
 * EDX is filled in on execution. */
static void add_topology(struct cpuid_policy *policy)
{
    const uint32_t type_thread = 1, type_core = 2;
    add_sub(policy, 0xb, 0, 0, 1, type_thread << 8 | 0, 0);
    add_sub(policy, 0xb, 1, core_bits(policy), policy->cpus, type_core << 8 | 1, 0);
}

/* The host's place if it has one, since KVM's guests see that. */
static uint32_t pkru_offset(const struct cpuid_policy *policy,
                            const struct cpuid_host *host)
{
    uint32_t out[4];
    cpuid_host_read(host, 0xd, XSAVE_PKRU, out);
    return out[0] == XSAVE_PKRU_SIZE ? out[1] : cpuid_usual_pkru_offset(policy->vendor);
}

static void add_xsave(struct cpuid_policy *policy, const struct cpuid_host *host)
{
    if (!cpuid_has(policy, CPU_XSAVE)) {
        return;
    }
    uint32_t pkru = pkru_offset(policy, host);
    uint32_t size = policy->xcr0_valid & X86_XCR0_PKRU
                        ? pkru + XSAVE_PKRU_SIZE
                        : cpuid_xsavec_size(policy->xcr0_valid);
    /* EBX of both is the size for what is enabled at the time. */
    add_sub(policy, 0xd, 0, (uint32_t)policy->xcr0_valid, 0, size,
            (uint32_t)(policy->xcr0_valid >> 32));
    add_sub(policy, 0xd, 1, feature_word(policy, 0xd, 1, CPUID_EAX), 0, 0, 0);
    if (policy->xcr0_valid & X86_XCR0_AVX) {
        add_sub(policy, 0xd, 2, XSAVE_AVX_SIZE, XSAVE_EXTENDED, 0, 0);
    }
    if (policy->xcr0_valid & X86_XCR0_PKRU) {
        add_sub(policy, 0xd, XSAVE_PKRU, XSAVE_PKRU_SIZE, pkru, 0, 0);
    }
}

struct ratio {
    uint32_t numerator, denominator;
};

/* The best approximation of value / unit with a numerator of at most limit: convergents
 * of the continued fraction. */
static struct ratio approximate(uint64_t value, uint64_t unit, uint64_t limit)
{
    uint64_t before[2] = {0, 1}, now[2] = {1, 0}; /* numerator, denominator */
    while (unit != 0) {
        uint64_t quotient = value / unit, rest = value % unit;
        uint64_t next[2] = {quotient * now[0] + before[0], quotient * now[1] + before[1]};
        if (next[0] > limit || next[1] > UINT32_MAX) {
            break;
        }
        memcpy(before, now, sizeof(before));
        memcpy(now, next, sizeof(now));
        value = unit;
        unit = rest;
    }
    return (struct ratio){(uint32_t)now[0], (uint32_t)now[1]};
}

/* SDM 3B 18.7.3. The "crystal" is what the APIC timer counts, as SDM 3A 11.5.4 has it. */
static void add_frequencies(struct cpuid_policy *policy)
{
    struct ratio ratio = approximate((uint64_t)policy->tsc_khz * 1000, CPUID_APIC_BUS_HZ,
                                     CRYSTAL_RATIO_MAX);
    add(policy, 0x15, ratio.denominator, ratio.numerator, CPUID_APIC_BUS_HZ, 0);
    uint32_t mhz = (policy->tsc_khz + 500) / 1000;
    add(policy, 0x16, mhz & 0xffff, mhz & 0xffff, 100, 0);
}

static void add_basic(struct cpuid_policy *policy, const struct cpuid_host *host)
{
    add_identity(policy, host);
    if (!is_amd(policy)) {
        add_caches(policy, host);
    }
    add(policy, 6, feature_word(policy, 6, 0, CPUID_EAX), 0, 0, 0);
    add_sub(policy, 7, 0, 0, feature_word(policy, 7, 0, CPUID_EBX),
            feature_word(policy, 7, 0, CPUID_ECX), feature_word(policy, 7, 0, CPUID_EDX));
    add_topology(policy);
    add_xsave(policy, host);
    add_frequencies(policy);
}

static void add_hypervisor(struct cpuid_policy *policy)
{
    static const char own_name[12] = "DoppelDoppel", kvm_name[12] = "KVMKVMKVM";
    if (!cpuid_has(policy, CPU_HYPERVISOR)) {
        return;
    }
    /* Guests that look at the first range only have to find the services there. */
    uint32_t name[3];
    memcpy(name, policy->paravirt ? kvm_name : own_name, sizeof(name));
    add(policy, 0x40000000, HYPERVISOR_LAST, name[0], name[1], name[2]);
    if (policy->paravirt) {
        add(policy, 0x40000001, policy->paravirt, 0, 0, 0);
    }
    add(policy, 0x40000010, policy->tsc_khz, CPUID_APIC_BUS_HZ / 1000, 0, 0);
    if (policy->paravirt) {
        memcpy(name, own_name, sizeof(name));
        add(policy, 0x40000100, 0x40000100, name[0], name[1], name[2]);
    }
}

static void add_extended_identity(struct cpuid_policy *policy,
                                  const struct cpuid_host *host, const char brand[48])
{
    uint32_t out[4];
    cpuid_host_read(host, 0x80000000, 0, out);
    add(policy, 0x80000000, is_amd(policy) ? EXTENDED_AMD : EXTENDED_INTEL, out[1],
        out[2], out[3]);

    uint32_t edx = feature_word(policy, 0x80000001, 0, CPUID_EDX);
    uint32_t eax = 0;
    if (is_amd(policy)) {
        eax = policy->leaf[1].eax;
        edx |= feature_word(policy, 1, 0, CPUID_EDX) & CPUID_AMD_REPEATED;
    }
    add(policy, 0x80000001, eax, 0, feature_word(policy, 0x80000001, 0, CPUID_ECX), edx);

    for (unsigned i = 0; i < 3; i++) {
        uint32_t text[4];
        memcpy(text, brand + 16 * i, sizeof(text));
        add(policy, 0x80000002 + i, text[0], text[1], text[2], text[3]);
    }
}

/*
 * Leaf 0x80000008: address sizes and, on AMD, the number of cores. Of AMD's speculation
 * bits only those pass that tell that something need not be worked around; the controls
 * (IBRS, STIBP, SSBD, IBPB) are MSRs that we do not offer.
 */
static void add_sizes(struct cpuid_policy *policy, const struct cpuid_host *host)
{
    const uint32_t ssb_no = 1u << 26, btc_no = 1u << 29;
    uint32_t ebx = 0, ecx = 0;
    if (is_amd(policy)) {
        uint32_t out[4];
        cpuid_host_read(host, 0x80000008, 0, out);
        ebx = out[1] & (ssb_no | btc_no);
        ecx = (policy->cpus - 1) | core_bits(policy) << 12;
    }
    add(policy, 0x80000008, policy->physical_bits | (uint32_t)policy->linear_bits << 8,
        ebx, ecx, 0);
}

/*
 * AMD only. LFENCE serialises here as on every processor since Zen 2, so a guest need not
 * ask for it in DE_CFG. What the host says it is immune to passes as in leaf 0x80000008.
 */
static void add_amd_extended_2(struct cpuid_policy *policy, const struct cpuid_host *host)
{
    const uint32_t lfence_serialising = 1u << 2;
    const uint32_t srso_no = 1u << 29, srso_user_kernel_no = 1u << 30;
    uint32_t out[4];
    cpuid_host_read(host, 0x80000021, 0, out);
    add(policy, 0x80000021,
        (out[0] & (srso_no | srso_user_kernel_no)) | lfence_serialising, 0, 0, 0);
}

static void add_extended(struct cpuid_policy *policy, const struct cpuid_host *host,
                         const char brand[48])
{
    uint32_t out[4];
    add_extended_identity(policy, host, brand);
    for (uint32_t leaf = 0x80000005; leaf <= 0x80000006; leaf++) {
        cpuid_host_read(host, leaf, 0, out);
        add(policy, leaf, out[0], out[1], out[2], out[3]);
    }
    add(policy, 0x80000007, 0, 0, 0, feature_word(policy, 0x80000007, 0, CPUID_EDX));
    add_sizes(policy, host);
    if (is_amd(policy)) {
        cpuid_host_read(host, 0x80000019, 0, out);
        add(policy, 0x80000019, out[0], out[1], 0, 0);
        add_amd_extended_2(policy, host);
    }
}

void cpuid_build_leaves(struct cpuid_policy *policy, const struct cpuid_host *host,
                        const char brand[48])
{
    policy->leaf_count = 0;
    add_basic(policy, host);
    add_hypervisor(policy);
    add_extended(policy, host, brand);
}
