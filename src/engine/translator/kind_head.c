/*
 * Kinds of instructions are told by their heads: prefixes, opcode, ModRM and SIB (SDM 2A
 * 2.1).
 */
#include "engine/translator/kind_head.h"

static bool is_prefix(uint8_t byte)
{
    switch (byte) {
    case 0x26:
    case 0x2e:
    case 0x36:
    case 0x3e:
    case 0x64:
    case 0x65:
    case 0x66:
    case 0x67:
    case 0xf0:
    case 0xf2:
    case 0xf3:
        return true;
    default:
        return false;
    }
}

/* SDM 2D A.3: opcodes with a ModRM byte, a bit for each low half in the row of the high
 * half; in the upper halves those that are all there is before ModRM, but REX. Where
 * 32-bit and 64-bit code differ, and LES, LDS, BOUND, VEX, EVEX and XOP may be meant,
 * nothing is remembered. */
const uint32_t head_opcodes[16] = {
    0x7fff0f0f, 0xffff0f0f, 0xbfbf0f0f, 0xbfbf0f0f, 0xffff0000, 0xffff0000,
    0xff0b0a08, 0xffff0000, 0x7fff7fff, 0xffff0000, 0xfff00000, 0xffff0000,
    0xffcf00c3, 0xffffff0f, 0xffff0000, 0xfff2c0c0,
};
static const uint32_t opcodes_0f[16] = {
    0x200f, 0xffff, 0xff0f, 0,      0xffff, 0xffff, 0xffff, 0xff7f,
    0,      0xffff, 0xf838, 0xffff, 0x00ff, 0xffff, 0xffff, 0xffff,
};

/* Opcodes of which the table tells all: not 0F, VEX, and those that are odd. */
static const uint32_t is_simple[16] = {
    0x7fff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xfffb, 0xffff,
    0x7fff, 0xffff, 0xfff0, 0xffff, 0xffcf, 0xffff, 0xffff, 0xffff,
};

const uint32_t head_immediates[16] = {
    0x20201010, 0x20201010, 0x20201010, 0x20201010, 0,          0,
    0x03000c00, 0x0000ffff, 0x0002000d, 0,          0x02000100, 0xff0000ff,
    0x00802043, 0x00000030, 0x030008ff, 0,
};
static const uint32_t immediates_0f[16] = {
    [0x7] = 0x0000000f, [0x8] = 0xffff0000, [0xa] = 0x00001010,
    [0xb] = 0x00000400, [0xc] = 0x00000074,
};
static const uint32_t immediates_0f38[16];
static const uint32_t immediates_0f3a[16] = {[0 ... 15] = 0x0000ffff};

/* Of opcode map 0F, 0F38 or 0F3A, by VEX's number for it (SDM 2A 2.3.6.1). */
static const uint32_t *immediates_of(unsigned map)
{
    return map == 1 ? immediates_0f : map == 3 ? immediates_0f3a : immediates_0f38;
}

/* Behind the opcode that begins at i, and whether ModRM follows; 0: a kind that is not
 * remembered. */
static unsigned skip_opcode(const uint8_t *bytes, unsigned i, bool is_64, bool *has_mod,
                            const uint32_t **immediates)
{
    uint8_t opcode = bytes[i];
    if (head_look_up(is_simple, opcode) & 1) {
        *has_mod = head_look_up(head_opcodes, opcode) & 1;
        return i + 1;
    }
    if (opcode == 0x0f) {
        opcode = bytes[i + 1];
        *has_mod = true;
        if (opcode == 0x38 || opcode == 0x3a) {
            *immediates = immediates_of(opcode == 0x38 ? 2 : 3);
            return i + 3;
        }
        *immediates = immediates_of(1);
        *has_mod = head_look_up(opcodes_0f, opcode) & 1;
        return opcode == 0x0f ? 0 : i + 2; /* 3DNow! has its opcode at the end */
    }
    if (opcode == 0xc4 || opcode == 0xc5) {
        unsigned at = i + (opcode == 0xc5 ? 2 : 3);
        unsigned map = opcode == 0xc5 ? 1 : bytes[i + 1] & 31;
        *immediates = immediates_of(map);
        *has_mod = map != 1 || bytes[at] != 0x77; /* VZEROALL, VZEROUPPER */
        return is_64 ? at + 1 : 0;
    }
    /* EVEX, BOUND; XOP, POP; MOV between the accumulator and an address, which has a
     * displacement of its own kind. */
    return 0;
}

unsigned head_skip_to_modrm(const uint8_t *bytes, bool is_64, bool *has_mod,
                            const uint32_t **immediates)
{
    unsigned i = 0;
    while (i < 4 && is_prefix(bytes[i])) {
        if (bytes[i] == 0x67 && !is_64) {
            return 0; /* ModRM of 16-bit addresses is another */
        }
        i++;
    }
    if (is_64 && (bytes[i] & 0xf0) == 0x40) {
        i++;
    }
    return skip_opcode(bytes, i, is_64, has_mod, immediates);
}
