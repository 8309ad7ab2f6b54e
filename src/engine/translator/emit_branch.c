/*
 * Near control transfers.
 *
 * CALL and RET are the host's, so that the host predicts them: CALL leaves the address of
 * its return site on the return stack, RET goes there with the guest's return address in
 * r8, and the site goes on if that is its own. A site of position-independent code finds
 * its own address on the return stack, behind the host's; others know it.
 */
#include "engine/translator/soften.h"
#include "engine/translator/unroll.h"

static bool is_near(const struct guest_insn *insn)
{
    /* A 66 prefix shortens RIP; in 64-bit mode on AMD's processors. */
    for (unsigned i = 0; i < insn->decoded.raw.prefix_count; i++) {
        if (insn->bytes[i] == 0x66) {
            return false;
        }
    }
    return insn->decoded.meta.branch_type != ZYDIS_BRANCH_TYPE_FAR;
}

static int64_t next_offset(const struct guest_insn *insn)
{
    return insn->offset + insn->decoded.length;
}

static int64_t relative_target(const struct guest_insn *insn)
{
    return next_offset(insn) + insn->operand[0].imm.value.s;
}

/* Has it a target that is known now? */
static bool is_fixed(const struct guest_insn *insn)
{
    return insn->operand[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && !insn->soft_size;
}

static void go_on(struct emit *emit, const uint8_t opcode)
{
    const struct code_cache *cache = emit->cache;
    code8(&emit->code, opcode);
    code32(&emit->code, 0);
    host_patch(emit->code.at - 4, cache->write + cache->jump[code_jump_kind(emit->mode)]);
}

/* What an indirect branch reports if it leads nowhere. A RET leaves that to whom it comes
 * to, in r9d: where it was called from it has led somewhere. */
static void note_branch(struct emit *emit)
{
    host_fs_constant(&emit->code, FRAME(last_branch),
                     EXIT_INFO(emit->block->number, emit->ordinal));
}

static void tell_branch(struct emit *emit)
{
    scratch_overwrite(emit, HOST_R9);
    host_constant(&emit->code, HOST_R9, EXIT_INFO(emit->block->number, emit->ordinal));
}

static void note_told_branch(struct emit *emit)
{
    host_fs(&emit->code, false, HOST_MOV_STORE, HOST_R9, FRAME(last_branch));
}

/* Host r8 = target of a branch that is not fixed. */
static void load_target(struct emit *emit, const struct guest_insn *insn)
{
    const struct operand *from = &insn->operand[0];
    if (soften_is_immediate(insn)) {
        const struct host_mem sum = {HOST_R8, HOST_R9, 0, 0};
        emit_page_address(emit, HOST_R8, next_offset(insn));
        soften_load(emit, HOST_R9, insn);
        host_op_mem(&emit->code, emit->is_64, HOST_LEA, HOST_R8, &sum);
        return;
    }
    if (from->type == ZYDIS_OPERAND_TYPE_MEMORY) {
        struct host_mem operand = emit_operand(emit, insn, from, emit->width, false);
        host_op_mem(&emit->code, emit->is_64, HOST_MOV_LOAD, HOST_R8, &operand);
    } else if (emit->is_64) {
        emit_load_gpr(emit, HOST_R8, (unsigned)ZydisRegisterGetId(from->reg.value));
    } else {
        emit_mov(emit, HOST_R8,
                 guest_host((unsigned)ZydisRegisterGetId(from->reg.value)));
    }
    emit_add_code_base(emit);
}

/* Host r8 holds the guest's return address; the site is for this one. The block may go on
 * here: who comes to one that is dead has returned to somewhere else. */
static void return_site(struct emit *emit, const struct guest_insn *insn)
{
    struct code *code = &emit->code;
    const uint8_t *site = code->at;
    if (!emit->is_fixed) {
        CODE(code, "\x4c\x3b\x44\x24\x00"); /* CMP r8, [rsp]: five bytes, for a patch */
    } else if (!emit->is_64) {
        CODE(code, "\x41\x81\xf8"); /* CMP r8d, imm32 */
        code32(code, (uint32_t)(emit->page + (uint64_t)next_offset(insn)));
    } else {
        uint64_t expected = emit->page + (uint64_t)next_offset(insn);
        if (host_fits32(expected)) {
            host_cmp(code, HOST_R8, (int32_t)expected);
        } else {
            host_constant(code, HOST_R10, expected);
            host_op_reg(code, true, 0x3b, HOST_R8, HOST_R10);
        }
    }
    struct cold *cold = emit_cold(emit, COLD_MISMATCH, host_jcc(code, HOST_NE));
    if (!emit->is_fixed) {
        host_lea(code, HOST_RSP, HOST_RSP, 8);
    }
    emit->flags_in_memory = true;
    emit->settles = 0;
    if (next_offset(insn) >= (int64_t)FRAME_SIZE) {
        note_told_branch(emit);
        go_on(emit, 0xe9); /* the next page's */
        return;
    }
    if (!emit->is_fixed) {
        emit_code_base(emit);
    }
    if (emit_is_last(emit)) {
        emit_goto(emit, -1, next_offset(insn), 0);
    } else {
        emit_patch(emit, site, cold);
    }
}

/* So that the return site, behind a CALL of five bytes, can be patched. */
static void align_site(struct emit *emit)
{
    if (!emit_is_last(emit)) {
        host_align(&emit->code, 8, 5);
    }
}

/* A CALL to another page. */
static void call_page(struct emit *emit, int64_t target)
{
    uint8_t *other = emit_known_jump(emit, target, CALL_MEMORY);
    if (other) {
        struct cold *cold = emit_cold(emit, COLD_CALL, other);
        cold->target = target;
        cold->behind = emit->code.at;
        return;
    }
    emit_page_address(emit, HOST_R8, target);
    align_site(emit);
    go_on(emit, 0xe8);
}

/* The site's address onto the return stack; value holds what the guest is given, which
 * has no base of CS. */
static void push_site(struct emit *emit, unsigned value, int64_t offset)
{
    if (!emit->is_64) {
        emit_page_address(emit, value, offset);
    }
    CODE(&emit->code, "\x41"); /* PUSH r8 to r15 */
    code8(&emit->code, 0x50 | (value & 7));
}

bool emit_call(struct emit *emit, const struct guest_insn *insn)
{
    struct code *code = &emit->code;
    if (!is_near(insn)) {
        return false;
    }
    emit_spill_flags(emit, insn->flags_live_before);
    emit->flags_in_memory = true;
    bool is_direct = is_fixed(insn);
    if (!is_direct) {
        load_target(emit, insn);
        host_fs(code, true, HOST_MOV_STORE, HOST_R8, FRAME(scratch));
    }
    int32_t width = emit->width;
    struct host_mem top = emit_stack(emit, insn, HOST_GUEST_RSP, -width, true);
    unsigned value = emit_value_register(&insn->access);
    uint64_t known = emit->page + (uint64_t)next_offset(insn);
    if (emit->is_64 && emit->is_fixed && host_fits32(known)) {
        host_op_mem(code, true, 0xc7, 0, &top); /* MOV, imm32 */
        code32(code, (uint32_t)known);
    } else {
        emit_code_address(emit, value, next_offset(insn));
        host_op_mem(code, emit->is_64, HOST_MOV_STORE, value, &top);
    }
    emit->stack_moves -= width;
    emit_settle_stack(emit);
    if (!emit->is_fixed) {
        push_site(emit, value, next_offset(insn));
    }
    emit_watch(emit, insn, emit->width, 0);
    int64_t target = is_direct ? relative_target(insn) : -1;
    if (is_direct && emit_can_link(emit, target)) {
        align_site(emit);
        emit_link(emit, 0xe8, (unsigned)target);
    } else if (is_direct) {
        call_page(emit, target);
    } else {
        host_fs(code, true, HOST_MOV_LOAD, HOST_R8, FRAME(scratch));
        note_branch(emit);
        align_site(emit);
        go_on(emit, 0xe8);
    }
    return_site(emit, insn);
    emit->ended = emit_is_last(emit);
    return true;
}

bool emit_ret(struct emit *emit, const struct guest_insn *insn)
{
    struct code *code = &emit->code;
    if (!is_near(insn)) {
        return false;
    }
    int32_t extra = insn->operand[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE
                        ? (int32_t)(insn->operand[0].imm.value.u & 0xffff)
                        : 0;
    emit_spill_flags(emit, insn->flags_live_before);
    emit->flags_in_memory = true;
    struct host_mem top = emit_stack(emit, insn, HOST_GUEST_RSP, 0, false);
    host_op_mem(code, emit->is_64, HOST_MOV_LOAD, HOST_R8, &top);
    emit_add_code_base(emit);
    emit->stack_moves += emit->width + extra;
    emit_settle_stack(emit);
    emit->block->insn[emit->ordinal].popped = (uint16_t)extra;
    tell_branch(emit);
    code8(code, 0xc3);
    emit->ended = true;
    return true;
}

/* Host r8 holds a linear address: on to one of the targets that were learnt, by a link.
 */
static void go_on_learnt(struct emit *emit)
{
    const struct block *block = emit->block;
    unsigned from = HOST_R8;
    uint64_t page = emit->page;
    if (block->target_count && !emit->is_fixed) {
        from = HOST_R9; /* the offset in the page, if it is there */
        page = 0;
        host_mov(&emit->code, from, HOST_R8);
        host_fs(&emit->code, true, 0x2b, from, FRAME(code_base)); /* SUB */
    }
    for (unsigned i = 0; i < block->target_count; i++) {
        host_cmp(&emit->code, from, (int32_t)(page + block->target[i]));
        emit_goto(emit, HOST_E, block->target[i], 0);
    }
    note_branch(emit);
    go_on(emit, 0xe9);
}

/* Out, each time, until enough is known. */
static void ask_target(struct emit *emit)
{
    struct code *code = &emit->code;
    note_branch(emit);
    host_align_place(code, 1);
    struct cold *cold = emit_cold(emit, COLD_TARGET, host_jmp(code));
    cold->from_host = false;
    emit->block->target_place = (uint32_t)(code->at - 4 - emit->cache->write);
}

bool emit_jmp(struct emit *emit, const struct guest_insn *insn)
{
    if (!is_near(insn)) {
        return false;
    }
    emit->ended = true;
    if (is_fixed(insn)) {
        emit_goto(emit, -1, relative_target(insn), insn->flags_live);
        return true;
    }
    emit_spill_flags(emit, insn->flags_live_before);
    load_target(emit, insn);
    if (emit->block->has_learnt || insn->soft_size) {
        go_on_learnt(emit);
    } else {
        ask_target(emit);
    }
    return true;
}

/* SDM 2A "Jcc": the condition is the opcode's low four bits. */
bool emit_jcc(struct emit *emit, const struct guest_insn *insn)
{
    if (!is_near(insn)) {
        return false;
    }
    emit_restore_flags(emit);
    if (emit->round && (emit->ordinal + 1) % emit->round == 0) {
        return unroll_emit_branch(emit, insn);
    }
    emit_goto(emit, insn->decoded.opcode & 15, relative_target(insn), insn->flags_live);
    return true;
}

/* Neither touches flags. The condition leads over a jump to the target. */
static bool by_rcx(struct emit *emit, const struct guest_insn *insn, bool is_loop)
{
    struct code *code = &emit->code;
    if (!is_near(insn) || insn->decoded.address_width != emit->width * 8) {
        return false;
    }
    if (is_loop) {
        emit_lea_base(emit, HOST_RCX, HOST_RCX, -1);
    }
    if (!emit->is_64) {
        code8(code, 0x67); /* JECXZ */
    }
    if (is_loop) {
        CODE(code, "\xe3\x00"); /* JRCXZ: not taken */
    } else {
        CODE(code, "\xe3\x02\xeb\x00"); /* JRCXZ over a JMP: not taken */
    }
    uint8_t *distance = code->at - 1;
    uint8_t *behind = code->at;
    emit->has_branched = true;
    emit_goto(emit, -1, relative_target(insn), insn->flags_live);
    *distance = (uint8_t)(code->at - behind);
    return true;
}

bool emit_loop(struct emit *emit, const struct guest_insn *insn)
{
    return by_rcx(emit, insn, true);
}

bool emit_jrcxz(struct emit *emit, const struct guest_insn *insn)
{
    return by_rcx(emit, insn, false);
}
