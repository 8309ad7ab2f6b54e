#include "interpreter/insn.h"

#include <assert.h>
#include <pthread.h>
#include <string.h>

#include "base/scope.h"
#include "interpreter/event.h"
#include "x86/segment.h"

/* clang-format off */
static const struct {
    const char *name;
    const struct insn_row *rows;
} tables[] = {
    {"arith", insn_rows_arith},
    {"muldiv", insn_rows_muldiv},
    {"shift", insn_rows_shift},
    {"bit", insn_rows_bit},
    {"move", insn_rows_move},
    {"atomic", insn_rows_atomic},
    {"branch", insn_rows_branch},
    {"push", insn_rows_push},
    {"decimal", insn_rows_decimal},
    {"stack", insn_rows_stack},
    {"string", insn_rows_string},
    {"far", insn_rows_far},
    {"interrupt", insn_rows_interrupt},
    {"syscall", insn_rows_syscall},
    {"segment", insn_rows_segment},
    {"selector", insn_rows_selector},
    {"system", insn_rows_system},
    {"control", insn_rows_control},
    {"key", insn_rows_key},
    {"flag", insn_rows_flag},
    {"native", insn_rows_native},
    {"x87", insn_rows_x87},
};
/* clang-format on */

/* MOV has rows for general, segment, control and debug registers; MOVSD is a string move
 * and an SSE one. */
#define ROWS_EACH_MAX 8

static const struct insn_row *rows_of[ZYDIS_MNEMONIC_MAX_VALUE + 1][ROWS_EACH_MAX];

static void index_row(const struct insn_row *row)
{
    const struct insn_row **place = rows_of[row->mnemonic];
    unsigned i = 0;
    while (place[i]) {
        i++;
        assert(i < ROWS_EACH_MAX);
    }
    place[i] = row;
}

static void index_rows(void)
{
    for (unsigned i = 0; i < array_size(tables); i++) {
        for (const struct insn_row *row = tables[i].rows; row->bind; row++) {
            index_row(row);
        }
    }
}

void insn_index_rows(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, index_rows);
}

const struct insn_row *insn_table(unsigned index, const char **name)
{
    if (index >= array_size(tables)) {
        return NULL;
    }
    *name = tables[index].name;
    return tables[index].rows;
}

const struct insn_row *insn_find_row(ZydisMnemonic mnemonic, unsigned alternative)
{
    return alternative < ROWS_EACH_MAX ? rows_of[mnemonic][alternative] : NULL;
}

uint8_t bind_register(ZydisRegister reg)
{
    ZydisRegisterClass class = ZydisRegisterGetClass(reg);
    ZyanI8 id = ZydisRegisterGetId(reg);
    if (class == ZYDIS_REGCLASS_GPR8) {
        /* Zydis numbers AL CL DL BL AH CH DH BH SPL BPL SIL DIL R8B ... */
        if (id >= 4 && id < 8) {
            return REG_OFFSET(id - 4) + 1;
        }
        return REG_OFFSET(id >= 8 ? id - 4 : id);
    }
    if (class == ZYDIS_REGCLASS_GPR16 || class == ZYDIS_REGCLASS_GPR32 ||
        class == ZYDIS_REGCLASS_GPR64) {
        return REG_OFFSET(id);
    }
    return REG_OFFSET(REG_ZERO);
}

static uint8_t segment_number(ZydisRegister reg)
{
    switch (reg) {
    case ZYDIS_REGISTER_ES:
        return X86_ES;
    case ZYDIS_REGISTER_CS:
        return X86_CS;
    case ZYDIS_REGISTER_SS:
        return X86_SS;
    case ZYDIS_REGISTER_FS:
        return X86_FS;
    case ZYDIS_REGISTER_GS:
        return X86_GS;
    default:
        return X86_DS;
    }
}

static uint8_t special_of(struct binding *binding, const ZydisDecodedOperand *operand)
{
    uint8_t segment = segment_number(operand->mem.segment);
    uint8_t special = 0;
    if (!binding->cpu->is_long64) {
        special = INSN_LEGACY | segment;
    } else if (segment == X86_FS || segment == X86_GS) {
        special = INSN_BASED | segment;
    }
    if (binding->decoded->address_width == 16) {
        special |= INSN_ADDRESS16;
    } else if (binding->decoded->address_width == 32) {
        special |= INSN_ADDRESS32;
    }
    if (operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) {
        special |= special ? INSN_WRITES : 0;
    }
    return special;
}

bool bind_displacement_fits(const ZydisDecodedOperand *operand)
{
    return operand->mem.disp.value == (int32_t)operand->mem.disp.value;
}

bool bind_has_no_base(const ZydisDecodedInstruction *decoded)
{
    return decoded->raw.sib.offset && decoded->raw.modrm.mod == 0 &&
           decoded->raw.sib.base == 5;
}

void bind_memory(struct binding *binding, struct insn *insn,
                 const ZydisDecodedOperand *operand)
{
    int64_t disp = operand->mem.disp.value;
    ZydisRegister base = operand->mem.base;
    if (bind_has_no_base(binding->decoded)) {
        base = ZYDIS_REGISTER_NONE;
        disp = binding->decoded->raw.disp.value;
    }
    if (base == ZYDIS_REGISTER_RIP || base == ZYDIS_REGISTER_EIP) {
        insn->base = REG_OFFSET(REG_CODE_BASE);
        disp += insn->offset + binding->decoded->length;
    } else {
        insn->base = bind_register(base);
    }
    insn->index = bind_register(operand->mem.index);
    insn->scale = operand->mem.scale ? (uint8_t)__builtin_ctz(operand->mem.scale) : 0;
    insn->disp = (int32_t)disp;
    insn->special = special_of(binding, operand);
    insn->size = (uint8_t)(operand->size / 8);
}

unsigned bind_log2_size(unsigned bits)
{
    return bits == 8 ? 0 : bits == 16 ? 1 : bits == 32 ? 2 : 3;
}

bool bind_simple(struct binding *binding, const struct insn_row *row, struct insn *insn)
{
    insn->exec = row->exec[0];
    uint8_t *reg[2] = {&insn->dst, &insn->src};
    unsigned registers = 0;
    for (unsigned i = 0; i < binding->decoded->operand_count_visible; i++) {
        const ZydisDecodedOperand *operand = &binding->operand[i];
        switch (operand->type) {
        case ZYDIS_OPERAND_TYPE_REGISTER:
            if (registers < 2 && i < 2) {
                *reg[i] = bind_register(operand->reg.value);
                registers++;
            }
            break;
        case ZYDIS_OPERAND_TYPE_MEMORY:
            bind_memory(binding, insn, operand);
            break;
        case ZYDIS_OPERAND_TYPE_IMMEDIATE:
            insn->imm = operand->imm.value.u;
            break;
        default:
            break;
        }
    }
    if (!insn->size) {
        insn->size = (uint8_t)(binding->operand[0].size / 8);
    }
    return true;
}

uint64_t insn_address_special(struct cpu *cpu, const struct insn *insn, uint64_t offset,
                              unsigned size)
{
    if (insn->special & INSN_ADDRESS32) {
        offset = (uint32_t)offset;
    } else if (insn->special & INSN_ADDRESS16) {
        offset = (uint16_t)offset;
    }
    return insn_address_in_segment(cpu, insn, offset, size);
}

uint64_t insn_address_in_segment(struct cpu *cpu, const struct insn *insn,
                                 uint64_t offset, unsigned size)
{
    enum x86_segment_register number = insn->special & INSN_SEGMENT;
    const struct x86_segment *segment = &cpu->state.seg[number];
    if (!(insn->special & INSN_LEGACY)) {
        return insn->special & INSN_BASED ? segment->base + offset : offset;
    }
    if (size && !x86_segment_allows(segment, offset, size, insn->special & INSN_WRITES)) {
        cpu_raise(cpu, number == X86_SS ? X86_SS_FAULT : X86_GP, 0);
        return 1ull << 63; /* not canonical: no access succeeds there */
    }
    return (uint32_t)(segment->base + offset);
}

static uint64_t truncate_rip(const struct cpu *cpu, uint64_t rip)
{
    return cpu->is_long64 ? rip : (uint32_t)rip;
}

/* SDM 1 3.4.2.1, SDM 2A "exceptions": a non-canonical address in a stack reference is
 * #SS. */
static bool is_stack_reference(const struct insn *insn)
{
    if (insn->special & (INSN_BASED | INSN_LEGACY)) {
        return (insn->special & INSN_SEGMENT) == X86_SS;
    }
    return insn->base == REG_OFFSET(X86_RSP) || insn->base == REG_OFFSET(X86_RBP);
}

const struct insn *insn_fault(struct cpu *cpu, const struct insn *insn)
{
    if (cpu->fault_noncanonical && is_stack_reference(insn)) {
        cpu->fault.vector = X86_SS_FAULT;
    }
    cpu->retired += insn->ordinal;
    cpu->rip = truncate_rip(cpu, insn_rip(cpu, insn));
    event_deliver_fault(cpu);
    return NULL;
}

const struct insn *insn_leave(struct cpu *cpu, const struct insn *insn)
{
    return insn_leave_to(cpu, insn, truncate_rip(cpu, insn_next_rip(cpu, insn)));
}

const struct insn *insn_leave_to(struct cpu *cpu, const struct insn *insn, uint64_t rip)
{
    cpu->retired += insn->ordinal + 1u;
    cpu->rip = rip;
    return NULL;
}

const struct insn *insn_again(struct cpu *cpu, const struct insn *insn)
{
    cpu->retired += insn->ordinal;
    cpu->rip = truncate_rip(cpu, insn_rip(cpu, insn));
    return NULL;
}

/* The stack. */

static uint64_t stack_mask(const struct cpu *cpu)
{
    return cpu->stack_bits == 64   ? UINT64_MAX
           : cpu->stack_bits == 32 ? UINT32_MAX
                                   : UINT16_MAX;
}

/* Linear address of a stack offset, or one on which every access fails. */
static uint64_t stack_address(struct cpu *cpu, uint64_t offset, unsigned size,
                              bool is_write)
{
    if (cpu->is_long64) {
        return offset;
    }
    const struct x86_segment *ss = &cpu->state.seg[X86_SS];
    if (!x86_segment_allows(ss, offset, size, is_write)) {
        cpu_raise(cpu, X86_SS_FAULT, 0);
        return 1ull << 63;
    }
    return (uint32_t)(ss->base + offset);
}

static bool stack_failed(struct cpu *cpu)
{
    if (cpu->fault_noncanonical) {
        cpu->fault.vector = X86_SS_FAULT;
    }
    return false;
}

void stack_adjust(struct cpu *cpu, int64_t bytes)
{
    uint64_t mask = stack_mask(cpu);
    uint64_t rsp = cpu->reg[X86_RSP];
    uint64_t moved = (rsp + (uint64_t)bytes) & mask;
    cpu->reg[X86_RSP] = cpu->stack_bits == 16 ? (rsp & ~mask) | moved : moved;
}

bool stack_push(struct cpu *cpu, unsigned size, uint64_t value)
{
    return stack_push_part(cpu, size, size, value);
}

bool stack_push_part(struct cpu *cpu, unsigned size, unsigned stored, uint64_t value)
{
    uint64_t offset = (cpu->reg[X86_RSP] - size) & stack_mask(cpu);
    uint64_t ea = stack_address(cpu, offset, stored, true);
    if (!access_store(cpu, ea, stored, value)) {
        return stack_failed(cpu);
    }
    stack_adjust(cpu, -(int64_t)size);
    return true;
}

struct loaded stack_peek(struct cpu *cpu, int64_t displacement, unsigned size)
{
    uint64_t offset = (cpu->reg[X86_RSP] + (uint64_t)displacement) & stack_mask(cpu);
    struct loaded loaded =
        access_load(cpu, stack_address(cpu, offset, size, false), size);
    if (!loaded.ok) {
        stack_failed(cpu);
    }
    return loaded;
}

struct loaded stack_pop(struct cpu *cpu, unsigned size)
{
    struct loaded loaded = stack_peek(cpu, 0, size);
    if (loaded.ok) {
        stack_adjust(cpu, size);
    }
    return loaded;
}
