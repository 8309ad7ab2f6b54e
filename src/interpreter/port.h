#pragma once
/* Access to I/O ports: who may, and IN and OUT (SDM 1 chapter 19). */

#include "interpreter/insn.h"

/* IOPL and the TSS's permission bitmap; #GP(0) if they refuse. */
bool port_check(struct cpu *cpu, uint16_t port, unsigned size);

/* The rows of IN and OUT name these. */
extern insn_bind port_bind;
extern insn_exec *const port_in_routines[];
extern insn_exec *const port_out_routines[];
