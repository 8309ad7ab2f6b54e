/*
 * Loops unrolled. A block that branches back to its own beginning gets a second one for
 * that branch (MODE_LOOP): as many rounds of the loop behind each other as there is room
 * for, and back again. It begins with one look, and one check for each group of accesses
 * of all rounds whose addresses are known there (early.c); behind these most of what the
 * rounds execute is the guest's instructions.
 *
 *     check what the loop does not change
 *     again: look; check what advances          (or on in the first block)
 *     round 1; leave the loop if its branch says so
 *     ...
 *     round n; again if its branch says so
 *
 * Nobody comes to it but by that branch, so what is true behind the round before is known
 * at its beginning: flags can be computed anew from what the round compared (recover.c).
 * Where a check fails, because the rounds' bytes lie in two pages or the TLB does not
 * have them, the first block goes on with a round, which leads here again: an array that
 * crosses its page's end costs a few rounds that are checked one access at a time.
 */
#include <string.h>

#include "engine/translator/unroll.h"

#define ROUNDS_MAX 8

/* A round must neither leave and come back, nor change what addresses mean. */
static bool may_repeat(const struct guest_insn *insn)
{
    return insn->emit && insn->keeps_addresses && !insn->soft_size && !insn->ends_block;
}

/* Does the last instruction of a round branch to its first? */
static bool closes(const struct guest_insn *first, const struct guest_insn *last)
{
    return last->emit == emit_jcc &&
           last->offset + last->decoded.length + last->operand[0].imm.value.s ==
               (int64_t)first->offset;
}

unsigned unroll_find_end(const struct emit *emit, const struct guest_insn *insn,
                         unsigned count)
{
    bool has_bases = !emit->is_64 && !(emit->mode & MODE_FLAT);
    if (emit->mode & MODE_PLAIN || has_bases || emit->block->place.next != FRAME_NONE) {
        return 0;
    }
    unsigned most = LOOP_INSN_MAX / 2;
    for (unsigned i = 0; i < count && i < most && may_repeat(&insn[i]); i++) {
        if (i > 0 && closes(insn, &insn[i])) {
            return i;
        }
    }
    return 0;
}

unsigned unroll_copy(struct guest_insn *insn, unsigned round)
{
    unsigned rounds = LOOP_INSN_MAX / round;
    rounds = rounds > ROUNDS_MAX ? ROUNDS_MAX : rounds;
    for (unsigned i = 1; i < rounds; i++) {
        memcpy(&insn[i * round], insn, round * sizeof(*insn));
    }
    return rounds;
}

/* ---- code ------------------------------------------------------------------------- */

static void load_value(struct emit *emit, unsigned host, const struct recovery *recovery,
                       unsigned i)
{
    if (recovery->reg[i] == RECOVER_CONSTANT) {
        host_constant(&emit->code, host, (uint64_t)(int64_t)recovery->add[i]);
        return;
    }
    emit_load_gpr(emit, host, recovery->reg[i]);
    if (recovery->add[i]) {
        host_lea(&emit->code, host, host, recovery->add[i]);
    }
}

/* Host r8 and r9, of an instruction's size. */
static void operate(struct emit *emit, unsigned opcode, unsigned size)
{
    if (size == 2) {
        code8(&emit->code, 0x66);
    }
    host_op_reg(&emit->code, size == 8, size == 1 ? opcode - 1 : opcode, HOST_R8,
                HOST_R9);
}

/* The host's flags become those that a recovery tells of. */
static void recover(struct emit *emit, const struct recovery *recovery)
{
    enum { ADD = 0x03, SUB = 0x2b, COMPARE = 0x3b, TEST = 0x85 };
    load_value(emit, HOST_R8, recovery, 0);
    load_value(emit, HOST_R9, recovery, 1);
    switch (recovery->kind) {
    case RECOVER_TEST:
        operate(emit, TEST, recovery->size);
        break;
    case RECOVER_COMPARE:
        operate(emit, COMPARE, recovery->size);
        break;
    case RECOVER_SUB:
        operate(emit, ADD, 8);
        operate(emit, COMPARE, recovery->size);
        break;
    case RECOVER_ADD:
        operate(emit, SUB, 8);
        operate(emit, ADD, recovery->size);
        break;
    default: /* RECOVER_NEG: of the result, whose negative was negated */
        host_constant(&emit->code, HOST_R9, 0);
        host_op_reg(&emit->code, true, SUB, HOST_R9, HOST_R8);
        host_constant(&emit->code, HOST_R8, 0);
        operate(emit, COMPARE, recovery->size);
        break;
    }
}

void unroll_emit_cold(struct emit *emit, const struct cold *cold)
{
    if (emit->round_failed) {
        host_patch(cold->place[0], emit->round_failed);
        return;
    }
    emit->round_failed = emit->code.at;
    emit->flags_in_memory = emit->round_spills;
    emit->flags_are_stored = false;
    if (!emit->round_spills && emit->round_recovery) {
        recover(emit, &emit->recovery[emit->round_recovery - 1]);
    }
    emit->ordinal = 0;
    emit->settles = emit->block->settles;
    emit_link(emit, 0xe9, emit->block->place.offset);
}

void unroll_emit_count(struct emit *emit)
{
    struct code *code = &emit->code;
    const struct block *block = emit->block;
    uint32_t first = block->loop[0] ? block_start(block) + block->loop[0] : block->entry;
    host_mov(code, HOST_R9, HOST_RCX);
    host_fs(code, false, HOST_MOV_LOAD, HOST_RCX, FRAME(backs_left));
    host_lea(code, HOST_RCX, HOST_RCX, -1);
    host_fs(code, false, HOST_MOV_STORE, HOST_RCX, FRAME(backs_left));
    CODE(code, "\xe3\x00"); /* JRCXZ */
    uint8_t *behind = code->at;
    host_mov(code, HOST_RCX, HOST_R9);
    host_jmp_to(code, emit->cache->write + first);
    behind[-1] = (uint8_t)(code->at - behind);
    host_mov(code, HOST_RCX, HOST_R9);
}

bool unroll_emit_branch(struct emit *emit, const struct guest_insn *insn)
{
    unsigned condition = insn->decoded.opcode & 15;
    if (emit_is_last(emit)) {
        emit_link(emit, (int)condition, emit->block->place.offset);
    } else {
        emit_goto(emit, (int)(condition ^ 1), insn->offset + insn->decoded.length,
                  insn->flags_live);
    }
    return true;
}
