#pragma once
/*
 * The operand forms of all instructions: found by decoding every opcode with every
 * prefix, width and kind of operand that can make a difference, and kept if the
 * interpreter has a row for it.
 */

#include <Zydis/Zydis.h>
#include <stdbool.h>
#include <stdint.h>

#include "x86/cpuid.h"

enum form_operand {
    FORM_NO_MODRM,
    FORM_REGISTER, /* ModRM.rm is one */
    FORM_MEMORY,
};

struct form {
    ZydisMnemonic mnemonic;
    uint8_t bits; /* 64 or 32 */
    bool is_vex;
    uint8_t map; /* 0: one byte, 1: 0F, 2: 0F 38, 3: 0F 3A */
    uint8_t opcode;
    uint8_t prefix;   /* 0, 0x66, 0xf3, 0xf2 */
    bool w, l;        /* REX.W or VEX.W; VEX.L */
    bool is_short;    /* address size prefix, which makes it another instruction */
    uint8_t operand;  /* enum form_operand */
    uint8_t reg_mask; /* values of ModRM.reg that give this form */
    uint8_t rm_mask;
    bool is_integer;      /* of the base set, BMI or ADX */
    uint64_t signature;   /* mnemonic and operand types */
    const char *excluded; /* why it is not tested, or NULL */
    uint64_t cases;       /* executed so far, alone */
};

/* All forms of one mnemonic. */
struct form_group {
    ZydisMnemonic mnemonic;
    unsigned first, count; /* of form_table */
    const char *excluded;  /* why none of them is tested, or NULL */
};

extern struct form *form_table;
extern unsigned form_count;
extern struct form_group *form_groups;
extern unsigned form_group_count;

/* Fills the tables for what the processor offers; 32-bit forms only if asked for. */
bool form_init(const struct cpuid_policy *policy, bool has_compat, bool has_16);
void form_fini(void);

/* Why an instruction cannot be compared with the bare processor, or NULL. */
const char *form_excluded(ZydisMnemonic mnemonic);

/* Why an instruction of the tables has no form that a program on this processor could
 * execute as such, or NULL. */
const char *form_absent(ZydisMnemonic mnemonic);

/* Was it found, but not offered by the processor? */
bool form_is_withheld(ZydisMnemonic mnemonic);
/* Why this form of a tested instruction is not, or NULL. */
const char *form_left_out(const struct form *form);

/* The decoder for 64 or 32 bits. */
const ZydisDecoder *form_decoder(unsigned bits);

/* A random encoding of the form into bytes (at least 16 of them), decoded. Base registers
 * and displacements are as they come. False if this attempt gave something else. */
struct form_code {
    uint8_t bytes[16];
    ZydisDecodedInstruction decoded;
    ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
};
bool form_encode(const struct form *form, uint64_t *random, struct form_code *code);
/* Decodes again after bytes were changed. */
bool form_decode(const struct form *form, struct form_code *code);
