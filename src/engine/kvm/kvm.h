#pragma once
/* Guest code on the host's processor, by way of Linux's KVM. */

#include "engine/engine.h"

extern const struct engine_ops engine_kvm;

/* engine_ops.way, missing and fit. */
enum engine_way kvm_way(const struct insn_row *row, const char **means);
unsigned kvm_cpuid_missing(const struct engine_config *use, char *names, size_t size);
int kvm_cpuid_fit(const struct engine_config *use, struct cpuid_policy *policy,
                  struct error *err);
/* Names of features that this KVM shows its guests though the policy lacks them, as
 * kvm_cpuid_missing gives them. */
unsigned kvm_cpuid_excess(const struct cpuid_policy *policy, char *names, size_t size);
