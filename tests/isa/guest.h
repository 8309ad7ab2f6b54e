#pragma once
/*
 * Cases on one of our engines: ring 3, long mode, the cases' pages at their addresses. A
 * batch runs in one go; a monitor in ring 0 (monitor.S) goes from case to case.
 */

#include "case.h"
#include "engine/engine.h"

struct guest;

/* NULL with a message on stderr. */
struct guest *guest_new(const struct engine_ops *engine, bool is_deterministic);
void guest_free(struct guest *guest);

/* Runs ISA_BATCH cases or fewer. One that does not stop by itself ends with ISA_HUNG, one
 * that ends the processor with ISA_DIED. False, with a message on stderr, if the engine
 * fails for good. */
bool guest_run(struct guest *guest, const struct isa_input *inputs, unsigned count);
/* Of the last batch. */
const struct isa_result *guest_result(const struct guest *guest, unsigned index);
const uint8_t *guest_memory(const struct guest *guest, unsigned index);

/* What the processor offers, for the choice of cases. */
const struct cpuid_policy *guest_policy(const struct guest *guest);
/* Can cases be stepped? */
bool guest_steps(const struct guest *guest);
