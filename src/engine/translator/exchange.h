#pragma once
/*
 * Between struct cpu and a thread that runs translated code: the guest's registers, its
 * x87 state, and what the thread itself needs. On the vCPU's own thread.
 */

#include "engine/translator/run.h"

/* General registers, arithmetic flags, segment bases: into the frame, and out of it
 * (bases do not change there). */
void exchange_in(struct translator_cpu *translator);
void exchange_out(struct translator_cpu *translator);
/* Segments alone. */
void exchange_segments_in(const struct cpu *cpu);
/* 32-bit code whose addresses are linear ones: MODE_FLAT. */
bool exchange_is_flat(const struct cpu *cpu);
/* x87 state, between struct cpu and the frame's image for XSAVE. */
void exchange_fpu_in(struct translator_cpu *translator);
void exchange_fpu_out(struct translator_cpu *translator);
/* May the host's units hold the guest's state? An unmasked exception, and whatever would
 * fault, is the interpreter's. */
bool exchange_vector_is_open(const struct cpu *cpu);
bool exchange_fpu_is_open(const struct cpu *cpu);

/* thread.c: while the thread is attached translator_notify reaches its frame. */
void thread_attach(struct translator_cpu *translator);
void thread_detach(struct translator_cpu *translator);
/* What translator_notify left there is taken down. */
void thread_take_notice(void);
/* Where the return stack of a privilege begins. */
uint64_t thread_stack_bottom(const struct translator_cpu *translator, bool is_user);
/* Where a return without a call goes on, by code_jump_kind. */
void thread_set_bottom(const struct translator_cpu *translator, unsigned kind);
/* Can user mode change the bases of fs and gs? */
bool thread_has_fsgsbase(void);
/* gs = the view of memory in force. */
void thread_set_gs(const void *base);
