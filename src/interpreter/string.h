#pragma once
/* A string instruction under way, between what repeats it (string.c) and what does some
 * of its elements (string_chunk.c). */

#include "interpreter/access.h"
#include "interpreter/cpu.h"

enum repeat {
    REPEAT_NONE,
    REPEAT_EQUAL, /* REP and REPE */
    REPEAT_NOT_EQUAL,
};

/* One execution. */
struct string_run {
    uint64_t mask;  /* of the address size */
    uint64_t count; /* elements left */
    uint64_t most;  /* of them before the processor's limit */
    uint64_t si, di;
    unsigned size;
    bool is_backward;
    bool is_over; /* REPE or REPNE met its end */
    enum repeat repeat;
    enum x86_segment_register source;
};

/* Does at least one element; returns how many, 0 after a fault. */
typedef uint64_t string_chunk(struct cpu *cpu, struct string_run *run);

string_chunk string_movs, string_stos, string_lods, string_cmps, string_scas, string_ins,
    string_outs;
