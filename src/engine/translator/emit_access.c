/* Registers, flags, memory accesses, and what is put behind a block. */
#include "engine/translator/soften.h"
#include "engine/translator/unroll.h"

#include <assert.h>

#include "base/scope.h"

struct cold *emit_cold(struct emit *emit, enum cold_kind kind, uint8_t *place)
{
    assert(emit->cold_count < COLD_MAX);
    struct cold *cold = &emit->cold[emit->cold_count++];
    *cold = (struct cold){
        .kind = kind,
        .place = {place},
        .ordinal = (uint8_t)emit->ordinal,
        .from_host = !emit->flags_in_memory && !emit->flags_are_stored,
    };
    return cold;
}

void emit_patch(struct emit *emit, const uint8_t *place, struct cold *cold)
{
    struct block *block = emit->block;
    block->patch[block->patch_count++].place = (uint32_t)(place - emit->cache->write);
    cold->patches = block->patch_count;
}

/* ---- flags ------------------------------------------------------------------------ */

void emit_spill_flags(struct emit *emit, uint32_t live)
{
    if (emit->flags_in_memory || !live) {
        return;
    }
    if (!emit->flags_are_stored) {
        scratch_overwrite(emit, HOST_R8);
        /* MOV r8, rax; LAHF; SETO al; MOV fs:[arith], ax; MOV rax, r8 */
        CODE(&emit->code, "\x49\x89\xc0\x9f\x0f\x90\xc0\x66\x64\x89\x04\x25"
                          "\x00\x00\x00\x00\x4c\x89\xc0");
        int32_t arith = FRAME(arith);
        memcpy(emit->code.at - 7, &arith, sizeof(arith));
    }
    emit->flags_in_memory = emit->flags_are_stored = true;
}

void emit_restore_flags(struct emit *emit)
{
    struct code *code = &emit->code;
    unsigned scratch = emit->keeps_base ? HOST_R9 : HOST_R10;
    if (!emit->flags_in_memory) {
        return;
    }
    scratch_overwrite(emit, scratch);
    host_mov(code, scratch, HOST_RAX);
    host_fs_load16(code, HOST_RAX, FRAME(arith));
    CODE(code, "\x04\x7f\x9e"); /* ADD al, 127; SAHF */
    host_mov(code, HOST_RAX, scratch);
    emit->flags_in_memory = false;
    emit->flags_are_stored = true;
}

/* ---- addresses -------------------------------------------------------------------- */

static bool has_bases(const struct emit *emit)
{
    return !emit->is_64 && !(emit->mode & MODE_FLAT);
}

static int32_t segment_base(unsigned segment)
{
    return frame_offset(offsetof(struct frame, segment_base) + segment * 4u);
}

/* SDM 3A 3.4: 32-bit linear addresses wrap around. */
static void emit_page_address_32(struct emit *emit, unsigned host, int64_t offset)
{
    if (emit->is_fixed) {
        host_constant(&emit->code, host, (uint32_t)(emit->page + (uint64_t)offset));
    } else {
        host_fs(&emit->code, false, HOST_MOV_LOAD, host, FRAME(code_base));
        emit_lea_base(emit, host, host, (int32_t)offset);
    }
}

void emit_code_base(struct emit *emit)
{
    host_and(&emit->code, true, HOST_R8, -FRAME_SIZE);
    host_fs(&emit->code, true, HOST_MOV_STORE, HOST_R8, FRAME(code_base));
}

void emit_code_address(struct emit *emit, unsigned host, int64_t offset)
{
    emit_page_address(emit, host, offset);
    if (has_bases(emit)) {
        host_fs(&emit->code, false, 0x2b, host, segment_base(X86_CS)); /* SUB */
    }
}

void emit_add_code_base(struct emit *emit)
{
    if (has_bases(emit)) {
        host_fs(&emit->code, false, 0x03, HOST_R8, segment_base(X86_CS)); /* ADD */
    }
}

void emit_page_address(struct emit *emit, unsigned host, int64_t offset)
{
    if (!emit->is_64) {
        emit_page_address_32(emit, host, offset);
    } else if (emit->is_fixed) {
        host_constant(&emit->code, host, emit->page + (uint64_t)offset);
    } else {
        host_fs(&emit->code, true, HOST_MOV_LOAD, host, FRAME(code_base));
        /* An offset in the page and a 32-bit displacement may need one bit more. */
        int64_t first = offset > INT32_MAX ? INT32_MAX : offset;
        host_lea(&emit->code, host, host, (int32_t)first);
        if (first != offset) {
            host_lea(&emit->code, host, host, (int32_t)(offset - first));
        }
    }
}

/* A part of an address in a host register; from memory by way of scratch, if none holds
 * it. */
static unsigned address_part(struct emit *emit, ZydisRegister reg, unsigned scratch)
{
    if (reg == ZYDIS_REGISTER_NONE) {
        return HOST_NONE;
    }
    unsigned guest = guest_number(reg);
    if (!guest_in_memory(guest)) {
        return guest_host(guest);
    }
    unsigned host = scratch_find(emit, guest);
    if (host == HOST_NONE) {
        scratch_overwrite(emit, scratch);
        host_fs(&emit->code, true, HOST_MOV_LOAD, scratch, frame_gpr(guest));
        return scratch;
    }
    return host;
}

/* SDM 2A table 2-3: SIB.base 5 with ModRM.mod 0 means no base. */
static bool has_no_base(const struct decoded *decoded)
{
    return decoded->raw.sib.offset && decoded->raw.modrm.mod == 0 &&
           decoded->raw.sib.base == 5;
}

/* Outside 64-bit mode; the flags have been spilled. */
static void add_segment_32(struct emit *emit, unsigned segment)
{
    if (emit->mode & MODE_FLAT && segment != X86_FS && segment != X86_GS) {
        return;
    }
    host_fs(&emit->code, false, 0x80, 7, /* CMP byte, 0 */
            frame_offset(offsetof(struct frame, segment_odd) + segment));
    code8(&emit->code, 0);
    emit_leave_if(emit, HOST_NE);
    host_fs(&emit->code, false, 0x03, HOST_R8, segment_base(segment)); /* ADD */
}

void emit_stack_address_to(struct emit *emit, unsigned host, unsigned base, int32_t disp)
{
    if (disp != 0) {
        emit_lea_base(emit, host, base, disp);
    } else {
        emit_mov(emit, host, base);
    }
    if (!emit->is_64) {
        add_segment_32(emit, X86_SS);
    }
}

void emit_stack_address(struct emit *emit, unsigned base, int32_t disp)
{
    emit_stack_address_to(emit, HOST_R8, base, disp);
}

static void add_segment(struct emit *emit, ZydisRegister segment)
{
    if (!emit->is_64) {
        add_segment_32(emit, (unsigned)ZydisRegisterGetId(segment));
    } else if (segment == ZYDIS_REGISTER_FS) {
        host_fs(&emit->code, true, 0x03, HOST_R8, FRAME(fs_base)); /* ADD */
    } else if (segment == ZYDIS_REGISTER_GS) {
        host_fs(&emit->code, true, 0x03, HOST_R8, FRAME(gs_base));
    }
}

/* Clobbers r9. */
static void add_soft(struct emit *emit, unsigned host, const struct guest_insn *insn,
                     bool is_wide)
{
    if (soften_is_displacement(insn)) {
        const struct host_mem sum = {(uint8_t)host, HOST_R9, 0, 0};
        soften_load(emit, HOST_R9, insn);
        host_op_mem(&emit->code, is_wide, HOST_LEA, host, &sum);
    }
}

void emit_address_to(struct emit *emit, unsigned host, const struct guest_insn *insn,
                     const struct operand *operand, int32_t extra)
{
    bool is_wide = insn->decoded.address_width == 64;
    ZydisRegister base = operand->mem.base;
    bool is_soft = soften_is_displacement(insn);
    int32_t disp = extra + (is_soft ? 0 : (int32_t)operand->mem.disp.value);
    if (base == ZYDIS_REGISTER_RIP || base == ZYDIS_REGISTER_EIP) {
        scratch_overwrite(emit, host);
        emit_page_address(emit, host,
                          insn->offset + insn->decoded.length + (int64_t)disp);
        if (!is_wide) {
            host_op_reg(&emit->code, false, HOST_MOV_LOAD, host, host);
        }
        add_soft(emit, host, insn, is_wide);
        return;
    }
    if (has_no_base(&insn->decoded)) {
        base = ZYDIS_REGISTER_NONE;
        disp = extra + (is_soft ? 0 : (int32_t)insn->decoded.raw.disp.value);
    }
    unsigned first = address_part(emit, base, HOST_R8);
    unsigned other = first == HOST_R9 ? HOST_R8 : HOST_R9;
    struct host_mem mem = {
        .base = (uint8_t)first,
        .index = (uint8_t)address_part(emit, operand->mem.index, other),
        .scale = operand->mem.scale ? (uint8_t)__builtin_ctz(operand->mem.scale) : 0,
        .disp = disp,
    };
    scratch_overwrite(emit, host);
    if (mem.index == HOST_NONE && mem.disp == 0 && is_wide && mem.base != HOST_NONE) {
        if (mem.base != host) {
            host_mov(&emit->code, host, mem.base);
        }
    } else {
        host_op_mem(&emit->code, is_wide, HOST_LEA, host, &mem);
    }
    add_soft(emit, host, insn, is_wide);
}

void emit_address(struct emit *emit, const struct guest_insn *insn,
                  const struct operand *operand, bool with_segment, int32_t extra)
{
    emit_address_to(emit, HOST_R8, insn, operand, extra);
    if (with_segment) {
        add_segment(emit, operand->mem.segment);
    }
}

/* ---- control ---------------------------------------------------------------------- */

void emit_leave_if(struct emit *emit, unsigned condition)
{
    struct cold *cold = emit_cold(emit, COLD_LEAVE, host_jcc(&emit->code, condition));
    cold->reason = LEAVE_INTERPRET;
    cold->from_host = false;
}

void emit_leave(struct emit *emit, unsigned reason)
{
    struct cold *cold = emit_cold(emit, COLD_LEAVE, host_jmp(&emit->code));
    cold->reason = (uint8_t)reason;
}

bool emit_can_link(const struct emit *emit, int64_t target)
{
    return target >= 0 && target < (int64_t)FRAME_SIZE &&
           !code_crosses(emit->cache, &emit->block->place, (unsigned)target);
}

uint32_t emit_link(struct emit *emit, int opcode, unsigned target)
{
    struct code_cache *cache = emit->cache;
    uint32_t number = cache->link_count++;
    bool is_first = target == emit->block->place.offset;
    struct link *link = &cache->link[number];
    host_align_place(&emit->code, opcode < 0x80 ? 2 : 1);
    uint8_t *place;
    if (opcode < 0x80) {
        place = host_jcc(&emit->code, (unsigned)opcode);
    } else {
        code8(&emit->code, (unsigned)opcode);
        code32(&emit->code, 0);
        place = emit->code.at - 4;
    }
    *link = (struct link){
        .place = (uint32_t)(place - cache->write),
        .from = emit->block->number,
        .target = (uint16_t)target,
        .from_memory = emit->flags_in_memory,
        .is_certain = !emit->has_branched,
        .is_loop = (int)emit->ordinal <= emit->loop_end && is_first,
        .is_back = emit->block->back && emit->ordinal == emit->block->back && is_first,
        .settles = emit->settles,
    };
    struct cold *cold = emit_cold(emit, COLD_LINK, place);
    cold->link = number;
    return number;
}

void emit_goto(struct emit *emit, int condition, int64_t target, uint32_t live)
{
    emit->has_branched |= condition >= 0;
    if (emit_can_link(emit, target)) {
        emit_link(emit, condition < 0 ? 0xe9 : condition, (unsigned)target);
        return;
    }
    uint8_t *place = condition < 0 ? host_jmp(&emit->code)
                                   : host_jcc(&emit->code, (unsigned)condition);
    struct cold *cold = emit_cold(emit, COLD_JUMP, place);
    cold->target = target;
    cold->from_host &= live != 0;
}

/* Only fixed code is entered without its address in r8. */
static bool is_of_fixed_code(const struct emit *emit, uint64_t linear)
{
    bool is_user = emit->mode & MODE_USER;
    return emit->is_fixed && emit->is_64 && linear != 0 && host_fits32(linear) &&
           (!is_user || code_fixed_mode(emit->mode, linear));
}

uint8_t *emit_known_jump(struct emit *emit, int64_t target, unsigned kind)
{
    struct code *code = &emit->code;
    uint64_t linear = emit->page + (uint64_t)target;
    size_t entry =
        offsetof(struct tlb_area, jump) + cpu_area_jump(linear) * sizeof(struct tlb_jump);
    if (!is_of_fixed_code(emit, linear)) {
        return NULL;
    }
    host_gs_at(code, true, 0x81, 7, entry + offsetof(struct tlb_jump, tag)); /* CMP */
    code32(code, (uint32_t)linear);
    uint8_t *other = host_jcc(code, HOST_NE);
    if (kind == CALL_MEMORY && !emit_is_last(emit)) {
        host_align(code, 8, 8); /* its site can be patched */
    }
    host_gs_at(code, false, 0xff, kind, entry + offsetof(struct tlb_jump, target));
    return other;
}

/* Out by a trampoline, with the instruction's number. */
static void leave_by(struct emit *emit, const struct cold *cold, uint32_t trampoline)
{
    host_fs_constant_jmp(&emit->code, FRAME(exit_info),
                         EXIT_INFO(emit->block->number, cold->ordinal),
                         emit->cache->write + trampoline);
}

static void cold_link(struct emit *emit, const struct cold *cold)
{
    struct code_cache *cache = emit->cache;
    struct link *link = &cache->link[cold->link];
    link->stub = (uint32_t)(emit->code.at - cache->write);
    if (link->is_back && !emit->round) {
        unroll_emit_count(emit);
    }
    host_fs_constant_jmp(&emit->code, FRAME(exit_info), cold->link,
                         cache->write + cache->leave[LEAVE_LINK][cold->from_host]);
}

static void jump_r8(struct emit *emit)
{
    const struct code_cache *cache = emit->cache;
    host_jmp_to(&emit->code, cache->write + cache->jump[code_jump_kind(emit->mode)]);
}

static void cold_jump(struct emit *emit, const struct cold *cold)
{
    emit->flags_in_memory = !cold->from_host;
    emit->flags_are_stored = false;
    emit_spill_flags(emit, cold->from_host);
    uint8_t *other = emit_known_jump(emit, cold->target, JMP_MEMORY);
    if (other) {
        host_patch(other, emit->code.at);
    }
    emit_page_address(emit, HOST_R8, cold->target);
    jump_r8(emit);
}

static void cold_call(struct emit *emit, const struct cold *cold)
{
    const struct code_cache *cache = emit->cache;
    emit_page_address(emit, HOST_R8, cold->target);
    code8(&emit->code, 0xe8);
    code32(&emit->code, 0);
    host_patch(emit->code.at - 4, cache->write + cache->jump[code_jump_kind(emit->mode)]);
    host_jmp_to(&emit->code, cold->behind);
}

/* Host r9d says which RET it was. */
static void cold_mismatch(struct emit *emit)
{
    host_fs(&emit->code, false, HOST_MOV_STORE, HOST_R9, FRAME(last_branch));
    host_fs(&emit->code, true, HOST_MOV_LOAD, HOST_RSP, FRAME(stack_base));
    jump_r8(emit);
}

void emit_colds(struct emit *emit)
{
    const struct code_cache *cache = emit->cache;
    for (unsigned i = 0; i < emit->cold_count; i++) {
        const struct cold *cold = &emit->cold[i];
        for (unsigned p = 0; p < array_size(cold->place); p++) {
            if (cold->place[p]) {
                host_patch(cold->place[p], emit->code.at);
            }
        }
        if (cold->patches) {
            emit->block->patch[cold->patches - 1].target =
                (uint32_t)(emit->code.at - cache->write);
        }
        switch (cold->kind) {
        case COLD_LEAVE:
            leave_by(emit, cold, cache->leave[cold->reason][cold->from_host]);
            break;
        case COLD_STACK:
            emit_cold_stack(emit, cold);
            break;
        case COLD_MISS:
            if (cold->host != HOST_R8) {
                host_mov(&emit->code, HOST_R8, cold->host);
            }
            leave_by(emit, cold, cache->miss[cold->is_write][cold->from_host]);
            break;
        case COLD_WATCHED:
            if (cold->by_base) {
                emit_load_base(emit, cold->slot);
                host_lea(&emit->code, HOST_R8, HOST_R8, (int32_t)cold->target);
            }
            leave_by(emit, cold, cache->watch[cold->from_host]);
            break;
        case COLD_LINK:
            cold_link(emit, cold);
            break;
        case COLD_JUMP:
            cold_jump(emit, cold);
            break;
        case COLD_CALL:
            cold_call(emit, cold);
            break;
        case COLD_MISMATCH:
            cold_mismatch(emit);
            break;
        case COLD_ROUND:
            unroll_emit_cold(emit, cold);
            break;
        case COLD_TARGET:
            host_fs(&emit->code, true, HOST_MOV_STORE, HOST_R8, FRAME(exit_value));
            leave_by(emit, cold, cache->leave[LEAVE_TARGET][0]);
            break;
        }
    }
}
