/* PUSH and POP of general registers, memory and immediates. Segment registers are
 * segment.c's. */
#include "interpreter/insn.h"

/* The 64-bit forms, by far the most frequent, without the general stack's case
 * distinctions. */

static inline bool push64(struct cpu *cpu, uint64_t value)
{
    uint64_t rsp = cpu->reg[X86_RSP] - 8;
    if (unlikely(!access_store(cpu, rsp, 8, value))) {
        if (cpu->fault_noncanonical) {
            cpu->fault.vector = X86_SS_FAULT;
        }
        return false;
    }
    cpu->reg[X86_RSP] = rsp;
    return true;
}

static const struct insn *push_r64(struct cpu *cpu, const struct insn *insn)
{
    if (unlikely(!push64(cpu, REG64(cpu, insn->dst)))) {
        return insn_fault(cpu, insn);
    }
    NEXT(cpu, insn);
}

static const struct insn *push_i64(struct cpu *cpu, const struct insn *insn)
{
    if (unlikely(!push64(cpu, insn->imm))) {
        return insn_fault(cpu, insn);
    }
    NEXT(cpu, insn);
}

static const struct insn *pop_r64(struct cpu *cpu, const struct insn *insn)
{
    uint64_t rsp = cpu->reg[X86_RSP];
    struct loaded value = access_load(cpu, rsp, 8);
    if (unlikely(!value.ok)) {
        if (cpu->fault_noncanonical) {
            cpu->fault.vector = X86_SS_FAULT;
        }
        return insn_fault(cpu, insn);
    }
    cpu->reg[X86_RSP] = rsp + 8;
    REG64(cpu, insn->dst) = value.value; /* POP RSP: the value popped wins */
    NEXT(cpu, insn);
}

/* The rest, of aux bytes. */

static const struct insn *push_r(struct cpu *cpu, const struct insn *insn)
{
    if (!stack_push(cpu, insn->aux, reg_read(cpu, insn->dst, insn->aux))) {
        return insn_fault(cpu, insn);
    }
    NEXT(cpu, insn);
}

static const struct insn *push_i(struct cpu *cpu, const struct insn *insn)
{
    if (!stack_push(cpu, insn->aux, insn->imm)) {
        return insn_fault(cpu, insn);
    }
    NEXT(cpu, insn);
}

static const struct insn *push_m(struct cpu *cpu, const struct insn *insn)
{
    struct loaded value = access_load(cpu, insn_address(cpu, insn), insn->aux);
    if (!value.ok || !stack_push(cpu, insn->aux, value.value)) {
        return insn_fault(cpu, insn);
    }
    NEXT(cpu, insn);
}

static const struct insn *pop_r(struct cpu *cpu, const struct insn *insn)
{
    struct loaded value = stack_pop(cpu, insn->aux);
    if (!value.ok) {
        return insn_fault(cpu, insn);
    }
    reg_write(cpu, insn->dst, insn->aux, value.value);
    NEXT(cpu, insn);
}

/* SDM 2B "POP": an address based on RSP is computed after RSP was incremented. */
static const struct insn *pop_m(struct cpu *cpu, const struct insn *insn)
{
    uint64_t rsp = cpu->reg[X86_RSP];
    struct loaded value = stack_pop(cpu, insn->aux);
    if (!value.ok) {
        return insn_fault(cpu, insn);
    }
    if (!access_store(cpu, insn_address(cpu, insn), insn->aux, value.value)) {
        cpu->reg[X86_RSP] = rsp;
        return insn_fault(cpu, insn);
    }
    NEXT(cpu, insn);
}

static insn_exec *const exec_push[] = {push_r64, push_i64, push_r, push_m, push_i};
static insn_exec *const exec_pop[] = {pop_r64, NULL, pop_r, pop_m};

static bool bind_stack(struct binding *binding, const struct insn_row *row,
                       struct insn *insn)
{
    const ZydisDecodedOperand *operand = &binding->operand[0];
    bool is_register = operand->type == ZYDIS_OPERAND_TYPE_REGISTER;
    if (is_register &&
        ZydisRegisterGetClass(operand->reg.value) == ZYDIS_REGCLASS_SEGMENT) {
        return false;
    }
    bind_simple(binding, row, insn);
    bool is_immediate = operand->type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    insn->aux = (uint8_t)(binding->decoded->operand_width / 8);
    bool is_fast = insn->aux == 8 && binding->cpu->is_long64;
    unsigned form = is_register ? 2 : is_immediate ? 4 : 3;
    if (is_fast && (is_register || is_immediate)) {
        form = is_immediate;
    }
    insn->exec = row->exec[form];
    return true;
}

const struct insn_row insn_rows_push[] = {
    {ZYDIS_MNEMONIC_PUSH, INSN_INNOCUOUS, bind_stack, exec_push, 0},
    {ZYDIS_MNEMONIC_POP, INSN_INNOCUOUS, bind_stack, exec_pop, 0},
    {0},
};
