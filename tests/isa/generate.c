#include "generate.h"

#include <string.h>

#include "interpreter/insn.h"

#define MXCSR_DEFAULT 0x1f80u
#define FCW_DEFAULT   0x37fu
#define SEQUENCE_MAX  8
#define ATTEMPTS      40

static uint64_t pick(uint64_t *random, uint64_t below)
{
    return isa_random(random) % below;
}

static bool one_in(uint64_t *random, unsigned n)
{
    return pick(random, n) == 0;
}

/* ---- State ---- */

/* The address of an operand: anywhere in the pages, or at one of their borders. */
static uint64_t target(uint64_t *random)
{
    uint64_t border = ISA_DATA + ISA_PAGE * pick(random, ISA_DATA_PAGES + 1);

    switch (pick(random, 16)) {
    case 0:
    case 1:
        return border - pick(random, 40) + pick(random, 8); /* crossing, or not mapped */
    case 2:
        return ISA_DATA + ISA_PAGE - pick(random, 64);
    case 3:
        return ISA_DATA + 2 * ISA_PAGE + pick(random, ISA_PAGE - 64); /* read-only */
    case 4:
        return ISA_STACK + pick(random, ISA_PAGE);
    case 5:
        return one_in(random, 4) ? isa_value(random) : ISA_CODE + pick(random, 256);
    case 6:
    case 7:
        return ISA_DATA + pick(random, 2 * ISA_PAGE - 64);
    default:
        return ISA_DATA + pick(random, (2 * ISA_PAGE - 64) / 32) * 32;
    }
}

static uint64_t stack_pointer(uint64_t *random)
{
    switch (pick(random, 16)) {
    case 0:
        return ISA_STACK + pick(random, 24);
    case 1:
        return ISA_STACK + ISA_PAGE - pick(random, 24);
    case 2:
        return ISA_STACK + pick(random, ISA_PAGE);
    case 3:
        return target(random);
    default:
        return ISA_STACK + 0x400 + pick(random, 0x100) * 8;
    }
}

/* Status word: any flags, with ES and B as the masks of the control word make them. */
static uint16_t status_word(uint64_t *random, uint16_t fcw)
{
    uint16_t fsw = (uint16_t)pick(random, 0x10000) & 0x7f7f;

    if (!one_in(random, 4)) {
        fsw &= ~0x3f;
    }
    return fsw & ~fcw & 0x3f ? fsw | 0x8080 : fsw;
}

static void narrow(struct isa_case *test)
{
    for (unsigned i = 0; i < 16 && test->bits != 64; i++) {
        test->gpr[i] = i < 8 ? (uint32_t)test->gpr[i] : 0;
    }
}

void generate_state(uint64_t *random, struct isa_case *test)
{
    test->is_high = test->bits == 16 && one_in(random, 2);
    for (unsigned i = 0; i < 16; i++) {
        test->gpr[i] = isa_value(random);
    }
    uint64_t stack_base = isa_stack_base(test);
    uint64_t data_base = isa_data_base(test);
    test->gpr[X86_RSP] = stack_pointer(random) - stack_base;
    if (!one_in(random, 4)) {
        test->gpr[X86_RSI] = target(random) - data_base;
        test->gpr[X86_RDI] = target(random) - data_base;
    }
    if (one_in(random, 2)) {
        test->gpr[X86_RBP] = stack_pointer(random) - stack_base;
    }
    test->flags = (uint32_t)isa_random(random) & X86_FLAGS_ARITH;
    test->flags |= one_in(random, 8) ? X86_FLAG_DF : 0;
    test->flags |= one_in(random, 32) ? X86_FLAG_TF : 0;
    test->flags |= one_in(random, 16) ? X86_FLAG_AC : 0;
    test->mxcsr = one_in(random, 2) ? MXCSR_DEFAULT : pick(random, 0x10000);
    test->fcw = one_in(random, 2) ? FCW_DEFAULT : (pick(random, 0x2000) & 0x1f3f) | 0x40;
    test->fsw = one_in(random, 2) ? 0 : status_word(random, test->fcw);
    test->ftw = one_in(random, 2) ? 0xff : (uint8_t)isa_random(random);
    test->vector_seed = isa_random(random);
    test->image = (uint8_t)pick(random, ISA_IMAGE_COUNT);
    test->is_stepped = one_in(random, 8);
    for (unsigned i = 0; i < 16; i++) {
        /* A segment of the host's kernel that tells programs on which processor they are.
         */
        test->gpr[i] ^= (test->gpr[i] & 0xfffc) == 0x78 ? 8 : 0;
    }
    narrow(test);
}

static void place_code(uint64_t *random, struct isa_case *test)
{
    const uint64_t size = ISA_CODE_PAGES * ISA_PAGE;

    switch (pick(random, 16)) {
    case 0: /* across the border of the two pages */
        test->code_offset =
            (uint16_t)(ISA_PAGE -
                       pick(random, test->code_length ? test->code_length : 1));
        break;
    case 1: /* the end of the pages: beyond is nothing */
        test->code_offset = (uint16_t)(size - test->code_length);
        if (one_in(random, 4) && test->code_length > 1) {
            test->code_length--;
            test->code_offset++;
        }
        break;
    default:
        test->code_offset = (uint16_t)pick(random, 2048);
        break;
    }
}

/* ---- Operands ---- */

/* SDM 2A 2.1.1: repeat prefixes are reserved there. (AMD's processors let them decide
 * whether LOOPE or LOOPNE is meant.) */
static bool has_reserved_prefix(const struct form_code *code)
{
    bool is_loop = code->decoded.mnemonic == ZYDIS_MNEMONIC_LOOPE ||
                   code->decoded.mnemonic == ZYDIS_MNEMONIC_LOOPNE;

    return is_loop && (memchr(code->bytes, 0xf2, code->decoded.raw.prefix_count) ||
                       memchr(code->bytes, 0xf3, code->decoded.raw.prefix_count));
}

bool generate_is_comparable(const struct form_code *code)
{
    if (has_reserved_prefix(code)) {
        return false;
    }
    return !form_excluded(code->decoded.mnemonic);
}

static unsigned number_of(ZydisRegister reg)
{
    return (unsigned)ZydisRegisterGetId(reg);
}

static uint64_t segment_base(const struct isa_case *test,
                             const ZydisDecodedOperand *operand)
{
    switch (operand->mem.segment) {
    case ZYDIS_REGISTER_FS:
        return ISA_FS_BASE;
    case ZYDIS_REGISTER_GS:
        return ISA_GS_BASE;
    case ZYDIS_REGISTER_CS:
        return isa_code_base(test);
    case ZYDIS_REGISTER_SS:
        return isa_stack_base(test);
    default:
        return isa_data_base(test);
    }
}

static void patch_displacement(struct form_code *code, uint64_t value)
{
    memcpy(code->bytes + code->decoded.raw.disp.offset, &value,
           code->decoded.raw.disp.size / 8);
}

/* Makes a visible memory operand lead to a target, by registers that nothing needs yet
 * (claimed) or by its displacement. */
static void aim(uint64_t *random, const ZydisDecodedOperand *operand, uint64_t rip,
                struct form_code *code, struct isa_case *test, uint32_t *claimed)
{
    bool is_locked = code->decoded.attributes & ZYDIS_ATTRIB_HAS_LOCK ||
                     code->decoded.mnemonic == ZYDIS_MNEMONIC_XCHG;
    uint64_t wanted = target(random) - segment_base(test, operand);

    if (is_locked && !one_in(random, 256)) {
        wanted &= ~15ull; /* hosts slow a program down for locks across cache lines */
    }
    uint64_t disp = (uint64_t)operand->mem.disp.value;
    ZydisRegister base = operand->mem.base, index = operand->mem.index;
    if (bind_has_no_base(&code->decoded)) {
        base = ZYDIS_REGISTER_NONE;
        disp = (uint64_t)code->decoded.raw.disp.value;
    }
    bool is_vsib = operand->mem.type == ZYDIS_MEMOP_TYPE_VSIB;
    uint64_t scaled = 0;

    if (base == ZYDIS_REGISTER_RIP || base == ZYDIS_REGISTER_EIP) {
        patch_displacement(code, wanted - rip - code->decoded.length);
        return;
    }
    if (base == ZYDIS_REGISTER_NONE && index == ZYDIS_REGISTER_NONE) {
        patch_displacement(code, wanted);
        return;
    }
    if (base == ZYDIS_REGISTER_NONE) {
        if (!is_vsib && !(*claimed >> number_of(index) & 1)) {
            test->gpr[number_of(index)] =
                (wanted - disp) >> __builtin_ctz(operand->mem.scale);
            *claimed |= 1u << number_of(index);
        }
        return;
    }
    if (*claimed >> number_of(base) & 1) {
        return;
    }
    *claimed |= 1u << number_of(base);
    if (index != ZYDIS_REGISTER_NONE && !is_vsib) {
        if (number_of(index) == number_of(base)) {
            test->gpr[number_of(base)] = (wanted - disp) / (1u + operand->mem.scale);
            return;
        }
        if (!(*claimed >> number_of(index) & 1) && !one_in(random, 4)) {
            test->gpr[number_of(index)] = pick(random, 64);
        }
        *claimed |= 1u << number_of(index);
        scaled = test->gpr[number_of(index)] * operand->mem.scale;
    }
    test->gpr[number_of(base)] = wanted - disp - scaled;
}

/* Branches go to the next instruction, or to the breakpoints behind the last. */
static void aim_branch(uint64_t *random, struct form_code *code, struct isa_case *test,
                       uint32_t *claimed)
{
    const ZydisDecodedOperand *operand = &code->operand[0];

    bool is_short = code->decoded.raw.imm[0].size == 8; /* back into a loop, perhaps */
    if (code->decoded.raw.imm[0].is_relative && (is_short || !one_in(random, 32))) {
        uint64_t distance =
            one_in(random, 4) ? 0 : 120 + pick(random, 8); /* behind all */
        memcpy(code->bytes + code->decoded.raw.imm[0].offset, &distance,
               code->decoded.raw.imm[0].size / 8);
    }
    bool is_branch = code->decoded.meta.branch_type == ZYDIS_BRANCH_TYPE_NEAR &&
                     code->decoded.operand_count_visible > 0;
    if (is_branch && operand->type == ZYDIS_OPERAND_TYPE_REGISTER && !one_in(random, 8)) {
        unsigned reg = number_of(operand->reg.value);
        test->gpr[reg] = ISA_CODE + pick(random, 2 * ISA_PAGE) - isa_code_base(test);
        *claimed |= 1u << reg;
    }
}

/* Operands that the instruction does not name: strings, and their counts. */
static void aim_hidden(uint64_t *random, const struct form_code *code,
                       struct isa_case *test, uint32_t *claimed)
{
    const uint64_t repeats =
        ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE;
    bool is_string = false;

    for (unsigned i = code->decoded.operand_count_visible;
         i < code->decoded.operand_count; i++) {
        const ZydisDecodedOperand *operand = &code->operand[i];
        if (operand->type != ZYDIS_OPERAND_TYPE_MEMORY ||
            operand->mem.base == ZYDIS_REGISTER_NONE) {
            continue;
        }
        unsigned base = number_of(operand->mem.base);
        if (base != X86_RSP && base != X86_RBP && !(*claimed >> base & 1)) {
            test->gpr[base] = target(random) - segment_base(test, operand);
            *claimed |= 1u << base;
            is_string = true;
        }
    }
    if (is_string) {
        test->flags ^= one_in(random, 4) ? X86_FLAG_DF : 0;
        if (test->gpr[X86_RSI] >> 32 == 0 && one_in(random, 4)) {
            test->gpr[X86_RDI] = test->gpr[X86_RSI] + pick(random, 17) - 8; /* overlap */
        }
    }
    if (code->decoded.attributes & repeats && !(*claimed >> X86_RCX & 1)) {
        test->gpr[X86_RCX] = pick(random, one_in(random, 4) ? 3000 : 24);
        *claimed |= 1u << X86_RCX;
    }
}

static bool append(uint64_t *random, const struct form *form, struct isa_case *test,
                   uint32_t *claimed)
{
    struct form_code code;
    uint64_t rip = ISA_CODE + test->code_offset + test->code_length;

    if (!form_encode(form, random, &code) || !generate_is_comparable(&code) ||
        test->code_length + code.decoded.length > ISA_CODE_MAX) {
        return false;
    }
    for (unsigned i = 0; i < code.decoded.operand_count_visible; i++) {
        if (code.operand[i].type == ZYDIS_OPERAND_TYPE_MEMORY) {
            if (code.operand[i].mem.type == ZYDIS_MEMOP_TYPE_VSIB) {
                test->flags &=
                    ~X86_FLAG_TF; /* SDM 2C: a trap between elements may come */
            }
            aim(random, &code.operand[i], rip, &code, test, claimed);
        }
    }
    aim_branch(random, &code, test, claimed);
    aim_hidden(random, &code, test, claimed);
    if (!form_decode(form, &code)) {
        return false;
    }
    narrow(test);
    memcpy(test->code + test->code_length, code.bytes, code.decoded.length);
    test->code_length = (uint16_t)(test->code_length + code.decoded.length);
    return true;
}

/* LOCK, seldom, whether or not it is allowed there. */
static void lock(uint64_t *random, const struct form *form, struct isa_case *test)
{
    bool is_likely_wrong = form->is_vex || form->operand != FORM_MEMORY;

    if (is_likely_wrong && one_in(random, 64) && test->code_length < 15) {
        memmove(test->code + 1, test->code, test->code_length);
        test->code[0] = 0xf0;
        test->code_length++;
    }
}

bool generate_single(const struct form *form, uint64_t *random, struct isa_case *test)
{
    uint32_t claimed = 0;

    memset(test, 0, sizeof(*test));
    test->bits = form->bits;
    generate_state(random, test);
    test->code_length = 15;
    place_code(random, test);
    test->code_length = 0;
    for (unsigned i = 0; i < ATTEMPTS; i++) {
        if (append(random, form, test, &claimed)) {
            lock(random, form, test);
            return true;
        }
    }
    return false;
}

bool generate_sequence(uint64_t *random, unsigned bits, struct isa_case *test)
{
    uint32_t claimed = 1u << X86_RSP;
    unsigned count = 2 + (unsigned)pick(random, SEQUENCE_MAX - 1);

    memset(test, 0, sizeof(*test));
    test->bits = (uint8_t)bits;
    generate_state(random, test);
    test->code_offset = (uint16_t)pick(random, 5000);
    for (unsigned tries = 0; count > 0 && tries < 200; tries++) {
        const struct form_group *group = &form_groups[pick(random, form_group_count)];
        const struct form *form = &form_table[group->first + pick(random, group->count)];

        /* Privileged ones would end most sequences at once. */
        const struct insn_row *row = insn_find_row(form->mnemonic, 0);
        if (group->excluded || form->excluded || form->bits != bits ||
            row->class == INSN_PRIVILEGED) {
            continue;
        }
        count -= append(random, form, test, &claimed);
    }
    return test->code_length > 0;
}

bool generate_undefined(uint64_t *random, unsigned bits, struct isa_case *test)
{
    ZydisDecodedInstruction decoded;
    ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];

    memset(test, 0, sizeof(*test));
    test->bits = (uint8_t)bits;
    generate_state(random, test);
    test->code_length = 16;
    place_code(random, test);
    test->code_length = 16;
    for (unsigned i = 0; i < 16; i += 8) {
        uint64_t word = isa_random(random);
        memcpy(test->code + i, &word, 8);
    }
    switch (pick(random, 4)) {
    case 0:
        test->code[0] = 0x0f;
        break;
    case 1:
        test->code[0] = 0xf0;
        break;
    default:
        break;
    }
    return !ZYAN_SUCCESS(
        ZydisDecoderDecodeFull(form_decoder(bits), test->code, 15, &decoded, operand));
}
