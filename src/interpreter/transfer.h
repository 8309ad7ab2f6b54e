#pragma once
/* What far transfers, interrupts and returns share: fetching descriptors, loading segment
 * registers with all checks, stacks from the TSS. Used by event.c, far.c, segment.c. */

#include "interpreter/cpu.h"
#include "x86/segment.h"

/* Reads the 8- (or, for system descriptors in long mode, 16-) byte descriptor a selector
 * names, with table limits checked; #GP(selector) (or the given vector) if outside.
 * address is that of the descriptor. */
bool transfer_fetch_descriptor(struct cpu *cpu, uint16_t selector, uint8_t vector,
                               uint64_t *low, uint64_t *high, uint64_t *address);
/* MOV/POP/L?S to a data or stack segment register with every check of SDM 2B "MOV"; real
 * and vm86 mode included. */
bool transfer_load_segment(struct cpu *cpu, enum x86_segment_register reg,
                           uint16_t selector);
/* Sets CS (and the CPL) to an already checked code segment; SS's DPL follows. */
void transfer_set_cs(struct cpu *cpu, const struct x86_segment *code, unsigned cpl);
/* Stack of an inner level from the TSS: RSPn, or IST in long mode (ist 1-7). */
bool transfer_tss_stack(struct cpu *cpu, unsigned dpl, unsigned ist, uint16_t *ss,
                        uint64_t *rsp);
