/* Checks of memory accesses against the software TLB, alone or for a group, and the looks
 * at the watch bits of frames that have been stored to. */
#include <assert.h>

#include "engine/translator/emit.h"

/* ---- without flags ----------------------------------------------------------------
 *
 * JRCXZ is the one branch that asks no flag: RCX is lent to it, and kept in a scratch
 * register meanwhile, or in the frame (HOST_NONE) where a group has that.
 */

static void lend_rcx(struct code *code, unsigned keeper)
{
    if (keeper == HOST_NONE) {
        host_fs(code, true, HOST_MOV_STORE, HOST_RCX, FRAME(rcx));
    } else {
        host_mov(code, keeper, HOST_RCX);
    }
}

static void return_rcx(struct code *code, unsigned keeper)
{
    if (keeper == HOST_NONE) {
        host_fs(code, true, HOST_MOV_LOAD, HOST_RCX, FRAME(rcx));
    } else {
        host_mov(code, HOST_RCX, keeper);
    }
}

/* The jump that is taken if RCX, which is lent, is not 0; it returns it. */
static uint8_t *jump_if_rcx(struct code *code, unsigned keeper)
{
    code8(code, 0xe3); /* JRCXZ */
    code8(code, 0);
    uint8_t *behind = code->at;
    return_rcx(code, keeper);
    uint8_t *place = host_jmp(code);
    behind[-1] = (uint8_t)(code->at - behind);
    return place;
}

/* Does the check of an instruction's access leave the flags where they are, in the
 * host's? It takes a few instructions more, but fewer than bringing them away and back.
 */
static bool keeps_flags(const struct emit *emit, const struct guest_insn *insn)
{
    return !emit->flags_in_memory && flags_are_kept(insn) &&
           (emit->is_64 || emit->mode & MODE_FLAT);
}

/* ---- checks ----------------------------------------------------------------------- */

#define ENTRY_SHIFT 5
_Static_assert(sizeof(struct tlb_entry) == 1u << ENTRY_SHIFT, "index by one rotate");

static struct host_mem tag_at_r9(bool is_write)
{
    size_t tag =
        is_write ? offsetof(struct tlb_entry, write) : offsetof(struct tlb_entry, read);
    return (struct host_mem){HOST_R9, HOST_NONE, 0, (int32_t)tag};
}

static void miss(struct emit *emit, uint8_t *place, unsigned host, bool is_write,
                 bool from_host)
{
    struct cold *cold = emit_cold(emit, COLD_MISS, place);
    cold->is_write = is_write;
    cold->host = (uint8_t)host;
    cold->from_host = from_host;
}

/*
 * The linear address is in r8 or r10, where its offset in the page is left. What nearly
 * each access begins with is written as a whole; r8's own fields are 0.
 */
static void check_offset(struct emit *emit, unsigned host, unsigned size, bool is_write)
{
    /* RORX r9, host, 7; AND r9d, imm32; SUB host, gs:[r9 + disp8], or without disp8 */
    static const uint8_t index[] = {
        0xc4, 0x43, 0xfb, 0xf0, 0xc8, FRAME_SHIFT - ENTRY_SHIFT,
        0x41, 0x81, 0xe1, 0,    0,    0,
        0,    0x65, 0x4d, 0x2b, 0x01, 0,
    };
    /* CMP host, imm32; JA rel32 */
    static const uint8_t compare[] = {
        0x49, 0x81, 0xf8, 0, 0, 0, 0, 0x0f, 0x87, 0, 0, 0, 0,
    };
    const uint32_t mask = (TLB_SIZE - 1) << ENTRY_SHIFT, limit = FRAME_SIZE - size;
    unsigned number = host & 7, tag = (unsigned)tag_at_r9(is_write).disp;
    uint8_t *at = emit->code.at;
    assert(host >= HOST_R8);
    memcpy(at, index, sizeof(index));
    at[4] = (uint8_t)(0xc8 | number);
    memcpy(at + 9, &mask, sizeof(mask));
    at[16] = (uint8_t)((tag ? 0x41 : 0x01) | number << 3);
    at[17] = (uint8_t)tag;
    at += tag ? 18 : 17;
    memcpy(at, compare, sizeof(compare));
    at[2] = (uint8_t)(0xf8 | number);
    memcpy(at + 3, &limit, sizeof(limit));
    emit->code.at = at + sizeof(compare);
    miss(emit, emit->code.at - 4, host, is_write, false);
}

void emit_check_offset(struct emit *emit, unsigned size, bool is_write)
{
    check_offset(emit, HOST_R8, size, is_write);
}

static void add_page(struct emit *emit, unsigned host)
{
    /* ADD host, gs:[r9 + disp8] */
    static const uint8_t add[8] = {0x65, 0x4d, 0x03, 0x41,
                                   offsetof(struct tlb_entry, host)};
    memcpy(emit->code.at, add, sizeof(add));
    emit->code.at[3] = (uint8_t)(0x41 | (host & 7) << 3);
    emit->code.at += 5;
}

void emit_add_page(struct emit *emit)
{
    add_page(emit, HOST_R8);
}

void emit_check(struct emit *emit, unsigned size, bool is_write)
{
    emit_check_offset(emit, size, is_write);
    emit_add_page(emit);
}

/* The same without flags, in any host register. */
static void check_without_flags(struct emit *emit, unsigned host, unsigned size,
                                bool is_write, unsigned keeper)
{
    struct code *code = &emit->code;
    struct host_mem tag = tag_at_r9(is_write);
    struct host_mem page = {HOST_R9, HOST_NONE, 0, offsetof(struct tlb_entry, host)};
    struct host_mem difference = {(uint8_t)host, HOST_RCX, 0, 1};
    struct host_mem sum = {(uint8_t)host, HOST_RCX, 0, 0};
    host_pext_fs(code, false, HOST_R9, host, FRAME(index_mask));
    host_rorx_32(code, HOST_R9, HOST_R9, 32 - ENTRY_SHIFT);
    lend_rcx(code, keeper);
    host_gs(code, true, HOST_MOV_LOAD, HOST_RCX, &tag);
    CODE(code, "\x48\xf7\xd1"); /* NOT rcx */
    host_op_mem(code, true, HOST_LEA, host, &difference);
    host_lea(code, HOST_RCX, host, (int32_t)size - 1);
    host_pext_fs(code, true, HOST_RCX, HOST_RCX, FRAME(page_mask));
    miss(emit, jump_if_rcx(code, keeper), host, is_write, true);
    host_gs(code, true, HOST_MOV_LOAD, HOST_RCX, &page);
    host_op_mem(code, true, HOST_LEA, host, &sum);
    return_rcx(code, keeper);
}

/* ---- watched frames, groups ------------------------------------------------------- */

/* Is the byte at [r9 + 1] not 0? Its jump; live: without flags. */
static uint8_t *jump_if_watched(struct code *code, bool live, unsigned keeper)
{
    if (!live) {
        /* CMP byte [r9 + 1], 0; JNE */
        CODE(code, "\x41\x80\x79\x01\x00\x0f\x85\x00\x00\x00\x00");
        return code->at - 4;
    }
    lend_rcx(code, keeper);
    CODE(code, "\x41\x0f\xb6\x49\x01"); /* MOVZX ecx, byte [r9 + 1] */
    uint8_t *place = jump_if_rcx(code, keeper);
    return_rcx(code, keeper);
    return place;
}

/* Host r9 = a field of the TLB entry at r9: with frame, the frame's entry. */
static void load_entry(struct code *code, size_t field)
{
    struct host_mem mem = {HOST_R9, HOST_NONE, 0, (int32_t)field};
    host_gs(code, true, HOST_MOV_LOAD, HOST_R9, &mem);
}

static void load_frame(struct code *code)
{
    load_entry(code, offsetof(struct tlb_entry, frame));
}

static int32_t group_base(unsigned slot)
{
    return frame_offset(offsetof(struct frame, group_base) + slot * 8u);
}

static int32_t group_frame(unsigned slot)
{
    return frame_offset(offsetof(struct frame, group_frame) + slot * 8u);
}

/* What is to be checked, and how. */
struct wanted {
    unsigned size;
    bool is_write;
    bool keeps;     /* the flags */
    bool adds_page; /* later, as it is addressed */
    bool has_r10;
    bool is_stack; /* by RSP */
};

/* ---- the stack --------------------------------------------------------------------
 *
 * Accesses by RSP lie in the same page as the one before, mostly, of which the TLB keeps
 * a copy of the entry at a known place.
 */

static size_t stack_field(size_t field)
{
    return offsetof(struct tlb_area, stack) + field;
}

static size_t stack_tag(bool is_write)
{
    return stack_field((size_t)tag_at_r9(is_write).disp);
}

/* Behind it r9 is as behind other checks, if anybody wants that. */
static void check_stack(struct emit *emit, unsigned host, unsigned size, bool is_write,
                        bool adds_page)
{
    struct code *code = &emit->code;
    size_t page = stack_field(offsetof(struct tlb_entry, host));
    host_gs_at(code, true, 0x2b, host, stack_tag(is_write)); /* SUB */
    host_cmp(code, host, (int32_t)(FRAME_SIZE - size));
    struct cold *cold = emit_cold(emit, COLD_STACK, host_jcc(code, HOST_A));
    cold->host = (uint8_t)host;
    cold->size = (uint8_t)size;
    cold->is_write = is_write;
    cold->adds_page = adds_page;
    if (adds_page) {
        host_gs_at(code, true, HOST_MOV_LOAD, HOST_R9, page);
    } else {
        host_gs_at(code, true, 0x03, host, page); /* ADD */
    }
    cold->behind = code->at;
    if (is_write && emit->cache->looks) {
        host_constant(code, HOST_R9, stack_field(0));
    }
    /* STACK_NEVER's may. */
    emit->block->insn[emit->ordinal].host_flags &= (uint8_t)~INSN_FLAGS_FAULT;
}

void emit_cold_stack(struct emit *emit, const struct cold *cold)
{
    const struct code_cache *cache = emit->cache;
    struct code *code = &emit->code;
    unsigned kind = (cold->is_write ? STACK_WRITE : 0) |
                    (cold->host == HOST_R10 ? STACK_R10 : 0) |
                    (cold->adds_page ? STACK_LATER : 0);
    host_fs_constant(code, FRAME(exit_info),
                     EXIT_INFO(emit->block->number, cold->ordinal));
    host_constant(code, HOST_R9, FRAME_SIZE - cold->size);
    code8(code, 0xe8); /* CALL */
    code32(code, 0);
    host_patch(code->at - 4, cache->write + cache->stack[kind]);
    host_jmp_to(code, cold->behind);
}

/* Where the address of an access that has to be checked goes, and stays then. */
static unsigned address_register(const struct access *access)
{
    bool is_kept = access->kind == ACCESS_FIRST && access->slot == GROUP_IN_R10;
    return is_kept ? HOST_R10 : HOST_R8;
}

static void check_bytes(struct emit *emit, const struct access *access,
                        const struct wanted *wanted, unsigned size, bool is_write)
{
    unsigned host = address_register(access);
    scratch_overwrite(emit, host);
    scratch_overwrite(emit, HOST_R9);
    if (wanted->keeps) {
        bool has_r10 = wanted->has_r10 && !emit->keeps_base;
        unsigned keeper = host == HOST_R10 ? HOST_R8 : has_r10 ? HOST_R10 : HOST_NONE;
        check_without_flags(emit, host, size, is_write, keeper);
    } else if (wanted->is_stack) {
        check_stack(emit, host, size, is_write, wanted->adds_page);
    } else {
        check_offset(emit, host, size, is_write);
        if (wanted->adds_page) {
            load_entry(&emit->code, offsetof(struct tlb_entry, host));
        } else {
            add_page(emit, host);
        }
    }
}

/* The check of a group's first access. */
static void begin_group(struct emit *emit, const struct access *access,
                        const struct wanted *wanted)
{
    struct code *code = &emit->code;
    struct block_insn *insn = &emit->block->insn[emit->ordinal];
    check_bytes(emit, access, wanted, access->group_size, access->group_stores);
    insn->group_size = access->group_size;
    insn->group_offset = access->offset;
    if (access->stores || !access->group_stores) {
        insn->host_flags |= INSN_FILLS;
    }
    if (access->slot != GROUP_IN_R10) {
        host_fs(code, true, HOST_MOV_STORE, HOST_R8, group_base(access->slot));
        scratch_hold(emit, HOST_R8, HELD_BASE(access->slot), false);
    }
    if (access->group_stores && emit->cache->looks) {
        load_frame(code);
        host_fs(code, true, HOST_MOV_STORE, HOST_R9, group_frame(access->slot));
    }
    if (access->looks_first) {
        struct cold *cold =
            emit_cold(emit, COLD_LEAVE, jump_if_watched(code, wanted->keeps, HOST_NONE));
        cold->reason = LEAVE_PLAIN;
        cold->from_host = wanted->keeps;
    }
}

/* ---- at the head ------------------------------------------------------------------ */

/* A part of an address in a host register; from memory by way of scratch. */
static unsigned early_part(struct emit *emit, unsigned guest, unsigned scratch)
{
    if (guest == HOST_NONE) {
        return HOST_NONE;
    }
    if (guest_in_memory(guest)) {
        host_fs(&emit->code, true, HOST_MOV_LOAD, scratch, frame_gpr(guest));
        return scratch;
    }
    return guest_host(guest);
}

static void early_address(struct emit *emit, unsigned host, const struct early *early)
{
    struct host_mem mem = {
        .index = (uint8_t)early_part(emit, early->index, HOST_R9),
        .scale = early->scale ? (uint8_t)__builtin_ctz(early->scale) : 0,
        .disp = early->disp,
    };
    if (early->base == EARLY_RIP) {
        emit_page_address(emit, host, early->disp);
        mem.base = (uint8_t)host;
        mem.disp = 0;
    } else {
        mem.base = (uint8_t)early_part(emit, early->base, HOST_R8);
    }
    host_op_mem(&emit->code, emit->is_64, HOST_LEA, host, &mem);
}

static void check_early(struct emit *emit, const struct early *early)
{
    struct code *code = &emit->code;
    unsigned host = early->slot == GROUP_IN_R10 ? HOST_R10 : HOST_R8;
    early_address(emit, host, early);
    check_offset(emit, host, early->size, early->is_write);
    struct cold *missed = &emit->cold[emit->cold_count - 1];
    missed->ordinal = early->ordinal;
    missed->kind = emit->round ? COLD_ROUND : COLD_MISS;
    add_page(emit, host);
    if (host == HOST_R8) {
        host_fs(code, true, HOST_MOV_STORE, HOST_R8, group_base(early->slot));
    }
    if (early->is_write && emit->cache->looks) {
        load_frame(code);
        host_fs(code, true, HOST_MOV_STORE, HOST_R9, group_frame(early->slot));
    }
    if (early->looks_first) {
        uint8_t *place = jump_if_watched(code, false, HOST_NONE);
        struct cold *cold = emit_cold(emit, emit->round ? COLD_ROUND : COLD_LEAVE, place);
        cold->reason = LEAVE_PLAIN;
        cold->ordinal = early->ordinal;
        cold->from_host = false;
    }
}

void emit_early(struct emit *emit, bool is_round)
{
    for (unsigned i = 0; i < emit->early_count; i++) {
        if (emit->early[i].is_round == is_round) {
            check_early(emit, &emit->early[i]);
        }
    }
}

/* ---- accesses --------------------------------------------------------------------- */

void emit_load_base(struct emit *emit, unsigned slot)
{
    if (slot == GROUP_IN_R10) {
        host_mov(&emit->code, HOST_R8, HOST_R10);
    } else {
        host_fs(&emit->code, true, HOST_MOV_LOAD, HOST_R8, group_base(slot));
    }
}

/* The address is where address_register says, if the access is not one of a group that
 * has been checked. */
static struct host_mem check(struct emit *emit, const struct access *access,
                             const struct wanted *wanted)
{
    bool in_r10 = access->slot == GROUP_IN_R10;
    switch (access->kind) {
    case ACCESS_FIRST:
        begin_group(emit, access, wanted);
        break;
    case ACCESS_MEMBER:
        if (!in_r10 && scratch_find(emit, HELD_BASE(access->slot)) == HOST_NONE) {
            scratch_overwrite(emit, HOST_R8);
            emit_load_base(emit, access->slot);
            scratch_hold(emit, HOST_R8, HELD_BASE(access->slot), false);
        }
        break;
    default:
        check_bytes(emit, access, wanted, wanted->size, wanted->is_write);
        return (struct host_mem){HOST_R8, wanted->adds_page ? HOST_R9 : HOST_NONE, 0, 0};
    }
    return (struct host_mem){in_r10 ? HOST_R10 : HOST_R8, HOST_NONE, 0, access->offset};
}

static void note_stack(struct emit *emit)
{
    emit->block->insn[emit->ordinal].host_flags |= INSN_OF_STACK;
}

/* One instruction less has to be waited for; r9 must not be needed otherwise. */
bool emit_adds_page(const struct emit *emit, const struct guest_insn *insn)
{
    return insn->adds_page && insn->access.kind == ACCESS_ALONE && !insn->soft_size &&
           !insn->has_high_byte &&
           (emit->keeps_base ? insn->borrowed == 0 && !flags_are_read(insn)
                             : insn->borrowed <= 1);
}

static bool is_on_stack(const struct operand *operand)
{
    return operand->mem.index == ZYDIS_REGISTER_NONE &&
           (operand->mem.base == ZYDIS_REGISTER_RSP ||
            operand->mem.base == ZYDIS_REGISTER_ESP);
}

struct host_mem emit_operand(struct emit *emit, const struct guest_insn *insn,
                             const struct operand *operand, unsigned size, bool is_write)
{
    const struct access *access = &insn->access;
    bool keeps = keeps_flags(emit, insn);
    const struct wanted wanted = {size,  is_write,
                                  keeps, !keeps && emit_adds_page(emit, insn),
                                  true,  is_on_stack(operand)};
    if (operand->mem.base == ZYDIS_REGISTER_RSP ||
        operand->mem.base == ZYDIS_REGISTER_RBP) {
        note_stack(emit);
    }
    if (access->kind != ACCESS_MEMBER) {
        if (!wanted.keeps) {
            emit_spill_flags(emit, insn->flags_live_before);
        }
        if (address_register(access) == HOST_R8) {
            emit_address(emit, insn, operand, true, -(int32_t)access->offset);
        } else { /* a group's segment has no base */
            emit_address_to(emit, HOST_R10, insn, operand, -(int32_t)access->offset);
        }
    }
    return check(emit, access, &wanted);
}

struct host_mem emit_stack(struct emit *emit, const struct guest_insn *insn,
                           unsigned base, int32_t disp, bool is_write)
{
    const struct access *access = &insn->access;
    /* What is pushed from memory is in r10. */
    bool has_r10 = insn->operand[0].type != ZYDIS_OPERAND_TYPE_MEMORY;
    const struct wanted wanted = {emit->width, is_write, keeps_flags(emit, insn),
                                  false,       has_r10,  base == HOST_GUEST_RSP};
    note_stack(emit);
    if (access->kind != ACCESS_MEMBER) {
        if (!wanted.keeps) {
            emit_spill_flags(emit, insn->flags_live_before);
        }
        emit_stack_address_to(emit, address_register(access), base,
                              disp - access->offset);
    }
    return check(emit, access, &wanted);
}

void emit_watch(struct emit *emit, const struct guest_insn *insn, unsigned size,
                uint32_t live)
{
    struct code *code = &emit->code;
    const struct access *access = &insn->access;
    bool is_alone = access->kind == ACCESS_ALONE;
    if (!emit_looks(emit, access)) {
        return;
    }
    scratch_clear(emit);
    if (is_alone) {
        load_frame(code);
    } else {
        host_fs(code, true, HOST_MOV_LOAD, HOST_R9, group_frame(access->slot));
    }
    bool in_host = live && !emit->flags_in_memory;
    unsigned keeper = !is_alone ? HOST_R8 : emit->keeps_base ? HOST_NONE : HOST_R10;
    uint8_t *place = jump_if_watched(code, in_host, keeper);
    struct cold *cold = emit_cold(emit, COLD_WATCHED, place);
    cold->from_host = in_host;
    cold->by_base = !is_alone;
    cold->slot = access->slot;
    cold->target = access->look_from;
    struct block_insn *done = &emit->block->insn[emit->ordinal];
    done->stored = (uint8_t)(is_alone ? size : access->look_size);
    done->resume = (uint16_t)(code->at - (emit->cache->write +
                                          block_host(emit->block, emit->ordinal)));
}
