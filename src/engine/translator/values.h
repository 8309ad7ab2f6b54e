#pragma once
/*
 * What is known of general registers along a block: which of them differ by constants.
 * Each holds an unknown value, which has a number, and an offset from it.
 */

#include "engine/translator/emit.h"

struct symbol {
    uint16_t value;
    int32_t offset;
};

/* What is no register's: nothing, and the address of the page. */
#define NO_VALUE  0
#define RIP_VALUE 1

/* Offsets lie within. */
#define OFFSET_MAX (1 << 24)

struct values {
    unsigned width; /* of addresses and of what is pushed, bytes */
    struct symbol reg[16];
    uint16_t next_value;
};

/* The register that held a value at the beginning; -1: none did. */
static inline int values_entry_register(uint16_t value)
{
    return value > RIP_VALUE && value <= RIP_VALUE + 16 ? value - (RIP_VALUE + 1) : -1;
}
/* Nothing is known. */
void values_init(struct values *values, unsigned width);
/* Nothing is known any more; numbers go on. */
void values_forget(struct values *values);
/* insn->moves_values: what values_follow finds out that is the same in every block. */
void values_plan(struct guest_insn *insn);
/* What an instruction does to them, as far as it is an addition of constants. */
void values_follow(struct values *values, const struct guest_insn *insn);

/* Is it a general register as wide as addresses? */
bool values_is_whole(const struct values *values, ZydisRegister reg);
