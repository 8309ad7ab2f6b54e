#pragma once
/* The run loop: guest code until something has to be looked at. */

#include "interpreter/cpu.h"

/*
 * Executes from cpu->rip until attention is set, cpu->limit instructions are retired or
 * the processor is no longer running (state.activity). Exceptions are delivered to the
 * guest. Returns at an instruction boundary; attention is left for the caller to clear.
 */
void cpu_run(struct cpu *cpu);

/* Executes exactly one instruction (of a REP instruction a part: one iteration with
 * RFLAGS.TF, else what lies in one page), or delivers one fault, whatever attention says;
 * ends the interrupt shadow. */
void cpu_step(struct cpu *cpu);

/* Executes one block, of one instruction after cpu_set_single, or delivers one fault;
 * goes on behind it unless attention is set. For engines that run most code otherwise. */
void cpu_run_block(struct cpu *cpu);
