#pragma once
/* The host's processor, as CPUID tells; replaceable, so that tests can be another host.
 */

#include <stdint.h>

struct cpuid_host {
    void (*read)(const struct cpuid_host *host, uint32_t leaf, uint32_t subleaf,
                 uint32_t out[4] /* eax, ebx, ecx, edx */);
    uint64_t xcr0; /* what the host's kernel enabled; 0 without XSAVE */
    uint64_t
        immunities; /* bits of ARCH_CAPABILITIES that the host's kernel vouches for */
};

/* The processor that executes this. */
void cpuid_host_init(struct cpuid_host *host);
/* All zero if the host has no such leaf. */
void cpuid_host_read(const struct cpuid_host *host, uint32_t leaf, uint32_t subleaf,
                     uint32_t out[4]);
