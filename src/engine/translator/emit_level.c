/*
 * Between user and kernel without leaving translated code: SYSCALL and SYSRET of 64-bit
 * code (SDM 2B), and STAC and CLAC, which change the kernel's view of memory. What is not
 * as today's systems set it up (level.c), would fault, or lets an interrupt in, is the
 * interpreter's before anything has happened.
 */
#include "engine/translator/emit_state.h"
#include "engine/translator/level.h"
#include "interpreter/syscall.h"

/* gs = the view that a field of the frame holds; clobbers r9. */
static void set_view(struct emit *emit, int32_t field)
{
    host_fs(&emit->code, true, HOST_MOV_LOAD, HOST_R9, field);
    CODE(&emit->code, "\xf3\x49\x0f\xae\xd9"); /* WRGSBASE r9 */
    host_fs(&emit->code, true, HOST_MOV_STORE, HOST_R9, FRAME(view));
}

static void leave_if_not_possible(struct emit *emit)
{
    host_fs(&emit->code, false, 0x80, 7, FRAME(has_levels)); /* CMP byte */
    code8(&emit->code, 0);
    emit_leave_if(emit, HOST_E);
}

static void note_move(struct emit *emit, unsigned where)
{
    host_fs(&emit->code, false, 0xc6, 0, FRAME(moved)); /* MOV byte */
    code8(&emit->code, where);
    emit->ended = true;
}

/* On at the guest's address in r8, in code of a mode. */
static void go_on(struct emit *emit, unsigned mode)
{
    const struct code_cache *cache = emit->cache;
    host_jmp_to(&emit->code, cache->write + cache->jump[code_jump_kind(mode)]);
}

bool emit_syscall(struct emit *emit, const struct guest_insn *insn)
{
    struct code *code = &emit->code;
    if (!(emit->mode & MODE_USER) || !emit->is_64 || !level_is_possible()) {
        return false;
    }
    emit_spill_flags(emit, X86_FLAGS_ARITH);
    leave_if_not_possible(emit);
    state_load_arith(emit);
    state_load_cpu(emit);
    struct host_mem flags = state_at_r8(CPU(state.rflags));
    struct host_mem mask = state_at_r8(CPU(state.sfmask));
    struct host_mem entry = state_at_r8(CPU(state.lstar));
    host_op_mem(code, true, HOST_MOV_LOAD, HOST_R10, &flags);
    host_and(code, true, HOST_R10, ~(uint32_t)X86_FLAG_RF);
    host_op_reg(code, true, 0x0b, HOST_R9, HOST_R10); /* OR */
    host_fs(code, true, HOST_MOV_STORE, HOST_R9, frame_gpr(X86_R11));
    host_op_mem(code, true, HOST_MOV_LOAD, HOST_R9, &mask);
    CODE(code, "\x49\xf7\xd1");                       /* NOT r9 */
    host_op_reg(code, true, 0x23, HOST_R10, HOST_R9); /* AND */
    CODE(code, "\x49\x83\xca\x02");                   /* OR r10, X86_FLAG_1 */
    host_op_mem(code, true, HOST_MOV_STORE, HOST_R10, &flags);
    host_fs_constant(code, FRAME(arith), arith_from_flags(0)); /* LEVEL_CLEARED */
    emit_page_address(emit, HOST_RCX, insn->offset + insn->decoded.length);
    host_fs(code, true, HOST_MOV_STORE, HOST_RSP, FRAME(user_rsp));
    host_fs(code, true, HOST_MOV_LOAD, HOST_RSP, FRAME(level_base[0]));
    host_fs(code, true, HOST_MOV_STORE, HOST_RSP, FRAME(stack_base));
    set_view(emit, FRAME(level_view[0]));
    note_move(emit, MOVED_TO_KERNEL);
    host_op_mem(code, true, HOST_MOV_LOAD, HOST_R8, &entry);
    go_on(emit, 0);
    return true;
}

/* Leaves what ends translated code, or depends on more than has been looked at. */
#define SYSRET_LEFT (X86_FLAG_TF | X86_FLAG_AC | X86_FLAG_VIF | X86_FLAG_VIP)

bool emit_sysret(struct emit *emit, const struct guest_insn *insn)
{
    struct code *code = &emit->code;
    if (emit->mode & MODE_USER || !emit->is_64 || insn->decoded.operand_width != 64 ||
        !level_is_possible()) {
        return false;
    }
    emit_spill_flags(emit, insn->flags_live_before);
    leave_if_not_possible(emit);
    state_load_cpu(emit);
    state_leave_if_wanted(emit);
    host_mov(code, HOST_R9, HOST_RCX);
    CODE(code, "\x49\xc1\xe1\x10\x49\xc1\xf9\x10");   /* SHL r9, 16; SAR r9, 16 */
    host_op_reg(code, true, 0x3b, HOST_R9, HOST_RCX); /* CMP: canonical? */
    emit_leave_if(emit, HOST_NE);
    host_fs(code, true, HOST_MOV_LOAD, HOST_R10, frame_gpr(X86_R11));
    CODE(code, "\x41\xf7\xc2"); /* TEST r10d, imm32 */
    code32(code, SYSRET_LEFT);
    emit_leave_if(emit, HOST_NE);
    host_mov(code, HOST_R9, HOST_R10);
    host_and(code, false, HOST_R9, SYSRET_FLAGS & ~(uint32_t)X86_FLAGS_ARITH);
    CODE(code, "\x49\x83\xc9\x02"); /* OR r9, X86_FLAG_1 */
    struct host_mem flags = state_at_r8(CPU(state.rflags));
    host_op_mem(code, true, HOST_MOV_STORE, HOST_R9, &flags);
    state_store_arith(emit);
    host_fs(code, true, HOST_MOV_LOAD, HOST_RSP, FRAME(level_base[1]));
    host_fs(code, true, HOST_MOV_STORE, HOST_RSP, FRAME(stack_base));
    host_fs(code, true, HOST_MOV_LOAD, HOST_RSP, FRAME(user_rsp));
    set_view(emit, FRAME(level_view[1]));
    note_move(emit, MOVED_TO_USER);
    host_mov(code, HOST_R8, HOST_RCX);
    go_on(emit, MODE_USER);
    return true;
}

bool emit_ac(struct emit *emit, const struct guest_insn *insn)
{
    bool ac = insn->decoded.mnemonic == ZYDIS_MNEMONIC_STAC;
    if (emit->mode & MODE_USER || !level_is_possible()) {
        return emit_quick(emit, insn);
    }
    emit_spill_flags(emit, insn->flags_live_before);
    state_load_cpu(emit);
    state_change(emit, ac ? STATE_OR : STATE_AND, CPU(state.rflags),
                 ac ? X86_FLAG_AC : ~(uint32_t)X86_FLAG_AC);
    set_view(emit, ac ? FRAME(view_ac) : FRAME(level_view[0]));
    struct host_mem view = state_at_r8(CPU(tlb));
    host_op_mem(&emit->code, true, HOST_MOV_STORE, HOST_R9, &view);
    return true;
}
