/*
 * The code at the cache's beginning: the ways into translated code and out of it, and
 * jumps to a guest address that is known only then.
 */
#include "engine/translator/cache.h"

#include <stddef.h>

#include "base/scope.h"
#include "interpreter/cpu.h"

#define FRAME(field) frame_offset(offsetof(struct frame, field))

static const uint8_t saved[] = {HOST_RBX, HOST_RBP, HOST_R12,
                                HOST_R13, HOST_R14, HOST_R15};

/* Guest registers that live in the host's of the same number. */
static const uint8_t resident[] = {HOST_RCX, HOST_RDX, HOST_RBX, HOST_RBP, HOST_RSI,
                                   HOST_RDI, HOST_R12, HOST_R13, HOST_R14, HOST_R15};

static int32_t gpr(unsigned number)
{
    return frame_offset(offsetof(struct frame, gpr) + number * 8u);
}

static int32_t status(unsigned number)
{
    return frame_offset(offsetof(struct frame, status) + number);
}

/* Opcode of the group 81/80/C6 with a byte at fs:[offset]. */
static void fs_byte(struct code *code, unsigned opcode, unsigned extension,
                    int32_t offset, unsigned value)
{
    host_fs(code, false, opcode, extension, offset);
    code8(code, value);
}

static void vectors(struct code *code, bool is_store)
{
    for (unsigned i = 0; i < 16; i++) {
        /* VMOVDQU ymm, [r8 + disp32] */
        code8(code, 0xc4);
        code8(code, (i < 8 ? 0xc1u : 0x41u));
        code8(code, 0x7e);
        code8(code, is_store ? 0x7f : 0x6f);
        code8(code, 0x80 | (i & 7) << 3);
        code32(code, (uint32_t)(offsetof(struct cpu, state.vec) +
                                i * sizeof(union x86_vector)));
    }
    CODE(code, "\x41\x0f\xae"); /* LDMXCSR (/2) or STMXCSR (/3) [r8 + disp32] */
    code8(code, 0x80 | (is_store ? 3 : 2) << 3);
    code32(code, offsetof(struct cpu, state.fpu.mxcsr));
}

/* XSAVE or XRSTOR of the x87 alone (its bit in EDX:EAX). */
static void fpu(struct code *code, bool is_store)
{
    CODE(code, "\xb8\x01\x00\x00\x00\x31\xd2"); /* MOV eax, 1; XOR edx, edx */
    CODE(code, "\x64\x48\x0f\xae");
    code8(code, 0x04 | (is_store ? 4 : 5) << 3);
    code8(code, 0x25);
    code32(code, (uint32_t)FRAME(fpu));
}

/* void enter(unsigned load): bit 0, load vector state; bit 1, load x87 state. */
static void write_enter(struct code *code)
{
    for (unsigned i = 0; i < sizeof(saved); i++) {
        host_rex(code, false, 0, 0, saved[i], false);
        code8(code, 0x50 | (saved[i] & 7));
    }
    host_fs(code, true, HOST_MOV_STORE, HOST_RSP, FRAME(c_rsp));

    CODE(code, "\x40\xf6\xc7\x02"); /* TEST dil, 2 */
    uint8_t *no_fpu = host_jcc(code, HOST_E);
    fpu(code, false);
    fs_byte(code, 0xc6, 0, status(STATUS_FPU), 1);
    host_patch(no_fpu, code->at);

    CODE(code, "\x40\xf6\xc7\x01"); /* TEST dil, 1 */
    uint8_t *no_vectors = host_jcc(code, HOST_E);
    host_fs(code, true, HOST_MOV_LOAD, HOST_R8, FRAME(cpu));
    vectors(code, false);
    fs_byte(code, 0xc6, 0, status(STATUS_VECTOR), 1);
    host_patch(no_vectors, code->at);

    host_fs(code, false, HOST_MOV_LOAD, HOST_RAX, FRAME(arith));
    CODE(code, "\x04\x7f\x9e"); /* ADD al, 127: OF; SAHF */
    host_fs(code, true, HOST_MOV_LOAD, HOST_RAX, gpr(0));
    for (unsigned i = 0; i < sizeof(resident); i++) {
        host_fs(code, true, HOST_MOV_LOAD, resident[i], gpr(resident[i]));
    }
    host_fs(code, true, HOST_MOV_LOAD, HOST_GUEST_RSP, gpr(HOST_RSP));
    host_fs(code, true, HOST_MOV_LOAD, HOST_R10, FRAME(group_base[GROUP_IN_R10]));
    host_fs(code, true, HOST_MOV_LOAD, HOST_RSP, FRAME(host_rsp));
    host_fs(code, true, HOST_MOV_LOAD, HOST_R8, FRAME(code_base)); /* entry_jump's */
    host_fs(code, false, 0xff, 4, FRAME(target));                  /* JMP */
}

/* RAX is saved, the flags are. */
static void write_leave(struct code *code)
{
    for (unsigned i = 0; i < sizeof(resident); i++) {
        host_fs(code, true, HOST_MOV_STORE, resident[i], gpr(resident[i]));
    }
    host_fs(code, true, HOST_MOV_STORE, HOST_GUEST_RSP, gpr(HOST_RSP));
    host_fs(code, true, HOST_MOV_STORE, HOST_R10, FRAME(group_base[GROUP_IN_R10]));
    host_fs(code, true, HOST_MOV_STORE, HOST_RSP, FRAME(host_rsp));
    host_fs(code, true, HOST_MOV_LOAD, HOST_RSP, FRAME(c_rsp));

    fs_byte(code, 0x80, 7, status(STATUS_VECTOR), 0); /* CMP */
    uint8_t *no_vectors = host_jcc(code, HOST_E);
    host_fs(code, true, HOST_MOV_LOAD, HOST_R8, FRAME(cpu));
    vectors(code, true);
    CODE(code, "\x64\x0f\xae\x14\x25"); /* LDMXCSR: the VMM's own */
    code32(code, (uint32_t)FRAME(host_mxcsr));
    CODE(code, "\xc5\xf8\x77"); /* VZEROUPPER */
    fs_byte(code, 0xc6, 0, status(STATUS_VECTOR), 0);
    fs_byte(code, 0xc6, 0, FRAME(had_vectors), 1);
    host_patch(no_vectors, code->at);

    fs_byte(code, 0x80, 7, status(STATUS_FPU), 0);
    uint8_t *no_fpu = host_jcc(code, HOST_E);
    fpu(code, true);
    CODE(code, "\xdb\xe3");                        /* FNINIT */
    fs_byte(code, 0xc6, 0, status(STATUS_FPU), 2); /* saved in frame.fpu */
    host_patch(no_fpu, code->at);

    for (unsigned i = sizeof(saved); i-- > 0;) {
        host_rex(code, false, 0, 0, saved[i], false);
        code8(code, 0x58 | (saved[i] & 7));
    }
    code8(code, 0xc3);
}

static void write_reason(struct code_cache *cache, struct code *code, unsigned reason,
                         const uint8_t *leave)
{
    cache->leave[reason][1] = (uint32_t)(code->at - cache->write);
    host_fs(code, true, HOST_MOV_STORE, HOST_RAX, gpr(0));
    CODE(code, "\x9f\x0f\x90\xc0\x0f\xb7\xc0"); /* LAHF; SETO al; MOVZX eax, ax */
    host_fs(code, false, HOST_MOV_STORE, HOST_RAX, FRAME(arith));
    CODE(code, "\xeb\x09"); /* over the store of rax */
    cache->leave[reason][0] = (uint32_t)(code->at - cache->write);
    host_fs(code, true, HOST_MOV_STORE, HOST_RAX, gpr(0));
    host_fs_constant(code, FRAME(exit_reason), reason);
    host_jmp_to(code, leave);
}

/* What all places in blocks that leave for one reason would do themselves. */
static void write_miss(struct code_cache *cache, struct code *code, bool is_write,
                       bool from_host)
{
    size_t tag =
        is_write ? offsetof(struct tlb_entry, write) : offsetof(struct tlb_entry, read);
    struct host_mem tag_mem = {HOST_R9, HOST_NONE, 0, (int32_t)tag};
    struct host_mem sum = {HOST_R8, HOST_R9, 0, 0};
    cache->miss[is_write][from_host] = (uint32_t)(code->at - cache->write);
    host_gs(code, true, HOST_MOV_LOAD, HOST_R9, &tag_mem);
    host_op_mem(code, true, HOST_LEA, HOST_R8, &sum);
    host_fs(code, true, HOST_MOV_STORE, HOST_R8, FRAME(exit_value));
    unsigned reason = is_write ? LEAVE_WRITE : LEAVE_READ;
    host_jmp_to(code, cache->write + cache->leave[reason][from_host]);
}

static void write_watch(struct code_cache *cache, struct code *code, bool from_host)
{
    cache->watch[from_host] = (uint32_t)(code->at - cache->write);
    host_fs(code, true, HOST_MOV_STORE, HOST_R8, FRAME(exit_value));
    host_jmp_to(code, cache->write + cache->leave[LEAVE_WATCHED][from_host]);
}

static struct host_mem entry_field(size_t field)
{
    return (struct host_mem){HOST_R9, HOST_NONE, 0, (int32_t)field};
}

/* The TLB entry at r9, in which something was found, becomes the stack's. Its tag for
 * stores, if it is none's there, may be somebody's here. */
static void copy_to_stack(struct code *code)
{
    static const size_t whole[] = {offsetof(struct tlb_entry, host),
                                   offsetof(struct tlb_entry, frame),
                                   offsetof(struct tlb_entry, read)};
    const size_t to = offsetof(struct tlb_area, stack);
    const size_t write = offsetof(struct tlb_entry, write);
    struct host_mem from;
    host_fs(code, true, HOST_MOV_STORE, HOST_RAX, FRAME(rax));
    for (unsigned i = 0; i < array_size(whole); i++) {
        from = entry_field(whole[i]);
        host_gs(code, true, HOST_MOV_LOAD, HOST_RAX, &from);
        host_gs_at(code, true, HOST_MOV_STORE, HOST_RAX, to + whole[i]);
    }
    from = entry_field(write);
    host_gs(code, true, 0x3b, HOST_RAX, &from); /* CMP */
    uint8_t *same = host_jcc(code, HOST_E);
    host_constant(code, HOST_RAX, STACK_NEVER);
    host_patch(same, code->at);
    host_gs_at(code, true, HOST_MOV_STORE, HOST_RAX, to + write);
    host_fs(code, true, HOST_MOV_LOAD, HOST_RAX, FRAME(rax));
}

#define ENTRY_SHIFT 5
_Static_assert(sizeof(struct tlb_entry) == 1u << ENTRY_SHIFT, "index by one rotate");

/* As emit_check.c checks accesses elsewhere. */
static void write_stack(struct code_cache *cache, struct code *code, unsigned kind)
{
    unsigned host = kind & STACK_R10 ? HOST_R10 : HOST_R8;
    bool is_write = kind & STACK_WRITE;
    size_t tag =
        is_write ? offsetof(struct tlb_entry, write) : offsetof(struct tlb_entry, read);
    struct host_mem tag_mem = entry_field(tag);
    struct host_mem page = entry_field(offsetof(struct tlb_entry, host));
    cache->stack[kind] = (uint32_t)(code->at - cache->write);
    host_gs_at(code, true, 0x03, host, offsetof(struct tlb_area, stack) + tag); /* ADD */
    host_fs(code, true, HOST_MOV_STORE, HOST_R9, FRAME(limit));
    host_rorx(code, HOST_R9, host, FRAME_SHIFT - ENTRY_SHIFT);
    host_and(code, false, HOST_R9, (TLB_SIZE - 1) << ENTRY_SHIFT);
    host_gs(code, true, 0x2b, host, &tag_mem);     /* SUB */
    host_fs(code, true, 0x3b, host, FRAME(limit)); /* CMP */
    uint8_t *miss = host_jcc(code, HOST_A);
    copy_to_stack(code);
    if (kind & STACK_LATER) {
        host_gs(code, true, HOST_MOV_LOAD, HOST_R9, &page);
    } else {
        host_gs(code, true, 0x03, host, &page); /* ADD */
    }
    code8(code, 0xc3);
    host_patch(miss, code->at);
    host_lea(code, HOST_RSP, HOST_RSP, 8);
    host_mov(code, HOST_R8, host);
    host_jmp_to(code, cache->write + cache->miss[is_write][false]);
}

#define JUMP_SHIFT 4
_Static_assert(sizeof(struct tlb_jump) == 1u << JUMP_SHIFT && JUMP_SHIFT == AREA_JUMP_MIX,
               "index by one rotate");

static void xor_r9(struct code *code, unsigned value)
{
    CODE(code, "\x49\x83\xf1");
    code8(code, value);
}

/* Goes on at guest address r8 by way of the view's jump entries, of which r9 is the
 * place; the head that it comes to polls. */
static uint32_t write_jump(struct code_cache *cache, struct code *code, unsigned kind)
{
    uint32_t start = (uint32_t)(code->at - cache->write);
    host_rorx(code, HOST_R9, HOST_R8, 64 - JUMP_SHIFT);
    host_op_reg(code, true, 0x33, HOST_R9, HOST_R8); /* XOR */
    host_and(code, false, HOST_R9, (AREA_JUMP_COUNT - 1) << JUMP_SHIFT);
    unsigned wanted = HOST_R8;
    if (kind & JUMP_32) {
        xor_r9(code, 1 << JUMP_SHIFT);
    }
    if (kind & JUMP_BASED) {
        wanted = HOST_R10;
        host_constant(code, HOST_R10, AREA_JUMP_BASED_TAG);
        host_op_reg(code, true, 0x0b, HOST_R10, HOST_R8); /* OR */
    }
    struct host_mem tag = {HOST_R9, HOST_NONE, 0, offsetof(struct tlb_area, jump[0].tag)};
    struct host_mem target = {HOST_R9, HOST_NONE, 0,
                              offsetof(struct tlb_area, jump[0].target)};
    host_gs(code, true, 0x39, wanted, &tag); /* CMP */
    uint8_t *other = host_jcc(code, HOST_NE);
    const uint8_t *found = code->at;
    host_gs(code, false, 0xff, 4, &target); /* JMP */
    host_patch(other, code->at);
    xor_r9(code, AREA_JUMP_OTHER << JUMP_SHIFT);
    host_gs(code, true, 0x39, wanted, &tag);
    host_patch(host_jcc(code, HOST_E), found);
    host_jmp_to(code, cache->write + cache->jump_miss);
    return start;
}

void trampoline_write(struct code_cache *cache)
{
    struct code code = {cache->write + 64};
    cache->enter = (uint32_t)(code.at - cache->write);
    write_enter(&code);
    uint8_t *leave = code.at;
    write_leave(&code);
    for (unsigned reason = 0; reason < LEAVE_COUNT; reason++) {
        write_reason(cache, &code, reason, leave);
    }
    for (unsigned i = 0; i < 2; i++) {
        write_miss(cache, &code, i, false);
        write_miss(cache, &code, i, true);
        write_watch(cache, &code, i);
    }
    for (unsigned kind = 0; kind < array_size(cache->stack); kind++) {
        write_stack(cache, &code, kind);
    }
    cache->jump_miss = (uint32_t)(code.at - cache->write);
    host_fs(&code, true, HOST_MOV_STORE, HOST_R8, FRAME(exit_value));
    host_jmp_to(&code, cache->write + cache->leave[LEAVE_JUMP][0]);
    for (unsigned kind = 0; kind < JUMP_KINDS; kind++) {
        cache->jump[kind] = write_jump(cache, &code, kind);
        /* A return that nobody called: its place on the stack stays. */
        cache->return_miss[kind] = (uint32_t)(code.at - cache->write);
        host_fs(&code, false, HOST_MOV_STORE, HOST_R9, FRAME(last_branch));
        host_lea(&code, HOST_RSP, HOST_RSP, -8);
        host_jmp_to(&code, cache->write + cache->jump[kind]);
    }
    cache->reserved = cache->used = (uint32_t)(code.at - cache->write);
}
