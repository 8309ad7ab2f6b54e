/*
 * What kernels execute all the time and would otherwise leave translated code for: the
 * common case of each, by the same reads and writes of struct cpu as the interpreter's
 * routine. Whatever may fault, or lets an interrupt in, is left to that routine before
 * anything has happened. Only code of CPL 0 comes here (SDM 3A 6.8.1, SDM 2B).
 */
#include "base/scope.h"
#include "engine/translator/emit_state.h"

void state_leave_if_wanted(struct emit *emit)
{
    struct host_mem wanted = state_at_r8(CPU(wants_window));
    host_op_mem(&emit->code, false, 0x80, 7, &wanted); /* CMP byte, 0 */
    code8(&emit->code, 0);
    emit_leave_if(emit, HOST_NE);
}

void emit_leave_quick_if(struct emit *emit, unsigned condition)
{
    emit_leave_if(emit, condition);
    emit->cold[emit->cold_count - 1].reason = LEAVE_QUICK;
}

void emit_quick_resume(struct emit *emit)
{
    struct block_insn *done = &emit->block->insn[emit->ordinal];
    done->resume = (uint16_t)(emit->code.at - (emit->cache->write +
                                               block_host(emit->block, emit->ordinal)));
}

/* What needs C, but no more of the guest's state than a register or two. Counting runs
 * leave it to the interpreter, which counts. */
bool emit_quick(struct emit *emit, const struct guest_insn *insn)
{
    bool is_user = emit->mode & MODE_USER;
    bool is_users = insn->decoded.mnemonic == ZYDIS_MNEMONIC_SYSENTER;
    if (emit->cache->counts || is_user != is_users) {
        return false;
    }
    emit_leave(emit, LEAVE_QUICK);
    emit_note_flags(emit); /* entering puts them there */
    emit->ended = insn->ends_block;
    emit_quick_resume(emit);
    return true;
}

bool emit_cli(struct emit *emit, const struct guest_insn *insn)
{
    if (emit->mode & MODE_USER) {
        return false;
    }
    emit_spill_flags(emit, insn->flags_live_before);
    state_load_cpu(emit);
    state_change(emit, STATE_AND, CPU(state.rflags), ~(uint32_t)X86_FLAG_IF);
    return true;
}

/* The instruction behind is not interrupted: the shadow is noted as the routine does, if
 * IF was clear. */
bool emit_sti(struct emit *emit, const struct guest_insn *insn)
{
    struct code *code = &emit->code;
    if (emit->mode & MODE_USER) {
        return false;
    }
    emit_spill_flags(emit, insn->flags_live_before);
    state_load_cpu(emit);
    state_leave_if_wanted(emit);
    struct host_mem flags = state_at_r8(CPU(state.rflags) + 1);
    host_op_mem(code, false, 0xf6, 0, &flags); /* TEST byte, imm8 */
    code8(code, X86_FLAG_IF >> 8);
    uint8_t *done = host_jcc(code, HOST_NE);
    state_change(emit, STATE_OR, CPU(state.rflags), X86_FLAG_IF);
    emit_code_address(emit, HOST_R9, insn->offset + insn->decoded.length);
    struct host_mem rip = state_at_r8(CPU(shadow_rip));
    host_op_mem(code, true, HOST_MOV_STORE, HOST_R9, &rip);
    struct host_mem shadow = state_at_r8(CPU(state.interrupt_shadow));
    host_op_mem(code, false, 0xc6, 0, &shadow); /* MOV byte, 1 */
    code8(code, 1);
    host_patch(done, code->at);
    return true;
}

bool emit_cld(struct emit *emit, const struct guest_insn *insn)
{
    emit_spill_flags(emit, insn->flags_live_before);
    state_load_cpu(emit);
    state_change(emit, STATE_AND, CPU(state.rflags), ~(uint32_t)X86_FLAG_DF);
    return true;
}

bool emit_swapgs(struct emit *emit, const struct guest_insn *insn)
{
    struct code *code = &emit->code;
    if (emit->mode & MODE_USER) {
        return false;
    }
    state_load_cpu(emit);
    struct host_mem base = state_at_r8(CPU(state.seg[X86_GS].base));
    struct host_mem other = state_at_r8(CPU(state.kernel_gs_base));
    host_op_mem(code, true, HOST_MOV_LOAD, HOST_R9, &base);
    host_op_mem(code, true, HOST_MOV_LOAD, HOST_R10, &other);
    host_op_mem(code, true, HOST_MOV_STORE, HOST_R9, &other);
    host_op_mem(code, true, HOST_MOV_STORE, HOST_R10, &base);
    host_fs(code, true, HOST_MOV_STORE, HOST_R10, FRAME(gs_base));
    return true;
}

/* Kernels read it whenever they switch between tasks. At every CPL. */
bool emit_rdpkru(struct emit *emit, const struct guest_insn *insn)
{
    struct code *code = &emit->code;
    emit_spill_flags(emit, insn->flags_live_before);
    state_load_cpu(emit);
    struct host_mem cr4 = state_at_r8(CPU(state.cr4)),
                    pkru = state_at_r8(CPU(state.pkru));
    host_op_mem(code, false, 0xf7, 0, &cr4); /* TEST */
    code32(code, X86_CR4_PKE);
    emit_leave_if(emit, HOST_E);
    CODE(code, "\x85\xc9"); /* TEST ecx, ecx */
    emit_leave_if(emit, HOST_NE);
    host_op_mem(code, false, HOST_MOV_LOAD, HOST_RAX, &pkru);
    CODE(code, "\x31\xd2"); /* XOR edx, edx */
    return true;
}

/* MOV from CR0, CR2, CR3 or CR4: page faults and switches of tasks read them. Counting
 * runs leave it to the interpreter, which counts. */
bool emit_read_control(struct emit *emit, const struct guest_insn *insn)
{
    static const int32_t registers[] = {
        [0] = CPU(state.cr0),
        [2] = CPU(state.cr2),
        [3] = CPU(state.cr3),
        [4] = CPU(state.cr4),
    };
    struct code *code = &emit->code;
    unsigned control = (unsigned)ZydisRegisterGetId(insn->operand[1].reg.value);
    unsigned guest = (unsigned)ZydisRegisterGetId(insn->operand[0].reg.value);
    if (emit->mode & MODE_USER || emit->cache->counts ||
        insn->decoded.attributes & ZYDIS_ATTRIB_HAS_LOCK ||
        control >= array_size(registers) || !registers[control]) {
        return false;
    }
    unsigned host = guest_in_memory(guest) ? HOST_R8 : guest_host(guest);
    struct host_mem value = state_at_r8(registers[control]);
    state_load_cpu(emit);
    host_op_mem(code, emit->is_64, HOST_MOV_LOAD, host, &value);
    if (guest_in_memory(guest)) {
        host_fs(code, true, HOST_MOV_STORE, host, frame_gpr(guest));
    }
    return true;
}

void state_load_arith(struct emit *emit)
{
    struct code *code = &emit->code;
    host_fs_load16(code, HOST_R10, FRAME(arith));
    host_mov(code, HOST_R9, HOST_R10);
    CODE(code, "\x41\xc1\xe9\x08"); /* SHR r9d, 8 */
    host_and(code, false, HOST_R9, X86_FLAGS_ARITH & 0xff);
    host_and(code, false, HOST_R10, 1);                /* OF */
    CODE(code, "\x41\xc1\xe2\x0b");                    /* SHL r10d, 11 */
    host_op_reg(code, false, 0x0b, HOST_R9, HOST_R10); /* OR */
}

/* AH's byte and OF. */
void state_store_arith(struct emit *emit)
{
    struct code *code = &emit->code;
    host_mov(code, HOST_R9, HOST_R10);
    host_and(code, false, HOST_R9, X86_FLAGS_ARITH & 0xff);
    CODE(code, "\x41\x83\xc9\x02"); /* OR r9d, 2 */
    CODE(code, "\x41\xc1\xe1\x08"); /* SHL r9d, 8 */
    CODE(code, "\x41\xc1\xea\x0b"); /* SHR r10d, 11 */
    host_and(code, false, HOST_R10, 1);
    host_op_reg(code, false, 0x0b, HOST_R9, HOST_R10); /* OR */
    host_fs(code, false, HOST_MOV_STORE, HOST_R9, FRAME(arith));
    emit->flags_in_memory = true;
}

bool emit_pushf(struct emit *emit, const struct guest_insn *insn)
{
    struct code *code = &emit->code;
    if (insn->decoded.operand_width != emit->width * 8) {
        return false;
    }
    int32_t width = emit->width;
    emit_spill_flags(emit, X86_FLAGS_ARITH);
    state_load_arith(emit);
    state_load_cpu(emit);
    struct host_mem flags = state_at_r8(CPU(state.rflags));
    host_op_mem(code, true, HOST_MOV_LOAD, HOST_R10, &flags);
    host_op_reg(code, true, 0x0b, HOST_R10, HOST_R9);
    host_and(code, true, HOST_R10, ~(uint32_t)(X86_FLAG_RF | X86_FLAG_VM));
    host_fs(code, true, HOST_MOV_STORE, HOST_R10, FRAME(scratch));
    emit_stack_address(emit, HOST_GUEST_RSP, -width);
    emit_check(emit, emit->width, true);
    host_fs(code, true, HOST_MOV_LOAD, HOST_R10, FRAME(scratch));
    struct host_mem top = state_at_r8(0);
    host_op_mem(code, emit->is_64, HOST_MOV_STORE, HOST_R10, &top);
    emit_lea_base(emit, HOST_GUEST_RSP, HOST_GUEST_RSP, -width);
    emit_watch(emit, insn, emit->width, 0);
    return true;
}

/* Only if nothing but IF and the arithmetic flags changes. */
bool emit_popf(struct emit *emit, const struct guest_insn *insn)
{
    struct code *code = &emit->code;
    if (insn->decoded.operand_width != emit->width * 8 || emit->mode & MODE_USER) {
        return false;
    }
    const uint32_t other = X86_FLAG_TF | X86_FLAG_DF | X86_FLAG_IOPL | X86_FLAG_NT |
                           X86_FLAG_AC | X86_FLAG_ID;
    emit_spill_flags(emit, insn->flags_live_before);
    emit_stack_address(emit, HOST_GUEST_RSP, 0);
    emit_check(emit, emit->width, false);
    struct host_mem top = state_at_r8(0);
    host_op_mem(code, emit->is_64, HOST_MOV_LOAD, HOST_R10, &top);
    state_load_cpu(emit);
    state_leave_if_wanted(emit);
    struct host_mem flags = state_at_r8(CPU(state.rflags));
    host_op_mem(code, true, HOST_MOV_LOAD, HOST_R9, &flags);
    host_op_reg(code, true, 0x33, HOST_R9, HOST_R10); /* XOR */
    CODE(code, "\x41\xf7\xc1");                       /* TEST r9d, imm32 */
    code32(code, other);
    emit_leave_if(emit, HOST_NE);
    host_and(code, false, HOST_R9, X86_FLAG_IF);
    host_op_mem(code, false, 0x31, HOST_R9, &flags); /* XOR */
    emit_lea_base(emit, HOST_GUEST_RSP, HOST_GUEST_RSP, emit->width);
    state_store_arith(emit);
    return true;
}
