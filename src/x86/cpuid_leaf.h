#pragma once
/* The leaves of a policy whose vendor, features and sizes are settled. */

#include "x86/cpuid.h"
#include "x86/cpuid_host.h"

/* Fills policy->leaf. brand is the 48-byte brand string for leaves 0x80000002-4. */
void cpuid_build_leaves(struct cpuid_policy *policy, const struct cpuid_host *host,
                        const char brand[48]);
/* SDM 1 13.4.1: the legacy region and the header are this long. */
#define XSAVE_EXTENDED 576u
#define XSAVE_PKRU     9 /* the component's number */

/* Bytes of the XSAVE area for these state components, in the standard and in the
 * compacted form. */
uint32_t cpuid_xsave_size(const struct cpuid_policy *policy, uint64_t components);
uint32_t cpuid_xsavec_size(uint64_t components);
/* What processors of the vendor have at cpuid_pkru_offset. */
uint32_t cpuid_usual_pkru_offset(enum cpu_vendor vendor);
