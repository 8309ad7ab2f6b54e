#pragma once
/* The file of --trace-exits: a line for each exit, then the digest of the last state. */

#include "dispatcher/vm.h"

struct trace;

struct trace *trace_open(const char *path, struct error *err);
/* Before the machine starts. */
void trace_attach(struct trace *trace, struct vm *vm);
/* The machine has ended. Fails if the file could not be written. Frees the trace. */
int trace_finish(struct trace *trace, struct vm *vm, struct error *err);
/* Without the end. Accepts NULL. */
void trace_close(struct trace *trace);
