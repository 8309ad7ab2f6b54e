#include "engine/translator/decoded.h"

#include <assert.h>
#include <string.h>

static_assert(ZYDIS_MNEMONIC_MAX_VALUE <= UINT16_MAX, "struct decoded's mnemonic");
static_assert(ZYDIS_REGISTER_MAX_VALUE <= UINT16_MAX, "struct operand's registers");
static_assert(ZYDIS_CATEGORY_MAX_VALUE <= UINT8_MAX, "struct decoded's category");
static_assert(ZYDIS_ISA_EXT_MAX_VALUE <= UINT8_MAX, "struct decoded's isa_ext");
static_assert(ZYDIS_OPERAND_ENCODING_MAX_VALUE <= UINT8_MAX, "struct operand's encoding");

static void take_raw(struct decoded *decoded, const ZydisDecodedInstruction *from)
{
    decoded->raw.prefix_count = from->raw.prefix_count;
    decoded->raw.modrm.mod = from->raw.modrm.mod;
    decoded->raw.modrm.reg = from->raw.modrm.reg;
    decoded->raw.modrm.rm = from->raw.modrm.rm;
    decoded->raw.sib.offset = from->raw.sib.offset;
    decoded->raw.sib.base = from->raw.sib.base;
    decoded->raw.disp.size = from->raw.disp.size;
    decoded->raw.disp.offset = from->raw.disp.offset;
    decoded->raw.disp.value = from->raw.disp.value;
    for (unsigned i = 0; i < 2; i++) {
        decoded->raw.imm[i].size = from->raw.imm[i].size;
        decoded->raw.imm[i].offset = from->raw.imm[i].offset;
        decoded->raw.imm[i].is_signed = from->raw.imm[i].is_signed;
    }
    /* What holds these depends on the encoding. */
    if (from->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
        decoded->raw.vex.W = from->raw.vex.W;
        decoded->raw.vex.L = from->raw.vex.L;
        decoded->raw.vex.pp = from->raw.vex.pp;
        decoded->raw.vex.m_mmmm = from->raw.vex.m_mmmm;
    } else if (from->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY) {
        decoded->raw.rex.W = from->raw.rex.W;
    }
}

void decoded_take(struct decoded *decoded, const ZydisDecodedInstruction *from)
{
    memset(decoded, 0, sizeof(*decoded));
    decoded->attributes = from->attributes;
    if (from->cpu_flags) {
        const ZydisAccessedFlags *flags = from->cpu_flags;
        decoded->flags_tested = flags->tested;
        decoded->flags_written =
            flags->modified | flags->set_0 | flags->set_1 | flags->undefined;
    }
    decoded->mnemonic = (uint16_t)from->mnemonic;
    decoded->length = from->length;
    decoded->encoding = (uint8_t)from->encoding;
    decoded->opcode_map = (uint8_t)from->opcode_map;
    decoded->opcode = from->opcode;
    decoded->machine_mode = (uint8_t)from->machine_mode;
    decoded->address_width = from->address_width;
    decoded->operand_width = from->operand_width;
    decoded->operand_count = from->operand_count;
    decoded->operand_count_visible = from->operand_count_visible;
    decoded->meta.category = (uint8_t)from->meta.category;
    decoded->meta.isa_ext = (uint8_t)from->meta.isa_ext;
    decoded->meta.exception_class = (uint8_t)from->meta.exception_class;
    decoded->meta.branch_type = (uint8_t)from->meta.branch_type;
    take_raw(decoded, from);
}

void operand_take(struct operand *operand, const ZydisDecodedOperand *from)
{
    memset(operand, 0, sizeof(*operand));
    operand->type = (uint8_t)from->type;
    operand->encoding = (uint8_t)from->encoding;
    operand->actions = from->actions;
    operand->size = from->size;
    switch (from->type) {
    case ZYDIS_OPERAND_TYPE_REGISTER:
        operand->reg.value = (uint16_t)from->reg.value;
        break;
    case ZYDIS_OPERAND_TYPE_MEMORY:
        operand->has_displacement = from->mem.disp.has_displacement;
        operand->mem.type = (uint8_t)from->mem.type;
        operand->mem.segment = (uint16_t)from->mem.segment;
        operand->mem.base = (uint16_t)from->mem.base;
        operand->mem.index = (uint16_t)from->mem.index;
        operand->mem.scale = from->mem.scale;
        operand->mem.disp.value = from->mem.disp.value;
        break;
    case ZYDIS_OPERAND_TYPE_IMMEDIATE:
        operand->imm.value.u = from->imm.value.u;
        operand->imm.is_relative = from->imm.is_relative;
        break;
    default:
        break;
    }
}
