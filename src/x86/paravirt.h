#pragma once
/*
 * The paravirtual services that a guest can find by CPUID, in the interface that Linux
 * and others know as KVM's (Documentation/virt/kvm/x86/{cpuid,msr,hypercalls}.rst): leaf
 * and register numbers, the structures in guest memory. What answers them is
 * dispatcher/paravirt.c.
 *
 * To add a service: one row in paravirt.c's table, its registers or hypercall in
 * dispatcher/paravirt.c.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* CPUID 0x40000001 EAX: the features that make up the services. */
#define PARAVIRT_CLOCK_OLD          (1u << 0) /* clock page by MSRs 0x11, 0x12 */
#define PARAVIRT_IO_DELAY           (1u << 1) /* no delays around port accesses */
#define PARAVIRT_CLOCK              (1u << 3)
#define PARAVIRT_STEAL              (1u << 5)
#define PARAVIRT_EOI                (1u << 6) /* interrupts ended by a bit in memory */
#define PARAVIRT_TLB_FLUSH          (1u << 9) /* of vCPUs that do not run: by their host */
#define PARAVIRT_IPI                (1u << 11)
#define PARAVIRT_YIELD              (1u << 13)
#define PARAVIRT_CLOCK_STABLE       (1u << 24) /* the clock pages of all vCPUs agree */

#define MSR_PARAVIRT_WALL_CLOCK_OLD 0x00000011u
#define MSR_PARAVIRT_CLOCK_OLD      0x00000012u
#define MSR_PARAVIRT_WALL_CLOCK     0x4b564d00u
#define MSR_PARAVIRT_CLOCK          0x4b564d01u
#define MSR_PARAVIRT_STEAL          0x4b564d03u
#define MSR_PARAVIRT_EOI            0x4b564d04u

#define HYPERCALL_SEND_IPI          10u
#define HYPERCALL_SCHED_YIELD       11u
/* Results, as signed numbers. */
#define HYPERCALL_NOT_PERMITTED (-1ll)
#define HYPERCALL_INVALID       (-22ll)
#define HYPERCALL_UNKNOWN       (-1000ll)

/*
 * Guest time as a function of the TSC. version is odd while the rest changes.
 * ns = system_time + (((tsc - tsc_timestamp) shifted left by shift) * multiplier >> 32)
 */
struct paravirt_clock_page {
    uint32_t version;
    uint32_t reserved;
    uint64_t tsc_timestamp;
    uint64_t system_time;
    uint32_t multiplier;
    int8_t shift;
    uint8_t flags; /* PARAVIRT_CLOCK_PAGE_STABLE */
    uint8_t padding[2];
};

#define PARAVIRT_CLOCK_PAGE_STABLE 1u

/* Time of day at which the clock page read 0. */
struct paravirt_wall_clock {
    uint32_t version;
    uint32_t seconds;
    uint32_t nanoseconds;
};

struct paravirt_steal_page {
    uint64_t steal_ns; /* the vCPU wanted to run and had no processor; only added to */
    uint32_t version;
    uint32_t flags;
    _Atomic uint8_t preempted; /* PARAVIRT_PREEMPTED, PARAVIRT_FLUSH */
    uint8_t padding[47];
};

/*
 * The host sets the first while the vCPU does not run, and clears both when it does
 * again. Another vCPU that finds the first set may set the second, atomically: the TLB is
 * flushed before the vCPU executes anything, and need not be interrupted for it.
 */
#define PARAVIRT_PREEMPTED 1u
#define PARAVIRT_FLUSH     2u

/* In the word that MSR_PARAVIRT_EOI names: the guest may end the interrupt in service by
 * clearing this bit, with one instruction that tells whether it was set. */
#define PARAVIRT_EOI_BIT 1u

_Static_assert(sizeof(struct paravirt_clock_page) == 32, "as the guest has it");
_Static_assert(sizeof(struct paravirt_wall_clock) == 12, "as the guest has it");
_Static_assert(sizeof(struct paravirt_steal_page) == 64, "as the guest has it");

#define PARAVIRT_ALL UINT32_MAX

/* The registers of one vCPU as the guest wrote them: an address of its memory, bit 0
 * enables. */
#define PARAVIRT_ENABLED 1u
struct paravirt_registers {
    uint64_t wall_clock, clock, steal, eoi;
    uint8_t eoi_is_offered; /* the host has set PARAVIRT_EOI_BIT and not looked since */
};

/* INIT ends the services that write to memory now and then. */
void paravirt_init_signal(struct paravirt_registers *registers);

/* Fills multiplier and shift for a TSC of that rate; khz is not 0. */
void paravirt_clock_scale(uint32_t tsc_khz, uint32_t *multiplier, int8_t *shift);

/*
 * "all", "none" (not even a hypervisor leaf), or a comma-separated list of service names.
 * Features go to *features; names and the known ones go into the error.
 */
int paravirt_parse(const char *list, uint32_t *features, struct error *err);
/* Names for listings: the index-th service, or NULL behind the last. */
const char *paravirt_service_name(unsigned index, uint32_t *features);
