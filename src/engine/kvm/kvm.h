#pragma once
/* Guest code on the host's processor, by way of Linux's KVM. */

#include "engine/engine.h"

extern const struct engine_ops engine_kvm;

/* Names of features that the policy has and this KVM cannot give, as far as they fit;
 * returns their number. */
unsigned kvm_cpuid_missing(const struct cpuid_policy *policy, char *names, size_t size);
