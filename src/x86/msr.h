#pragma once
/* Model-specific registers: one row each, with the bits that may be written and what a
 * write does. */

#include <stdint.h>

#include "x86/cpuid.h"
#include "x86/state.h"

enum msr_result {
    MSR_OK,
    MSR_FAULT,   /* this access raises #GP, as software expects that does it */
    MSR_UNKNOWN, /* not in the table: #GP, and worth a message */
};

/* Side effects of a write that the caller has to carry out. */
#define MSR_EFFECT_PAGING \
    1u /* EFER.NXE, LME: drop cached translations, recompute the mode */
#define MSR_EFFECT_BASES 2u /* FS or GS base */
#define MSR_EFFECT_TSC \
    4u /* the TSC jumped: an armed TSC deadline lies at another time now */

/*
 * Everything that lives in struct x86_state. The TSC itself (MSR_TSC, TSC_ADJUST reads
 * and writes need the time: tsc_now is the clock's TSC before tsc_offset) is handled here
 * too; the APIC's MSRs (x2APIC, APIC_BASE, TSC_DEADLINE) are the lapic's (x86/lapic.h)
 * and MSR_UNKNOWN here. msr_write sets *effects, and changes nothing else unless
 * MSR_OK.
 * To add an MSR: one row in msr.c.
 */
enum msr_result msr_read(const struct cpuid_policy *policy, const struct x86_state *state,
                         uint64_t tsc_now, uint32_t index, uint64_t *value);
enum msr_result msr_write(const struct cpuid_policy *policy, struct x86_state *state,
                          uint64_t tsc_now, uint32_t index, uint64_t value,
                          unsigned *effects);
