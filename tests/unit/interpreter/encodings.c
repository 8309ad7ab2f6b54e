#include "encodings.h"

#include <string.h>

#define SEEN_SIZE (1u << 18)

struct walk {
    const ZydisDecoder *decoder;
    encoding_fn *visit;
    void *opaque;
    uint32_t seen[SEEN_SIZE / 32];
};

static uint32_t mix(uint32_t hash, uint32_t value)
{
    return (hash ^ value) * 0x9e3779b1u;
}

/* Has a form of this kind been looked at? Two of one hash would hide one, of some ten
 * thousand. */
static bool is_new(struct walk *walk, const struct encoding *encoding)
{
    const ZydisDecodedInstruction *decoded = &encoding->decoded;
    const ZydisDecodedOperand *operand = encoding->operand;
    uint32_t hash = mix(decoded->mnemonic, decoded->encoding);
    hash = mix(hash, decoded->opcode_map << 8 | decoded->opcode);
    hash = mix(hash, decoded->operand_width << 8 | decoded->address_width);
    for (unsigned i = 0; i < decoded->operand_count_visible; i++) {
        uint32_t class = operand[i].type == ZYDIS_OPERAND_TYPE_REGISTER
                             ? ZydisRegisterGetClass(operand[i].reg.value)
                             : 0;
        hash = mix(hash, operand[i].type << 24 | class << 12 | operand[i].size);
    }
    uint32_t bit = hash >> 14;
    bool is_seen = walk->seen[bit / 32] >> bit % 32 & 1;
    walk->seen[bit / 32] |= 1u << bit % 32;
    return !is_seen;
}

static void look_at(struct walk *walk, const uint8_t *bytes)
{
    struct encoding encoding = {.bytes = bytes};
    if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(walk->decoder, bytes,
                                            ZYDIS_MAX_INSTRUCTION_LENGTH,
                                            &encoding.decoded, encoding.operand)) &&
        is_new(walk, &encoding)) {
        walk->visit(walk->opaque, &encoding);
    }
}

/* One opcode with every ModRM byte. */
static void walk_modrm(struct walk *walk, const uint8_t *front, unsigned size)
{
    uint8_t bytes[ZYDIS_MAX_INSTRUCTION_LENGTH] = {0};
    memcpy(bytes, front, size);
    for (unsigned modrm = 0; modrm < 256; modrm++) {
        bytes[size] = (uint8_t)modrm;
        look_at(walk, bytes);
    }
}

static void walk_legacy(struct walk *walk, bool has_rex)
{
    static const uint8_t prefixes[] = {0, 0x66, 0xf2, 0xf3};
    static const uint8_t maps[][2] = {{0}, {0x0f}, {0x0f, 0x38}, {0x0f, 0x3a}};
    for (unsigned prefix = 0; prefix < 4; prefix++) {
        for (unsigned rex = 0; rex < (has_rex ? 2u : 1u); rex++) {
            for (unsigned map = 0; map < 4; map++) {
                for (unsigned opcode = 0; opcode < 256; opcode++) {
                    uint8_t front[8];
                    unsigned size = 0;
                    if (prefixes[prefix]) {
                        front[size++] = prefixes[prefix];
                    }
                    if (rex) {
                        front[size++] = 0x48;
                    }
                    for (unsigned i = 0; i < 2 && maps[map][i]; i++) {
                        front[size++] = maps[map][i];
                    }
                    front[size++] = (uint8_t)opcode;
                    walk_modrm(walk, front, size);
                }
            }
        }
    }
}

/* VEX.vvvv unused and used, W, L, pp; three maps. */
static void walk_vex(struct walk *walk)
{
    for (unsigned map = 1; map <= 3; map++) {
        for (unsigned low = 0; low < 8; low++) {
            for (unsigned w = 0; w < 2; w++) {
                for (unsigned opcode = 0; opcode < 256; opcode++) {
                    for (unsigned vvvv = 0; vvvv < 2; vvvv++) {
                        const uint8_t front[] = {
                            0xc4, (uint8_t)(0xe0 | map),
                            (uint8_t)(w << 7 | (vvvv ? 0x78 : 0x68) | low),
                            (uint8_t)opcode};
                        walk_modrm(walk, front, sizeof(front));
                    }
                }
            }
        }
    }
}

void encodings_walk(const ZydisDecoder *decoder, bool has_rex, bool has_vex,
                    encoding_fn *visit, void *opaque)
{
    static struct walk walk;
    walk = (struct walk){.decoder = decoder, .visit = visit, .opaque = opaque};
    walk_legacy(&walk, has_rex);
    if (has_vex) {
        walk_vex(&walk);
    }
}
