#pragma once
/*
 * Soft operands: a displacement or an immediate that the guest changes again and again is
 * read from its instruction by the code that was made of it, instead of being part of
 * that code; then a store to it changes nothing. As Transmeta's translator had it for
 * "stylized" self-modifying code (Dehnert et al., CGO 2003).
 */
#include "engine/translator/emit.h"

/* Which operands of a block's instructions are soft, the block that was at its place
 * before being known; NULL: none was. */
void soften_find(struct guest_insn *insn, unsigned count, const struct block *before);

/* Host register = the soft operand as it is now, sign-extended; flags stay. */
void soften_load(struct emit *emit, unsigned host, const struct guest_insn *insn);

/* Is it the displacement of the operand in memory; its immediate? */
static inline bool soften_is_displacement(const struct guest_insn *insn)
{
    return insn->soft_size && insn->soft_at == insn->decoded.raw.disp.offset;
}
static inline bool soften_is_immediate(const struct guest_insn *insn)
{
    return insn->soft_size && insn->soft_at != insn->decoded.raw.disp.offset;
}

/*
 * The opcode that does with a register what an instruction of one byte of opcode does
 * with its immediate; where: what the register's partner is. -1: there is none.
 */
enum soften_where {
    SOFTEN_MODRM,       /* ModRM.rm */
    SOFTEN_ACCUMULATOR, /* AL to RAX */
    SOFTEN_OPCODE,      /* the opcode's register */
};
int soften_opcode(const struct decoded *decoded, enum soften_where *where);
