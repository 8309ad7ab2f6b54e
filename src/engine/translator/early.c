/*
 * Groups that are checked at their block's head, before their first access is due. Two
 * kinds gain by that:
 *
 * - Of a loop, that is a block with a branch to its own beginning, those whose address
 *   does not change within it. The branch leads behind their checks, so these are made
 *   when the loop is entered, and again whenever it has been left. Between two heads
 *   nothing changes what addresses mean, as within any group.
 * - Those whose checks would have to leave the flags alone, as in chains of additions
 *   with carry: the head brings the flags away once, and back, for all of them.
 *
 * All of these accesses are executed with the block's beginning, unless an instruction
 * before them faults. A check that fails changes nothing, nor does it fill the TLB: the
 * block's plain variant goes on from its beginning, where each access comes when it is
 * due (leave.c). If that happens again and again a variant without such checks takes the
 * block's place (find.c).
 */
#include "engine/translator/group.h"

/* So many groups have to be for it to be worth while to bring flags away for them. */
#define KEPT_MIN 2

static bool leads_to(const struct guest_insn *insn, unsigned offset)
{
    return (insn->is_branch || insn->emit == emit_jmp) &&
           insn->operand[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
           insn->offset + insn->decoded.length + insn->operand[0].imm.value.s ==
               (int64_t)offset;
}

/* May addresses mean something else behind it? */
static bool is_end(const struct guest_insn *insn)
{
    return !insn->emit || !insn->keeps_addresses || insn->soft_size || insn->is_call;
}

/* The next instruction, from one on, that leads to the first; -1: there is none, or the
 * loop is left on the way. */
static int find_loop_end(const struct guest_insn *insn, unsigned count, unsigned from)
{
    for (unsigned i = 0; i < count && !is_end(&insn[i]); i++) {
        if (i >= from && leads_to(&insn[i], insn[0].offset)) {
            return (int)i;
        }
    }
    return -1;
}

/* So many instructions are executed with the first in any case, addresses being known. */
static unsigned count_straight(const struct guest_insn *insn, unsigned count)
{
    unsigned i = 0;
    while (i < count && !insn[i].is_branch && !is_end(&insn[i])) {
        i++;
    }
    return i;
}

/* Is the address known at the block's head, and is none of the registers among those? */
static bool is_known(const struct address *address, unsigned written)
{
    unsigned used = 0;
    const uint16_t part[] = {address->base, address->index};
    for (unsigned i = 0; i < 2; i++) {
        int reg = values_entry_register(part[i]);
        if (reg >= 0) {
            used |= 1u << reg;
        } else if (part[i] != NO_VALUE && part[i] != RIP_VALUE) {
            return false;
        }
    }
    return !(used & written);
}

static void take(struct plan *plan, struct group *group, unsigned last)
{
    group->is_early = true;
    group->first = 0;
    group->last = (uint8_t)(group->last > last ? group->last : last);
    plan->early_count++;
}

static bool has_room(const struct plan *plan)
{
    return plan->early_count < EARLY_MAX;
}

/* Those that a loop does not change. */
static void take_constant(struct plan *plan, unsigned end, unsigned straight)
{
    unsigned written = 0;
    for (unsigned i = 0; i <= end; i++) {
        written |= plan->insn[i].gpr_written;
    }
    for (unsigned i = 0; i < plan->group_count && has_room(plan); i++) {
        struct group *group = &plan->group[i];
        if (group->begin < straight && group->begin <= end &&
            is_known(&group->address, written)) {
            take(plan, group, end);
        }
    }
}

static bool is_kept(const struct plan *plan, const struct group *group, unsigned straight)
{
    return group->begin < straight && flags_are_kept(&plan->insn[group->begin]) &&
           is_known(&group->address, 0);
}

static void take_kept(struct plan *plan, unsigned straight)
{
    unsigned found = 0;
    for (unsigned i = 0; i < plan->group_count; i++) {
        found += is_kept(plan, &plan->group[i], straight);
    }
    for (unsigned i = 0; found >= KEPT_MIN && i < plan->group_count && has_room(plan);
         i++) {
        struct group *group = &plan->group[i];
        if (is_kept(plan, group, straight)) {
            take(plan, group, group->last);
        }
    }
}

bool early_is_of_rounds(const struct plan *plan, const struct group *group)
{
    unsigned straight = count_straight(plan->insn, plan->round);
    return group->begin % plan->round < straight && is_known(&group->address, 0);
}

/* Of an unrolled loop those that are known at its beginning: of the accesses that each
 * round makes in any case, if another round is worth a check for it. */
static void take_of_rounds(struct plan *plan, unsigned count)
{
    unsigned written = 0;
    for (unsigned i = 0; i < plan->round; i++) {
        written |= plan->insn[i].gpr_written;
    }
    for (unsigned i = 0; i < plan->group_count && has_room(plan); i++) {
        struct group *group = &plan->group[i];
        if (group->count > 1 && early_is_of_rounds(plan, group)) {
            group->is_round = !is_known(&group->address, written);
            take(plan, group, group->is_round ? 0 : count - 1);
        }
    }
}

void early_choose(struct plan *plan, unsigned count)
{
    const struct guest_insn *insn = plan->insn;
    plan->loop_end = -1;
    if (plan->round) {
        take_of_rounds(plan, count);
        return;
    }
    if (plan->group_count == 0 || (plan->splits && plan->splits->is_late)) {
        return;
    }
    unsigned straight = count_straight(insn, count);
    int end = -1;
    do { /* inner loops are executed most */
        end = find_loop_end(insn, count, (unsigned)(end + 1));
        if (end >= 0) {
            take_constant(plan, (unsigned)end, straight);
        }
    } while (end >= 0 && plan->early_count == 0);
    plan->loop_end = end;
    if (end < 0) {
        take_kept(plan, straight);
    }
}

static uint8_t part_of(uint16_t value)
{
    int reg = values_entry_register(value);
    return reg >= 0 ? (uint8_t)reg : value == RIP_VALUE ? EARLY_RIP : HOST_NONE;
}

void early_note(struct emit *emit, const struct plan *plan)
{
    emit->loop_end = (int8_t)plan->loop_end;
    for (unsigned i = 0; i < plan->group_count; i++) {
        const struct group *group = &plan->group[i];
        const struct access *access = &plan->insn[group->begin].access;
        if (!group->is_early || !group->count) {
            continue;
        }
        emit->early[emit->early_count++] = (struct early){
            .ordinal = group->begin,
            .slot = group->slot,
            .size = access->group_size,
            .is_write = group->is_write,
            .looks_first = access->looks_first,
            .base = part_of(group->address.base),
            .index = part_of(group->address.index),
            .scale = group->address.scale,
            .disp = group->address.offset,
            .is_round = group->is_round,
        };
    }
}
