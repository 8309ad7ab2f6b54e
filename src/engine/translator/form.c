#include "engine/translator/form.h"

#include "interpreter/native.h"

/* ---- what it may become ----------------------------------------------------------- */

static bool is_one_byte(const struct guest_insn *insn)
{
    return insn->decoded.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
           insn->decoded.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT;
}

/* SDM 2B "MOV": A0 to A3, between the accumulator and an address. In 64-bit mode that has
 * 64 bits. */
bool form_is_direct_move(const struct emit *emit, const struct guest_insn *insn)
{
    return !emit->is_64 && is_one_byte(insn) && (insn->decoded.opcode & 0xfc) == 0xa0;
}

/* 32-bit code's encodings that 64-bit code does not have become others. */
void form_change(struct form *form, const struct emit *emit,
                 const struct guest_insn *insn)
{
    if (emit->is_64 || !is_one_byte(insn)) {
        return;
    }
    if (form_is_direct_move(emit, insn)) {
        static const uint8_t by_address[] = {0x8a, 0x8b, 0x88, 0x89};
        form->opcode = by_address[form->opcode & 3];
        form->has_modrm = true;
        form->reg = HOST_RAX;
    } else if ((form->opcode & 0xf0) == 0x40) {
        /* INC and DEC */
        form->reg = form->opcode >> 3 & 1;
        form->opcode = 0xff;
        form->rm = form->opcode_reg;
        form->has_modrm = true;
        form->has_opcode_reg = false;
    } else if (form->opcode == 0x82) {
        form->opcode = 0x80;
    }
}

/* VEX.W counts for general registers in 64-bit mode only, and bit 3 of a vector register
 * in an immediate (SDM 2A 2.3.5, 2.3.8). */
bool form_has_ignored_bits(const struct emit *emit, const struct guest_insn *insn)
{
    const struct decoded *decoded = &insn->decoded;
    if (emit->is_64 || decoded->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX) {
        return false;
    }
    for (unsigned i = 0; i < decoded->operand_count; i++) {
        const struct operand *operand = &insn->operand[i];
        if (operand->encoding == ZYDIS_OPERAND_ENCODING_IS4 &&
            insn->bytes[decoded->length - 1] & 0x80) {
            return true;
        }
        if (decoded->raw.vex.W && operand->type == ZYDIS_OPERAND_TYPE_REGISTER &&
            guest_is_gpr(operand->reg.value)) {
            return true;
        }
    }
    switch (decoded->mnemonic) {
    case ZYDIS_MNEMONIC_VCVTSI2SD:
    case ZYDIS_MNEMONIC_VCVTSI2SS:
    case ZYDIS_MNEMONIC_VMOVD:
    case ZYDIS_MNEMONIC_VPEXTRD:
    case ZYDIS_MNEMONIC_VPINSRD:
        return decoded->raw.vex.W;
    default:
        return false;
    }
}

/* Instructions that have a general register or memory in ModRM.rm, with the same meaning.
 */
static bool has_frame_form(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_ADC:
    case ZYDIS_MNEMONIC_ADCX:
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_ADOX:
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_ANDN:
    case ZYDIS_MNEMONIC_CMP:
    case ZYDIS_MNEMONIC_IMUL:
    case ZYDIS_MNEMONIC_MOV:
    case ZYDIS_MNEMONIC_MOVSX:
    case ZYDIS_MNEMONIC_MOVSXD:
    case ZYDIS_MNEMONIC_MOVZX:
    case ZYDIS_MNEMONIC_MUL:
    case ZYDIS_MNEMONIC_MULX:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_RORX:
    case ZYDIS_MNEMONIC_SARX:
    case ZYDIS_MNEMONIC_SBB:
    case ZYDIS_MNEMONIC_SHLX:
    case ZYDIS_MNEMONIC_SHRX:
    case ZYDIS_MNEMONIC_SUB:
    case ZYDIS_MNEMONIC_TEST:
    case ZYDIS_MNEMONIC_XOR:
        return true;
    default:
        return false;
    }
}

/* An instruction of two general registers that can have the one of ModRM.reg, which it
 * reads, in ModRM.rm: by bit 1 of the opcode, or since it is TEST. */
static bool can_swap(const struct guest_insn *insn)
{
    unsigned opcode = insn->decoded.opcode;
    bool is_arithmetic = opcode < 0x40 && (opcode & 7) < 2;
    return is_one_byte(insn) && insn->memory < 0 &&
           (is_arithmetic || (opcode & 0xfe) == 0x84 || (opcode & 0xfe) == 0x88);
}

static bool is_in_frame(const struct operand *operand)
{
    return operand->type == ZYDIS_OPERAND_TYPE_REGISTER &&
           guest_is_gpr(operand->reg.value) &&
           guest_in_memory(guest_number(operand->reg.value));
}

/* Processors split such an instruction in two if it has a third operand or an immediate,
 * which costs what the sum did. */
static bool can_add_page(const struct guest_insn *insn)
{
    const struct operand *memory = insn_memory(insn);
    bool is_read = memory && !(memory->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
    bool has_third = insn->decoded.raw.imm[0].size != 0;
    for (unsigned i = 0; i < insn->decoded.operand_count; i++) {
        has_third |= insn->operand[i].encoding == ZYDIS_OPERAND_ENCODING_NDSNDD;
    }
    return is_read && !has_third;
}

void form_plan(struct guest_insn *insn)
{
    insn->adds_page = can_add_page(insn);
    for (unsigned i = 0; i < insn->decoded.operand_count; i++) {
        const struct operand *operand = &insn->operand[i];
        if (!is_in_frame(operand)) {
            continue;
        }
        bool is_written = operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
        if (operand->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM) {
            insn->writes_frame = insn->decoded.mnemonic == ZYDIS_MNEMONIC_MOV &&
                                 is_written && operand->size == 64;
            insn->reads_frame = !is_written && has_frame_form(insn->decoded.mnemonic);
        } else if (operand->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG) {
            insn->swaps_frame = can_swap(insn) && !is_written;
        }
    }
    insn->swaps_frame &= !insn->writes_frame;
}

void form_swap(struct form *form)
{
    form->opcode |= (form->opcode & 0xfe) == 0x84 ? 0 : 2;
    form->reg = form->rm;
}

/* ---- bytes ------------------------------------------------------------------------ */

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
    if (form->has_memory || form->is_in_frame) {
        host_modrm_mem(code, form->reg, &form->place);
    } else if (form->has_modrm) {
        code8(code, 0xc0u | (form->reg & 7u) << 3 | (form->rm & 7u));
    }
}

static unsigned index_of(const struct form *form)
{
    bool has_index = form->has_memory && form->place.index != HOST_NONE;
    return has_index ? form->place.index : 0;
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
    unsigned base = form->is_in_frame      ? 0u
                    : form->has_memory     ? form->place.base
                    : form->has_opcode_reg ? form->opcode_reg
                    : form->has_modrm      ? form->rm
                                           : 0u;
    bool is_wide = decoded->attributes & ZYDIS_ATTRIB_HAS_REX && decoded->raw.rex.W;
    host_rex(code, is_wide, form->has_modrm ? form->reg : 0, index_of(form), base,
             form->needs_rex);
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
}

static void write_vex(const struct form *form, const struct guest_insn *insn,
                      struct code *code)
{
    const struct decoded *decoded = &insn->decoded;
    unsigned base = form->is_in_frame  ? 0
                    : form->has_memory ? form->place.base
                                       : form->rm;
    code8(code, 0xc4);
    code8(code, (form->reg < 8 ? 0x80u : 0) | (index_of(form) < 8 ? 0x40u : 0) |
                    (base < 8 ? 0x20u : 0) | decoded->raw.vex.m_mmmm);
    code8(code, (unsigned)decoded->raw.vex.W << 7 | (~(unsigned)form->vvvv & 15) << 3 |
                    (unsigned)decoded->raw.vex.L << 2 | decoded->raw.vex.pp);
    code8(code, decoded->opcode);
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

void form_write_front(const struct form *form, const struct guest_insn *insn,
                      struct code *code)
{
    if (form->is_in_frame) {
        code8(code, 0x64); /* FS */
    }
    if (insn->decoded.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
        write_vex(form, insn, code);
    } else {
        write_legacy(form, insn, code);
    }
}

void form_write(const struct form *form, const struct guest_insn *insn, struct code *code)
{
    form_write_front(form, insn, code);
    write_modrm(form, code);
}
