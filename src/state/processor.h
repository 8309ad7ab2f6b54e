#pragma once
/* A processor in the stream: its architectural state and its local APIC in the common
 * form of x86/, and the CPU model that its guest knows. */

#include "state/stream.h"
#include "x86/cpuid.h"
#include "x86/lapic.h"
#include "x86/state.h"

extern const struct device_field processor_fields[]; /* of struct x86_state */
extern const struct device_field lapic_fields[];     /* of struct lapic */

/*
 * Is it a state that a processor of this model and its APIC can be in? Engines rely on
 * it: anything that they would not let a guest load is refused here. bad_part names what
 * is wrong with it; NULL: nothing.
 */
const char *processor_bad_part(const struct x86_state *state,
                               const struct cpuid_policy *policy);
const char *lapic_bad_part(const struct lapic *lapic, unsigned index,
                           const struct x86_state *state,
                           const struct cpuid_policy *policy);

/* The section "cpu-model". Features are saved by name, not by their place in a set. */
void cpu_model_put(struct stream_writer *writer, const struct cpuid_policy *policy);
int cpu_model_get(struct stream *stream, struct cpuid_policy *policy, struct error *err);
