#pragma once
/*
 * What tells an instruction's kind: all its bytes before displacement and immediate. What
 * is asked of each instruction is here, what of few in the .c.
 */

#include <stdbool.h>
#include <stdint.h>

struct head {
    uint64_t bytes;
    unsigned size; /* 0: of a kind that is not remembered */
};

/* Opcodes by high and low half: bit 0, it has ModRM; bit 16, it is all there is before
 * that, but REX. */
extern const uint32_t head_opcodes[16];
static inline unsigned head_look_up(const uint32_t table[16], uint8_t opcode)
{
    return table[opcode >> 4] >> (opcode & 15);
}

/* Behind prefixes and opcode, and whether ModRM follows; 0: a kind that is not
 * remembered. */
unsigned head_skip_to_modrm(const uint8_t *bytes, bool is_64, bool *has_mod);

static inline uint8_t head_byte(uint64_t bytes, unsigned number)
{
    return (uint8_t)(bytes >> (number * 8));
}

/* Of the instruction that room bytes begin with. first: the first eight of them, in a
 * register, for where the next instruction begins waits for this. */
static inline struct head head_find(const uint8_t *bytes, uint64_t first, unsigned room,
                                    bool is_64)
{
    const struct head none = {0, 0};
    unsigned rex = (unsigned)is_64 & (unsigned)((head_byte(first, 0) & 0xf0) == 0x40);
    uint8_t opcode = head_byte(first, rex), modrm = head_byte(first, rex + 1);
    unsigned i = rex + 1, looked_up = head_look_up(head_opcodes, opcode);
    bool has_mod = looked_up & 1;
    if (!(looked_up & 0x10000)) {
        has_mod = false;
        i = head_skip_to_modrm(bytes, is_64, &has_mod);
        modrm = bytes[i];
    }
    if (i == 0) {
        return none;
    }
    unsigned has_sib = (unsigned)(modrm < 0xc0) & (unsigned)((modrm & 7) == 4);
    i += has_mod + (has_mod & has_sib);
    if (i > sizeof(first) || i > room) {
        return none;
    }
    return (struct head){first & ~0ull >> (64 - 8 * i), i};
}
