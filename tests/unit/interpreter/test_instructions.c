/*
 * Every encoding that the decoder knows, in each code width, against the CPU model and
 * the tables of instructions: what the model offers has a routine. The list of what has
 * none is empty; what is not offered never gets as far (see test_isa.c).
 */
#include "fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/scope.h"
#include "interpreter/block.h"
#include "interpreter/insn.h"
#include "interpreter/isa.h"

#define SEEN_SIZE (1u << 18)

struct walk {
    struct fixture *fixture;
    ZydisDecoder decoder;
    uint32_t seen[SEEN_SIZE / 32];
    unsigned forms, missing;
};

static uint32_t mix(uint32_t hash, uint32_t value)
{
    return (hash ^ value) * 0x9e3779b1u;
}

/* Has a form of this kind been looked at? Two of one hash would hide one, of some ten
 * thousand. */
static bool is_new(struct walk *walk, const ZydisDecodedInstruction *decoded,
                   const ZydisDecodedOperand *operand)
{
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

static bool binds(struct walk *walk, const ZydisDecodedInstruction *decoded,
                  const ZydisDecodedOperand *operand, const uint8_t *bytes)
{
    struct cpu *cpu = walk->fixture->cpu;
    struct binding binding = {cpu, decoded, operand, bytes, cpu->blocks};
    const struct insn_row *row;
    for (unsigned i = 0; (row = insn_find_row(decoded->mnemonic, i)); i++) {
        struct insn insn = {.length = decoded->length,
                            .base = REG_OFFSET(REG_ZERO),
                            .index = REG_OFFSET(REG_ZERO)};
        if (row->bind(&binding, row, &insn)) {
            return true;
        }
    }
    return false;
}

static void look_at(struct walk *walk, const uint8_t *bytes, unsigned size)
{
    ZydisDecodedInstruction decoded;
    ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
    if (!ZYAN_SUCCESS(
            ZydisDecoderDecodeFull(&walk->decoder, bytes, size, &decoded, operand)) ||
        !is_new(walk, &decoded, operand) ||
        !native_isa_offered(&walk->fixture->cpuid, &decoded)) {
        return;
    }
    walk->forms++;
    bool is_bound = binds(walk, &decoded, operand, bytes);
    if (!is_bound) {
        /* The room for decoded code, or for stubs, may have run out. */
        block_cache_empty(walk->fixture->cpu);
        is_bound = binds(walk, &decoded, operand, bytes);
    }
    if (!is_bound) {
        walk->missing++;
        printf("# no routine: %s (", ZydisMnemonicGetString(decoded.mnemonic));
        for (unsigned i = 0; i < decoded.length; i++) {
            printf("%s%02x", i ? " " : "", bytes[i]);
        }
        printf(")\n");
    }
}

/* One opcode with every ModRM byte. */
static void walk_modrm(struct walk *walk, const uint8_t *front, unsigned size)
{
    uint8_t bytes[ZYDIS_MAX_INSTRUCTION_LENGTH] = {0};
    memcpy(bytes, front, size);
    for (unsigned modrm = 0; modrm < 256; modrm++) {
        bytes[size] = (uint8_t)modrm;
        look_at(walk, bytes, sizeof(bytes));
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

static void walk_all(struct fixture *fixture, ZydisMachineMode mode,
                     ZydisStackWidth width)
{
    static struct walk walk;
    memset(&walk, 0, sizeof(walk));
    walk.fixture = fixture;
    ZydisDecoderInit(&walk.decoder, mode, width);
    ZydisDecoderEnableMode(&walk.decoder, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
    ZydisDecoderEnableMode(&walk.decoder, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
    walk_legacy(&walk, mode == ZYDIS_MACHINE_MODE_LONG_64);
    if (fixture->cpu->is_protected) {
        walk_vex(&walk);
    }
    printf("# %u forms offered, %u without a routine\n", walk.forms, walk.missing);
    assert_in_range(walk.forms, 500, 100000);
    assert_int_equal(walk.missing, 0);
    fixture_free(fixture);
}

static void test_long_mode(void **state)
{
    walk_all(fixture_long(), ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
}

static void test_protected_mode(void **state)
{
    walk_all(fixture_protected(), ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
}

static void test_real_mode(void **state)
{
    walk_all(fixture_real(), ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_long_mode),
        cmocka_unit_test(test_protected_mode),
        cmocka_unit_test(test_real_mode),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
