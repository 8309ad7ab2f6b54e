#include "engine/translator/values.h"

#include <assert.h>

bool values_is_whole(const struct values *values, ZydisRegister reg)
{
    ZydisRegister first = values->width == 8 ? ZYDIS_REGISTER_RAX : ZYDIS_REGISTER_EAX;
    return reg >= first && reg < first + 16;
}

static bool is_whole_operand(const struct values *values, const struct operand *operand)
{
    return operand->type == ZYDIS_OPERAND_TYPE_REGISTER &&
           values_is_whole(values, operand->reg.value);
}

static void forget(struct values *values, unsigned reg)
{
    values->reg[reg] = (struct symbol){values->next_value++, 0};
}

void values_init(struct values *values, unsigned width)
{
    values->width = width;
    values->next_value = RIP_VALUE + 1;
    values_forget(values);
}

/* Each instruction may make all of them new. */
static_assert((BLOCK_INSN_MAX + 2) * 16 < UINT16_MAX, "struct symbol's value");

void values_forget(struct values *values)
{
    /* Two symbols at a time, whose offsets are 0. */
    typedef uint64_t pair __attribute__((vector_size(16), aligned(4), may_alias));
    unsigned value = values->next_value;
    pair next = {value, value + 1};
    pair *reg = (void *)values->reg;
#pragma GCC unroll 8
    for (unsigned i = 0; i < 8; i++, next += 2) {
        reg[i] = next;
    }
    values->next_value = (uint16_t)(value + 16);
}

static void move(struct values *values, unsigned to, struct symbol from, int64_t offset)
{
    int64_t sum = from.offset + offset;
    if (sum > OFFSET_MAX || sum < -OFFSET_MAX) {
        forget(values, to);
    } else {
        values->reg[to] = (struct symbol){from.value, (int32_t)sum};
    }
}

static void forget_written(struct values *values, const struct guest_insn *insn)
{
    for (unsigned left = insn->gpr_written; left; left &= left - 1) {
        forget(values, (unsigned)__builtin_ctz(left));
    }
}

void values_plan(struct guest_insn *insn)
{
    switch (insn->decoded.mnemonic) {
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_SUB:
    case ZYDIS_MNEMONIC_LEA:
    case ZYDIS_MNEMONIC_MOV:
        insn->moves_values = insn->operand[0].type == ZYDIS_OPERAND_TYPE_REGISTER;
        break;
    case ZYDIS_MNEMONIC_PUSH:
    case ZYDIS_MNEMONIC_POP:
    case ZYDIS_MNEMONIC_LEAVE:
        insn->moves_values = true;
        break;
    default:
        break;
    }
}

void values_follow(struct values *values, const struct guest_insn *insn)
{
    if (!insn->moves_values) {
        forget_written(values, insn);
        return;
    }
    const struct operand *to = &insn->operand[0], *from = &insn->operand[1];
    struct symbol before = {NO_VALUE, 0};
    int64_t offset = 0;
    if (insn->soft_size && insn->decoded.mnemonic != ZYDIS_MNEMONIC_PUSH) {
        forget_written(values, insn);
        return;
    }
    switch (insn->decoded.mnemonic) {
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_SUB:
        if (is_whole_operand(values, to) && from->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
            before = values->reg[guest_number(to->reg.value)];
            offset = insn->decoded.mnemonic == ZYDIS_MNEMONIC_ADD ? from->imm.value.s
                                                                  : -from->imm.value.s;
        }
        break;
    case ZYDIS_MNEMONIC_MOV:
        if (is_whole_operand(values, to) && is_whole_operand(values, from)) {
            before = values->reg[guest_number(from->reg.value)];
        }
        break;
    case ZYDIS_MNEMONIC_LEA:
        if (is_whole_operand(values, to) && from->mem.index == ZYDIS_REGISTER_NONE &&
            values_is_whole(values, from->mem.base)) {
            before = values->reg[guest_number(from->mem.base)];
            offset = from->mem.disp.value;
        }
        break;
    case ZYDIS_MNEMONIC_PUSH:
        move(values, HOST_RSP, values->reg[HOST_RSP], -(int64_t)values->width);
        return;
    case ZYDIS_MNEMONIC_POP:
        move(values, HOST_RSP, values->reg[HOST_RSP], values->width);
        if (to->type == ZYDIS_OPERAND_TYPE_REGISTER) {
            forget(values, guest_number(to->reg.value));
        }
        return;
    case ZYDIS_MNEMONIC_LEAVE:
        move(values, HOST_RSP, values->reg[HOST_RBP], values->width);
        forget(values, HOST_RBP);
        return;
    default:
        break;
    }
    if (before.value == NO_VALUE) {
        forget_written(values, insn);
    } else {
        move(values, guest_number(to->reg.value), before, offset);
    }
}
