#pragma once
/*
 * What tells an instruction's kind: all its bytes before displacement and immediate. What
 * is asked of each instruction is here, what of few in the .c.
 */

#include <stdbool.h>
#include <stdint.h>

struct head {
    uint64_t bytes;
    uint8_t size; /* 0: of a kind that is not remembered */
    /* The whole instruction's, most probably: who wants to know for sure looks its kind
     * up. */
    uint8_t length;
};

/* Opcodes by high and low half: bit 0, it has ModRM; bit 16, it is all there is before
 * that, but REX. */
extern const uint32_t head_opcodes[16];
static inline unsigned head_look_up(const uint32_t table[16], uint8_t opcode)
{
    return table[opcode >> 4] >> (opcode & 15);
}

/* Opcodes with an immediate: bit 0, of one byte; bit 16, of four. */
extern const uint32_t head_immediates[16];

/* Behind prefixes and opcode, and whether ModRM follows; 0: a kind that is not
 * remembered. immediates becomes the opcode map's, if it is another. */
unsigned head_skip_to_modrm(const uint8_t *bytes, bool is_64, bool *has_mod,
                            const uint32_t **immediates);

static inline uint8_t head_byte(uint64_t bytes, unsigned number)
{
    return (uint8_t)(bytes >> (number * 8));
}

/* Of the instruction that room bytes begin with. first: the first eight of them, in a
 * register, for where the next instruction begins waits for this. */
static inline struct head head_find(const uint8_t *bytes, uint64_t first, unsigned room,
                                    bool is_64)
{
    const struct head none = {0, 0, 0};
    unsigned rex = (unsigned)is_64 & (unsigned)((head_byte(first, 0) & 0xf0) == 0x40);
    uint8_t opcode = head_byte(first, rex), modrm = head_byte(first, rex + 1);
    unsigned i = rex + 1, looked_up = head_look_up(head_opcodes, opcode);
    const uint32_t *immediates = head_immediates;
    bool has_mod = looked_up & 1;
    if (!(looked_up & 0x10000)) {
        has_mod = false;
        i = head_skip_to_modrm(bytes, is_64, &has_mod, &immediates);
        opcode = bytes[i ? i - 1 : 0];
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
    /* SDM 2A table 2-2, but for what SIB has to say. */
    unsigned disp = 0x00040100u >> (modrm >> 6) * 8 & 7;
    disp += (modrm & 0xc7) == 5 ? 4 : 0;
    unsigned immediate = head_look_up(immediates, opcode);
    unsigned length = i + (has_mod ? disp : 0) + (immediate & 1) + (immediate >> 14 & 4);
    return (struct head){first & ~0ull >> (64 - 8 * i), (uint8_t)i, (uint8_t)length};
}
