/* Descriptor fetches, segment loads and stack switches: SDM 3A chapters 3, 5 and 7. */

#include "interpreter/transfer.h"

#include "interpreter/access.h"
#include "x86/paging.h"

#define SELECTOR_IS_NULL(selector) (((selector)&0xfffcu) == 0)
#define SELECTOR_ERROR(selector)   ((uint32_t)(selector)&0xfffcu)

#define MAX_FRAME                  16 /* values in the largest stack frame: vm86's 10 */

static unsigned segment_dpl(const struct x86_segment *segment)
{
    return (segment->access & X86_ACCESS_DPL) >> X86_ACCESS_DPL_SHIFT;
}

static bool is_vm86(const struct cpu *cpu)
{
    return (cpu->state.rflags & X86_FLAG_VM) != 0;
}

/* Long mode doubles the size of these (AMD APM 2 4.8.3). */
static bool has_high_half(unsigned type)
{
    return type == X86_TYPE_LDT || type == X86_TYPE_TSS || type == X86_TYPE_TSS_BUSY ||
           type == X86_TYPE_CALL_GATE;
}

/* Where a type would be in the upper half: zero (AMD APM 2 4.8.3, SDM 3A 5.8.3.1). */
#define HIGH_TYPE (0x1full << 40)

enum fetch_result {
    FETCH_OK,
    FETCH_OUTSIDE, /* not within the table */
    FETCH_BAD,     /* no descriptor of long mode */
    FETCH_FAULT,   /* reading it faulted; recorded */
};

static enum fetch_result read_descriptor(struct cpu *cpu, uint16_t selector,
                                         uint64_t *low, uint64_t *high, uint64_t *address)
{
    const struct x86_state *state = &cpu->state;
    uint64_t base = state->gdtr.base;
    uint32_t limit = state->gdtr.limit;
    if (selector & X86_SELECTOR_TI) {
        if (state->ldtr.access & X86_ACCESS_UNUSABLE) {
            return FETCH_OUTSIDE;
        }
        base = state->ldtr.base;
        limit = state->ldtr.limit;
    }

    uint32_t offset = selector & 0xfff8u;
    if (offset + 7 > limit) {
        return FETCH_OUTSIDE;
    }
    *high = 0;
    *address = base + offset;
    if (!access_read_system(cpu, *address, low, 8)) {
        return FETCH_FAULT;
    }
    bool is_system = (*low >> 40 & X86_ACCESS_S) == 0;
    if (cpu->is_long && is_system && has_high_half(*low >> 40 & X86_ACCESS_TYPE)) {
        if (offset + 15 > limit) {
            return FETCH_OUTSIDE;
        }
        if (!access_read_system(cpu, *address + 8, high, 8)) {
            return FETCH_FAULT;
        }
        if (*high & HIGH_TYPE) {
            return FETCH_BAD;
        }
    }
    return FETCH_OK;
}

bool transfer_fetch_descriptor(struct cpu *cpu, uint16_t selector, uint8_t vector,
                               uint64_t *low, uint64_t *high, uint64_t *address)
{
    switch (read_descriptor(cpu, selector, low, high, address)) {
    case FETCH_OK:
        return true;
    case FETCH_OUTSIDE:
    case FETCH_BAD:
        return cpu_raise(cpu, vector, SELECTOR_ERROR(selector));
    default:
        return false;
    }
}

bool transfer_fetch(struct cpu *cpu, uint16_t selector, uint8_t vector,
                    struct transfer_descriptor *out)
{
    if (!transfer_fetch_descriptor(cpu, selector, vector, &out->low, &out->high,
                                   &out->address)) {
        return false;
    }
    x86_segment_unpack(&out->segment, selector, out->low, out->high);
    return true;
}

bool transfer_probe_descriptor(struct cpu *cpu, uint16_t selector,
                               struct transfer_descriptor *out)
{
    if (SELECTOR_IS_NULL(selector) ||
        read_descriptor(cpu, selector, &out->low, &out->high, &out->address) !=
            FETCH_OK) {
        return false;
    }
    x86_segment_unpack(&out->segment, selector, out->low, out->high);
    return true;
}

/* The access byte is the sixth; writing it alone leaves its neighbours to others. */
static bool write_access_byte(struct cpu *cpu,
                              const struct transfer_descriptor *descriptor, uint8_t value)
{
    return access_write_system(cpu, descriptor->address + 5, &value, 1);
}

bool transfer_mark_accessed(struct cpu *cpu, struct transfer_descriptor *descriptor)
{
    if (descriptor->segment.access & X86_ACCESS_ACCESSED) {
        return true;
    }
    descriptor->segment.access |= X86_ACCESS_ACCESSED;
    return write_access_byte(cpu, descriptor, (uint8_t)descriptor->segment.access);
}

bool transfer_write_type(struct cpu *cpu, const struct transfer_descriptor *descriptor,
                         unsigned type)
{
    return write_access_byte(
        cpu, descriptor,
        (uint8_t)((descriptor->segment.access & ~X86_ACCESS_TYPE) | type));
}

struct x86_segment transfer_real_segment(const struct cpu *cpu,
                                         enum x86_segment_register reg, uint16_t selector)
{
    struct x86_segment segment = cpu->state.seg[reg];
    if (is_vm86(cpu)) {
        segment = x86_segment_real(selector);
        segment.access |= 3u << X86_ACCESS_DPL_SHIFT;
    } else if (segment.access & X86_ACCESS_UNUSABLE) {
        segment = x86_segment_real(selector);
    }
    segment.selector = selector;
    segment.base = (uint32_t)selector << 4;
    return segment;
}

void transfer_load_null(struct cpu *cpu, enum x86_segment_register reg, uint16_t selector)
{
    cpu->state.seg[reg] = x86_segment_null(selector);
    if (reg == X86_SS) {
        /* The CPL lives in SS. */
        cpu->state.seg[reg].access |= (uint32_t)cpu->cpl << X86_ACCESS_DPL_SHIFT;
    }
}

bool transfer_check_stack(struct cpu *cpu, uint16_t selector, unsigned cpl,
                          uint8_t vector, struct x86_segment *out)
{
    if (SELECTOR_IS_NULL(selector)) {
        return cpu_raise(cpu, vector, 0);
    }
    struct transfer_descriptor descriptor;
    if (!transfer_fetch(cpu, selector, vector, &descriptor)) {
        return false;
    }
    const uint32_t kind = X86_ACCESS_S | X86_ACCESS_CODE | X86_ACCESS_WRITABLE;
    const struct x86_segment *segment = &descriptor.segment;
    if (X86_SELECTOR_RPL(selector) != cpl || segment_dpl(segment) != cpl ||
        (segment->access & kind) != (X86_ACCESS_S | X86_ACCESS_WRITABLE)) {
        return cpu_raise(cpu, vector, SELECTOR_ERROR(selector));
    }
    if (!(segment->access & X86_ACCESS_P)) {
        return cpu_raise(cpu, X86_SS_FAULT, SELECTOR_ERROR(selector));
    }
    if (!transfer_mark_accessed(cpu, &descriptor)) {
        return false;
    }
    *out = descriptor.segment;
    return true;
}

static bool load_stack_segment(struct cpu *cpu, uint16_t selector)
{
    if (SELECTOR_IS_NULL(selector) && cpu->is_long64 && cpu->cpl < 3 &&
        X86_SELECTOR_RPL(selector) == cpu->cpl) {
        transfer_load_null(cpu, X86_SS, selector);
        cpu_update_mode(cpu);
        return true;
    }
    struct x86_segment segment;
    if (!transfer_check_stack(cpu, selector, cpu->cpl, X86_GP, &segment)) {
        return false;
    }
    cpu->state.seg[X86_SS] = segment;
    cpu_update_mode(cpu);
    return true;
}

bool transfer_load_data(struct cpu *cpu, enum x86_segment_register reg, uint16_t selector,
                        uint8_t vector)
{
    if (SELECTOR_IS_NULL(selector)) {
        transfer_load_null(cpu, reg, selector);
        return true;
    }
    struct transfer_descriptor descriptor;
    if (!transfer_fetch(cpu, selector, vector, &descriptor)) {
        return false;
    }

    uint32_t access = descriptor.segment.access;
    bool is_code = access & X86_ACCESS_CODE;
    bool is_conforming = is_code && (access & X86_ACCESS_EXPAND);
    bool is_readable = !is_code || (access & X86_ACCESS_WRITABLE);
    unsigned dpl = segment_dpl(&descriptor.segment);
    if (!(access & X86_ACCESS_S) || !is_readable ||
        (!is_conforming && (X86_SELECTOR_RPL(selector) > dpl || cpu->cpl > dpl))) {
        return cpu_raise(cpu, vector, SELECTOR_ERROR(selector));
    }
    if (!(access & X86_ACCESS_P)) {
        return cpu_raise(cpu, X86_NP, SELECTOR_ERROR(selector));
    }
    if (!transfer_mark_accessed(cpu, &descriptor)) {
        return false;
    }
    cpu->state.seg[reg] = descriptor.segment;
    return true;
}

bool transfer_load_segment(struct cpu *cpu, enum x86_segment_register reg,
                           uint16_t selector)
{
    bool loaded = true;
    if (!cpu->is_protected) {
        cpu->state.seg[reg] = transfer_real_segment(cpu, reg, selector);
        cpu_update_mode(cpu);
    } else if (reg == X86_SS) {
        loaded = load_stack_segment(cpu, selector);
    } else {
        loaded = transfer_load_data(cpu, reg, selector, X86_GP);
    }
    return loaded;
}

void transfer_drop_data_segments(struct cpu *cpu)
{
    static const enum x86_segment_register data[] = {X86_ES, X86_DS, X86_FS, X86_GS};
    for (unsigned i = 0; i < sizeof(data) / sizeof(data[0]); i++) {
        const struct x86_segment *segment = &cpu->state.seg[data[i]];
        bool is_conforming = (segment->access & (X86_ACCESS_CODE | X86_ACCESS_EXPAND)) ==
                             (X86_ACCESS_CODE | X86_ACCESS_EXPAND);
        if (!(segment->access & X86_ACCESS_UNUSABLE) && !is_conforming &&
            segment_dpl(segment) < cpu->cpl) {
            /* SDM 2A, IRET: the selector becomes null and the segment unusable. The base
             * stays on all processors, and counts for FS and GS in 64-bit mode. */
            uint64_t base = segment->base;
            transfer_load_null(cpu, data[i], 0);
            cpu->state.seg[data[i]].base = base;
        }
    }
}

bool transfer_check_target(struct cpu *cpu, const struct x86_segment *code,
                           uint64_t offset)
{
    bool is_long64 = cpu->is_long && (code->access & X86_ACCESS_L);
    if (is_long64 ? !x86_canonical(offset) : offset > code->limit) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    return true;
}

void transfer_set_cs(struct cpu *cpu, const struct x86_segment *code, unsigned cpl)
{
    struct x86_segment *cs = &cpu->state.seg[X86_CS];
    struct x86_segment *ss = &cpu->state.seg[X86_SS];
    *cs = *code;
    if (cpu->state.cr0 & X86_CR0_PE && !is_vm86(cpu)) {
        cs->selector = (uint16_t)((code->selector & ~3u) | cpl);
    }
    ss->access = (ss->access & ~X86_ACCESS_DPL) | cpl << X86_ACCESS_DPL_SHIFT;
    cpu_update_mode(cpu);
}

static bool read_tss(struct cpu *cpu, unsigned offset, void *buffer, unsigned size)
{
    const struct x86_segment *tr = &cpu->state.tr;
    if (offset + size - 1 > tr->limit) {
        return cpu_raise(cpu, X86_TS, SELECTOR_ERROR(tr->selector));
    }
    return access_read_system(cpu, tr->base + offset, buffer, size);
}

bool transfer_tss_stack(struct cpu *cpu, unsigned dpl, unsigned ist, uint16_t *ss,
                        uint64_t *rsp)
{
    if (cpu->is_long) {
        *ss = (uint16_t)dpl;
        return read_tss(cpu, ist ? 36 + (ist - 1) * 8 : 4 + dpl * 8, rsp, 8);
    }
    unsigned type = cpu->state.tr.access & X86_ACCESS_TYPE;
    if (type == X86_TYPE_TSS16 || type == X86_TYPE_TSS16_BUSY) {
        uint16_t pair[2];
        if (!read_tss(cpu, 2 + dpl * 4, pair, sizeof(pair))) {
            return false;
        }
        *rsp = pair[0];
        *ss = pair[1];
        return true;
    }
    uint8_t bytes[6];
    if (!read_tss(cpu, 4 + dpl * 8, bytes, sizeof(bytes))) {
        return false;
    }
    *rsp = *(const u32_any *)bytes;
    *ss = *(const u16_any *)(bytes + 4);
    return true;
}

unsigned transfer_stack_bits(const struct cpu *cpu, const struct x86_segment *ss,
                             bool is_long64)
{
    if (is_long64) {
        return 64;
    }
    return ss->access & X86_ACCESS_DB ? 32 : 16;
}

bool transfer_inner_stack(struct cpu *cpu, unsigned dpl, unsigned ist,
                          struct transfer_stack *stack)
{
    uint16_t selector;
    if (!transfer_tss_stack(cpu, dpl, ist, &selector, &stack->rsp)) {
        return false;
    }
    stack->is_system = dpl < 3;
    if (cpu->is_long) {
        stack->ss = x86_segment_null(selector);
        stack->ss.access |= dpl << X86_ACCESS_DPL_SHIFT;
        stack->bits = 64;
        return true;
    }
    if (!transfer_check_stack(cpu, selector, dpl, X86_TS, &stack->ss)) {
        return false;
    }
    stack->bits = transfer_stack_bits(cpu, &stack->ss, false);
    return true;
}

struct transfer_stack transfer_current_stack(const struct cpu *cpu)
{
    return (struct transfer_stack){
        .ss = cpu->state.seg[X86_SS],
        .rsp = cpu->reg[X86_RSP],
        .bits = cpu->stack_bits,
        .is_system = false,
    };
}

static uint64_t stack_mask(unsigned bits)
{
    return bits == 64 ? ~0ull : (1ull << bits) - 1;
}

/* Linear address of size bytes at an offset of the stack segment, or #SS(0); of a stack
 * that the TSS names #SS of its selector (SDM 2A "CALL", "INT n": NewSS). */
static bool stack_linear(struct cpu *cpu, const struct transfer_stack *stack,
                         uint64_t offset, unsigned size, bool is_write, uint64_t *linear)
{
    if (stack->bits == 64) {
        if (!x86_canonical(offset) || !x86_canonical(offset + size - 1)) {
            return cpu_raise(cpu, X86_SS_FAULT, 0);
        }
        *linear = offset;
        return true;
    }
    if (!x86_segment_allows(&stack->ss, offset, size, is_write)) {
        uint32_t error = stack->is_system ? SELECTOR_ERROR(stack->ss.selector) : 0;
        return cpu_raise(cpu, X86_SS_FAULT, error);
    }
    *linear = (uint32_t)(stack->ss.base + offset);
    return true;
}

static bool stack_transfer(struct cpu *cpu, const struct transfer_stack *stack,
                           uint64_t offset, uint8_t *buffer, unsigned size,
                           unsigned alignment, bool is_write)
{
    uint64_t linear = 0;
    if (!stack_linear(cpu, stack, offset, size, is_write, &linear)) {
        return false;
    }
    if (!stack->is_system && !access_check_alignment(cpu, linear, alignment)) {
        return false;
    }
    if (is_write) {
        return stack->is_system ? access_write_system(cpu, linear, buffer, size)
                                : access_write(cpu, linear, buffer, size);
    }
    return stack->is_system ? access_read_system(cpu, linear, buffer, size)
                            : access_read(cpu, linear, buffer, size);
}

/* A frame in one piece where it does not wrap around the stack segment, which also makes
 * it all or nothing; else value by value: what a fault leaves behind lies below the
 * stack. */
static bool frame_transfer(struct cpu *cpu, const struct transfer_stack *stack,
                           uint64_t bottom, uint8_t *buffer, unsigned count,
                           unsigned size, bool is_write)
{
    uint64_t mask = stack_mask(stack->bits);
    unsigned total = count * size;
    if (bottom <= mask - (total - 1)) {
        return stack_transfer(cpu, stack, bottom, buffer, total, size, is_write);
    }
    for (unsigned i = 0; i < count; i++) {
        uint64_t offset = (bottom + i * size) & mask;
        if (!stack_transfer(cpu, stack, offset, buffer + i * size, size, size,
                            is_write)) {
            return false;
        }
    }
    return true;
}

bool transfer_push(struct cpu *cpu, struct transfer_stack *stack, const uint64_t *value,
                   unsigned count, unsigned size)
{
    uint8_t buffer[MAX_FRAME * 8];
    for (unsigned i = 0; i < count; i++) {
        access_host_store(buffer + (count - 1 - i) * size, size, value[i]);
    }
    uint64_t bottom = (stack->rsp - count * size) & stack_mask(stack->bits);
    if (!frame_transfer(cpu, stack, bottom, buffer, count, size, true)) {
        return false;
    }
    stack->rsp = bottom;
    return true;
}

bool transfer_peek(struct cpu *cpu, const struct transfer_stack *stack, uint64_t *value,
                   unsigned count, unsigned size)
{
    uint8_t buffer[MAX_FRAME * 8];
    uint64_t bottom = stack->rsp & stack_mask(stack->bits);
    if (!frame_transfer(cpu, stack, bottom, buffer, count, size, false)) {
        return false;
    }
    for (unsigned i = 0; i < count; i++) {
        value[i] = access_host_load(buffer + i * size, size);
    }
    return true;
}

/* SDM 3A 6.9, table 6-2, leaves open which of several faults it is. Intel's processors
 * read from the last value to the first, and of the selector two bytes. */
bool transfer_peek_frame(struct cpu *cpu, const struct transfer_stack *stack,
                         uint64_t *value, unsigned count, unsigned size)
{
    if (cpu->cpuid->vendor == CPU_VENDOR_AMD) {
        return transfer_peek(cpu, stack, value, count, size);
    }
    for (unsigned i = count; i-- > 0;) {
        struct transfer_stack place = *stack;
        place.rsp += (uint64_t)i * size;
        if (!transfer_peek(cpu, &place, &value[i], 1, i == 1 ? 2 : size)) {
            return false;
        }
    }
    return true;
}

void transfer_set_rsp(struct cpu *cpu, uint64_t rsp, unsigned bits)
{
    if (bits == 16) {
        /* Not in 64-bit mode: no register has an upper half there (SDM 1 3.4.1.1). */
        cpu->reg[X86_RSP] = (cpu->reg[X86_RSP] & 0xffff0000ull) | (rsp & 0xffff);
    } else {
        cpu->reg[X86_RSP] = rsp & stack_mask(bits);
    }
}

void transfer_set_stack(struct cpu *cpu, const struct transfer_stack *stack)
{
    cpu->state.seg[X86_SS] = stack->ss;
    transfer_set_rsp(cpu, stack->rsp, stack->bits);
}
