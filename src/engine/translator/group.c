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
#include "base/scope.h"
#include "engine/translator/values.h"

#define GROUP_SIZE_MAX 224

/* An address: values of base and index, and the sum of all offsets. */
struct address {
    uint16_t base, index;
    uint8_t scale;
    int32_t offset;
};

struct group {
    struct address address; /* offset: of its lowest byte */
    int32_t end;
    uint8_t first, last, count;
    uint8_t slot; /* struct access's */
    bool is_open, is_write;
    bool is_spared; /* all code from the first to the last can do without r10 */
};

#define GROUPS_MAX 48

struct plan {
    struct guest_insn *insn;
    const struct splits *splits;      /* or NULL */
    struct address split[SPLITS_MAX]; /* where groups end, as far as it is known yet */
    unsigned split_count;
    struct values values;
    struct group group[GROUPS_MAX];
    unsigned group_count;
};

/* The access of an instruction that may be one of a group. */
struct member {
    struct address address;
    unsigned size;
    bool is_write;
};

/* ---- accesses --------------------------------------------------------------------- */

static void find_stack_access(const struct plan *plan, const struct guest_insn *insn,
                              struct member *member)
{
    bool is_push = insn->emit == emit_push || insn->emit == emit_call;
    unsigned base = insn->emit == emit_leave_frame ? HOST_RBP : HOST_RSP;
    struct symbol top = plan->values.reg[base];
    member->address = (struct address){
        .base = top.value,
        .offset = top.offset - (is_push ? (int32_t)plan->values.width : 0),
    };
    member->size = plan->values.width;
    member->is_write = is_push;
}

static bool find_part(const struct plan *plan, ZydisRegister reg, uint16_t *value,
                      int64_t *offset, unsigned scale)
{
    if (reg == ZYDIS_REGISTER_NONE) {
        return true;
    }
    if (!values_is_whole(&plan->values, reg)) {
        return false;
    }
    const struct symbol *symbol = &plan->values.reg[guest_number(reg)];
    *value = symbol->value;
    *offset += (int64_t)symbol->offset * scale;
    return true;
}

/* insn->may_join. */
static bool find_access(const struct plan *plan, const struct guest_insn *insn,
                        struct member *member)
{
    if (insn->emit != emit_copy) {
        find_stack_access(plan, insn, member);
        return true;
    }
    const struct operand *operand = insn_memory(insn);
    if (insn->decoded.address_width != plan->values.width * 8) {
        return false;
    }
    struct address *address = &member->address;
    int64_t offset = operand->mem.disp.value;
    *address = (struct address){.scale = operand->mem.scale};
    if (operand->mem.base == ZYDIS_REGISTER_RIP) {
        address->base = RIP_VALUE;
        offset += insn->offset + insn->decoded.length;
    } else if (!find_part(plan, operand->mem.base, &address->base, &offset, 1)) {
        return false;
    }
    if (!find_part(plan, operand->mem.index, &address->index, &offset,
                   operand->mem.scale) ||
        address->base == NO_VALUE || offset > OFFSET_MAX || offset < -OFFSET_MAX) {
        return false;
    }
    address->offset = (int32_t)offset;
    member->size = operand->size / 8;
    member->is_write = operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    return true;
}

/* ---- groups ----------------------------------------------------------------------- */

/* Guest registers, apart from those of an address, that live in memory. */
static unsigned count_borrowed(const struct guest_insn *insn)
{
    unsigned seen = 0;
    for (unsigned i = 0; i < insn->decoded.operand_count; i++) {
        const struct operand *operand = &insn->operand[i];
        if (operand->type == ZYDIS_OPERAND_TYPE_REGISTER &&
            guest_is_gpr(operand->reg.value)) {
            unsigned number = guest_number(operand->reg.value);
            seen |= guest_in_memory(number) ? 1u << number : 0;
        }
    }
    return (unsigned)__builtin_popcount(seen);
}

/* AH, CH, DH or BH, whose partner in memory borrows RDI for its address (emit_copy.c). */
static bool has_high_byte(const struct guest_insn *insn)
{
    for (unsigned i = 0; i < insn->decoded.operand_count; i++) {
        ZydisRegister reg = insn->operand[i].reg.value;
        if (insn->operand[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH) {
            return true;
        }
    }
    return false;
}

/* Does the instruction neither change what addresses mean nor leave and come back? */
static bool keeps_addresses(const struct guest_insn *insn)
{
    static emit_fn *const functions[] = {
        emit_copy, emit_lea,  emit_nothing, emit_push, emit_pop, emit_leave_frame,
        emit_jcc,  emit_loop, emit_jrcxz,   emit_call, emit_ret, emit_jmp,
    };
    for (unsigned i = 0; i < array_size(functions); i++) {
        if (insn->emit == functions[i]) {
            return true;
        }
    }
    return false;
}

/* Has it an access that may be one of a group's, whatever its address is? */
static bool may_join(const struct guest_insn *insn)
{
    const struct operand *operand = insn_memory(insn);
    if (insn->borrowed > 2) {
        return false;
    }
    if (insn->emit == emit_copy) {
        return operand && operand->mem.segment != ZYDIS_REGISTER_FS &&
               operand->mem.segment != ZYDIS_REGISTER_GS && operand->size >= 8 &&
               operand->size <= 64 * 8;
    }
    if (insn->emit == emit_leave_frame || insn->emit == emit_ret) {
        return true;
    }
    /* An operand in memory is an access of its own. */
    bool is_stack =
        insn->emit == emit_push || insn->emit == emit_pop || insn->emit == emit_call;
    return is_stack && insn->operand[0].type != ZYDIS_OPERAND_TYPE_MEMORY;
}

void group_plan(struct guest_insn *insn)
{
    insn->borrowed = (uint8_t)count_borrowed(insn);
    insn->has_high_byte = has_high_byte(insn);
    insn->keeps_addresses = keeps_addresses(insn);
    insn->may_join = may_join(insn);
}

/* Can the instruction's code do without r10, which is taken for a group? As emit_copy and
 * others use scratch registers. */
static bool spares_base(const struct plan *plan, const struct guest_insn *insn,
                        const struct group *group)
{
    bool is_member = insn->access.group == group - plan->group;
    bool is_other = !is_member && insn->access.group >= 0 &&
                    plan->group[insn->access.group].count >= 2;
    if (insn->soft_size) {
        return false;
    }
    if (insn->emit == emit_jcc || insn->emit == emit_nothing || insn->emit == emit_lea) {
        return true;
    }
    if (insn->emit != emit_copy) {
        return is_member || is_other;
    }
    const struct operand *operand = insn_memory(insn);
    if (!operand || is_member) {
        return insn->borrowed <= 2;
    }
    if (is_other || !(operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)) {
        return insn->borrowed <= 1;
    }
    return insn->borrowed == 0 && !insn->has_high_byte && !flags_are_read(insn);
}

bool group_may_leave(const struct guest_insn *insn)
{
    ZydisMnemonic mnemonic = insn->decoded.mnemonic;
    bool is_member = insn->access.kind == ACCESS_MEMBER;
    bool has_operand = insn_memory(insn) && insn->emit != emit_lea;
    return insn->emit == emit_jcc || insn->emit == emit_ret || insn->emit == emit_loop ||
           insn->emit == emit_jrcxz || mnemonic == ZYDIS_MNEMONIC_DIV ||
           mnemonic == ZYDIS_MNEMONIC_IDIV || mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B ||
           insn->uses_fpu || insn->access.kind == ACCESS_FIRST ||
           (has_operand && (!is_member || insn->uses_vector));
}

static void close_groups(struct plan *plan)
{
    for (unsigned i = 0; i < plan->group_count; i++) {
        plan->group[i].is_open = false;
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
        group->count = group->count < 2 ? 0 : group->count;
        is_any |= group->count != 0;
    }
    return is_any;
}

static bool do_spare_base(const struct plan *plan, const struct group *group)
{
    for (unsigned i = group->first; i <= group->last; i++) {
        if (!spares_base(plan, &plan->insn[i], group)) {
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
    insn[group->first].access.looks_first = delays;
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
        access->kind = i == group->first ? ACCESS_FIRST : ACCESS_MEMBER;
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
        if (!insn->emit || !insn->keeps_addresses) {
            close_groups(plan);
        } else if (is_joining(insn) && find_access(plan, insn, &members[i])) {
            group = join(plan, i, &members[i]);
        }
        insn->access.group = group ? (int8_t)(group - plan->group) : -1;
        if (insn->emit == emit_call) {
            close_groups(plan); /* behind it is after it */
        }
        if (insn->emit && insn->emit != emit_call) {
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

void group_accesses(struct guest_insn *insn, unsigned count, unsigned width,
                    const struct splits *splits, bool looks)
{
    struct plan plan;
    struct member members[BLOCK_INSN_MAX];
    plan.insn = insn;
    plan.splits = splits;
    plan.split_count = plan.group_count = 0;
    count = count_to_last(insn, count);
    if (count == 0) {
        return;
    }
    values_init(&plan.values, width);
    find_members(&plan, count, members);
    if (!drop_single(&plan)) {
        return;
    }
    find_slots(&plan);
    for (unsigned i = 0; i < plan.group_count; i++) {
        struct group *group = &plan.group[i];
        group->is_spared = group->count && do_spare_base(&plan, group);
    }
    struct group *group;
    while ((group = choose(&plan)) != NULL) {
        group->slot = GROUP_IN_R10;
    }
    for (unsigned i = 0; i < plan.group_count; i++) {
        if (plan.group[i].count) {
            apply(&plan, members, &plan.group[i]);
        }
    }
    for (unsigned i = 0; i < plan.group_count; i++) {
        if (looks && plan.group[i].count && plan.group[i].is_write) {
            place_looks(insn, &plan.group[i]);
        }
    }
}
