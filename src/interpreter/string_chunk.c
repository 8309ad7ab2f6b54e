/*
 * Elements of string instructions: forward runs through RAM go a page at a time through
 * the host's memory; everything else element by element.
 */
#include <string.h>

#include "interpreter/block.h"
#include "interpreter/breakpoint.h"
#include "interpreter/insn.h"
#include "interpreter/string.h"
#include "x86/segment.h"

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
static uint64_t run_fit(const struct cpu *cpu, const struct string_run *run,
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

/* Of a run of elements to a place in RAM. In deterministic runs one at a time where the
 * instruction itself may be overwritten, so that it does not matter where they stop. */
static uint64_t run_away_from_code(const struct cpu *cpu, const uint8_t *to,
                                   uint64_t count)
{
    uint64_t frame = (uint64_t)(to - cpu->memory->base) >> FRAME_SHIFT;
    return cpu->is_counting && frame == cpu->block->frame ? 1 : count;
}

uint64_t string_movs(struct cpu *cpu, struct string_run *run)
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
            count = run_away_from_code(cpu, to, count);
            bytes = (unsigned)(count * run->size);
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

uint64_t string_stos(struct cpu *cpu, struct string_run *run)
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
            count = run_away_from_code(cpu, to, count);
            bytes = (unsigned)(count * run->size);
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

uint64_t string_lods(struct cpu *cpu, struct string_run *run)
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
static void compare_end(struct cpu *cpu, struct string_run *run, uint64_t a, uint64_t b)
{
    cpu->arith = flags_of_compare(a, b, run->size);
    bool is_equal = cpu->arith & ARITH_ZF;
    run->is_over = (run->repeat == REPEAT_EQUAL && !is_equal) ||
                   (run->repeat == REPEAT_NOT_EQUAL && is_equal);
}

uint64_t string_cmps(struct cpu *cpu, struct string_run *run)
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

uint64_t string_scas(struct cpu *cpu, struct string_run *run)
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
static uint64_t port_fit(const struct cpu *cpu, const struct string_run *run,
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
uint64_t string_ins(struct cpu *cpu, struct string_run *run)
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

uint64_t string_outs(struct cpu *cpu, struct string_run *run)
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
