/*
 * String instructions. A REP instruction advances its registers after every chunk, so a
 * fault or an interrupt leaves them at the element to go on with (SDM 2B "REP"). Forward
 * runs through RAM go a page at a time through the host's memory; everything else
 * element by element.
 */

#include <string.h>

#include "interpreter/block.h"
#include "interpreter/breakpoint.h"
#include "interpreter/insn.h"
#include "interpreter/port.h"
#include "x86/segment.h"

/* Chunks done before the run loop gets a look at time and events. */
#define CHUNKS_MAX 256

enum repeat {
    REPEAT_NONE,
    REPEAT_EQUAL, /* REP and REPE */
    REPEAT_NOT_EQUAL,
};

#define USES_SI 1u
#define USES_DI 2u

/* One execution. */
struct run {
    uint64_t mask;  /* of the address size */
    uint64_t count; /* elements left */
    uint64_t most;  /* of them before the processor's limit */
    uint64_t si, di;
    unsigned size;
    bool is_backward;
    bool is_over; /* REPE or REPNE met its end */
    enum repeat repeat;
    enum x86_segment_register source;
};

/* Does at least one element; returns how many, 0 after a fault. */
typedef uint64_t string_chunk(struct cpu *cpu, struct run *run);

/* ---- Addresses ---- */

static bool string_linear(struct cpu *cpu, enum x86_segment_register reg, uint64_t offset,
                          unsigned size, bool is_write, uint64_t *linear)
{
    const struct x86_segment *segment = &cpu->state.seg[reg];
    if (cpu->is_long64) {
        *linear = offset + (reg == X86_FS || reg == X86_GS ? segment->base : 0);
        return true;
    }
    if (!x86_segment_allows(segment, offset, size, is_write)) {
        return cpu_raise(cpu, reg == X86_SS ? X86_SS_FAULT : X86_GP, 0);
    }
    *linear = (uint32_t)(segment->base + offset);
    return true;
}

/* The second operand lies beyond its segment: if the first cannot be read, that is the
 * fault. */
static void string_prefer_fault(struct cpu *cpu, uint64_t first_linear, unsigned size)
{
    struct x86_exception fault = cpu->fault;
    cpu->has_fault = false;
    if (access_load(cpu, first_linear, size).ok) {
        cpu->fault = fault;
        cpu->has_fault = true;
    }
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* How many elements from here lie in one page and do not wrap around the address size:
 * 0 if the first one does not fit. */
static uint64_t run_fit(const struct cpu *cpu, const struct run *run,
                        enum x86_segment_register reg, uint64_t offset, uint64_t linear,
                        bool is_write)
{
    /* A single-step trap or one by a breakpoint follows its iteration (SDM 3B 18.3.1.4).
     */
    if (run->is_backward || cpu->needs_interpreter) {
        return 0;
    }
    uint64_t bytes = FRAME_SIZE - (linear & (FRAME_SIZE - 1));
    if (run->mask - offset < bytes) {
        bytes = run->mask - offset + 1;
    }
    uint64_t fit = smaller(bytes / run->size, run->most);
    if (!cpu->is_long64 && fit > 1 &&
        !x86_segment_allows(&cpu->state.seg[reg], offset, (unsigned)(fit * run->size),
                            is_write)) {
        fit = 1;
    }
    return fit;
}

/* The host's address of readable RAM at ea, if the TLB knows it. */
static const uint8_t *string_host(struct cpu *cpu, uint64_t ea, unsigned size)
{
    const struct tlb_entry *entry = access_entry(cpu, ea);
    uint64_t offset = ea - entry->read;
    return offset <= FRAME_SIZE - size ? entry->host + offset : NULL;
}

/* ---- MOVS, STOS, LODS ---- */

/* Forward, element by element as the processor does: an overlap in front of the source
 * replicates. */
static void copy_forward(uint8_t *to, const uint8_t *from, uint64_t count, unsigned size)
{
    uint64_t bytes = count * size;
    if (to <= from || to >= from + bytes) {
        memmove(to, from, bytes);
        return;
    }
    for (uint64_t i = 0; i < bytes; i += size) {
        access_host_store(to + i, size, access_host_load(from + i, size));
    }
}

static uint64_t movs_chunk(struct cpu *cpu, struct run *run)
{
    uint64_t from_linear = 0, to_linear = 0;
    if (!string_linear(cpu, run->source, run->si, run->size, false, &from_linear)) {
        return 0;
    }
    if (!string_linear(cpu, X86_ES, run->di, run->size, true, &to_linear)) {
        string_prefer_fault(cpu, from_linear, run->size);
        return 0;
    }

    uint64_t count = smaller(run_fit(cpu, run, run->source, run->si, from_linear, false),
                             run_fit(cpu, run, X86_ES, run->di, to_linear, true));
    const uint8_t *from = count ? string_host(cpu, from_linear, run->size) : NULL;
    struct loaded value = {0, false};
    if (!from) {
        /* This also fills the TLB, unless the source is not RAM. */
        value = access_load(cpu, from_linear, run->size);
        if (!value.ok) {
            return 0;
        }
        from = count > 1 ? string_host(cpu, from_linear, run->size) : NULL;
    }
    if (from) {
        unsigned bytes = (unsigned)(count * run->size);
        uint8_t *to = access_modify(cpu, to_linear, bytes);
        if (to) {
            copy_forward(to, from, count, run->size);
            access_modified(cpu, to, bytes);
            return count;
        }
        if (cpu->has_fault) {
            return 0;
        }
        value.value = access_host_load(from, run->size);
    }
    return access_store(cpu, to_linear, run->size, value.value);
}

static void fill_forward(uint8_t *to, uint64_t value, uint64_t count, unsigned size)
{
    uint64_t pattern = size == 8 ? value : value & ((1ull << size * 8) - 1);
    if (pattern == (pattern & 0xff) * (~0ull / 255 >> (64 - size * 8))) {
        memset(to, (int)(pattern & 0xff), count * size);
        return;
    }
    for (uint64_t i = 0; i < count; i++) {
        access_host_store(to + i * size, size, pattern);
    }
}

static uint64_t stos_chunk(struct cpu *cpu, struct run *run)
{
    uint64_t linear = 0;
    if (!string_linear(cpu, X86_ES, run->di, run->size, true, &linear)) {
        return 0;
    }
    uint64_t count = run_fit(cpu, run, X86_ES, run->di, linear, true);
    if (count > 1) {
        unsigned bytes = (unsigned)(count * run->size);
        uint8_t *to = access_modify(cpu, linear, bytes);
        if (to) {
            fill_forward(to, cpu->reg[X86_RAX], count, run->size);
            access_modified(cpu, to, bytes);
            return count;
        }
        if (cpu->has_fault) {
            return 0;
        }
    }
    return access_store(cpu, linear, run->size, cpu->reg[X86_RAX]);
}

static uint64_t lods_chunk(struct cpu *cpu, struct run *run)
{
    uint64_t linear = 0;
    if (!string_linear(cpu, run->source, run->si, run->size, false, &linear)) {
        return 0;
    }
    struct loaded value = access_load(cpu, linear, run->size);
    if (value.ok) {
        reg_write(cpu, REG_OFFSET(X86_RAX), run->size, value.value);
    }
    return value.ok;
}

/* ---- CMPS, SCAS ---- */

/* The flags of a - b. */
static arith_t flags_of_compare(uint64_t a, uint64_t b, unsigned size)
{
    arith_t flags;
    switch (size) {
    case 1:
        __asm__("cmpb %b2, %b1; lahf; seto %%al" : "=&a"(flags) : "q"(a), "q"(b) : "cc");
        break;
    case 2:
        __asm__("cmpw %w2, %w1; lahf; seto %%al" : "=&a"(flags) : "r"(a), "r"(b) : "cc");
        break;
    case 4:
        __asm__("cmpl %k2, %k1; lahf; seto %%al" : "=&a"(flags) : "r"(a), "r"(b) : "cc");
        break;
    default:
        __asm__("cmpq %2, %1; lahf; seto %%al" : "=&a"(flags) : "r"(a), "r"(b) : "cc");
    }
    return flags & 0xffff;
}

/* After a comparison: the flags, and whether a repetition ends here. */
static void compare_end(struct cpu *cpu, struct run *run, uint64_t a, uint64_t b)
{
    cpu->arith = flags_of_compare(a, b, run->size);
    bool is_equal = cpu->arith & ARITH_ZF;
    run->is_over = (run->repeat == REPEAT_EQUAL && !is_equal) ||
                   (run->repeat == REPEAT_NOT_EQUAL && is_equal);
}

static uint64_t cmps_chunk(struct cpu *cpu, struct run *run)
{
    uint64_t left_linear = 0, right_linear = 0;
    /* Of two that fault, processors report the destination's. */
    if (!string_linear(cpu, X86_ES, run->di, run->size, false, &right_linear)) {
        return 0;
    }
    if (!string_linear(cpu, run->source, run->si, run->size, false, &left_linear)) {
        string_prefer_fault(cpu, right_linear, run->size);
        return 0;
    }

    uint64_t count = smaller(run_fit(cpu, run, run->source, run->si, left_linear, false),
                             run_fit(cpu, run, X86_ES, run->di, right_linear, false));
    const uint8_t *left = count > 1 ? string_host(cpu, left_linear, run->size) : NULL;
    const uint8_t *right = count > 1 ? string_host(cpu, right_linear, run->size) : NULL;
    if (!left || !right) {
        struct loaded b = access_load(cpu, right_linear, run->size);
        if (!b.ok) {
            return 0;
        }
        struct loaded a = access_load(cpu, left_linear, run->size);
        if (!a.ok) {
            return 0;
        }
        compare_end(cpu, run, a.value, b.value);
        return 1;
    }

    bool wants_equal = run->repeat == REPEAT_EQUAL;
    uint64_t done = 0;
    uint64_t a, b;
    do {
        a = access_host_load(left + done * run->size, run->size);
        b = access_host_load(right + done * run->size, run->size);
        done++;
    } while (done < count && (a == b) == wants_equal);
    compare_end(cpu, run, a, b);
    return done;
}

static uint64_t scas_chunk(struct cpu *cpu, struct run *run)
{
    uint64_t linear = 0;
    if (!string_linear(cpu, X86_ES, run->di, run->size, false, &linear)) {
        return 0;
    }
    uint64_t count = run_fit(cpu, run, X86_ES, run->di, linear, false);
    uint64_t wanted = reg_read(cpu, REG_OFFSET(X86_RAX), run->size);
    const uint8_t *host = count > 1 ? string_host(cpu, linear, run->size) : NULL;
    if (!host) {
        struct loaded value = access_load(cpu, linear, run->size);
        if (value.ok) {
            compare_end(cpu, run, wanted, value.value);
        }
        return value.ok;
    }

    bool wants_equal = run->repeat == REPEAT_EQUAL;
    uint64_t done = 0;
    uint64_t value;
    do {
        value = access_host_load(host + done * run->size, run->size);
        done++;
    } while (done < count && (value == wanted) == wants_equal);
    compare_end(cpu, run, wanted, value);
    return done;
}

/* ---- INS, OUTS ---- */

/* Elements for one exit; one only in deterministic runs, each at its own time. */
static uint64_t port_fit(const struct cpu *cpu, const struct run *run,
                         enum x86_segment_register reg, uint64_t offset, uint64_t linear,
                         bool is_write)
{
    uint64_t count =
        cpu->is_counting ? 1 : run_fit(cpu, run, reg, offset, linear, is_write);
    return count ? count : 1;
}

/* The port is accessed only when the memory is known to be there: a port read cannot be
 * taken back. The data goes through a copy, which no other processor changes meanwhile.
 */
static uint64_t ins_chunk(struct cpu *cpu, struct run *run)
{
    uint16_t port = (uint16_t)cpu->reg[X86_RDX];
    uint64_t linear = 0;
    if (!string_linear(cpu, X86_ES, run->di, run->size, true, &linear)) {
        return 0;
    }
    uint64_t count = port_fit(cpu, run, X86_ES, run->di, linear, true);
    unsigned bytes = (unsigned)(count * run->size);
    if (!access_check_alignment(cpu, linear, run->size) ||
        !access_probe(cpu, linear, bytes, true)) {
        return 0;
    }
    uint8_t data[FRAME_SIZE];
    memset(data, 0xff, bytes);
    cpu->hooks->io(cpu, port, run->size, false, (uint32_t)count, data);
    breakpoint_note_port(cpu, port, run->size);
    return access_write(cpu, linear, data, bytes) ? count : 0;
}

static uint64_t outs_chunk(struct cpu *cpu, struct run *run)
{
    uint16_t port = (uint16_t)cpu->reg[X86_RDX];
    uint64_t linear = 0;
    if (!string_linear(cpu, run->source, run->si, run->size, false, &linear)) {
        return 0;
    }
    uint64_t count = port_fit(cpu, run, run->source, run->si, linear, false);
    uint8_t data[FRAME_SIZE];
    if (!access_check_alignment(cpu, linear, run->size) ||
        !access_read(cpu, linear, data, (unsigned)(count * run->size))) {
        return 0;
    }
    cpu->hooks->io(cpu, port, run->size, true, (uint32_t)count, data);
    breakpoint_note_port(cpu, port, run->size);
    return count;
}

/* ---- XLAT ---- */

/* The operand's address is that of the table: AL is added, within the address size. */
static const struct insn *exec_xlat(struct cpu *cpu, const struct insn *insn)
{
    uint64_t offset = insn_offset(cpu, insn) + (uint8_t)cpu->reg[X86_RAX];
    struct loaded value = access_load(cpu, insn_linear(cpu, insn, offset, 1), 1);
    if (unlikely(!value.ok)) {
        return insn_fault(cpu, insn);
    }
    reg_write(cpu, REG_OFFSET(X86_RAX), 1, value.value);
    NEXT(cpu, insn);
}

static insn_exec *const xlat_routines[] = {exec_xlat};

static bool bind_xlat(struct binding *binding, const struct insn_row *row,
                      struct insn *insn)
{
    insn->exec = row->exec[0];
    bind_memory(binding, insn, &binding->operand[0]);
    return true;
}

/* ---- Repetition ---- */

enum outcome {
    OUTCOME_DONE,
    OUTCOME_FAULT,
    OUTCOME_AGAIN, /* elements are left */
};

static void string_set_register(struct cpu *cpu, const struct run *run, unsigned reg,
                                uint64_t value)
{
    if (run->mask == 0xffff) {
        value = (cpu->reg[reg] & ~0xffffull) | (value & 0xffff);
    }
    cpu->reg[reg] = value;
}

static void string_advance(struct cpu *cpu, struct run *run, unsigned uses, uint64_t done)
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
    struct run run = {
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
        run.most = smaller(run.count, cpu->limit - cpu->counted);
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
        return string_run(cpu, insn, name##_chunk, uses);                                \
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
    return is_in ? string_run(cpu, insn, ins_chunk, USES_DI)
                 : string_run(cpu, insn, outs_chunk, USES_SI);
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
    ROWS(MOVS, movs_routines),
    ROWS(STOS, stos_routines),
    ROWS(LODS, lods_routines),
    ROWS(CMPS, cmps_routines),
    ROWS(SCAS, scas_routines),
    PORT_ROWS(INS, ins_routines),
    {ZYDIS_MNEMONIC_XLAT, INSN_INNOCUOUS, bind_xlat, xlat_routines, 0},
    PORT_ROWS(OUTS, outs_routines),
    {0},
};
