/*
 * Moves of segment registers' selectors, PUSH included; and loads by which 32-bit kernels
 * give a segment register what it has already, which they do at each of their entries and
 * exits: the selector is the same, and so is its descriptor in the GDT (SDM 2B "MOV").
 */
#include "engine/translator/emit.h"

#include "x86/segment.h"

#define CPU(field) ((int32_t)offsetof(struct cpu, field))

static int32_t selector_of(const struct operand *operand)
{
    unsigned segment = (unsigned)ZydisRegisterGetId(operand->reg.value);
    return CPU(state.seg) + (int32_t)(segment * sizeof(struct x86_segment) +
                                      offsetof(struct x86_segment, selector));
}

/* MOVZX r32, word [base + disp]. */
static void load16(struct code *code, unsigned to, unsigned base, int32_t disp)
{
    struct host_mem mem = {(uint8_t)base, HOST_NONE, 0, disp};
    host_rex(code, false, to, 0, base, false);
    CODE(code, "\x0f\xb7");
    host_modrm_mem(code, to, &mem);
}

/* SDM 2B "PUSH": see push_segment of the interpreter. */
bool emit_push_segment(struct emit *emit, const struct guest_insn *insn)
{
    struct code *code = &emit->code;
    int32_t width = emit->width;
    if (insn->decoded.operand_width != emit->width * 8) {
        return false;
    }
    bool is_amd = emit->cpu->cpuid->vendor == CPU_VENDOR_AMD;
    unsigned stored = emit->is_64 || is_amd ? emit->width : 2;
    emit_spill_flags(emit, insn->flags_live_before);
    emit_stack_address(emit, HOST_GUEST_RSP, -width);
    emit_check(emit, stored, true);
    host_fs(code, true, HOST_MOV_LOAD, HOST_R10, FRAME(cpu));
    load16(code, HOST_R10, HOST_R10, selector_of(&insn->operand[0]));
    struct host_mem top = {HOST_R8, HOST_NONE, 0, 0};
    if (stored == 2) {
        code8(code, 0x66);
    }
    host_op_mem(code, stored == 8, HOST_MOV_STORE, HOST_R10, &top);
    emit_lea_base(emit, HOST_GUEST_RSP, HOST_GUEST_RSP, -width);
    emit_watch(emit, insn, stored, insn->flags_live);
    return true;
}

/* Into a general register, zero-extended. */
bool emit_read_segment(struct emit *emit, const struct guest_insn *insn)
{
    struct code *code = &emit->code;
    const struct operand *to = &insn->operand[0];
    if (to->type != ZYDIS_OPERAND_TYPE_REGISTER || to->size < 32) {
        return false;
    }
    unsigned guest = (unsigned)ZydisRegisterGetId(to->reg.value);
    unsigned host = guest_in_memory(guest) ? HOST_R8 : guest_host(guest);
    unsigned segment = (unsigned)ZydisRegisterGetId(insn->operand[1].reg.value);
    if (emit->is_64 && (segment == X86_CS || segment == X86_SS)) {
        /* SYSCALL and SYSRET have changed these, and struct cpu may not know yet. */
        emit_spill_flags(emit, insn->flags_live_before);
        host_fs(code, false, 0x80, 7, FRAME(moved)); /* CMP byte */
        code8(code, MOVED_NOWHERE);
        emit_leave_if(emit, HOST_NE);
    }
    host_fs(code, true, HOST_MOV_LOAD, HOST_R8, FRAME(cpu));
    load16(code, host, HOST_R8, selector_of(&insn->operand[1]));
    if (guest_in_memory(guest)) {
        host_fs(code, true, HOST_MOV_STORE, host, frame_gpr(guest));
    }
    return true;
}

/* Host r10d = the selector to be loaded. */
static void emit_selector(struct emit *emit, const struct guest_insn *insn)
{
    struct code *code = &emit->code;
    if (insn->decoded.mnemonic == ZYDIS_MNEMONIC_POP) {
        /* Intel's processors read 16 bits only. */
        bool is_amd = emit->cpu->cpuid->vendor == CPU_VENDOR_AMD;
        emit_stack_address(emit, HOST_GUEST_RSP, 0);
        emit_check(emit, is_amd ? emit->width : 2, false);
        load16(code, HOST_R10, HOST_R8, 0);
    } else if (insn->operand[1].type == ZYDIS_OPERAND_TYPE_MEMORY) {
        emit_address(emit, insn, &insn->operand[1], true, 0);
        emit_check(emit, 2, false);
        load16(code, HOST_R10, HOST_R8, 0);
    } else {
        unsigned guest = (unsigned)ZydisRegisterGetId(insn->operand[1].reg.value);
        host_rex(code, false, HOST_R10, 0, guest_host(guest), false);
        CODE(code, "\x0f\xb7"); /* MOVZX */
        code8(code, 0xc0 | (HOST_R10 & 7) << 3 | (guest_host(guest) & 7));
    }
}

static void test_r10(struct code *code, uint32_t mask)
{
    CODE(code, "\x41\xf7\xc2");
    code32(code, mask);
}

/* quick.c loads everything else into FS and GS, the interpreter into DS and ES, on which
 * depends what code is made. */
static void leave_if(struct emit *emit, unsigned segment, unsigned condition)
{
    if ((segment == X86_FS || segment == X86_GS) && !emit->cache->counts) {
        emit_leave_quick_if(emit, condition);
    } else {
        emit_leave_if(emit, condition);
    }
}

bool emit_load_segment(struct emit *emit, const struct guest_insn *insn)
{
    struct code *code = &emit->code;
    bool is_pop = insn->decoded.mnemonic == ZYDIS_MNEMONIC_POP;
    if (emit->is_64 || emit->mode & MODE_USER ||
        (is_pop && insn->decoded.operand_width != 32)) {
        return false;
    }
    unsigned segment = (unsigned)ZydisRegisterGetId(insn->operand[0].reg.value);
    emit_spill_flags(emit, insn->flags_live_before);
    emit_selector(emit, insn);
    host_fs(code, true, HOST_MOV_STORE, HOST_R10, FRAME(scratch));
    host_fs_constant(code, FRAME(spill[0]), segment);
    host_fs(code, true, HOST_MOV_LOAD, HOST_R8, FRAME(cpu));
    struct host_mem selector = {HOST_R8, HOST_NONE, 0, selector_of(&insn->operand[0])};
    code8(code, 0x66);
    host_op_mem(code, false, 0x39, HOST_R10, &selector); /* CMP */
    leave_if(emit, segment, HOST_NE);
    test_r10(code, X86_SELECTOR_TI);
    leave_if(emit, segment, HOST_NE);
    test_r10(code, 0xfff8);
    leave_if(emit, segment, HOST_E);
    CODE(code, "\x41\x83\xca\x07"); /* OR r10d, 7: the descriptor's last byte */
    load16(code, HOST_R9, HOST_R8, CPU(state.gdtr.limit));
    host_op_reg(code, false, 0x3b, HOST_R9, HOST_R10); /* CMP */
    leave_if(emit, segment, HOST_B);
    struct host_mem base = {HOST_R8, HOST_NONE, 0, CPU(state.gdtr.base)};
    struct host_mem descriptor = {HOST_R8, HOST_R10, 0, -7};
    host_op_mem(code, true, HOST_MOV_LOAD, HOST_R8, &base);
    host_op_mem(code, true, HOST_LEA, HOST_R8, &descriptor);
    emit_check(emit, 8, false);
    struct host_mem there = {HOST_R8, HOST_NONE, 0, 0};
    host_op_mem(code, true, HOST_MOV_LOAD, HOST_R8, &there);
    host_fs(code, true, 0x3b, HOST_R8, /* CMP */
            frame_offset(offsetof(struct frame, segment_descriptor) + segment * 8));
    leave_if(emit, segment, HOST_NE);
    emit_quick_resume(emit);
    if (is_pop) {
        emit_lea_base(emit, HOST_GUEST_RSP, HOST_GUEST_RSP, emit->width);
    }
    return true;
}
