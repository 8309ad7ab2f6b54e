#include "engine/translator/form.h"

static bool has_prefix(const struct guest_insn *insn, uint8_t value)
{
    for (unsigned i = 0; i < insn->decoded.raw.prefix_count; i++) {
        if (insn->bytes[i] == value) {
            return true;
        }
    }
    return false;
}

/* ModRM, and what belongs to it. */
static void write_modrm(const struct form *form, struct code *code)
{
    if (form->has_memory) {
        host_modrm_mem(code, form->reg, &form->place);
    } else if (form->has_modrm) {
        code8(code, 0xc0u | (form->reg & 7u) << 3 | (form->rm & 7u));
    }
}

static void write_legacy(const struct form *form, const struct guest_insn *insn,
                         struct code *code)
{
    const struct decoded *decoded = &insn->decoded;
    static const uint8_t kept[] = {0xf0, 0x66, 0xf2, 0xf3};
    /* REP means nothing to what has one byte of opcode and is copied, and PAUSE with
     * another register. */
    unsigned count = decoded->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT ? 2 : sizeof(kept);
    for (unsigned i = 0; i < count; i++) {
        if (has_prefix(insn, kept[i])) {
            code8(code, kept[i]);
        }
    }
    unsigned base = form->has_memory       ? form->place.base
                    : form->has_opcode_reg ? form->opcode_reg
                    : form->has_modrm      ? form->rm
                                           : 0u;
    bool is_wide = decoded->attributes & ZYDIS_ATTRIB_HAS_REX && decoded->raw.rex.W;
    host_rex(code, is_wide, form->has_modrm ? form->reg : 0, 0, base, form->needs_rex);
    switch (decoded->opcode_map) {
    case ZYDIS_OPCODE_MAP_0F:
        code8(code, 0x0f);
        break;
    case ZYDIS_OPCODE_MAP_0F38:
        CODE(code, "\x0f\x38");
        break;
    case ZYDIS_OPCODE_MAP_0F3A:
        CODE(code, "\x0f\x3a");
        break;
    default:
        break;
    }
    unsigned opcode = form->opcode;
    if (form->has_opcode_reg) {
        opcode = (opcode & ~7u) | (form->opcode_reg & 7u);
    }
    code8(code, opcode);
    write_modrm(form, code);
}

static void write_vex(const struct form *form, const struct guest_insn *insn,
                      struct code *code)
{
    const struct decoded *decoded = &insn->decoded;
    unsigned base = form->has_memory ? form->place.base : form->rm;
    code8(code, 0xc4);
    code8(code, (form->reg < 8 ? 0x80u : 0) | 0x40u | (base < 8 ? 0x20u : 0) |
                    decoded->raw.vex.m_mmmm);
    code8(code, (unsigned)decoded->raw.vex.W << 7 | (~(unsigned)form->vvvv & 15) << 3 |
                    (unsigned)decoded->raw.vex.L << 2 | decoded->raw.vex.pp);
    code8(code, decoded->opcode);
    write_modrm(form, code);
}

void form_write_immediates(const struct guest_insn *insn, struct code *code)
{
    const struct decoded *decoded = &insn->decoded;
    for (unsigned i = 0; i < 2; i++) {
        /* Always eight of them, which needs no branch; what comes then is written over.
         */
        memcpy(code->at, insn->bytes + decoded->raw.imm[i].offset, 8);
        code->at += decoded->raw.imm[i].size / 8;
    }
}

bool form_can_write(const struct guest_insn *insn)
{
    const struct decoded *decoded = &insn->decoded;
    if (decoded->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
        return true;
    }
    if (has_prefix(insn, 0xf2) && has_prefix(insn, 0xf3)) {
        return false; /* the last one counts */
    }
    return decoded->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
           (decoded->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT ||
            decoded->opcode_map == ZYDIS_OPCODE_MAP_0F ||
            decoded->opcode_map == ZYDIS_OPCODE_MAP_0F38 ||
            decoded->opcode_map == ZYDIS_OPCODE_MAP_0F3A);
}

void form_write(const struct form *form, const struct guest_insn *insn, struct code *code)
{
    if (insn->decoded.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
        write_vex(form, insn, code);
    } else {
        write_legacy(form, insn, code);
    }
}
