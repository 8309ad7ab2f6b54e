#pragma once
/* What fast system calls load, for engines that execute them themselves. */

#include "interpreter/cpu.h"

/* SDM 2B "SYSRET": the flags that R11 gives. */
#define SYSRET_FLAGS 0x3c7fd7ull

/* CS, SS and CPL of a level: flat, and not read from tables. */
void syscall_enter(struct cpu *cpu, uint16_t cs, uint16_t ss, unsigned cpl, bool is_64);
/* As SYSCALL loads them, and SYSRET; is_64: to 64-bit code. */
void syscall_enter_kernel(struct cpu *cpu, bool is_64);
void syscall_enter_user(struct cpu *cpu, bool is_64);

/* SYSENTER and SYSEXIT whole: to cpu->rip. False: an exception was raised. */
bool syscall_sysenter(struct cpu *cpu);
bool syscall_sysexit(struct cpu *cpu, bool is_64);
