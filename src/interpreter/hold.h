#pragma once
/*
 * Stores to watched frames, held back by the TLB. A processor that is its VM's only one
 * may begin this, for code that stores without a look at the frame's watch bits: an entry
 * lets stores to a frame through only while nobody watches it. Who sets a watch bit says
 * so (hold_frame) before he relies on it, on the processor's own thread, between two of
 * its stores.
 */

#include "interpreter/cpu.h"

/* No code looks any more. */
int hold_begin(struct cpu *cpu, struct error *err);
void hold_end(struct cpu *cpu);

/* An entry of a view has been filled: if it is for stores, too, to a watched frame they
 * are held back. */
void hold_fill(struct cpu *cpu, struct tlb_area *area, unsigned index);
/* May whoever looks at the watch bits store by an entry though it does not say so? If
 * the frame is watched no longer it does from now on. */
bool hold_find(struct cpu *cpu, struct tlb_area *area, gva_t gva);
/* A frame is watched from now on. */
void hold_frame(struct cpu *cpu, frame_t frame);
