#include "engine/translator/exchange.h"

#include <string.h>

#include "interpreter/x87.h"
#include "x86/segment.h"

/* A writable data segment of 4 GiB: nothing in it but paging refuses an access. */
static bool is_odd(const struct x86_segment *segment)
{
    const uint32_t wanted = X86_ACCESS_P | X86_ACCESS_S | X86_ACCESS_WRITABLE;
    const uint32_t looked_at =
        wanted | X86_ACCESS_CODE | X86_ACCESS_EXPAND | X86_ACCESS_UNUSABLE;
    return (segment->access & looked_at) != wanted || segment->limit != UINT32_MAX;
}

bool exchange_is_flat(const struct cpu *cpu)
{
    static const uint8_t data[] = {X86_DS, X86_ES, X86_SS};
    for (unsigned i = 0; i < sizeof(data); i++) {
        const struct x86_segment *segment = &cpu->state.seg[data[i]];
        if (segment->base != 0 || is_odd(segment)) {
            return false;
        }
    }
    return cpu->state.seg[X86_CS].base == 0;
}

void exchange_segments_in(const struct cpu *cpu)
{
    struct frame *frame = &translator_frame;
    frame->fs_base = cpu->state.seg[X86_FS].base;
    frame->gs_base = cpu->state.seg[X86_GS].base;
    if (cpu->is_long64) {
        return;
    }
    for (unsigned i = 0; i < X86_SEGMENT_COUNT; i++) {
        const struct x86_segment *segment = &cpu->state.seg[i];
        if (frame->segment_base[i] != (uint32_t)segment->base ||
            frame->segment_limit[i] != segment->limit ||
            frame->segment_access[i] != segment->access) {
            frame->segment_base[i] = (uint32_t)segment->base;
            frame->segment_limit[i] = segment->limit;
            frame->segment_access[i] = segment->access;
            frame->segment_descriptor[i] = x86_segment_pack(segment);
            frame->segment_odd[i] = is_odd(segment);
        }
    }
}

void exchange_in(struct translator_cpu *translator)
{
    struct frame *frame = &translator_frame;
    const struct cpu *cpu = translator->cpu;
    memcpy(frame->gpr, cpu->reg, sizeof(frame->gpr));
    frame->arith = cpu->arith;
    exchange_segments_in(cpu);
}

void exchange_out(struct translator_cpu *translator)
{
    const struct frame *frame = &translator_frame;
    struct cpu *cpu = translator->cpu;
    memcpy(cpu->reg, frame->gpr, sizeof(frame->gpr));
    cpu->arith = frame->arith;
}

/* x87: XSAVE's legacy area (SDM 1 table 10-2) and the common form. */
struct legacy_area {
    uint16_t fcw, fsw;
    uint8_t ftw, reserved;
    uint16_t fop;
    uint64_t fip, fdp;
    uint32_t mxcsr, mxcsr_mask;
    uint8_t st[8][16];
};

void exchange_fpu_in(struct translator_cpu *translator)
{
    struct legacy_area *area = (struct legacy_area *)translator_frame.fpu;
    const struct x86_fpu *fpu = &translator->cpu->state.fpu;
    memset(translator_frame.fpu, 0, sizeof(translator_frame.fpu));
    area->fcw = fpu->fcw;
    area->fsw = fpu->fsw;
    area->ftw = fpu->ftw;
    area->fop = fpu->fop;
    area->fip = fpu->fip;
    area->fdp = fpu->fdp;
    memcpy(area->st, fpu->st, sizeof(area->st));
    uint64_t present = X86_XCR0_X87;
    memcpy(translator_frame.fpu + 512, &present, sizeof(present)); /* XSTATE_BV */
}

/* The selector in CS when a block ran: translated code may have changed its level since,
 * and back (SDM 2B "SYSCALL", "SYSRET"). */
static uint16_t selector_of(const struct translator_cpu *translator,
                            const struct block *block)
{
    const struct cpu *cpu = translator->cpu;
    bool is_user = block->place.mode & MODE_USER;
    if (is_user == (cpu->cpl == 3)) {
        return cpu->state.seg[X86_CS].selector;
    }
    if (is_user == translator->entered_user) {
        return translator->entered_cs;
    }
    return is_user ? (uint16_t)((cpu->state.star >> 48) + 16) | 3
                   : (uint16_t)(cpu->state.star >> 32) & ~3;
}

/* The guest's address of the last instruction, which FXSAVE shows: the host has it at an
 * address of the code cache, unless it is what was loaded. Of user code that is mapped
 * twice perhaps the other one's. */
static void set_pointer(const struct translator_cpu *translator, uint64_t address)
{
    struct cpu *cpu = translator->cpu;
    struct x86_fpu *fpu = &cpu->state.fpu;
    unsigned ordinal;
    const struct block *block = code_at(translator->cache, address, &ordinal);
    if (!block) {
        fpu->fip = address;
        return;
    }
    uint64_t linear = block->place.page + block->insn[ordinal].offset;
    fpu->fip = block->place.mode & MODE_32
                   ? (uint32_t)linear - translator_frame.segment_base[X86_CS]
                   : linear;
    fpu->fcs = selector_of(translator, block);
}

/* SDM 1 13.7: what XSAVE found in its initial state it did not write. */
void exchange_fpu_out(struct translator_cpu *translator)
{
    const struct legacy_area *area = (const struct legacy_area *)translator_frame.fpu;
    struct x86_fpu *fpu = &translator->cpu->state.fpu;
    uint64_t present;
    memcpy(&present, translator_frame.fpu + 512, sizeof(present));
    atomic_store_explicit(&translator_frame.status[STATUS_FPU], 0, memory_order_relaxed);
    if (!(present & X86_XCR0_X87)) {
        x87_init(fpu);
        memset(fpu->st, 0, sizeof(fpu->st));
        return;
    }
    fpu->fcw = area->fcw;
    fpu->fsw = area->fsw;
    fpu->ftw = area->ftw;
    fpu->fop = area->fop;
    set_pointer(translator, area->fip);
    fpu->fdp = area->fdp;
    memcpy(fpu->st, area->st, sizeof(fpu->st));
}

/* May the host's units hold the guest's state? An unmasked exception, and whatever would
 * fault, is the interpreter's. */
bool exchange_vector_is_open(const struct cpu *cpu)
{
    const struct x86_state *state = &cpu->state;
    uint32_t masks = 0x1f80;
    return !(state->cr0 & (X86_CR0_EM | X86_CR0_TS)) && state->cr4 & X86_CR4_OSFXSR &&
           (state->fpu.mxcsr & masks) == masks && !(state->fpu.mxcsr & 1u << 17);
}

bool exchange_fpu_is_open(const struct cpu *cpu)
{
    const struct x86_state *state = &cpu->state;
    return !(state->cr0 & (X86_CR0_EM | X86_CR0_TS)) &&
           (state->fpu.fcw & X87_FCW_MASKS) == X87_FCW_MASKS &&
           !(state->fpu.fsw & X87_FSW_ES);
}
