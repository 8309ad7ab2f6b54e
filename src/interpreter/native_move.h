#pragma once
/* The moves that memory copies and string functions are made of, without a stub. */

#include "interpreter/native.h"

/* Replaces the handler if the instruction is one of them; the stub it was bound to stays
 * for the slow path. */
void native_move_bind(struct binding *binding, struct insn *insn);

/* insn->aux of a memory operand. */
#define NATIVE_ALIGNMENT 0x1f /* address bits that must be clear */
#define NATIVE_STRICT    0x20 /* whatever MXCSR.MM says */
#define NATIVE_ANYWHERE  0x40 /* not even #AC */

#define MXCSR_MM         (1u << 17)

/* A memory operand that is misaligned, crosses a page, misses the TLB or is no RAM. */
const struct insn *native_load_slow(struct cpu *cpu, const struct insn *insn,
                                    uint64_t ea);
const struct insn *native_store_slow(struct cpu *cpu, const struct insn *insn,
                                     uint64_t ea);
