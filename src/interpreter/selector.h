#pragma once
/* Selector operands: 16 bits in a register or in memory, which aux tells. */

#include "interpreter/operation.h"

bool selector_read(struct cpu *cpu, const struct insn *insn, uint8_t reg,
                   uint16_t *selector);
/* To memory always 2 bytes; to a register the operand size, zero-extended. */
bool selector_write(struct cpu *cpu, const struct insn *insn, uint16_t selector);

/* Binds the operand: *reg is its register if it is one. */
void selector_bind_operand(struct binding *binding, struct insn *insn,
                           const ZydisDecodedOperand *operand, uint8_t *reg);
/* For rows with one selector operand. */
extern insn_bind selector_bind;

/* #UD in real and vm86 mode. */
static inline bool selector_require_protected(struct cpu *cpu)
{
    return cpu->is_protected || cpu_raise(cpu, X86_UD, 0);
}
