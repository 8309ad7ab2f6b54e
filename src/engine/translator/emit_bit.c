/*
 * BT, BTS, BTR and BTC with the bit's number in a register and the bits in memory: a
 * number beyond the operand reaches another word (SDM 2A "BT"). The word is found and
 * checked first; what is executed then cannot leave it.
 */
#include "engine/translator/emit.h"

static unsigned number_of(const struct guest_insn *insn)
{
    return (unsigned)ZydisRegisterGetId(insn->operand[1].reg.value);
}

/* Host r8 = address of the word, r9 = its number behind the operand's, from -2^58 on. */
static void find_word(struct emit *emit, const struct guest_insn *insn, bool is_wide)
{
    struct code *code = &emit->code;
    unsigned guest = number_of(insn);
    emit_address(emit, insn, &insn->operand[0], true, 0);
    if (guest_in_memory(guest)) {
        host_fs(code, true, HOST_MOV_LOAD, HOST_R9, frame_gpr(guest));
    } else {
        host_mov(code, HOST_R9, guest_host(guest));
    }
    if (!is_wide) {
        host_op_reg(code, true, 0x63, HOST_R9, HOST_R9); /* MOVSXD r9, r9d */
    }
    CODE(code, "\x49\xc1\xf9"); /* SAR r9, imm8 */
    code8(code, is_wide ? 6 : 5);
    struct host_mem word = {HOST_R8, HOST_R9, is_wide ? 3 : 2, 0};
    host_op_mem(code, emit->is_64, HOST_LEA, HOST_R8, &word);
}

/* The word's bit is tested in a register: the host does not look beyond that. */
static void test_bit(struct emit *emit, const struct guest_insn *insn, bool is_wide,
                     bool keeps_flags)
{
    struct code *code = &emit->code;
    struct host_mem word = {HOST_R8, HOST_NONE, 0, 0};
    host_op_mem(code, is_wide, HOST_MOV_LOAD, HOST_R9, &word);
    if (keeps_flags) {
        emit_restore_flags(emit);
    }
    unsigned bit = HOST_R10;
    if (guest_in_memory(number_of(insn))) {
        emit_load_gpr(emit, bit, number_of(insn));
    } else {
        bit = guest_host(number_of(insn));
    }
    host_rex(code, is_wide, bit, 0, HOST_R9, false);
    code8(code, 0x0f);
    code8(code, insn->decoded.opcode);
    code8(code, 0xc0u | (bit & 7u) << 3 | (HOST_R9 & 7u));
}

/* r10 = the word's number: the host's instruction gets an address from which it comes to
 * the word as the guest's does. */
static void change_bit(struct emit *emit, const struct guest_insn *insn, bool is_wide,
                       bool keeps_flags)
{
    struct code *code = &emit->code;
    CODE(code, "\x49\xf7\xd2"); /* NOT r10 */
    struct host_mem start = {HOST_R8, HOST_R10, is_wide ? 3 : 2, is_wide ? 8 : 4};
    host_op_mem(code, true, HOST_LEA, HOST_R10, &start);
    if (keeps_flags) {
        host_fs(code, true, HOST_MOV_STORE, HOST_R10, FRAME(scratch));
        emit_restore_flags(emit);
        host_fs(code, true, HOST_MOV_LOAD, HOST_R10, FRAME(scratch));
    }
    if (insn->decoded.attributes & ZYDIS_ATTRIB_HAS_LOCK) {
        code8(code, 0xf0);
    }
    unsigned bit = guest_host(number_of(insn));
    struct host_mem word = {HOST_R10, HOST_NONE, 0, 0};
    host_rex(code, is_wide, bit, 0, HOST_R10, false);
    code8(code, 0x0f);
    code8(code, insn->decoded.opcode);
    host_modrm_mem(code, bit, &word);
}

bool emit_bit_string(struct emit *emit, const struct guest_insn *insn)
{
    unsigned size = insn->operand[0].size;
    bool is_wide = size == 64, is_test = insn->decoded.mnemonic == ZYDIS_MNEMONIC_BT;
    if (insn->decoded.address_width != emit->width * 8 || size < 32 ||
        (!is_test && guest_in_memory(number_of(insn)))) {
        return false;
    }
    bool keeps_flags = insn->flags_live & ~insn->flags_kill;
    emit_spill_flags(emit, insn->flags_live_before);
    find_word(emit, insn, is_wide);
    if (!is_test) {
        host_mov(&emit->code, HOST_R10, HOST_R9);
    }
    emit_check(emit, size / 8, !is_test);
    if (is_test) {
        test_bit(emit, insn, is_wide, keeps_flags);
    } else {
        change_bit(emit, insn, is_wide, keeps_flags);
    }
    emit_note_flags(emit);
    if (!is_test) {
        emit_watch(emit, insn, size / 8, insn->flags_live);
    }
    return true;
}
