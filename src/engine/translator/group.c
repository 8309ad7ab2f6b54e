/*
 * One check for several accesses: those of a block whose addresses differ by constants
 * known now, as accesses off one base register do, or pushes behind each other. The first
 * of them checks all their bytes, which must lie in one page; its host address stays in
 * r10 until the last, or in the frame, where several groups overlap or something between
 * needs r10: loading it changes no flags, as a check would. If that does not work out,
 * the block's plain variant goes on, which has a check for each (MODE_PLAIN). A block
 * whose group's bytes lie in two pages often is made anew, with that group in two
 * (find.c).
 *
 * A group may check for a write before the write is due: nothing of the guest changes by
 * that, for entries are not filled then (miss.c). Whether stored bytes are code, or
 * logged, is looked at behind the last store before translated code could be left, if
 * code looks at all (struct code_cache's looks); a group with more stores than looks
 * begins only while its frame is not watched, so that no instruction executes that a
 * store before it has changed.
 */
#include "engine/translator/group.h"

#define GROUP_SIZE_MAX 224

static void close_groups(struct plan *plan)
{
    for (unsigned i = 0; i < plan->group_count; i++) {
        plan->group[i].is_open = false;
    }
}

/* Behind a round of an unrolled loop: only what is checked for all of them goes on. */
static void close_round(struct plan *plan)
{
    for (unsigned i = 0; i < plan->group_count; i++) {
        struct group *group = &plan->group[i];
        group->is_open &= early_is_of_rounds(plan, group);
    }
}

static bool is_same_base(const struct address *a, const struct address *b)
{
    return a->base == b->base && a->index == b->index &&
           (a->scale == b->scale || a->index == NO_VALUE);
}

/* Those that an access that would begin a group says. */
static void find_splits(struct plan *plan, unsigned i, const struct address *address)
{
    const struct splits *splits = plan->splits;
    for (unsigned s = 0; splits && s < splits->count; s++) {
        if (splits->split[s].offset == plan->insn[i].offset) {
            struct address *split = &plan->split[plan->split_count++];
            *split = *address;
            split->offset += splits->split[s].distance;
        }
    }
}

/* Does a split lie within bytes of an address, low to before high? */
static bool is_split(const struct plan *plan, const struct address *address, int32_t low,
                     int32_t high)
{
    for (unsigned s = 0; s < plan->split_count; s++) {
        const struct address *split = &plan->split[s];
        if (is_same_base(split, address) && low < split->offset && split->offset < high) {
            return true;
        }
    }
    return false;
}

/* The open group that an access fits into; a new one if there is none and room. */
static struct group *join(struct plan *plan, unsigned i, const struct member *member)
{
    const struct address *address = &member->address;
    int32_t end = address->offset + (int32_t)member->size;
    for (unsigned g = 0; g < plan->group_count; g++) {
        struct group *group = &plan->group[g];
        if (!group->is_open || !is_same_base(&group->address, address)) {
            continue;
        }
        int32_t low = address->offset < group->address.offset ? address->offset
                                                              : group->address.offset;
        int32_t high = end > group->end ? end : group->end;
        if (high - low > GROUP_SIZE_MAX) {
            group->is_open = false;
            continue;
        }
        if (is_split(plan, address, low, high)) {
            continue;
        }
        group->address.offset = low;
        group->end = high;
        group->last = (uint8_t)i;
        group->count++;
        group->is_write |= member->is_write;
        return group;
    }
    if (plan->group_count == GROUPS_MAX) {
        return NULL;
    }
    find_splits(plan, i, address);
    struct group *group = &plan->group[plan->group_count++];
    *group = (struct group){
        .address = *address,
        .end = end,
        .begin = (uint8_t)i,
        .first = (uint8_t)i,
        .last = (uint8_t)i,
        .count = 1,
        .is_open = true,
        .is_write = member->is_write,
    };
    return group;
}

static bool overlap(const struct group *a, const struct group *b)
{
    return a->first <= b->last && a->last >= b->first;
}

/* A place in the frame for each group; one that there is none for is given up. */
static void find_slots(struct plan *plan)
{
    for (unsigned i = 0; i < plan->group_count; i++) {
        struct group *group = &plan->group[i];
        unsigned taken = 1u << GROUP_IN_R10;
        for (unsigned before = 0; before < i && group->count; before++) {
            if (plan->group[before].count && overlap(&plan->group[before], group)) {
                taken |= 1u << plan->group[before].slot;
            }
        }
        unsigned slot = 0;
        while (slot < GROUP_SLOTS && taken & 1u << slot) {
            slot++;
        }
        if (slot == GROUP_SLOTS) {
            group->count = 0;
        }
        group->slot = (uint8_t)slot;
    }
}

/* Those of one access are none. Are there others? */
static bool drop_single(struct plan *plan)
{
    bool is_any = false;
    for (unsigned i = 0; i < plan->group_count; i++) {
        struct group *group = &plan->group[i];
        group->count = group->count < 2 && !group->is_early ? 0 : group->count;
        is_any |= group->count != 0;
    }
    return is_any;
}

static bool do_spare_base(const struct plan *plan, const struct group *group)
{
    for (unsigned i = group->first; i <= group->last; i++) {
        if (!member_spares_base(plan, &plan->insn[i], group)) {
            return false;
        }
    }
    return true;
}

static bool can_have_r10(const struct plan *plan, const struct group *group)
{
    if (!group->is_spared) {
        return false;
    }
    for (unsigned i = 0; i < plan->group_count; i++) {
        const struct group *other = &plan->group[i];
        if (other->count && other->slot == GROUP_IN_R10 && overlap(other, group)) {
            return false;
        }
    }
    return true;
}

/* The group that saves most by r10 and can have it; NULL: none is left. */
static struct group *choose(struct plan *plan)
{
    struct group *best = NULL;
    for (unsigned i = 0; i < plan->group_count; i++) {
        struct group *group = &plan->group[i];
        if (group->count && group->slot != GROUP_IN_R10 &&
            (!best || group->count > best->count) && can_have_r10(plan, group)) {
            best = group;
        }
    }
    return best;
}

/* Which stores look at the watch bits, and at which bytes. */
static void place_looks(struct guest_insn *insn, const struct group *group)
{
    struct access *pending = NULL;
    unsigned from = 0, end = 0;
    bool delays = false;
    for (unsigned i = group->first; i <= group->last; i++) {
        struct access *access = &insn[i].access;
        if (group_may_leave(&insn[i])) {
            pending = NULL;
        }
        if (access->kind == ACCESS_ALONE || access->slot != group->slot ||
            !access->stores) {
            continue;
        }
        unsigned low = access->offset, high = low + access->size;
        if (pending) {
            pending->look_size = 0;
            delays = true;
            low = from < low ? from : low;
            high = end > high ? end : high;
        }
        from = low;
        end = high;
        access->look_from = (uint8_t)from;
        access->look_size = (uint8_t)(end - from);
        pending = access;
    }
    insn[group->begin].access.looks_first = delays;
}

static void apply(struct plan *plan, const struct member *members,
                  const struct group *group)
{
    struct guest_insn *insn = plan->insn;
    for (unsigned i = group->first; i <= group->last; i++) {
        insn[i].keeps_base |= group->slot == GROUP_IN_R10;
        insn[i].needs_base |= i != group->first;
        if (insn[i].access.group != group - plan->group) {
            continue;
        }
        struct access *access = &insn[i].access;
        bool is_first = i == group->begin;
        access->kind = is_first && !group->is_early ? ACCESS_FIRST : ACCESS_MEMBER;
        access->is_early = is_first && group->is_early;
        access->slot = group->slot;
        access->offset = (uint8_t)(members[i].address.offset - group->address.offset);
        access->size = (uint8_t)members[i].size;
        access->stores = members[i].is_write;
        access->group_size = (uint8_t)(group->end - group->address.offset);
        access->group_stores = group->is_write;
    }
}

/* NULL emit: what is known of it is its kind's, but it is the interpreter's. */
static bool is_joining(const struct guest_insn *insn)
{
    return insn->may_join && insn->emit && !insn->soft_size;
}

static void find_members(struct plan *plan, unsigned count, struct member *members)
{
    for (unsigned i = 0; i < count; i++) {
        struct guest_insn *insn = &plan->insn[i];
        struct group *group = NULL;
        if (plan->round && i % plan->round == 0) {
            close_round(plan);
        }
        if (!insn->emit || !insn->keeps_addresses) {
            close_groups(plan);
        } else if (is_joining(insn) && member_find(plan, insn, &members[i])) {
            group = join(plan, i, &members[i]);
        }
        insn->access.group = group ? (int8_t)(group - plan->group) : -1;
        if (insn->is_call) {
            close_groups(plan); /* behind it is after it */
        }
        if (insn->emit && !insn->is_call) {
            values_follow(&plan->values, insn);
        } else {
            values_forget(&plan->values);
        }
    }
}

/* As many as there are up to the last that may be a member; 0: there are not two. */
static unsigned count_to_last(const struct guest_insn *insn, unsigned count)
{
    unsigned members = 0, end = 0;
    for (unsigned i = 0; i < count; i++) {
        bool joins = is_joining(&insn[i]);
        members += joins;
        end = joins ? i + 1 : end;
    }
    return members < 2 ? 0 : end;
}

static void give_r10(struct plan *plan)
{
    struct group *group;
    for (unsigned i = 0; i < plan->group_count; i++) {
        group = &plan->group[i];
        group->is_spared = group->count && do_spare_base(plan, group);
    }
    while ((group = choose(plan)) != NULL) {
        group->slot = GROUP_IN_R10;
    }
}

void group_accesses(struct emit *emit, struct guest_insn *insn, unsigned count)
{
    struct plan plan;
    struct member members[LOOP_INSN_MAX];
    const struct block_more *more = emit->block->more;
    plan.insn = insn;
    plan.round = emit->round;
    plan.splits = more ? &more->splits : NULL;
    plan.split_count = plan.group_count = plan.early_count = 0;
    unsigned end = count_to_last(insn, count);
    if (end == 0) {
        return;
    }
    values_init(&plan.values, emit->width);
    find_members(&plan, end, members);
    early_choose(&plan, count);
    if (!drop_single(&plan)) {
        return;
    }
    find_slots(&plan);
    give_r10(&plan);
    for (unsigned i = 0; i < plan.group_count; i++) {
        if (plan.group[i].count) {
            apply(&plan, members, &plan.group[i]);
        }
    }
    for (unsigned i = 0; i < plan.group_count; i++) {
        if (emit->cache->looks && plan.group[i].count && plan.group[i].is_write) {
            place_looks(insn, &plan.group[i]);
        }
    }
    early_note(emit, &plan);
}
