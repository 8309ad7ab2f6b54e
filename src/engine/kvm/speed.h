#pragma once
/*
 * How fast this host's KVM executes guest code: not every /dev/kvm is hardware. Some
 * interpret ring 0, and are slower than Doppel's own engines.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct kvm_speed {
    /* Millions of instructions a second in a loop of registers; 0: it did not end within
     * the limit. */
    double ring0_mips, ring3_mips;
    bool is_nested; /* the host is itself a virtual machine */
};

/*
 * Measures for at most a few milliseconds, or takes what was measured since the host was
 * booted from the user's runtime or cache folder. -errno with a message if KVM cannot be
 * used.
 */
int kvm_speed_find(struct kvm_speed *speed, struct error *err);
/* The same, measured now. */
int kvm_speed_measure(struct kvm_speed *speed, struct error *err);

/* Below this ring 0 is not executed by the processor. */
#define KVM_INTERPRETS_MIPS 100.0
/* What the interpreter does, in the same loop on a processor of this decade. */
#define KVM_WORTH_MIPS 500.0

static inline bool kvm_speed_is_interpreting(const struct kvm_speed *speed)
{
    return speed->ring0_mips < KVM_INTERPRETS_MIPS;
}
/* "executes ring 0 at 5200 million instructions a second, ring 3 at 5300": one line. */
void kvm_speed_describe(const struct kvm_speed *speed, char *text, size_t size);
