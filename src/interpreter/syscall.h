#pragma once
/* What fast system calls load, for engines that execute them themselves. */

#include "interpreter/cpu.h"

/* SDM 2B "SYSRET": the flags that R11 gives. */
#define SYSRET_FLAGS 0x3c7fd7ull

/* CS, SS and CPL as SYSCALL loads them, and SYSRET; is_64: to 64-bit code. */
void syscall_enter_kernel(struct cpu *cpu, bool is_64);
void syscall_enter_user(struct cpu *cpu, bool is_64);
/* Those that it loads, flat and not read from tables. */
void syscall_user_segments(const struct cpu *cpu, bool is_64, struct x86_segment *code,
                           struct x86_segment *data);
