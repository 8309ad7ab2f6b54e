#pragma once
/* The leaves of a policy whose vendor, features and sizes are settled. */

#include "x86/cpuid.h"
#include "x86/cpuid_host.h"

/* Fills policy->leaf. brand is the 48-byte brand string for leaves 0x80000002-4. */
void cpuid_build_leaves(struct cpuid_policy *policy, const struct cpuid_host *host,
                        const char brand[48]);
/* Bytes of the XSAVE area for these state components, in the standard or compacted form.
 */
uint32_t cpuid_xsave_size(uint64_t components);
