#pragma once
/*
 * Breakpoints and watchpoints in the interpreter. A breakpoint is a pseudo instruction in
 * the decoded block, so code without one runs at full speed; while there are watchpoints
 * blocks have one instruction, and watched pages stay out of the software TLB.
 */

#include "interpreter/cpu.h"
#include "x86/debug.h"

struct cpu_debug {
    struct debug_control control;
    struct debug_stop stop; /* reason DEBUG_NONE until something happened */
    bool has_breakpoints, has_watchpoints;
    bool skips_breakpoint; /* at skip_address, once: where the processor stopped before */
    gva_t skip_address;
};

/* Takes the points (NULL or an empty set: none); what was decoded and cached before is
 * dropped. Returns 0 or -ENOMEM. */
int debug_set(struct cpu *cpu, const struct debug_control *control);
/* Before running on: forgets the last stop, and steps over a breakpoint right here. */
void debug_resume(struct cpu *cpu);

/* Steps over a breakpoint right here, since the processor has stopped at it before,
 * somewhere else. */
void debug_skip(struct cpu *cpu);

/* The linear address of the next instruction. */
gva_t debug_address(const struct cpu *cpu);
/* Did something stop the processor since it was resumed? */
static inline bool debug_has_stopped(const struct cpu *cpu)
{
    return cpu->debug && cpu->debug->stop.reason != DEBUG_NONE;
}

/* Does a breakpoint lie somewhere at this offset of a page? Asked when decoding. */
bool debug_has_offset(const struct cpu *cpu, unsigned offset);
/* Stops at the linear address if it has a breakpoint: true, the stop is recorded,
 * attention set. */
bool debug_breaks_at(struct cpu *cpu, gva_t address);
/* Is any byte of the page watched? */
bool debug_watches_page(const struct cpu *cpu, gva_t page);
/* Records the stop if the access hits a watchpoint. */
void debug_note_access(struct cpu *cpu, gva_t gva, unsigned size, bool is_write);
