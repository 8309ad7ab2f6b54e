#pragma once
/*
 * Deterministic runs: guest time is the number of steps (retired instructions, iterations
 * of REP) in nanoseconds, and jumps ahead while the processor is halted. The vCPU's own
 * thread runs timers and the disks' jobs, between two instructions that the guest's code
 * alone determines. Nothing from outside reaches the guest.
 */

#include "base/worker.h"
#include "dispatcher/vm.h"

/* Ties clock and timers to the only vCPU. */
void steps_init(struct vm *vm);
/* What devices post is run behind the instruction in progress. The pool has no threads.
 */
void steps_take_jobs(struct vm *vm, struct worker_pool *pool);

/* In the vCPU's thread. Before run(): runs the timers that are due and sets the limit.
 * False: the machine was to stop here (steps_go), look at the gate instead. */
bool steps_begin(struct vm *vm);
/* After run(): runs what devices have posted meanwhile. */
void steps_end(struct vm *vm);
/* Halted: goes on to the time of the next timer. False: there is none. */
bool steps_skip(struct vm *vm);

/*
 * Runs the machine up to a number of steps, as vm_run runs it to its end: steps_go starts
 * or continues it and returns at once, steps_wait waits in the event loop. VM_RUNNING:
 * the processor stands still there (or before, halted and without a timer), and the
 * machine's state may be read; VM_STOPPED: it has ended before, with vm->end.
 */
int steps_go(struct vm *vm, uint64_t retired, struct error *err);
enum vm_status steps_wait(struct vm *vm);
