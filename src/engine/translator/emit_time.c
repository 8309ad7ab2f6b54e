/*
 * RDTSC and RDTSCP: the guest's TSC by the host's, along this thread's copy of the line
 * that guest time follows (base/clock_line.h). Whatever the copy covers is right, however
 * late the thread is, so no order is needed but the instruction's own. Beyond it quick.c
 * reads the clock, and copies its line.
 */
#include "engine/translator/emit_state.h"

/* Host rax = ticks since the line's start; clobbers rdx, which the guest gives up, too.
 */
static void read_host(struct emit *emit, bool with_aux)
{
    struct code *code = &emit->code;
    if (with_aux) {
        CODE(code, "\x0f\x01\xf9"); /* RDTSCP; ecx is set below, or by quick.c */
    } else {
        CODE(code, "\x0f\x31"); /* RDTSC */
    }
    CODE(code, "\x48\xc1\xe2\x20\x48\x09\xd0"); /* SHL rdx, 32; OR rax, rdx */
    host_fs(code, true, 0x2b, HOST_RAX, FRAME(tsc_line.start));  /* SUB */
    host_fs(code, true, 0x3b, HOST_RAX, FRAME(tsc_line.length)); /* CMP */
    emit_leave_quick_if(emit, HOST_AE);
}

/* Host rdx = the TSC before its offset; clobbers rax and r9. */
static void scale(struct code *code)
{
    host_fs(code, true, 0xf7, 4, FRAME(tsc_line.slope));     /* MUL */
    host_fs(code, true, 0x03, HOST_RDX, FRAME(tsc_line.ns)); /* ADD */
    host_mov(code, HOST_RAX, HOST_RDX);
    host_mov(code, HOST_R9, HOST_RDX);
    CODE(code, "\x64\x4c\x0f\xaf\x0c\x25"); /* IMUL r9, fs:[disp32] */
    code32(code, (uint32_t)FRAME(tsc_factor.whole));
    host_fs(code, true, 0xf7, 4, FRAME(tsc_factor.fraction));
    host_op_reg(code, true, 0x03, HOST_RDX, HOST_R9);
}

/* Counting runs leave it to the interpreter, which counts. */
bool emit_rdtsc(struct emit *emit, const struct guest_insn *insn)
{
    struct code *code = &emit->code;
    bool with_aux = insn->decoded.mnemonic == ZYDIS_MNEMONIC_RDTSCP;
    if (emit->cache->counts) {
        return false;
    }
    emit_spill_flags(emit, insn->flags_live_before);
    state_load_cpu(emit);
    if (emit->mode & MODE_USER) {
        struct host_mem cr4 = state_at_r8(CPU(state.cr4));
        host_op_mem(code, false, 0xf7, 0, &cr4); /* TEST */
        code32(code, X86_CR4_TSD);
        emit_leave_quick_if(emit, HOST_NE);
    }
    read_host(emit, with_aux);
    scale(code);
    struct host_mem offset = state_at_r8(CPU(state.tsc_offset));
    host_op_mem(code, true, 0x03, HOST_RDX, &offset); /* ADD */
    CODE(code, "\x89\xd0\x48\xc1\xea\x20");           /* MOV eax, edx; SHR rdx, 32 */
    if (with_aux) {
        struct host_mem aux = state_at_r8(CPU(state.tsc_aux));
        host_op_mem(code, false, HOST_MOV_LOAD, HOST_RCX, &aux);
    }
    emit_quick_resume(emit);
    return true;
}
