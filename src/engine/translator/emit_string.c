/*
 * String instructions. REP STOS and MOVS, as they fill and copy memory: what lies within
 * one page is done by the host's REP, on checked host addresses, page after page. Those
 * without a prefix by loads, stores and compares. Everything else (backwards, an element
 * across two pages, no RAM) is the interpreter's, from where it has come to.
 */
#include "engine/translator/emit.h"

#define FLAG_DF_BYTE 0x04 /* of RFLAGS' second byte */

static unsigned element_size(const struct guest_insn *insn)
{
    return insn->decoded.operand_width / 8;
}

static bool has_repeat(const struct guest_insn *insn)
{
    for (unsigned i = 0; i < insn->decoded.raw.prefix_count; i++) {
        uint8_t prefix = insn->bytes[i];
        if (prefix == 0xf2 || prefix == 0xf3) {
            return true;
        }
    }
    return false;
}

static bool is_plain(const struct emit *emit, const struct guest_insn *insn)
{
    const struct decoded *decoded = &insn->decoded;
    return decoded->attributes & ZYDIS_ATTRIB_HAS_REP &&
           decoded->address_width == emit->width * 8 &&
           (emit->is_64 || emit->mode & MODE_FLAT) &&
           !(decoded->attributes & ZYDIS_ATTRIB_HAS_SEGMENT);
}

static void leave_if_backwards(struct emit *emit)
{
    struct code *code = &emit->code;
    host_fs(code, true, HOST_MOV_LOAD, HOST_R8, FRAME(cpu));
    struct host_mem flags = {HOST_R8, HOST_NONE, 0,
                             (int32_t)offsetof(struct cpu, state.rflags) + 1};
    host_op_mem(code, false, 0xf6, 0, &flags); /* TEST byte, imm8 */
    code8(code, FLAG_DF_BYTE);
    emit_leave_if(emit, HOST_NE);
}

/* Returns where to go if RCX is 0, when nothing is accessed. */
static uint8_t *emit_begin(struct emit *emit)
{
    leave_if_backwards(emit);
    host_op_reg(&emit->code, emit->is_64, 0x85, HOST_RCX, HOST_RCX); /* TEST */
    return host_jcc(&emit->code, HOST_E);
}

/* r10 = the lesser of itself and the elements that fit behind offset r8 of a page. */
static void limit_to_page(struct emit *emit, unsigned shift)
{
    struct code *code = &emit->code;
    host_constant(code, HOST_R9, FRAME_SIZE);
    host_op_reg(code, true, 0x2b, HOST_R9, HOST_R8); /* SUB */
    if (shift) {
        CODE(code, "\x49\xc1\xe9"); /* SHR r9, imm8 */
        code8(code, shift);
    }
    host_op_reg(code, true, 0x3b, HOST_R10, HOST_R9); /* CMP */
    CODE(code, "\x4d\x0f\x47\xd1");                   /* CMOVA r10, r9 */
}

static void advance(struct emit *emit, unsigned guest, unsigned shift)
{
    struct host_mem moved = {(uint8_t)guest, HOST_R10, (uint8_t)shift, 0};
    host_op_mem(&emit->code, emit->is_64, HOST_LEA, guest, &moved);
}

/* Behind a page's part: again, unless somebody wants a look. */
static void emit_end(struct emit *emit, const struct guest_insn *insn,
                     const uint8_t *again, uint8_t *done)
{
    struct code *code = &emit->code;
    emit_watch(emit, insn, STORED_TO_END, 0);
    host_op_reg(code, emit->is_64, 0x85, HOST_RCX, HOST_RCX); /* TEST */
    uint8_t *finished = host_jcc(code, HOST_E);
    host_fs(code, false, 0x80, 7, frame_status(STATUS_ATTENTION)); /* CMP byte, 0 */
    code8(code, 0);
    emit_leave_if(emit, HOST_NE);
    host_jmp_to(code, again);
    host_patch(finished, code->at);
    host_patch(done, code->at);
}

static void rep(struct code *code, unsigned shift, unsigned opcode)
{
    if (shift == 1) {
        code8(code, 0x66);
    }
    code8(code, 0xf3);
    if (shift == 3) {
        code8(code, 0x48);
    }
    code8(code, opcode | (shift > 0));
}

/* Host r8 = host address that a guest register points to; r10 = at most the elements that
 * fit behind it in its page; r9 as emit_check leaves it. */
static void check_run(struct emit *emit, unsigned guest, unsigned shift, bool is_write)
{
    struct code *code = &emit->code;
    emit_mov(emit, HOST_R8, guest);
    emit_check_offset(emit, 1u << shift, is_write);
    host_fs(code, true, HOST_MOV_STORE, HOST_R9, FRAME(scratch));
    limit_to_page(emit, shift);
    host_fs(code, true, HOST_MOV_LOAD, HOST_R9, FRAME(scratch));
    emit_add_page(emit);
}

/* opcode: of the byte form. */
static bool emit_string(struct emit *emit, const struct guest_insn *insn, unsigned opcode,
                        bool has_source)
{
    struct code *code = &emit->code;
    unsigned shift = (unsigned)__builtin_ctz(element_size(insn));
    if (!is_plain(emit, insn) || emit->cache->counts) {
        return false;
    }
    emit_spill_flags(emit, insn->flags_live_before);
    uint8_t *done = emit_begin(emit);
    const uint8_t *again = code->at;
    emit_mov(emit, HOST_R10, HOST_RCX);
    if (has_source) {
        check_run(emit, HOST_RSI, shift, false);
        host_fs(code, true, HOST_MOV_STORE, HOST_R8, FRAME(spill[2]));
    }
    check_run(emit, HOST_RDI, shift, true);
    host_fs(code, true, HOST_MOV_STORE, HOST_RCX, FRAME(spill[0]));
    host_fs(code, true, HOST_MOV_STORE, HOST_RDI, FRAME(spill[1]));
    host_mov(code, HOST_RCX, HOST_R10);
    host_mov(code, HOST_RDI, HOST_R8);
    if (has_source) {
        host_fs(code, true, HOST_MOV_STORE, HOST_RSI, FRAME(scratch));
        host_fs(code, true, HOST_MOV_LOAD, HOST_RSI, FRAME(spill[2]));
    }
    rep(code, shift, opcode);
    host_fs(code, true, HOST_MOV_LOAD, HOST_RCX, FRAME(spill[0]));
    host_fs(code, true, HOST_MOV_LOAD, HOST_RDI, FRAME(spill[1]));
    host_op_reg(code, emit->is_64, 0x2b, HOST_RCX, HOST_R10); /* SUB */
    advance(emit, HOST_RDI, shift);
    if (has_source) {
        host_fs(code, true, HOST_MOV_LOAD, HOST_RSI, FRAME(scratch));
        advance(emit, HOST_RSI, shift);
    }
    emit_end(emit, insn, again, done);
    return true;
}

/* ---- without a prefix ---------------------------------------------------------------
 */

/* Host r8 = host address of what RSI or RDI points to. */
static void check_element(struct emit *emit, const struct guest_insn *insn,
                          unsigned guest, bool is_write)
{
    for (unsigned i = 0; i < insn->decoded.operand_count; i++) {
        const struct operand *operand = &insn->operand[i];
        if (operand->type == ZYDIS_OPERAND_TYPE_MEMORY &&
            (unsigned)ZydisRegisterGetId(operand->mem.base) == guest) {
            emit_address(emit, insn, operand, true, 0);
            emit_check(emit, element_size(insn), is_write);
        }
    }
}

/* opcode: of the byte form; with the element at [r8]. */
static void element_op(struct emit *emit, unsigned size, unsigned opcode, unsigned host)
{
    struct host_mem element = {HOST_R8, HOST_NONE, 0, 0};
    if (size == 2) {
        code8(&emit->code, 0x66);
    }
    host_op_mem(&emit->code, size == 8, opcode | (size > 1), host, &element);
}
#define BYTE_LOAD    0x8a
#define BYTE_STORE   0x88
#define BYTE_COMPARE 0x3a

/* What is read (accumulator: not from memory) is written or compared, or loaded. */
static bool emit_element(struct emit *emit, const struct guest_insn *insn,
                         bool has_source, bool has_target, unsigned opcode)
{
    unsigned size = element_size(insn);
    if (has_repeat(insn) || insn->decoded.address_width != emit->width * 8) {
        return false;
    }
    emit_spill_flags(emit, insn->flags_live_before);
    leave_if_backwards(emit);
    unsigned value = has_source && has_target ? HOST_R10 : HOST_RAX;
    if (has_source) {
        check_element(emit, insn, HOST_RSI, false);
        element_op(emit, size, BYTE_LOAD, value);
    }
    if (has_target) {
        check_element(emit, insn, HOST_RDI, opcode == BYTE_STORE);
        element_op(emit, size, opcode, value);
        emit_lea_base(emit, HOST_RDI, HOST_RDI, (int32_t)size);
    }
    if (has_source) {
        emit_lea_base(emit, HOST_RSI, HOST_RSI, (int32_t)size);
    }
    if (opcode == BYTE_COMPARE) {
        emit_note_flags(emit);
    } else if (opcode == BYTE_STORE) {
        emit_watch(emit, insn, size, insn->flags_live);
    }
    return true;
}

bool emit_stos(struct emit *emit, const struct guest_insn *insn)
{
    return has_repeat(insn) ? emit_string(emit, insn, 0xaa, false)
                            : emit_element(emit, insn, false, true, BYTE_STORE);
}

bool emit_movs(struct emit *emit, const struct guest_insn *insn)
{
    return has_repeat(insn) ? emit_string(emit, insn, 0xa4, true)
                            : emit_element(emit, insn, true, true, BYTE_STORE);
}

bool emit_lods(struct emit *emit, const struct guest_insn *insn)
{
    return emit_element(emit, insn, true, false, BYTE_LOAD);
}

bool emit_scas(struct emit *emit, const struct guest_insn *insn)
{
    return emit_element(emit, insn, false, true, BYTE_COMPARE);
}

bool emit_cmps(struct emit *emit, const struct guest_insn *insn)
{
    return emit_element(emit, insn, true, true, BYTE_COMPARE);
}
