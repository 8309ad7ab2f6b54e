#pragma once
/* Cases on the interpreter: ring 3, long mode, the cases' pages at their addresses. Each
 * exception leads to a HLT of its own in ring 0. */

#include "case.h"

struct guest;

/* NULL with a message on stderr. */
struct guest *guest_new(void);
void guest_free(struct guest *guest);

/* Ends with ISA_HUNG if the code does not stop by itself within some thousand
 * instructions. */
void guest_run(struct guest *guest, const struct isa_case *test,
               struct isa_result *result);
/* The memory pages as the last case left them. */
const uint8_t *guest_memory(const struct guest *guest);

/* What the processor offers, for the choice of cases. */
struct cpuid_policy;
const struct cpuid_policy *guest_policy(const struct guest *guest);
