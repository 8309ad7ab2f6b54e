/* PUSH, POP, LEAVE with operands as wide as addresses; the stack pointer moves when
 * nothing can fault any more, once for several whose accesses have been checked together
 * and that have nothing between them but work on other registers. */
#include "engine/translator/soften.h"

static bool is_register(const struct operand *operand)
{
    return operand->type == ZYDIS_OPERAND_TYPE_REGISTER;
}

static bool has_width(const struct emit *emit, const struct guest_insn *insn)
{
    return insn->decoded.operand_width == emit->width * 8;
}

static unsigned guest_of(const struct operand *operand)
{
    return (unsigned)ZydisRegisterGetId(operand->reg.value);
}

static bool names_rsp(const struct operand *operand)
{
    if (operand->type == ZYDIS_OPERAND_TYPE_MEMORY) {
        return operand->mem.base == ZYDIS_REGISTER_RSP ||
               operand->mem.base == ZYDIS_REGISTER_ESP;
    }
    return is_register(operand) && guest_is_gpr(operand->reg.value) &&
           guest_number(operand->reg.value) == HOST_RSP;
}

/* Only registers, and not the stack pointer: nobody comes here from elsewhere or leaves.
 */
static bool is_unconcerned(const struct guest_insn *insn)
{
    if (insn->uses_vector || insn->uses_fpu ||
        (insn->emit != emit_copy && insn->emit != emit_lea) ||
        insn->decoded.mnemonic == ZYDIS_MNEMONIC_DIV ||
        insn->decoded.mnemonic == ZYDIS_MNEMONIC_IDIV) {
        return false;
    }
    for (unsigned i = 0; i < insn->decoded.operand_count; i++) {
        const struct operand *operand = &insn->operand[i];
        bool is_accessed = operand->type == ZYDIS_OPERAND_TYPE_MEMORY &&
                           operand->mem.type != ZYDIS_MEMOP_TYPE_AGEN;
        if (is_accessed || names_rsp(operand)) {
            return false;
        }
    }
    return true;
}

void emit_stack_plan(struct guest_insn *insn)
{
    insn->is_unconcerned = is_unconcerned(insn);
}

bool emit_moves_later(const struct guest_insn *insn)
{
    if (insn->is_unconcerned) {
        return insn->emit != NULL;
    }
    bool is_stack = insn->emit == emit_push || insn->emit == emit_pop ||
                    insn->emit == emit_call || insn->emit == emit_ret;
    return is_stack && insn->access.kind == ACCESS_MEMBER &&
           !names_rsp(&insn->operand[0]);
}

void emit_settle_stack(struct emit *emit)
{
    if (emit->stack_moves) {
        emit_lea_base(emit, HOST_GUEST_RSP, HOST_GUEST_RSP, emit->stack_moves);
        emit->stack_moves = 0;
    }
}

bool emit_push(struct emit *emit, const struct guest_insn *insn)
{
    struct code *code = &emit->code;
    const struct operand *from = &insn->operand[0];
    if (!has_width(emit, insn)) {
        return false;
    }
    int32_t width = emit->width;
    unsigned value = emit_value_register(&insn->access);
    if (from->type == ZYDIS_OPERAND_TYPE_MEMORY) {
        struct host_mem operand = emit_operand(emit, insn, from, emit->width, false);
        host_op_mem(code, emit->is_64, HOST_MOV_LOAD, value, &operand);
    }
    struct host_mem top = emit_stack(emit, insn, HOST_GUEST_RSP, -width, true);
    if (from->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        if (soften_is_immediate(insn)) {
            soften_load(emit, value, insn);
            host_op_mem(code, emit->is_64, HOST_MOV_STORE, value, &top);
        } else {
            host_op_mem(code, emit->is_64, 0xc7, 0, &top);
            code32(code, (uint32_t)from->imm.value.u);
        }
    } else {
        if (is_register(from) && guest_in_memory(guest_of(from))) {
            emit_load_gpr(emit, value, guest_of(from));
        } else if (is_register(from)) {
            value = guest_host(guest_of(from));
        }
        host_op_mem(code, emit->is_64, HOST_MOV_STORE, value, &top);
    }
    emit->stack_moves -= width;
    if (insn->access.kind == ACCESS_ALONE || insn->access.look_size) {
        emit_settle_stack(emit); /* the look may leave */
    }
    emit_watch(emit, insn, emit->width, insn->flags_live);
    return true;
}

/* Register of the guest = value at top; clobbers r8. */
static void load_top(struct emit *emit, unsigned guest, const struct host_mem *top)
{
    unsigned host = guest_in_memory(guest) ? HOST_R8 : guest_host(guest);
    host_op_mem(&emit->code, emit->is_64, HOST_MOV_LOAD, host, top);
    if (guest_in_memory(guest)) {
        host_fs(&emit->code, true, HOST_MOV_STORE, host, frame_gpr(guest));
    }
}

bool emit_pop(struct emit *emit, const struct guest_insn *insn)
{
    const struct operand *to = &insn->operand[0];
    if (!has_width(emit, insn) || !is_register(to)) {
        return false; /* to memory: the address is one of the moved stack pointer */
    }
    struct host_mem top = emit_stack(emit, insn, HOST_GUEST_RSP, 0, false);
    load_top(emit, guest_of(to), &top);
    if (guest_of(to) != HOST_RSP) {
        emit->stack_moves += emit->width;
    }
    return true;
}

bool emit_leave_frame(struct emit *emit, const struct guest_insn *insn)
{
    if (!has_width(emit, insn)) {
        return false;
    }
    struct host_mem top = emit_stack(emit, insn, HOST_RBP, 0, false);
    emit_lea_base(emit, HOST_GUEST_RSP, HOST_RBP, emit->width);
    load_top(emit, HOST_RBP, &top);
    return true;
}
