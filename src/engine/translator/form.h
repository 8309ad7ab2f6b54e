#pragma once
/*
 * The encoding of an instruction that is copied, taken apart and written: SDM 2A
 * chapter 2.
 */
#include "engine/translator/emit.h"

/* The encoding of one instruction, taken apart. */
struct form {
    uint8_t reg, rm, vvvv, opcode_reg; /* host registers, or what the guest had there */
    uint8_t opcode;
    bool has_modrm, has_memory, has_opcode_reg;
    bool needs_rex;        /* byte registers SPL to DIL */
    bool forbids_rex;      /* AH to BH */
    bool lends_rdi;        /* to the address of such an operand's partner in memory */
    struct host_mem place; /* of the memory operand */
};

/* Can instructions encoded like this one be written? */
bool form_can_write(const struct guest_insn *insn);

/* The instruction's bytes but for immediates; and these. */
void form_write(const struct form *form, const struct guest_insn *insn,
                struct code *code);
void form_write_immediates(const struct guest_insn *insn, struct code *code);
