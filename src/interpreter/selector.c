/* LAR, LSL, VERR, VERW, ARPL, and the selector operands they share with others: SDM 3A
 * 5.10. */

#include "interpreter/selector.h"
#include "interpreter/transfer.h"

/* ---- Selector operands ---- */

/* Of a selector in memory, whatever size the instruction's other operand has. */
static uint64_t operand_address(struct cpu *cpu, const struct insn *insn)
{
    return insn_linear(cpu, insn, insn_offset(cpu, insn), 2);
}

bool selector_read(struct cpu *cpu, const struct insn *insn, uint8_t reg,
                   uint16_t *selector)
{
    struct loaded loaded = {REG16(cpu, reg), true};
    if (insn->aux) {
        loaded = access_load(cpu, operand_address(cpu, insn), 2);
    }
    *selector = (uint16_t)loaded.value;
    return loaded.ok;
}

bool selector_write(struct cpu *cpu, const struct insn *insn, uint16_t selector)
{
    if (insn->aux) {
        return access_store(cpu, operand_address(cpu, insn), 2, selector);
    }
    reg_write(cpu, insn->dst, insn->size, selector);
    return true;
}

void selector_bind_operand(struct binding *binding, struct insn *insn,
                           const ZydisDecodedOperand *operand, uint8_t *reg)
{
    insn->aux = operand->type == ZYDIS_OPERAND_TYPE_MEMORY;
    if (insn->aux) {
        bind_memory(binding, insn, operand);
    } else {
        *reg = bind_register(operand->reg.value);
        insn->size = (uint8_t)(operand->size / 8);
    }
}

bool selector_bind(struct binding *binding, const struct insn_row *row, struct insn *insn)
{
    insn->exec = row->exec[0];
    selector_bind_operand(binding, insn, &binding->operand[0], &insn->dst);
    return true;
}

/* ---- Inspection ---- */

static void set_zf(struct cpu *cpu, bool zf)
{
    cpu->arith = (cpu->arith & ~ARITH_ZF) | (zf ? ARITH_ZF : 0);
}

static unsigned dpl_of(uint32_t access)
{
    return (access & X86_ACCESS_DPL) >> X86_ACCESS_DPL_SHIFT;
}

/* May this selector be looked at from here? Conforming code may from everywhere. */
static bool is_visible(const struct cpu *cpu, uint16_t selector, uint32_t access)
{
    const uint32_t conforming = X86_ACCESS_S | X86_ACCESS_CODE | X86_ACCESS_EXPAND;
    unsigned dpl = dpl_of(access);
    return (access & conforming) == conforming ||
           (cpu->cpl <= dpl && X86_SELECTOR_RPL(selector) <= dpl);
}

/* Types of system descriptors by bit, SDM 2A tables 3-53 and 3-66. */
#define TYPE(name)          (1u << X86_TYPE_##name)
#define TYPES_LIMITED_LONG  (TYPE(LDT) | TYPE(TSS) | TYPE(TSS_BUSY))
#define TYPES_LIMITED       (TYPES_LIMITED_LONG | TYPE(TSS16) | TYPE(TSS16_BUSY))
#define TYPES_READABLE_LONG (TYPES_LIMITED_LONG | TYPE(CALL_GATE))
#define TYPES_READABLE \
    (TYPES_LIMITED | TYPE(CALL_GATE) | TYPE(CALL_GATE16) | TYPE(TASK_GATE))

/* Finds the descriptor for LAR or LSL; false without a fault: ZF is to be cleared. */
static bool inspect(struct cpu *cpu, uint16_t selector, uint32_t types,
                    uint32_t long_types, struct transfer_descriptor *descriptor)
{
    if (!transfer_probe_descriptor(cpu, selector, descriptor)) {
        return false;
    }
    uint32_t access = descriptor->segment.access;
    uint32_t allowed = cpu->is_long ? long_types : types;
    if (!(access & X86_ACCESS_S) && !(allowed >> (access & X86_ACCESS_TYPE) & 1)) {
        return false;
    }
    return is_visible(cpu, selector, access);
}

OPERATION(lar)
{
    uint16_t selector = 0;
    if (!selector_require_protected(cpu) ||
        !selector_read(cpu, insn, insn->src, &selector)) {
        return false;
    }
    struct transfer_descriptor descriptor;
    bool found = inspect(cpu, selector, TYPES_READABLE, TYPES_READABLE_LONG, &descriptor);
    if (cpu->has_fault) {
        return false;
    }
    set_zf(cpu, found);
    if (found) {
        /* Bytes 5 and 6; the limit's bits among them are undefined (SDM 2A "LAR"), and
         * processors do not mask them out. */
        uint32_t rights = (uint32_t)(descriptor.low >> 32) & 0x00ffff00;
        reg_write(cpu, insn->dst, insn->size, rights);
    }
    return true;
}

OPERATION(lsl)
{
    uint16_t selector = 0;
    if (!selector_require_protected(cpu) ||
        !selector_read(cpu, insn, insn->src, &selector)) {
        return false;
    }
    struct transfer_descriptor descriptor;
    bool found = inspect(cpu, selector, TYPES_LIMITED, TYPES_LIMITED_LONG, &descriptor);
    if (cpu->has_fault) {
        return false;
    }
    set_zf(cpu, found);
    if (found) {
        reg_write(cpu, insn->dst, insn->size, descriptor.segment.limit);
    }
    return true;
}

static bool verify(struct cpu *cpu, const struct insn *insn, bool is_write)
{
    uint16_t selector = 0;
    if (!selector_require_protected(cpu) ||
        !selector_read(cpu, insn, insn->dst, &selector)) {
        return false;
    }
    struct transfer_descriptor descriptor;
    bool allowed = transfer_probe_descriptor(cpu, selector, &descriptor);
    if (cpu->has_fault) {
        return false;
    }
    if (allowed) {
        uint32_t access = descriptor.segment.access;
        bool is_code = access & X86_ACCESS_CODE;
        bool has_right = access & X86_ACCESS_WRITABLE; /* of code: readable */
        allowed = access & X86_ACCESS_S && is_visible(cpu, selector, access) &&
                  (is_write ? !is_code && has_right : !is_code || has_right);
    }
    set_zf(cpu, allowed);
    return true;
}

OPERATION(verr)
{
    return verify(cpu, insn, false);
}

OPERATION(verw)
{
    return verify(cpu, insn, true);
}

OPERATION(arpl)
{
    uint16_t selector = 0;
    struct insn reading =
        *insn; /* the segment need be writable only for what is stored */
    reading.special &= (uint8_t)~INSN_WRITES;
    if (!selector_require_protected(cpu) ||
        !selector_read(cpu, &reading, insn->dst, &selector)) {
        return false;
    }
    unsigned rpl = REG16(cpu, insn->src) & 3;
    bool raises = X86_SELECTOR_RPL(selector) < rpl;
    if (raises && !selector_write(cpu, insn, (uint16_t)((selector & ~3u) | rpl))) {
        return false;
    }
    set_zf(cpu, raises);
    return true;
}

HANDLER(lar)
HANDLER(lsl)
HANDLER(verr)
HANDLER(verw)
HANDLER(arpl)

/* LAR, LSL: a register and the selector to look at. */
static bool bind_inspect(struct binding *binding, const struct insn_row *row,
                         struct insn *insn)
{
    insn->exec = row->exec[0];
    selector_bind_operand(binding, insn, &binding->operand[1], &insn->src);
    insn->dst = bind_register(binding->operand[0].reg.value);
    insn->size = (uint8_t)(binding->operand[0].size / 8);
    return true;
}

static bool bind_arpl(struct binding *binding, const struct insn_row *row,
                      struct insn *insn)
{
    insn->src = bind_register(binding->operand[1].reg.value);
    return selector_bind(binding, row, insn);
}

#define ROW(name, class, bind, routines)                       \
    {                                                          \
        ZYDIS_MNEMONIC_##name, INSN_##class, bind, routines, 0 \
    }

/* They show privilege levels as they really are. */
const struct insn_row insn_rows_selector[] = {
    ROW(LAR, BEHAVIOUR_SENSITIVE, bind_inspect, lar_routines),
    ROW(LSL, BEHAVIOUR_SENSITIVE, bind_inspect, lsl_routines),
    ROW(VERR, BEHAVIOUR_SENSITIVE, selector_bind, verr_routines),
    ROW(VERW, BEHAVIOUR_SENSITIVE, selector_bind, verw_routines),
    ROW(ARPL, INNOCUOUS, bind_arpl, arpl_routines),
    {0},
};
