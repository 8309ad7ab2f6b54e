#pragma once
/*
 * Two machines that should be the same, on two engines: both run up to the same step,
 * are compared, and go on. Where they differ the first step after which they do is looked
 * for, by running both anew to where they were still the same, in smaller strides.
 */

#include "state/difference.h"
#include "state/digest.h"

struct lockstep_plan {
    /* A machine whose run is deterministic, the same each time but for the engine. */
    struct vm *(*make)(void *opaque, const char *engine, struct error *err);
    const char *engine[2];
    uint64_t interval; /* steps between two comparisons; not 0 */
    uint64_t until;    /* steps; UINT64_MAX: to the guest's own end */
    /* Both were the same after so many steps; NULL: nobody wants to know. */
    void (*progress)(void *opaque, uint64_t steps);
    void *opaque;
};

#define LOCKSTEP_REPORT 16384

struct lockstep_result {
    bool is_same;
    uint64_t steps; /* that both made, with the same result */
    uint64_t exits; /* until then */
    /* Same: the state at the end, and why it ended (VM_END_NONE: it goes on, or is halted
     * for good). */
    struct digest digest;
    struct vm_end end;
    /* Different: the instruction, what differs behind it, exits, registers. */
    char report[LOCKSTEP_REPORT];
};

/* Fails if a machine cannot be made, or does not do the same again when it is run anew.
 */
int lockstep_run(const struct lockstep_plan *plan, struct lockstep_result *result,
                 struct error *err);
