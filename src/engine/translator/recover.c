/*
 * Arithmetic flags that nobody has kept: those of the last instruction that wrote all of
 * them, computed anew from its operands or its result, as long as registers hold these.
 * Code between the two neither reads the flags nor needs them in the host's; whoever is
 * left there sees them as if they had been kept.
 */
#include "engine/translator/recover.h"

#include "base/scope.h"
#include "engine/translator/values.h"

/* ---- finding ---------------------------------------------------------------------- */

/* A value of the last instruction that wrote flags: what was in a register, or a
 * constant. */
struct known_value {
    bool is_constant;
    struct symbol symbol;
    int64_t constant;
};

static const struct known_value zero = {.is_constant = true};

struct origin {
    uint8_t kind;
    uint8_t size;
    struct known_value value[2];
    uint8_t number; /* of the recovery found last, among the block's; 0: none */
};

static bool is_same_register(const struct operand *a, const struct operand *b)
{
    return a->type == ZYDIS_OPERAND_TYPE_REGISTER &&
           b->type == ZYDIS_OPERAND_TYPE_REGISTER && a->reg.value == b->reg.value;
}

/* What an operand holds behind the instruction. AH to BH are left out. */
static bool find_value(const struct values *values, const struct operand *operand,
                       struct known_value *value)
{
    if (operand->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        *value =
            (struct known_value){.is_constant = true, .constant = operand->imm.value.s};
        return true;
    }
    if (operand->type != ZYDIS_OPERAND_TYPE_REGISTER ||
        !guest_is_gpr(operand->reg.value) ||
        (operand->reg.value >= ZYDIS_REGISTER_AH &&
         operand->reg.value <= ZYDIS_REGISTER_BH)) {
        return false;
    }
    *value =
        (struct known_value){.symbol = values->reg[guest_number(operand->reg.value)]};
    return true;
}

/* Behind an instruction that writes flags, which values know already. */
static bool begin(struct origin *origin, const struct values *values,
                  const struct guest_insn *insn)
{
    const struct operand *to = &insn->operand[0], *from = &insn->operand[1];
    bool is_same = is_same_register(to, from);
    *origin = (struct origin){.size = (uint8_t)(to->size / 8)};
    if (insn->soft_size || insn->emit != emit_copy ||
        insn->flags_kill != X86_FLAGS_ARITH ||
        !find_value(values, to, &origin->value[0])) {
        return false;
    }
    origin->value[1] = origin->value[0];
    switch (insn->decoded.mnemonic) {
    case ZYDIS_MNEMONIC_XOR:
        if (is_same) {
            origin->value[0] = origin->value[1] = zero;
        }
        return true; /* RECOVER_TEST */
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_OR:
        return true;
    case ZYDIS_MNEMONIC_TEST:
        return find_value(values, from, &origin->value[1]);
    case ZYDIS_MNEMONIC_CMP:
        origin->kind = RECOVER_COMPARE;
        return find_value(values, from, &origin->value[1]);
    case ZYDIS_MNEMONIC_SUB:
        origin->kind = RECOVER_SUB;
        if (is_same) {
            origin->value[0] = origin->value[1] = zero;
            return true;
        }
        return find_value(values, from, &origin->value[1]);
    case ZYDIS_MNEMONIC_ADD:
        origin->kind = RECOVER_ADD;
        return !is_same && find_value(values, from, &origin->value[1]);
    case ZYDIS_MNEMONIC_NEG:
        origin->kind = RECOVER_NEG;
        return true;
    default:
        return false;
    }
}

void recover_plan(struct guest_insn *insn)
{
    struct values values;
    struct origin origin;
    values_init(&values, 8); /* which ones there are makes no difference */
    insn->is_origin = begin(&origin, &values, insn);
}

static bool find_register(const struct values *values, const struct known_value *value,
                          unsigned size, uint8_t *reg, int32_t *add)
{
    if (value->is_constant) {
        *reg = RECOVER_CONSTANT;
        *add = (int32_t)value->constant;
        return size < 8 || value->constant == *add;
    }
    for (unsigned i = 0; i < array_size(values->reg); i++) {
        if (values->reg[i].value == value->symbol.value) {
            *reg = (uint8_t)i;
            *add = value->symbol.offset - values->reg[i].offset;
            return true;
        }
    }
    return false;
}

static bool find_recovery(const struct origin *origin, const struct values *values,
                          struct recovery *recovery)
{
    *recovery = (struct recovery){.kind = origin->kind, .size = origin->size};
    for (unsigned i = 0; i < array_size(origin->value); i++) {
        if (!find_register(values, &origin->value[i], origin->size, &recovery->reg[i],
                           &recovery->add[i])) {
            return false;
        }
    }
    return true;
}

/* Do the registers of a recovery that was found before hold what they held then? */
static bool is_right(const struct recovery *recovery, const struct origin *origin,
                     const struct values *values)
{
    for (unsigned i = 0; i < array_size(origin->value); i++) {
        const struct known_value *value = &origin->value[i];
        if (value->is_constant) {
            continue;
        }
        const struct symbol *now = &values->reg[recovery->reg[i]];
        if (now->value != value->symbol.value ||
            value->symbol.offset - now->offset != recovery->add[i]) {
            return false;
        }
    }
    return true;
}

static bool has_right(const struct emit *emit, const struct origin *origin,
                      const struct values *values)
{
    return origin->number &&
           is_right(&emit->recovery[origin->number - 1], origin, values);
}

/* What is found before the instruction, and whether it is behind it, too: as far as it
 * may be left at either. */
static void find_at(struct emit *emit, struct origin *origin, struct values *values,
                    struct guest_insn *insn)
{
    bool is_left = insn->may_be_left;
    if (is_left && !has_right(emit, origin, values)) {
        struct recovery *next = &emit->recovery[emit->recovery_count];
        bool is_found = find_recovery(origin, values, next);
        emit->recovery_count += is_found;
        origin->number = (uint8_t)(is_found ? emit->recovery_count : 0);
    }
    values_follow(values, insn);
    if (is_left && origin->number) {
        insn->recovery_found = origin->number;
        insn->recovery_lasts =
            insn->stores && !insn->flags_write && has_right(emit, origin, values);
    }
}

/* What is known of flags along a block. */
struct known {
    struct values values;
    struct origin origin;
    bool is_known; /* and values are followed */
};

static void follow(struct known *known, const struct guest_insn *insn)
{
    if (!insn->emit || insn->is_call) {
        known->is_known = false;
    } else if (insn->flags_write) {
        if (insn->is_origin && !known->is_known) {
            values_forget(&known->values);
            values_follow(&known->values, insn);
        }
        known->is_known = insn->is_origin && begin(&known->origin, &known->values, insn);
    }
}

/* An unrolled loop begins behind a round. */
static void follow_round(struct emit *emit, struct known *known,
                         const struct guest_insn *insns)
{
    for (unsigned i = 0; i < emit->round; i++) {
        if (known->is_known) {
            values_follow(&known->values, &insns[i]);
        }
        follow(known, &insns[i]);
    }
    if (known->is_known &&
        find_recovery(&known->origin, &known->values, &emit->recovery[0])) {
        known->origin.number = emit->round_recovery = 1;
        emit->recovery_count = 1;
    }
}

void recover_find(struct emit *emit, struct guest_insn *insns, unsigned count)
{
    struct known known = {.is_known = false};
    emit->recovery_count = emit->round_recovery = 0;
    unsigned first = 0, end = count;
    for (unsigned i = 0; i < count; i++) {
        insns[i].recovery_found = 0;
        insns[i].recovery_lasts = false;
    }
    while (end > 0 && !insns[end - 1].may_be_left) {
        end--;
    }
    while (first < end && !insns[first].is_origin) {
        first++;
    }
    if (first == end && !emit->round) {
        return;
    }
    values_init(&known.values, emit->width);
    if (emit->round) {
        follow_round(emit, &known, insns);
        first = 0;
    }
    for (unsigned i = first; i < end; i++) {
        struct guest_insn *insn = &insns[i];
        if (known.is_known) {
            find_at(emit, &known.origin, &known.values, insn);
        }
        follow(&known, insn);
    }
}

/* ---- computing -------------------------------------------------------------------- */

/* Flags of an instruction of two operands, as LAHF and SETO have them. */
#define FLAGS_OF(name, type, instruction)                  \
    static arith_t name(uint64_t first, uint64_t second)   \
    {                                                      \
        uint16_t flags;                                    \
        type a = (type)first, b = (type)second;            \
        __asm__(instruction " %2, %1\n\tlahf\n\tseto %%al" \
                : "=&a"(flags), "+r"(a)                    \
                : "r"(b)                                   \
                : "cc");                                   \
        return flags;                                      \
    }
#define FLAGS_OF_SIZES(name)             \
    FLAGS_OF(name##_8, uint8_t, #name)   \
    FLAGS_OF(name##_16, uint16_t, #name) \
    FLAGS_OF(name##_32, uint32_t, #name) \
    FLAGS_OF(name##_64, uint64_t, #name)

FLAGS_OF_SIZES(add)
FLAGS_OF_SIZES(cmp)
FLAGS_OF_SIZES(test)

static uint64_t value_of(const struct recovery *recovery, unsigned i,
                         const uint64_t gpr[16])
{
    uint64_t base = recovery->reg[i] == RECOVER_CONSTANT ? 0 : gpr[recovery->reg[i]];
    return base + (uint64_t)(int64_t)recovery->add[i];
}

arith_t recover_flags(const struct recovery *recovery, const uint64_t gpr[16])
{
    typedef arith_t flags_fn(uint64_t first, uint64_t second);
    static flags_fn *const add[] = {add_8, add_16, add_32, add_64};
    static flags_fn *const compare[] = {cmp_8, cmp_16, cmp_32, cmp_64};
    static flags_fn *const test[] = {test_8, test_16, test_32, test_64};
    unsigned size = (unsigned)__builtin_ctz(recovery->size);
    uint64_t first = value_of(recovery, 0, gpr), second = value_of(recovery, 1, gpr);
    switch (recovery->kind) {
    case RECOVER_TEST:
        return test[size](first, second);
    case RECOVER_COMPARE:
        return compare[size](first, second);
    case RECOVER_SUB:
        return compare[size](first + second, second);
    case RECOVER_ADD:
        return add[size](first - second, second);
    default: /* RECOVER_NEG */
        return compare[size](0, 0 - first);
    }
}
