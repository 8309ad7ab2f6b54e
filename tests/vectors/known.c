/*
 * Every rule has its reason; a vector that one of them takes out is counted under it.
 * Titles are sections of SDM 3B's chapter "Architecture Compatibility", or instructions
 * of volume 2.
 */

#include "known.h"

#include <stddef.h>

#include "x86/exception.h"
#include "x86/flags.h"

#define OF X86_FLAG_OF
#define SF X86_FLAG_SF
#define ZF X86_FLAG_ZF
#define AF X86_FLAG_AF
#define PF X86_FLAG_PF
#define CF X86_FLAG_CF

struct code {
    const struct moo_test *test;
    enum vector_family family;
    unsigned prefixes;
    bool has_rep, has_lock;
    uint8_t segment_prefix; /* the last one; 0: none */
    uint8_t opcode, modrm;
};

static bool is_prefix(uint8_t byte)
{
    return (byte & 0xe7) == 0x26 || byte == 0xf0 || byte == 0xf2 || byte == 0xf3;
}

static struct code parse(const struct moo_test *test, enum vector_family family)
{
    struct code code = {.test = test, .family = family};
    while (code.prefixes + 1 < test->byte_count &&
           is_prefix(test->bytes[code.prefixes])) {
        uint8_t prefix = test->bytes[code.prefixes++];
        code.has_rep |= (prefix & 0xfe) == 0xf2;
        code.has_lock |= prefix == 0xf0;
        code.segment_prefix = (prefix & 0xe7) == 0x26 ? prefix : code.segment_prefix;
    }
    code.opcode = test->bytes[code.prefixes];
    if (code.prefixes + 1 < test->byte_count) {
        code.modrm = test->bytes[code.prefixes + 1];
    }
    return code;
}

static unsigned reg_of(const struct code *code)
{
    return code->modrm >> 3 & 7;
}

static bool is_register_form(const struct code *code)
{
    return code->modrm >= 0xc0;
}

/* How far a shift or rotation goes, as the instruction says it. */
static unsigned count_of(const struct code *code)
{
    const struct moo_test *test = code->test;
    if (code->opcode < 0xd0) {
        /* C0 and C1: the immediate is the last byte in front of the HLT. */
        return test->byte_count >= 2 ? test->bytes[test->byte_count - 2] : 0;
    }
    return code->opcode < 0xd2 ? 1 : test->initial.reg[MOO_CX] & 0xff;
}

/* SDM 2B "SAL/SAR/SHL/SHR", "RCL/RCR/ROL/ROR". */
static uint16_t undefined_by_shift(const struct code *code)
{
    unsigned count = count_of(code) & 31;
    unsigned width = code->opcode & 1 ? 16 : 8;
    bool is_rotation = reg_of(code) < 4;
    if (count == 0) {
        return 0;
    }
    uint16_t undefined = count > 1 ? OF : 0;
    if (is_rotation) {
        return undefined;
    }
    bool is_arithmetic = reg_of(code) == 7;
    undefined |= AF;
    return undefined | (count >= width && !is_arithmetic ? CF : 0);
}

static uint16_t undefined_flags(const struct code *code)
{
    unsigned reg = reg_of(code);
    switch (code->opcode) {
    case 0x08 ... 0x0d: /* OR */
    case 0x20 ... 0x25: /* AND */
    case 0x30 ... 0x35: /* XOR */
    case 0x84 ... 0x85: /* TEST */
    case 0xa8 ... 0xa9:
        return AF;
    case 0x80 ... 0x83:
        return reg == 1 || reg == 4 || reg == 6 ? AF : 0;
    case 0x27: /* DAA */
    case 0x2f: /* DAS */
        return OF;
    case 0x37: /* AAA */
    case 0x3f: /* AAS */
        return OF | SF | ZF | PF;
    case 0x69: /* IMUL */
    case 0x6b:
        return SF | ZF | AF | PF;
    case 0xc0 ... 0xc1:
    case 0xd0 ... 0xd3:
        return undefined_by_shift(code);
    case 0xd4: /* AAM */
    case 0xd5: /* AAD */
        return OF | AF | CF | (code->test->has_exception ? SF | ZF | PF : 0);
    case 0xf6 ... 0xf7:
        return reg < 2                ? AF
               : reg == 4 || reg == 5 ? SF | ZF | AF | PF
               : reg >= 6             ? OF | SF | ZF | AF | PF | CF
                                      : 0;
    default:
        return 0;
    }
}

/* ---- Differences ---- */

static bool opcode_divides(const struct code *code)
{
    return code->opcode == 0xd4 || reg_of(code) >= 6;
}

/* The 16-bit effective address of a memory operand. */
static uint16_t effective_address(const struct code *code)
{
    const uint16_t *reg = code->test->initial.reg;
    const uint8_t *behind = code->test->bytes + code->prefixes + 2;
    const uint16_t base[] = {
        reg[MOO_BX] + reg[MOO_SI],
        reg[MOO_BX] + reg[MOO_DI],
        reg[MOO_BP] + reg[MOO_SI],
        reg[MOO_BP] + reg[MOO_DI],
        reg[MOO_SI],
        reg[MOO_DI],
        reg[MOO_BP],
        reg[MOO_BX],
    };
    uint16_t word = (uint16_t)(behind[0] | behind[1] << 8);
    switch (code->modrm >> 6) {
    case 0:
        return (code->modrm & 7) == 6 ? word : base[code->modrm & 7];
    case 1:
        return (uint16_t)(base[code->modrm & 7] + (int8_t)behind[0]);
    default:
        return (uint16_t)(base[code->modrm & 7] + word);
    }
}

/* Bytes of the memory operand behind ModRM; 0 if there is none. */
static unsigned operand_size(const struct code *code)
{
    uint8_t opcode = code->opcode;
    bool is_arithmetic = opcode < 0x40 && (opcode & 7) < 4;
    bool has_modrm =
        is_arithmetic || opcode == 0x62 || opcode == 0x69 || opcode == 0x6b ||
        (opcode >= 0x80 && opcode <= 0x8f) || (opcode >= 0xc0 && opcode <= 0xc1) ||
        (opcode >= 0xc4 && opcode <= 0xc7) || (opcode >= 0xd0 && opcode <= 0xd3) ||
        (opcode >= 0xd8 && opcode <= 0xdf) || (opcode & 0xf6) == 0xf6;
    if (!has_modrm || is_register_form(code) || opcode == 0x8d) {
        return 0;
    }
    bool is_pointer = opcode == 0x62 || opcode == 0xd8 || (opcode & 0xfe) == 0xc4 ||
                      (opcode == 0xff && (reg_of(code) == 3 || reg_of(code) == 5));
    bool is_word = opcode & 1 || opcode == 0x8c || opcode == 0x8e || opcode == 0x69 ||
                   opcode >= 0xd8;
    return is_pointer ? 4 : is_word ? 2 : 1;
}

/* May a string of words from this register meet the end of the segment? */
static bool string_wraps(const struct code *code, uint16_t index)
{
    uint16_t count = code->has_rep ? code->test->initial.reg[MOO_CX] : 1;
    bool is_down = code->test->initial.reg[MOO_FLAGS] & X86_FLAG_DF;
    uint16_t distance = is_down ? (uint16_t)(index + 1) : (uint16_t)(0xffff - index);
    return index & 1 && distance / 2u < count;
}

static bool is_string(uint8_t opcode)
{
    return (opcode >= 0xa4 && opcode <= 0xa7) || (opcode >= 0xaa && opcode <= 0xaf) ||
           (opcode >= 0x6c && opcode <= 0x6f);
}

/* Does a word, or the code, run over the end of its segment? What the stack is for does
 * so if the stack pointer is odd and near it. */
static bool runs_over(const struct code *code)
{
    const struct moo_test *test = code->test;
    const uint16_t *reg = test->initial.reg;
    uint8_t opcode = code->opcode;
    const uint8_t *behind = test->bytes + code->prefixes + 1;
    unsigned size = operand_size(code);
    if (reg[MOO_IP] + test->byte_count - 1 > 0xffff ||
        (size > 1 && effective_address(code) > 0x10000 - size)) {
        return true;
    }
    if ((opcode == 0xa1 || opcode == 0xa3) && behind[0] == 0xff && behind[1] == 0xff) {
        return true;
    }
    if (is_string(opcode) && opcode & 1) {
        return string_wraps(code, reg[MOO_SI]) || string_wraps(code, reg[MOO_DI]);
    }
    uint16_t stack = opcode == 0xc9 ? reg[MOO_BP] : reg[MOO_SP]; /* LEAVE */
    return stack & 1 && (uint16_t)(stack + 16) < 32;
}

/* Which of those goes through SS? */
static bool goes_through_stack(const struct code *code)
{
    static const uint8_t with_bp = 0x4c; /* r/m 2, 3 and, with a displacement, 6 */
    unsigned rm = code->modrm & 7;
    bool is_bp = with_bp >> rm & 1 && !(rm == 6 && code->modrm < 0x40);
    return operand_size(code) == 0 || code->segment_prefix == 0x36 ||
           (is_bp && !code->segment_prefix) || code->opcode == 0xff ||
           code->opcode == 0x8f;
}

/* SDM 2A "LOCK": these take it, with a memory operand. */
static bool is_lockable(const struct code *code)
{
    uint8_t opcode = code->opcode;
    unsigned reg = reg_of(code);
    bool is_listed = (opcode < 0x38 && (opcode & 7) < 2) ||
                     (opcode >= 0x80 && opcode <= 0x83 && reg != 7) ||
                     (opcode & 0xfe) == 0x86 ||
                     ((opcode & 0xfe) == 0xf6 && (reg == 2 || reg == 3)) ||
                     ((opcode & 0xfe) == 0xfe && reg < 2);
    return is_listed && !is_register_form(code);
}

/* Vectors that cannot be right: their memory does not hold their instruction (it lies
 * where the operand does), or the frame that was pushed has SS in CS's place. */
static bool is_damaged(const struct code *code)
{
    const struct moo_test *test = code->test;
    const uint16_t *reg = test->initial.reg;
    uint32_t at = ((uint32_t)reg[MOO_CS] << 4) + reg[MOO_IP];
    uint32_t frame = ((uint32_t)reg[MOO_SS] << 4) + (uint16_t)(reg[MOO_SP] - 4);
    unsigned found = 0, wrong = 0;
    for (uint32_t i = 0; i < test->initial.ram_count; i++) {
        struct moo_byte byte = moo_ram(&test->initial, i);
        wrong += byte.address - at < test->byte_count &&
                 byte.value != test->bytes[byte.address - at];
    }
    for (uint32_t i = 0; i < test->final.ram_count; i++) {
        struct moo_byte byte = moo_ram(&test->final, i);
        found += byte.address - frame < 2 &&
                 byte.value == (uint8_t)(reg[MOO_SS] >> (byte.address - frame) * 8);
    }
    return wrong || (test->has_exception && found == 2 && reg[MOO_SS] != reg[MOO_CS]);
}

#define UNDEFINED_OPCODE \
    "an undefined opcode does something (SDM 3B \"Undefined Opcodes\")"
#define PUSH_SP         "PUSH SP pushes SP after the decrement (SDM 3B \"PUSH SP\")"
#define NO_SUCH_SEGMENT "FS, GS, or CS as a destination, is named (SDM 2B \"MOV\")"
#define FAR_REGISTER    "a far pointer in a register (SDM 2A \"CALL\", \"JMP\")"
#define DAMAGED         "an error of the capture: code or frame are not the vector's"

/* The 8086 has no exceptions but the divide error, and fewer ways to decode. */
static const char *known_8086(const struct code *code)
{
    const struct moo_test *test = code->test;
    unsigned reg = reg_of(code);
    switch (code->opcode) {
    case 0x54:
        return PUSH_SP;
    case 0x0f:
    case 0x60 ... 0x6f:
    case 0xc0 ... 0xc1:
    case 0xc8 ... 0xc9:
    case 0xf1:
        return UNDEFINED_OPCODE;
    case 0x27:
    case 0x2f:
    case 0x37:
    case 0x3f:
        return "decimal adjustment of what is no digit (SDM 2A \"AAA\", \"DAA\")";
    case 0xd8 ... 0xdf:
        return "an 8087's instruction, without an 8087";
    case 0x8c:
    case 0x8e:
        if (reg > 3 || (code->opcode == 0x8e && reg == 1)) {
            return NO_SUCH_SEGMENT;
        }
        break;
    case 0x8f:
    case 0xc6 ... 0xc7:
        if (reg) {
            return UNDEFINED_OPCODE;
        }
        break;
    case 0xd0 ... 0xd3:
        if (reg == 6) {
            return UNDEFINED_OPCODE;
        }
        if (count_of(code) > 31) {
            return "shift counts are not masked (SDM 2B \"SAL/SAR/SHL/SHR\")";
        }
        break;
    case 0xd4:
    case 0xf6 ... 0xf7:
        if (opcode_divides(code) && test->final.present >> MOO_CS & 1) {
            return "a divide error returns behind the instruction";
        }
        if (code->has_rep && reg == 7) {
            return "REP changes the sign of IDIV's quotient (undefined: SDM 2B \"REP\")";
        }
        break;
    case 0xff:
        if (reg == 7) {
            return UNDEFINED_OPCODE;
        }
        if (is_register_form(code) && (reg == 3 || reg == 5)) {
            return FAR_REGISTER;
        }
        if (code->modrm == 0xf4) {
            return PUSH_SP;
        }
        break;
    default:
        break;
    }
    return runs_over(code) ? "words and code wrap around at the end of a segment "
                             "(SDM 3B \"Segment Wraparound\")"
                           : NULL;
}

/* In real mode, to which its vectors belong. */
static const char *known_80286(const struct code *code)
{
    const struct moo_test *test = code->test;
    if (code->has_lock && !is_lockable(code)) {
        return "LOCK is ignored where nothing can be locked (SDM 2A \"LOCK\")";
    }
    /* The last byte is the HLT's. */
    if (test->byte_count - 1 > 10) {
        return "more than 10 bytes are too long, not more than 15 (SDM 3A 6.15)";
    }
    if ((code->opcode == 0x8c || code->opcode == 0x8e) && reg_of(code) > 3) {
        return NO_SUCH_SEGMENT;
    }
    if ((code->opcode & 0xfe) == 0xc6 && reg_of(code)) {
        return UNDEFINED_OPCODE;
    }
    if (operand_size(code) == 4 && effective_address(code) == 0xfffe) {
        return "four bytes at FFFEh wrap around between their words (SDM 3B \"Segment "
               "Wraparound\")";
    }
    if (code->opcode == 0xf6 && reg_of(code) == 7 && !test->has_exception &&
        (test->final.reg[MOO_AX] & 0xff) == 0x80) {
        return "IDIV of bytes takes some quotients that do not fit for 80h (SDM 2A "
               "\"IDIV\")";
    }
    if (!test->has_exception || test->exception != X86_GP || !runs_over(code)) {
        return NULL;
    }
    if (is_string(code->opcode)) {
        return "a string instruction that faults has advanced its registers";
    }
    if (code->opcode == 0x8f) {
        return "a POP whose destination faults has moved SP";
    }
    if (goes_through_stack(code)) {
        return "what runs over the end of the stack segment is interrupt 13, not 12 "
               "(SDM 3A 6.15)";
    }
    return NULL;
}

struct known known_about(const struct moo_test *test, enum vector_family family)
{
    struct code code = parse(test, family);
    uint8_t opcode = code.opcode;
    return (struct known){
        .undefined = undefined_flags(&code),
        .pushes_flags = opcode == 0x9c || (opcode >= 0xcc && opcode <= 0xce),
        .difference = is_damaged(&code)       ? DAMAGED
                      : family == FAMILY_8086 ? known_8086(&code)
                                              : known_80286(&code),
    };
}
