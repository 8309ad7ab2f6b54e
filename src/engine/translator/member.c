/* Instructions as members of groups: where their accesses are, and what their code does
 * to a group. */
#include "base/scope.h"
#include "engine/translator/group.h"

/* ---- of a kind --------------------------------------------------------------------- */

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

static void plan_ways_out(struct guest_insn *insn)
{
    ZydisMnemonic mnemonic = insn->decoded.mnemonic;
    bool is_wide = mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B;
    insn->is_branch =
        insn->emit == emit_jcc || insn->emit == emit_loop || insn->emit == emit_jrcxz;
    insn->knows_held = insn->emit == emit_copy || insn->emit == emit_lea ||
                       insn->emit == emit_nothing || insn->is_branch;
    insn->has_operand = insn_memory(insn) && insn->emit != emit_lea;
    insn->may_leave = insn->is_branch || insn->emit == emit_ret || is_wide ||
                      mnemonic == ZYDIS_MNEMONIC_DIV || mnemonic == ZYDIS_MNEMONIC_IDIV ||
                      insn->uses_fpu || (insn->has_operand && insn->uses_vector);
    insn->is_way_in =
        insn->uses_vector || insn->uses_fpu || insn->accesses != 1 || is_wide;
}

void group_plan(struct guest_insn *insn)
{
    plan_ways_out(insn);
    insn->borrowed = (uint8_t)count_borrowed(insn);
    insn->has_high_byte = has_high_byte(insn);
    insn->keeps_addresses = keeps_addresses(insn);
    insn->may_join = may_join(insn);
}

/* ---- of a block -------------------------------------------------------------------- */

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

bool member_find(const struct plan *plan, const struct guest_insn *insn,
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

/* As emit_copy and others use scratch registers. */
bool member_spares_base(const struct plan *plan, const struct guest_insn *insn,
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
