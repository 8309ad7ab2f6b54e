#include "sequence.h"

#include <string.h>

#include "form.h"
#include "generate.h"
#include "interpreter/insn.h"
#include "undefined.h"

#define INSTRUCTIONS_MAX 64
#define TRIES            24 /* for one instruction */
#define FLAGS_ALL        X86_FLAGS_ARITH

/* What the program is made of. The registers that point to data are not written, nor are
 * the stack pointer and the counter of loops. */
struct program {
    uint64_t *random;
    struct isa_case *test;
    unsigned left;      /* instructions that may come */
    unsigned counter;   /* register */
    uint32_t kept;      /* registers that no instruction may write */
    uint32_t undefined; /* flags here */
    bool is_in_loop, is_in_routine;
    bool is_writable;        /* the code lies where it can be written */
    unsigned routine;        /* its offset; 0: none yet */
    uint32_t behind_routine; /* flags it leaves undefined */
};

static uint64_t pick(struct program *program, uint64_t below)
{
    return isa_random(program->random) % below;
}

static bool one_in(struct program *program, unsigned n)
{
    return pick(program, n) == 0;
}

/* ---- Bytes ---- */

static bool has_room(const struct program *program, unsigned bytes)
{
    return program->test->code_length + bytes + 16 <= ISA_CODE_MAX;
}

static void put(struct program *program, const void *bytes, unsigned size)
{
    memcpy(program->test->code + program->test->code_length, bytes, size);
    program->test->code_length = (uint16_t)(program->test->code_length + size);
}

#define PUT(program, ...) \
    put(program, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void put32(struct program *program, uint32_t value)
{
    put(program, &value, 4);
}

/* The linear address of a place in the code. */
static uint32_t linear(const struct program *program, unsigned offset)
{
    return ISA_CODE + program->test->code_offset + offset;
}

/* ---- One instruction ---- */

static const struct form *choose_form(struct program *program)
{
    bool wants_integer = !one_in(program, 3);

    for (unsigned i = 0; i < 256; i++) {
        const struct form *form = &form_table[pick(program, form_count)];

        if (form->bits == program->test->bits && !form->excluded &&
            !form_excluded(form->mnemonic) && (!wants_integer || form->is_integer)) {
            return form;
        }
    }
    return &form_table[0];
}

/* Makes the operand in memory [rbx], [rsi] or [rdi] with a displacement of 8 bits. */
static bool aim(struct program *program, const struct form *form, struct form_code *code)
{
    static const uint8_t bases[] = {X86_RBX, X86_RSI, X86_RDI};
    uint8_t *bytes = code->bytes;
    unsigned at = code->decoded.raw.modrm.offset;
    unsigned size = code->operand[0].size;

    if (!(code->decoded.attributes & ZYDIS_ATTRIB_HAS_MODRM)) {
        return false;
    }
    bytes[at] = (uint8_t)(0x40 | (bytes[at] & 0x38) | bases[pick(program, 3)]);
    if (code->decoded.attributes & ZYDIS_ATTRIB_HAS_REX) {
        bytes[code->decoded.raw.rex.offset] &= 0xfc;
    }
    if (code->decoded.attributes & ZYDIS_ATTRIB_HAS_VEX &&
        code->decoded.raw.vex.size == 3) {
        bytes[code->decoded.raw.vex.offset + 1] |= 0x60; /* inverted X and B */
    }
    for (unsigned i = 0; i < code->decoded.operand_count; i++) {
        bool is_memory = code->operand[i].type == ZYDIS_OPERAND_TYPE_MEMORY;
        size = is_memory ? code->operand[i].size : size;
    }
    bytes[at + 1] = (uint8_t)pick(program, 256);
    /* Aligned, where that is needed, or hosts slow a program down for it. */
    bool is_locked = code->decoded.attributes & ZYDIS_ATTRIB_HAS_LOCK ||
                     code->decoded.mnemonic == ZYDIS_MNEMONIC_XCHG;
    bytes[at + 1] &= size >= 128 ? 0xe0 : is_locked ? 0xf8 : 0xff;
    return form_decode(form, code);
}

static bool is_calm(const struct form_code *code)
{
    const ZydisInstructionAttributes not_calm =
        ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE |
        ZYDIS_ATTRIB_HAS_SEGMENT_FS | ZYDIS_ATTRIB_HAS_SEGMENT_GS;

    if (code->decoded.attributes & not_calm ||
        code->decoded.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE ||
        code->decoded.address_width == 16) {
        return false;
    }
    switch (code->decoded.mnemonic) {
    case ZYDIS_MNEMONIC_INT3:
    case ZYDIS_MNEMONIC_INT:
    case ZYDIS_MNEMONIC_INTO:
    case ZYDIS_MNEMONIC_POPF: /* may set TF */
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ:
    case ZYDIS_MNEMONIC_LEAVE:
    case ZYDIS_MNEMONIC_UD0:
    case ZYDIS_MNEMONIC_UD1:
    case ZYDIS_MNEMONIC_UD2:
        return false;
    default:
        return insn_find_row(code->decoded.mnemonic, 0)->class != INSN_PRIVILEGED;
    }
}

static bool is_string(const struct form_code *code)
{
    return code->decoded.meta.category == ZYDIS_CATEGORY_STRINGOP;
}

/* Does it write a register that has to stay? Strings move their pointers a little. */
static bool writes_kept(const struct program *program, const struct form_code *code)
{
    for (unsigned i = 0; i < code->decoded.operand_count; i++) {
        const ZydisDecodedOperand *operand = &code->operand[i];
        ZydisRegisterClass class = operand->type == ZYDIS_OPERAND_TYPE_REGISTER
                                       ? ZydisRegisterGetClass(operand->reg.value)
                                       : ZYDIS_REGCLASS_INVALID;
        bool is_general = class == ZYDIS_REGCLASS_GPR8 || class == ZYDIS_REGCLASS_GPR16 ||
                          class == ZYDIS_REGCLASS_GPR32 || class == ZYDIS_REGCLASS_GPR64;

        if (!is_general || !(operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)) {
            continue;
        }
        unsigned offset = bind_register(operand->reg.value);
        bool is_stack = offset / 8 == X86_RSP && !program->is_in_loop &&
                        !program->is_in_routine &&
                        (code->decoded.meta.category == ZYDIS_CATEGORY_PUSH ||
                         code->decoded.meta.category == ZYDIS_CATEGORY_POP);
        if (program->kept >> offset / 8 & 1 && !is_string(code) && !is_stack) {
            return true;
        }
    }
    return false;
}

static bool has_visible_memory(const struct form_code *code)
{
    for (unsigned i = 0; i < code->decoded.operand_count_visible; i++) {
        if (code->operand[i].type == ZYDIS_OPERAND_TYPE_MEMORY) {
            return !is_string(code);
        }
    }
    return false;
}

static bool put_any(struct program *program)
{
    struct form_code code;

    for (unsigned i = 0; i < TRIES && has_room(program, 15); i++) {
        const struct form *form = choose_form(program);
        uint32_t undefined = program->undefined;

        if (!form_encode(form, program->random, &code) || !is_calm(&code) ||
            !generate_is_comparable(&code) ||
            (has_visible_memory(&code) && !aim(program, form, &code)) ||
            !is_calm(&code) || writes_kept(program, &code) ||
            !undefined_follow(&code.decoded, code.operand, &undefined)) {
            continue;
        }
        program->undefined = undefined;
        put(program, code.bytes, code.decoded.length);
        program->left -= program->left > 0;
        return true;
    }
    return false;
}

static void put_several(struct program *program, unsigned count)
{
    for (unsigned i = 0; i < count && program->left > 0; i++) {
        put_any(program);
    }
}

/* ---- Control flow ---- */

static bool reads_undefined(const struct program *program, unsigned condition)
{
    static const uint32_t reads[8] = {
        X86_FLAG_OF,
        X86_FLAG_CF,
        X86_FLAG_ZF,
        X86_FLAG_CF | X86_FLAG_ZF,
        X86_FLAG_SF,
        X86_FLAG_PF,
        X86_FLAG_SF | X86_FLAG_OF,
        X86_FLAG_SF | X86_FLAG_OF | X86_FLAG_ZF,
    };

    return reads[condition >> 1] & program->undefined;
}

/* Jcc over some instructions, short or near. */
static void put_branch(struct program *program)
{
    unsigned condition = (unsigned)pick(program, 16);
    bool is_near = one_in(program, 4);
    uint32_t before = program->undefined;

    if (reads_undefined(program, condition) || !has_room(program, 100)) {
        return;
    }
    if (is_near) {
        PUT(program, 0x0f, (uint8_t)(0x80 | condition), 0, 0, 0, 0);
    } else {
        PUT(program, (uint8_t)(0x70 | condition), 0);
    }
    unsigned from = program->test->code_length;
    put_several(program, 1 + (unsigned)pick(program, 5));
    program->test->code[from - (is_near ? 4 : 1)] =
        (uint8_t)(program->test->code_length - from);
    program->undefined |= before;
}

/* A direct or indirect jump to what follows, over bytes that are never executed. */
static void put_jump(struct program *program)
{
    unsigned skipped = (unsigned)pick(program, 6);

    if (!has_room(program, 16)) {
        return;
    }
    PUT(program, 0xeb, (uint8_t)skipped);
    for (unsigned i = 0; i < skipped; i++) {
        PUT(program, (uint8_t)pick(program, 256));
    }
    /* The bytes skipped are data to whoever decodes in a line: only breakpoints. */
    memset(program->test->code + program->test->code_length - skipped, ISA_OP_INT3,
           skipped);
}

static void put_counter(struct program *program, uint32_t value)
{
    if (program->counter >= 8) {
        PUT(program, 0x41);
    }
    PUT(program, (uint8_t)(0xb8 | (program->counter & 7)));
    put32(program, value);
}

/* Counts down; ways that leave CF as the body left it, or not. */
static void put_count_down(struct program *program)
{
    uint8_t reg = program->counter & 7;

    if (one_in(program, 2)) { /* cmp al, cl: every flag is defined */
        PUT(program, 0x38, 0xc8);
    }
    if (program->counter >= 8) {
        PUT(program, 0x41);
    }
    if (one_in(program, 2)) {
        PUT(program, 0x83, (uint8_t)(0xe8 | reg), 1); /* sub */
        program->undefined = 0;
    } else {
        PUT(program, 0xff, (uint8_t)(0xc8 | reg)); /* dec */
        program->undefined &= X86_FLAG_CF;
    }
}

/* The body starts with the flags of the count, so that what is undefined at its end is
 * not read at its start. */
static void put_loop(struct program *program, void (*put_item)(struct program *))
{
    static const uint16_t counts[] = {1, 2, 3, 7, 16, 40, 100, 300};
    unsigned items = 1 + (unsigned)pick(program, 5);

    if (program->is_in_loop || program->is_in_routine || !has_room(program, 250)) {
        return;
    }
    put_counter(program, counts[pick(program, 8)]);
    program->is_in_loop = true;
    unsigned top = program->test->code_length;
    PUT(program, 0x38, 0xc8); /* cmp al, cl */
    program->undefined = 0;
    for (unsigned i = 0; i < items && program->left > 0; i++) {
        put_item(program);
    }
    put_count_down(program);
    PUT(program, 0x0f, 0x85); /* jnz near */
    put32(program, top - (program->test->code_length + 4u));
    program->is_in_loop = false;
}

/* A routine that later calls find, jumped over here. */
static void put_routine(struct program *program)
{
    if (program->routine || program->is_in_loop || !has_room(program, 120)) {
        return;
    }
    PUT(program, 0xe9, 0, 0, 0, 0);
    uint32_t before = program->undefined;
    unsigned start = program->test->code_length;
    program->is_in_routine = true;
    program->undefined = FLAGS_ALL;
    put_several(program, 1 + (unsigned)pick(program, 4));
    program->behind_routine = program->undefined;
    program->undefined = before;
    program->is_in_routine = false;
    if (one_in(program, 4)) {
        PUT(program, 0xf3); /* "rep ret" of old compilers */
    }
    PUT(program, 0xc3);
    uint32_t distance = program->test->code_length - start;
    memcpy(program->test->code + start - 4, &distance, 4);
    program->routine = start;
}

static void put_call(struct program *program)
{
    if (!program->routine || program->is_in_routine || !has_room(program, 8)) {
        return;
    }
    PUT(program, 0xe8);
    put32(program, program->routine - (program->test->code_length + 4u));
    program->undefined = program->behind_routine;
}

/* REP with a count that is known. */
static void put_repeated(struct program *program)
{
    static const uint8_t operations[] = {0xa4, 0xa5, 0xa6, 0xa7, 0xaa,
                                         0xab, 0xac, 0xad, 0xae, 0xaf};
    uint8_t operation = operations[pick(program, sizeof(operations))];

    if (program->is_in_loop || !has_room(program, 16)) {
        return;
    }
    PUT(program, 0xb9); /* mov ecx */
    put32(program, (uint32_t)pick(program, 40));
    PUT(program, one_in(program, 2) ? 0xf3 : 0xf2, operation);
}

/* Stores a byte into an instruction that comes: its immediate operand, with a jump before
 * it as SDM 3A 9.1.3 wants. In loops the same instruction changes again and again. */
static void put_patch(struct program *program)
{
    uint8_t value = (uint8_t)pick(program, 256);
    uint8_t reg = 1 + (uint8_t)pick(program, 2); /* CL, DL */

    if (!program->is_writable || !has_room(program, 32)) {
        return;
    }
    bool is_wide = program->test->bits == 64;
    bool is_counted = program->is_in_loop && one_in(program, 2);
    /* The byte lies 3 behind the store, whose own length the 32-bit form has to add. */
    if (is_counted && is_wide) {
        PUT(program, 0x44, 0x88, 0x3d); /* mov [rip + ...], r15b */
        put32(program, 3);
    } else {
        PUT(program, 0xc6, 0x05); /* mov byte [...], value */
        put32(program, is_wide ? 3 : linear(program, program->test->code_length + 5 + 3));
        PUT(program, value);
    }
    PUT(program, 0xeb, 0x00);               /* jmp to the next */
    PUT(program, (uint8_t)(0xb0 | reg), 0); /* mov reg, the byte */
}

/* ---- The whole ---- */

static void put_item(struct program *program)
{
    switch (pick(program, 16)) {
    case 0:
    case 1:
        put_branch(program);
        break;
    case 2:
        put_jump(program);
        break;
    case 3:
    case 4:
        put_call(program);
        break;
    case 5:
        put_repeated(program);
        break;
    case 6:
    case 7:
        put_patch(program);
        break;
    default:
        put_several(program, 1 + (unsigned)pick(program, 4));
        break;
    }
}

static void put_outer_item(struct program *program)
{
    switch (pick(program, 6)) {
    case 0:
    case 1:
        put_loop(program, put_item);
        break;
    case 2:
        put_routine(program);
        break;
    default:
        put_item(program);
        break;
    }
}

/* Pointers to aligned places from which 8 bits reach only data. */
static void calm_state(struct program *program)
{
    struct isa_case *test = program->test;

    test->gpr[X86_RSP] = ISA_STACK + 0x800 + pick(program, 16) * 16;
    test->gpr[X86_RBX] = ISA_DATA + 0x100 + pick(program, 24) * 64;
    test->gpr[X86_RSI] = ISA_DATA + 0x800 + pick(program, 24) * 64;
    test->gpr[X86_RDI] = ISA_DATA + 0x1000 + pick(program, 24) * 64;
    test->flags &= ~X86_FLAG_TF | (one_in(program, 64) ? X86_FLAG_TF : 0);
    test->flags &= ~X86_FLAG_DF | (one_in(program, 4) ? X86_FLAG_DF : 0);
    test->mxcsr = one_in(program, 4) ? test->mxcsr : 0x1f80;
    test->fcw = one_in(program, 4) ? test->fcw : 0x37f;
    test->fsw = 0;
}

bool sequence_make(uint64_t *random, unsigned bits, struct isa_case *test)
{
    struct program program = {.random = random,
                              .test = test,
                              .counter = bits == 64 ? X86_R15 : X86_RBP,
                              .kept = 1u << X86_RSP | 1u << X86_RBX | 1u << X86_RSI |
                                      1u << X86_RDI};

    memset(test, 0, sizeof(*test));
    test->bits = (uint8_t)bits;
    generate_state(random, test);
    calm_state(&program);
    program.kept |= 1u << program.counter;
    program.left = 1 + (unsigned)pick(&program, 1u << pick(&program, 7));
    program.left = program.left < INSTRUCTIONS_MAX ? program.left : INSTRUCTIONS_MAX;
    program.is_writable = one_in(&program, 3);
    test->code_offset = program.is_writable
                            ? (uint16_t)(ISA_FIXED_CODE * ISA_PAGE + pick(&program, 3000))
                            : (uint16_t)pick(&program, 7000);
    for (unsigned i = 0; i < 200 && program.left > 0 && has_room(&program, 40); i++) {
        put_outer_item(&program);
    }
    return test->code_length > 0;
}
