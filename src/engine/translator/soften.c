#include "engine/translator/soften.h"

#include <string.h>

/* So many times a block is made anew before its operands are made soft. */
#define CHANGES_MIN 6

/* SDM 2D A.3, table A-2, and A.4, table A-6. */
int soften_opcode(const struct decoded *decoded, enum soften_where *where)
{
    int opcode = decoded->opcode, extension = decoded->raw.modrm.reg;
    int is_wide = opcode & 1;
    *where = SOFTEN_MODRM;
    if (decoded->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY ||
        decoded->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT) {
        return -1;
    }
    switch (opcode) {
    case 0x80:
    case 0x81:
    case 0x83:
        return extension << 3 | is_wide;
    case 0xc6:
    case 0xc7:
        return extension == 0 ? 0x88 | is_wide : -1;
    case 0xf6:
    case 0xf7:
        return extension < 2 ? 0x84 | is_wide : -1;
    case 0xa8:
    case 0xa9:
        *where = SOFTEN_ACCUMULATOR;
        return 0x84 | is_wide;
    default:
        break;
    }
    if (opcode < 0x40 && (opcode & 6) == 4) {
        *where = SOFTEN_ACCUMULATOR;
        return (opcode & 0x38) | is_wide;
    }
    if ((opcode & 0xf0) == 0xb0) {
        *where = SOFTEN_OPCODE;
        return 0x88 | (opcode >> 3 & 1);
    }
    return -1;
}

static bool can_have_soft_displacement(const struct guest_insn *insn)
{
    const struct decoded *decoded = &insn->decoded;
    return (insn->emit == emit_copy || insn->emit == emit_lea) &&
           decoded->attributes & ZYDIS_ATTRIB_HAS_MODRM &&
           (decoded->raw.disp.size == 8 || decoded->raw.disp.size == 32);
}

static bool can_have_soft_immediate(const struct guest_insn *insn)
{
    const struct decoded *decoded = &insn->decoded;
    enum soften_where where;
    if (insn->emit == emit_copy) {
        return decoded->raw.imm[1].size == 0 && soften_opcode(decoded, &where) >= 0;
    }
    return (insn->emit == emit_jmp || insn->emit == emit_call ||
            insn->emit == emit_push) &&
           insn->operand[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
           decoded->raw.imm[0].size <= 32;
}

/* Are the bytes but for these what they were? */
static bool is_same_but(const struct guest_insn *insn, const uint8_t *before, unsigned at,
                        unsigned size)
{
    return memcmp(insn->bytes, before, at) == 0 &&
           memcmp(insn->bytes + at + size, before + at + size,
                  insn->decoded.length - at - size) == 0;
}

static void soften(struct guest_insn *insn, const struct block_insn *before,
                   const uint8_t *bytes, bool is_often)
{
    const struct decoded *decoded = &insn->decoded;
    unsigned disp_at = decoded->raw.disp.offset, disp_size = decoded->raw.disp.size / 8;
    unsigned imm_at = decoded->raw.imm[0].offset, imm_size = decoded->raw.imm[0].size / 8;
    bool is_changed = is_often && memcmp(insn->bytes, bytes, decoded->length) != 0;
    if (disp_size && (is_changed || before->soft_at == disp_at) &&
        can_have_soft_displacement(insn) &&
        is_same_but(insn, bytes, disp_at, disp_size)) {
        insn->soft_at = (uint8_t)disp_at;
        insn->soft_size = (uint8_t)disp_size;
    } else if (imm_size && (is_changed || before->soft_at == imm_at) &&
               can_have_soft_immediate(insn) &&
               is_same_but(insn, bytes, imm_at, imm_size)) {
        insn->soft_at = (uint8_t)imm_at;
        insn->soft_size = (uint8_t)imm_size;
    }
}

void soften_find(struct guest_insn *insn, unsigned count, const struct block *before)
{
    if (!before) {
        return;
    }
    for (unsigned i = 0; i < count && i < before->count; i++) {
        const struct block_insn *old = &before->insn[i];
        if (old->offset != insn[i].offset || old->length != insn[i].decoded.length) {
            return;
        }
        soften(&insn[i], old, code_before_bytes(before, old->offset),
               before->changes >= CHANGES_MIN);
    }
}

void soften_load(struct emit *emit, unsigned host, const struct guest_insn *insn)
{
    struct code *code = &emit->code;
    const uint8_t *page = memory_host(emit->cache->memory, emit->block->source.frame);
    const uint8_t *operand = page + insn->offset + insn->soft_at;
    struct host_mem mem = {(uint8_t)host, HOST_NONE, 0, 0};
    host_constant(code, host, (uint64_t)(uintptr_t)operand);
    if (insn->soft_size >= 4) {
        /* MOV, MOVSXD */
        host_op_mem(code, true, insn->soft_size == 8 ? HOST_MOV_LOAD : 0x63, host, &mem);
        return;
    }
    host_rex(code, true, host, 0, host, false); /* MOVSX */
    code8(code, 0x0f);
    code8(code, insn->soft_size == 1 ? 0xbe : 0xbf);
    host_modrm_mem(code, host, &mem);
}
