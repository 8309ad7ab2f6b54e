#pragma once
/*
 * Cases on the bare processor, in a child process: the cases' pages are mapped at their
 * addresses, every case is entered by a return from a signal handler and ends in one, so
 * that the kernel loads and shows all of its state. The child may do nothing but that: a
 * filter refuses system calls, and those of the tested code altogether.
 */

#include "case.h"

#define NATIVE_BATCH 1024u

struct native;

/* Before anything else maps at the cases' addresses. NULL with a message on stderr. */
struct native *native_runner_new(void);
void native_runner_free(struct native *native);

/* Does this host run 32-bit code? */
bool native_runs_compat(struct native *native);

/* The places of the next batch's cases, NATIVE_BATCH of them. */
struct isa_case *native_cases(struct native *native);
/* Starts the first count of them; native_finish waits and returns the results. A child
 * that hangs or dies is replaced and the next case taken. NULL if no child can be made.
 */
void native_start(struct native *native, unsigned count);
const struct isa_result *native_finish(struct native *native);

/* The memory pages as the last case of the last batch left them. */
const uint8_t *native_memory(const struct native *native);
