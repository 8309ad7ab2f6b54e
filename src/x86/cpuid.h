#pragma once
/*
 * The CPU model that a guest sees: which features, in which leaves. Built once per VM
 * from the host's own CPUID (the host's units execute the guest's instructions) and the
 * model's limits; the same for every engine.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "x86/state.h"

struct cpuid_leaf {
    uint32_t leaf, subleaf;
    bool has_subleaves;
    uint32_t eax, ebx, ecx, edx;
};

/* Features as positions in the policy's own set, not in a register: one row each in
 * cpuid_table.c. */
enum cpu_feature {
    CPU_FPU,
    CPU_VME,
    CPU_DE,
    CPU_PSE,
    CPU_TSC,
    CPU_MSR,
    CPU_PAE,
    CPU_MCE,
    CPU_CX8,
    CPU_APIC,
    CPU_SEP,
    CPU_MTRR,
    CPU_PGE,
    CPU_MCA,
    CPU_CMOV,
    CPU_PAT,
    CPU_PSE36,
    CPU_CLFLUSH,
    CPU_MMX,
    CPU_FXSR,
    CPU_SSE,
    CPU_SSE2,
    CPU_HTT,
    CPU_SSE3,
    CPU_PCLMULQDQ,
    CPU_MONITOR,
    CPU_SSSE3,
    CPU_FMA,
    CPU_CX16,
    CPU_PCID,
    CPU_SSE4_1,
    CPU_SSE4_2,
    CPU_X2APIC,
    CPU_MOVBE,
    CPU_POPCNT,
    CPU_TSC_DEADLINE,
    CPU_AES,
    CPU_XSAVE,
    CPU_AVX,
    CPU_F16C,
    CPU_RDRAND,
    CPU_HYPERVISOR,
    CPU_FSGSBASE,
    CPU_TSC_ADJUST,
    CPU_BMI1,
    CPU_FDP_EXCEPTION_ONLY, /* x87's data pointer is set by unmasked exceptions only */
    CPU_AVX2,
    CPU_SMEP,
    CPU_BMI2,
    CPU_ERMS,
    CPU_INVPCID,
    CPU_ZERO_FCS_FDS, /* x87's selectors are always saved as 0 */
    CPU_RDSEED,
    CPU_ADX,
    CPU_SMAP,
    CPU_CLFLUSHOPT,
    CPU_CLWB,
    CPU_SHA,
    CPU_UMIP,
    CPU_PKU,
    CPU_RDPID,
    CPU_VAES,
    CPU_VPCLMULQDQ,
    CPU_FSRM,
    CPU_ARCH_CAPABILITIES,
    CPU_XSAVEOPT,
    CPU_XSAVEC,
    CPU_XGETBV1,
    CPU_ARAT,
    CPU_LAHF_LM,
    CPU_CMP_LEGACY,
    CPU_CR8_LEGACY,
    CPU_ABM,
    CPU_SSE4A,
    CPU_MISALIGNSSE,
    CPU_3DNOWPREFETCH,
    CPU_SYSCALL,
    CPU_NX,
    CPU_FXSR_OPT,
    CPU_PDPE1GB,
    CPU_RDTSCP,
    CPU_LM,
    CPU_INVARIANT_TSC,
    CPU_FEATURE_COUNT,
};

enum cpu_vendor { CPU_VENDOR_INTEL, CPU_VENDOR_AMD, CPU_VENDOR_OTHER };

#define CPUID_LEAVES_MAX 64

/* What the APIC timer counts before its divider, on every engine; also the "crystal" of
 * leaf 0x15. */
#define CPUID_APIC_BUS_HZ 1000000000u

struct cpuid_policy {
    enum cpu_vendor vendor;
    uint8_t physical_bits, linear_bits;
    uint32_t tsc_khz; /* rate of the guest's TSC */
    unsigned cpus;
    uint64_t features[(CPU_FEATURE_COUNT + 63) / 64];
    uint32_t paravirt;   /* PARAVIRT_* features of x86/paravirt.h */
    uint64_t xcr0_valid; /* bits XSETBV accepts */
    uint64_t immunities; /* what IA32_ARCH_CAPABILITIES reads */
    unsigned leaf_count;
    struct cpuid_leaf leaf[CPUID_LEAVES_MAX]; /* sorted by leaf, subleaf */
};

struct cpuid_config {
    const char *model; /* "host" (NULL means it), or a portable model: "x86-64-v1",
                          "x86-64-v2", "x86-64-v3" */
    unsigned
        cpus; /* logical processors; topology leaves show one socket of that many cores */
    uint32_t tsc_khz;     /* 0: the host's */
    uint32_t paravirt;    /* PARAVIRT_* features (x86/paravirt.h) */
    bool hide_hypervisor; /* no sign of one: neither the feature bit nor leaves */
};

/* Fails with a message that names the model and the first feature the host lacks, or the
 * known models. */
int cpuid_policy_init(struct cpuid_policy *policy, const struct cpuid_config *config,
                      struct error *err);
/* The same for another host than this one (x86/cpuid_host.h). */
struct cpuid_host;
int cpuid_policy_init_from(struct cpuid_policy *policy, const struct cpuid_config *config,
                           const struct cpuid_host *host, struct error *err);

/* Features as a set of their own. */
struct cpuid_set {
    uint64_t bits[(CPU_FEATURE_COUNT + 63) / 64];
};

/* Takes features, what needs them, and paravirtual services away from a policy of this
 * host. */
void cpuid_policy_remove(struct cpuid_policy *policy, const struct cpuid_set *features,
                         uint32_t paravirt);

/*
 * Can a policy made elsewhere, perhaps by a stranger, be had here? host is the policy of
 * the model "host". Fails with a message that names what the host lacks.
 */
int cpuid_policy_check(const struct cpuid_policy *policy, const struct cpuid_policy *host,
                       struct error *err);

static inline bool cpuid_has(const struct cpuid_policy *policy, enum cpu_feature feature)
{
    return policy->features[feature / 64] >> (feature % 64) & 1;
}

/*
 * The CPUID instruction, with the bits that depend on the processor's state (OSXSAVE,
 * APIC id, XSAVE size, APIC enable). Leaves out of range answer as the vendor's
 * processors do.
 */
void cpuid_execute(const struct cpuid_policy *policy, const struct x86_state *state,
                   uint32_t apic_id, uint32_t leaf, uint32_t subleaf,
                   uint32_t out[4] /* eax, ebx, ecx, edx */);

/* Where PKRU lies in the standard form of the XSAVE area, in a model that has it. */
uint32_t cpuid_pkru_offset(const struct cpuid_policy *policy);

/* Rate of the host's TSC in kHz: from CPUID where it tells, else measured for half a
 * millisecond. Cached. */
uint32_t cpuid_host_tsc_khz(void);
