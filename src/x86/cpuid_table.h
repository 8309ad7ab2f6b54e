#pragma once
/* What is known about each CPU feature: its place in CPUID, where it comes from, what it
 * needs. To add a feature: one name in enum cpu_feature, one row in cpuid_table.c. */

#include "x86/cpuid.h"

enum cpuid_register { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };

enum cpuid_provider {
    CPUID_NEVER, /* known, not offered */
    CPUID_HOST,  /* its instructions execute on the host's units: needs the host's bit */
    CPUID_OURS,  /* implemented by the engines, whatever the host has */
};

struct cpuid_feature_row {
    const char *name; /* as the manuals have it */
    uint32_t leaf;
    enum cpuid_register reg;
    uint8_t bit;
    uint8_t level; /* the x86-64 level of the psABI that includes it, 0 for none */
    /* What no level of the psABI tells, being for kernels: the first level whose named
     * model has it, 0 for none. Nothing that a processor or a KVM of that level may lack.
     */
    uint8_t since;
    enum cpuid_provider provider;
    uint8_t subleaf;
    bool amd_only;
    enum cpu_feature needs; /* CPU_FPU, which is always there, when it needs nothing */
};

extern const struct cpuid_feature_row cpuid_features[CPU_FEATURE_COUNT];

/* Bits of leaf 1 EDX that AMD repeats in leaf 0x80000001 EDX (APM 3 E.4.2). */
#define CPUID_AMD_REPEATED 0x0183f3ffu
