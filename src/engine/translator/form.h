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
    bool is_in_frame;      /* the operand in memory is one of fs */
    bool needs_rex;        /* byte registers SPL to DIL */
    bool forbids_rex;      /* AH to BH */
    bool lends_rdi;        /* to the address of such an operand's partner in memory */
    struct host_mem place; /* of the memory operand */
};

/* SDM 2B "MOV": A0 to A3, between the accumulator and an address; not in 64-bit mode,
 * where that has 64 bits. */
bool form_is_direct_move(const struct emit *emit, const struct guest_insn *insn);
/* 32-bit code's encodings that 64-bit code does not have become others. */
void form_change(struct form *form, const struct emit *emit,
                 const struct guest_insn *insn);
/* Has it bits that mean nothing in 32-bit code, but do in 64-bit code? */
bool form_has_ignored_bits(const struct emit *emit, const struct guest_insn *insn);
/* Which of a kind's guest registers that lie in memory it can have there as an operand;
 * whether what it reads may be addressed by the sum of two registers. */
void form_plan(struct guest_insn *insn);
/* What ModRM.reg named is had in memory: ModRM.rm's register takes its field. */
void form_swap(struct form *form);

/* Can instructions encoded like this one be written? */
bool form_can_write(const struct guest_insn *insn);

/* The instruction's bytes up to ModRM; all but immediates; and these. */
void form_write_front(const struct form *form, const struct guest_insn *insn,
                      struct code *code);
void form_write(const struct form *form, const struct guest_insn *insn,
                struct code *code);
void form_write_immediates(const struct guest_insn *insn, struct code *code);
