/*
 * String instructions. A REP instruction advances its registers after every chunk, so a
 * fault or an interrupt leaves them at the element to go on with (SDM 2B "REP").
 */
#include "interpreter/block.h"
#include "interpreter/insn.h"
#include "interpreter/port.h"
#include "interpreter/string.h"

/* Chunks done before the run loop gets a look at time and events. */
#define CHUNKS_MAX 256

#define USES_SI    1u
#define USES_DI    2u

enum outcome {
    OUTCOME_DONE,
    OUTCOME_FAULT,
    OUTCOME_AGAIN, /* elements are left */
};

static void string_set_register(struct cpu *cpu, const struct string_run *run,
                                unsigned reg, uint64_t value)
{
    if (run->mask == 0xffff) {
        value = (cpu->reg[reg] & ~0xffffull) | (value & 0xffff);
    }
    cpu->reg[reg] = value;
}

static void string_advance(struct cpu *cpu, struct string_run *run, unsigned uses,
                           uint64_t done)
{
    uint64_t bytes = done * run->size;
    uint64_t step = run->is_backward ? -bytes : bytes;
    if (uses & USES_SI) {
        run->si = (run->si + step) & run->mask;
        string_set_register(cpu, run, X86_RSI, run->si);
    }
    if (uses & USES_DI) {
        run->di = (run->di + step) & run->mask;
        string_set_register(cpu, run, X86_RDI, run->di);
    }
    run->count -= done;
    if (run->repeat != REPEAT_NONE) {
        string_set_register(cpu, run, X86_RCX, run->count);
    }
}

/* SDM 3B 18.3.1.1: RF is set after any iteration but the last. */
static void set_resume(struct cpu *cpu, const struct insn *insn)
{
    cpu->state.rflags |= X86_FLAG_RF;
    cpu->resume_count = cpu->retired + insn->ordinal; /* as insn_again leaves it */
}

/* SDM 2B "REP": a fault between two comparisons, and an interrupt as well, shows the
 * flags from before the instruction; on AMD's processors those of the last comparison. */
static void string_suspend(struct cpu *cpu, arith_t before)
{
    if (cpu->cpuid->vendor != CPU_VENDOR_AMD) {
        cpu->arith = before;
    }
}

/* The virtual clock counts iterations; the instruction itself is counted when it retires.
 */
static enum outcome string_run(struct cpu *cpu, const struct insn *insn,
                               string_chunk *chunk, unsigned uses)
{
    uint64_t mask = insn->base == 8 ? ~0ull : (1ull << insn->base * 8) - 1;
    struct string_run run = {
        .mask = mask,
        .count = insn->aux == REPEAT_NONE ? 1 : cpu->reg[X86_RCX] & mask,
        .si = cpu->reg[X86_RSI] & mask,
        .di = cpu->reg[X86_RDI] & mask,
        .size = insn->size,
        .is_backward = cpu->state.rflags & X86_FLAG_DF,
        .repeat = insn->aux,
        .source = insn->src,
    };
    arith_t before = cpu->arith;
    for (unsigned chunks = 0; run.count; chunks++) {
        /* It may have overwritten itself. */
        bool has_to_look =
            cpu_wants_look(cpu) || cpu->debug_traps || !block_is_valid(cpu->block);
        cpu->counted = cpu->retired + insn->ordinal;
        if (chunks == CHUNKS_MAX || (chunks && has_to_look) ||
            cpu->counted >= cpu->limit) {
            if (chunks) {
                set_resume(cpu, insn);
            }
            string_suspend(cpu, before);
            return OUTCOME_AGAIN;
        }
        run.most =
            run.count < cpu->limit - cpu->counted ? run.count : cpu->limit - cpu->counted;
        uint64_t done = chunk(cpu, &run);
        if (!done) {
            string_suspend(cpu, before);
            return OUTCOME_FAULT;
        }
        string_advance(cpu, &run, uses, done);
        bool is_last = run.count == 0 || run.is_over;
        cpu->retired += done - is_last;
        if (is_last) {
            break;
        }
    }
    return OUTCOME_DONE;
}

/* The runs live outside the handlers: these must stay free of locals in memory. */
#define STRING(name, uses)                                                               \
    static __attribute__((noinline)) enum outcome name##_run(struct cpu *cpu,            \
                                                             const struct insn *insn)    \
    {                                                                                    \
        return string_run(cpu, insn, string_##name, uses);                               \
    }                                                                                    \
    static const struct insn *exec_##name(struct cpu *cpu, const struct insn *insn)      \
    {                                                                                    \
        enum outcome outcome = name##_run(cpu, insn);                                    \
        if (likely(outcome == OUTCOME_DONE)) {                                           \
            NEXT(cpu, insn);                                                             \
        }                                                                                \
        return outcome == OUTCOME_FAULT ? insn_fault(cpu, insn) : insn_again(cpu, insn); \
    }                                                                                    \
    static insn_exec *const name##_routines[] = {exec_##name};

STRING(movs, USES_SI | USES_DI)
STRING(stos, USES_DI)
STRING(lods, USES_SI)
STRING(cmps, USES_SI | USES_DI)
STRING(scas, USES_DI)

static __attribute__((noinline)) enum outcome
port_run(struct cpu *cpu, const struct insn *insn, bool is_in)
{
    if (!port_check(cpu, (uint16_t)cpu->reg[X86_RDX], insn->size)) {
        return OUTCOME_FAULT;
    }
    return is_in ? string_run(cpu, insn, string_ins, USES_DI)
                 : string_run(cpu, insn, string_outs, USES_SI);
}

static const struct insn *exec_port(struct cpu *cpu, const struct insn *insn, bool is_in)
{
    switch (port_run(cpu, insn, is_in)) {
    case OUTCOME_DONE:
        return insn_leave(cpu, insn);
    case OUTCOME_FAULT:
        return insn_fault(cpu, insn);
    default:
        return insn_again(cpu, insn);
    }
}

static const struct insn *exec_ins(struct cpu *cpu, const struct insn *insn)
{
    return exec_port(cpu, insn, true);
}

static const struct insn *exec_outs(struct cpu *cpu, const struct insn *insn)
{
    return exec_port(cpu, insn, false);
}

static insn_exec *const ins_routines[] = {exec_ins};
static insn_exec *const outs_routines[] = {exec_outs};

/*
 * src: the source's segment register, base: bytes of an address, size: of an element,
 * aux: enum repeat. MOVSD and CMPSD are also names of SSE instructions, which have
 * visible operands.
 */
static bool bind_string(struct binding *binding, const struct insn_row *row,
                        struct insn *insn)
{
    const ZydisDecodedInstruction *decoded = binding->decoded;
    if (decoded->operand_count_visible != 0) {
        return false;
    }
    insn->exec = row->exec[0];
    insn->src = X86_DS;
    insn->base = decoded->address_width / 8;
    for (unsigned i = 0; i < decoded->operand_count; i++) {
        const ZydisDecodedOperand *operand = &binding->operand[i];
        if (operand->type != ZYDIS_OPERAND_TYPE_MEMORY) {
            continue;
        }
        insn->size = (uint8_t)(operand->size / 8);
        if (operand->mem.base == ZYDIS_REGISTER_SI ||
            operand->mem.base == ZYDIS_REGISTER_ESI ||
            operand->mem.base == ZYDIS_REGISTER_RSI) {
            insn->src = (uint8_t)(operand->mem.segment - ZYDIS_REGISTER_ES);
        }
    }
    insn->aux = REPEAT_NONE;
    if (decoded->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE)) {
        insn->aux = REPEAT_EQUAL;
    } else if (decoded->attributes & ZYDIS_ATTRIB_HAS_REPNE) {
        insn->aux = REPEAT_NOT_EQUAL;
    }
    return true;
}

#define ROWS(name, list)                                                  \
    {ZYDIS_MNEMONIC_##name##B, INSN_INNOCUOUS, bind_string, list, 0},     \
        {ZYDIS_MNEMONIC_##name##W, INSN_INNOCUOUS, bind_string, list, 0}, \
        {ZYDIS_MNEMONIC_##name##D, INSN_INNOCUOUS, bind_string, list, 0}, \
    {                                                                     \
        ZYDIS_MNEMONIC_##name##Q, INSN_INNOCUOUS, bind_string, list, 0    \
    }
#define PORT_ROWS(name, list)                                                           \
    {ZYDIS_MNEMONIC_##name##B, INSN_PRIVILEGED, bind_string, list, ROW_ENDS_BLOCK},     \
        {ZYDIS_MNEMONIC_##name##W, INSN_PRIVILEGED, bind_string, list, ROW_ENDS_BLOCK}, \
    {                                                                                   \
        ZYDIS_MNEMONIC_##name##D, INSN_PRIVILEGED, bind_string, list, ROW_ENDS_BLOCK    \
    }

const struct insn_row insn_rows_string[] = {
    ROWS(MOVS, movs_routines),      ROWS(STOS, stos_routines),
    ROWS(LODS, lods_routines),      ROWS(CMPS, cmps_routines),
    ROWS(SCAS, scas_routines),      PORT_ROWS(INS, ins_routines),
    PORT_ROWS(OUTS, outs_routines), {0},
};
