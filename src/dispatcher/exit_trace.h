#pragma once
/* Exits as text: one line each, the same for the same exit on every engine. */

#include "engine/engine.h"

#define EXIT_LINE_SIZE 256

/* "1234 io out 0x3f8 1: 41": the steps before it, the reason, where, how many bytes, the
 * data as the guest and the devices have exchanged it. No newline. */
void exit_trace_line(char line[EXIT_LINE_SIZE], uint64_t retired,
                     const struct vcpu_exit *exit);
