/*
 * REP STOS and MOVS, as they fill and copy memory: whatever lies within one page is the
 * host's REP, on checked host addresses. Everything else (backwards, across pages, no
 * RAM) is the interpreter's, before anything has happened.
 */
#include "engine/translator/emit.h"

#define FLAG_DF_BYTE 0x04 /* of RFLAGS' second byte */

static void leave_if(struct emit *emit, unsigned condition)
{
    struct cold *cold = emit_cold(emit, COLD_LEAVE, host_jcc(&emit->code, condition));
    cold->reason = LEAVE_INTERPRET;
    cold->from_host = false;
}

static unsigned log2_size(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_STOSB:
    case ZYDIS_MNEMONIC_MOVSB:
        return 0;
    case ZYDIS_MNEMONIC_STOSD:
    case ZYDIS_MNEMONIC_MOVSD:
        return 2;
    default:
        return 3;
    }
}

static bool is_plain(const struct guest_insn *insn)
{
    const ZydisDecodedInstruction *decoded = &insn->decoded;
    bool is_string = decoded->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
                     decoded->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT;
    return is_string && decoded->attributes & ZYDIS_ATTRIB_HAS_REP &&
           decoded->address_width == 64 &&
           !(decoded->attributes & ZYDIS_ATTRIB_HAS_SEGMENT);
}

/* Host r8 = host address of the RCX elements at guest register `guest`, which must lie
 * in one page; r9 as emit_check leaves it. */
static void check_run(struct emit *emit, unsigned guest, unsigned shift, bool is_write)
{
    struct code *code = &emit->code;
    struct host_mem host_page = {HOST_R9, HOST_NONE, 0, offsetof(struct tlb_entry, host)};
    struct host_mem end = {HOST_R8, HOST_RCX, (uint8_t)shift, 0};
    host_mov(code, HOST_R8, guest);
    emit_check_offset(emit, 1, is_write);
    host_op_mem(code, true, HOST_LEA, HOST_R10, &end);
    host_cmp(code, HOST_R10, FRAME_SIZE);
    leave_if(emit, HOST_A);
    host_gs(code, true, 0x03, HOST_R8, &host_page); /* ADD */
}

/* Forwards, and no more than a page. */
static void check_count(struct emit *emit, unsigned shift)
{
    struct code *code = &emit->code;
    host_fs(code, true, HOST_MOV_LOAD, HOST_R8, FRAME(cpu));
    struct host_mem flags = {HOST_R8, HOST_NONE, 0,
                             (int32_t)offsetof(struct cpu, state.rflags) + 1};
    host_op_mem(code, false, 0xf6, 0, &flags); /* TEST byte, imm8 */
    code8(code, FLAG_DF_BYTE);
    leave_if(emit, HOST_NE);
    host_cmp(code, HOST_RCX, (int32_t)(FRAME_SIZE >> shift));
    leave_if(emit, HOST_A);
}

static void rep(struct code *code, unsigned shift, unsigned opcode)
{
    code8(code, 0xf3);
    if (shift == 3) {
        code8(code, 0x48);
    }
    code8(code, opcode | (shift > 0));
}

bool emit_stos(struct emit *emit, const struct guest_insn *insn)
{
    struct code *code = &emit->code;
    unsigned shift = log2_size(insn->decoded.mnemonic);
    if (!is_plain(insn) || emit->cache->counts) {
        return false;
    }
    emit_spill_flags(emit, insn->flags_live_before);
    check_count(emit, shift);
    check_run(emit, HOST_RDI, shift, true);
    host_mov(code, HOST_R10, HOST_RDI);
    host_mov(code, HOST_RDI, HOST_R8);
    rep(code, shift, 0xaa);
    host_op_reg(code, true, 0x2b, HOST_RDI, HOST_R8);  /* SUB: bytes stored */
    host_op_reg(code, true, 0x03, HOST_RDI, HOST_R10); /* ADD */
    emit_watch(emit, STORED_TO_END, 0);
    return true;
}

bool emit_movs(struct emit *emit, const struct guest_insn *insn)
{
    struct code *code = &emit->code;
    unsigned shift = log2_size(insn->decoded.mnemonic);
    if (!is_plain(insn) || emit->cache->counts) {
        return false;
    }
    emit_spill_flags(emit, insn->flags_live_before);
    check_count(emit, shift);
    check_run(emit, HOST_RSI, shift, false);
    host_fs(code, true, HOST_MOV_STORE, HOST_R8, FRAME(scratch));
    check_run(emit, HOST_RDI, shift, true);
    host_mov(code, HOST_R10, HOST_RDI);
    host_fs(code, true, HOST_MOV_STORE, HOST_RSI, FRAME(exit_value));
    host_mov(code, HOST_RDI, HOST_R8);
    host_fs(code, true, HOST_MOV_LOAD, HOST_RSI, FRAME(scratch));
    rep(code, shift, 0xa4);
    host_op_reg(code, true, 0x2b, HOST_RDI, HOST_R8); /* SUB: bytes copied */
    host_fs(code, true, HOST_MOV_LOAD, HOST_RSI, FRAME(exit_value));
    host_op_reg(code, true, 0x03, HOST_RSI, HOST_RDI); /* ADD */
    host_op_reg(code, true, 0x03, HOST_RDI, HOST_R10);
    emit_watch(emit, STORED_TO_END, 0);
    return true;
}
