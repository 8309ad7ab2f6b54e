#pragma once
/*
 * A virtual processor whose guest code is executed, always or now and then, by the
 * interpreter's struct cpu: what the interpreter asks of the engine around it, and the
 * events between instructions. Everything here belongs to the vCPU's own thread.
 */

#include "engine/processor.h"
#include "interpreter/cpu.h"

/* Makes processor->cpu, in the state after a reset; its `opaque` is the processor.
 * processor.exclusive and interrupt_others are set before. */
int processor_cpu_open(struct processor *processor, struct error *err);
/* Accepts a processor without one. */
void processor_cpu_close(struct processor *processor);

/* Publishes the exact count in vcpu_stats; the hooks do it in deterministic runs. */
void processor_tell_retired(struct processor *processor);

/* One look at everything that may interrupt guest code: INIT and SIPI, the APIC's timer,
 * an event saved by another engine, NMI, interrupts. May execute one instruction, the one
 * in an interrupt shadow. */
void processor_take_events(struct processor *processor);

/* engine_ops.run, kick, debug and debug_stop (processor->stop) of a processor that
 * executes everything by its struct cpu. */
enum run_result processor_cpu_run(struct processor *processor);
void processor_cpu_kick(struct processor *processor, bool return_to_caller);
int processor_cpu_debug(struct processor *processor, const struct debug_control *control,
                        struct error *err);
