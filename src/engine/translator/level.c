#include "engine/translator/level.h"

#include <string.h>

#include "engine/translator/exchange.h"
#include "interpreter/access.h"
#include "interpreter/syscall.h"
#include "interpreter/transfer.h"
#include "x86/paging.h"
#include "x86/segment.h"

bool level_is_possible(void)
{
    return thread_has_fsgsbase();
}

void level_prepare(struct translator_cpu *translator)
{
    struct frame *frame = &translator_frame;
    const struct cpu *cpu = translator->cpu;
    const struct x86_state *state = &cpu->state;
    const struct tlb_area *view = cpu->tlb_context->view;
    frame->level_view[0] = (uint64_t)(uintptr_t)&view[TLB_KERNEL];
    frame->level_view[1] = (uint64_t)(uintptr_t)&view[TLB_USER];
    frame->view_ac = (uint64_t)(uintptr_t)&view[TLB_KERNEL_AC];
    frame->has_levels = cpu->is_long64 && state->efer & X86_EFER_SCE &&
                        (state->sfmask & LEVEL_CLEARED) == LEVEL_CLEARED &&
                        x86_canonical(state->lstar) &&
                        translator->stack_kind[0] == code_jump_kind(0) &&
                        translator->stack_kind[1] == code_jump_kind(MODE_USER);
}

void level_follow(struct translator_cpu *translator)
{
    struct frame *frame = &translator_frame;
    bool is_user = frame->moved == MOVED_TO_USER;
    frame->moved = MOVED_NOWHERE;
    if (is_user) {
        syscall_enter_user(translator->cpu, true);
    } else {
        syscall_enter_kernel(translator->cpu, true);
    }
    translator->was_user = is_user;
    translator->mode = (translator->mode & ~MODE_USER) | (is_user ? MODE_USER : 0);
}

/* Bytes within a page that the kernel may read. */
static bool peek(struct cpu *cpu, uint64_t ea, void *buffer, unsigned size)
{
    const struct tlb_entry *entry = access_entry(cpu, ea);
    if (ea - entry->read > FRAME_SIZE - size && !access_probe(cpu, ea, 1, false)) {
        cpu->has_fault = cpu->fault_noncanonical = false;
        return false;
    }
    uint64_t offset = ea - entry->read;
    if (offset > FRAME_SIZE - size) {
        return false;
    }
    memcpy(buffer, entry->host + offset, size);
    return true;
}

/* Would loading the selector give this segment? */
static bool is_in_table(struct cpu *cpu, const struct x86_segment *segment)
{
    uint32_t offset = segment->selector & ~7u;
    uint64_t descriptor;
    return !(segment->selector & X86_SELECTOR_TI) &&
           offset + 7 <= cpu->state.gdtr.limit &&
           peek(cpu, cpu->state.gdtr.base + offset, &descriptor, sizeof(descriptor)) &&
           descriptor == x86_segment_pack(segment);
}

/* In the order in which they lie on the stack: SDM 2A "IRET". */
struct return_frame {
    uint64_t rip, cs, flags, rsp, ss;
};

static bool peek_frame_64(struct cpu *cpu, struct return_frame *image)
{
    return peek(cpu, translator_frame.gpr[X86_RSP], image, sizeof(*image)) &&
           x86_canonical(image->rip);
}

/* Within a level there is no stack in it. */
static bool peek_frame_32(struct cpu *cpu, struct return_frame *image)
{
    uint32_t esp = (uint32_t)translator_frame.gpr[X86_RSP], value[5];
    if (!exchange_is_flat(cpu) || !peek(cpu, esp, value, sizeof(value))) {
        return false;
    }
    bool is_outward = X86_SELECTOR_RPL(value[1]) == 3;
    *image = (struct return_frame){
        .rip = value[0],
        .cs = value[1],
        .flags = value[2] | (cpu->state.rflags & ~(uint64_t)UINT32_MAX),
        .rsp = is_outward ? value[3] : esp + 3 * sizeof(value[0]),
        .ss = is_outward ? value[4] : cpu->state.seg[X86_SS].selector,
    };
    return true;
}

/* Are the segments that the frame asks for those that are in force, or the user's flat
 * ones? */
static bool has_known_segments(struct cpu *cpu, const struct return_frame *image)
{
    struct x86_segment code = cpu->state.seg[X86_CS], data = cpu->state.seg[X86_SS];
    bool may_be_null = true; /* what an interrupt of the user's left */
    if (X86_SELECTOR_RPL(image->cs) == 3) {
        code = x86_segment_flat_code((uint16_t)image->cs, cpu->is_long64, 3);
        data = x86_segment_flat_data((uint16_t)image->ss | 3, 3);
        may_be_null = false;
    }
    bool is_null = may_be_null && !(data.selector & ~3u);
    return (uint16_t)image->cs == code.selector && (uint16_t)image->ss == data.selector &&
           is_in_table(cpu, &code) && (is_null || is_in_table(cpu, &data));
}

/* What ends translated code, changes the view, or is an error. */
#define RETURN_LEFT (X86_FLAG_TF | X86_FLAG_VM | X86_FLAG_AC | X86_FLAG_NT)

/* What else IRET changes at CPL 0. */
#define RETURN_FLAGS                                                           \
    (X86_FLAGS_ARITH | X86_FLAG_DF | X86_FLAG_ID | X86_FLAG_RF | X86_FLAG_IF | \
     X86_FLAG_IOPL | X86_FLAG_VIF | X86_FLAG_VIP)

static bool interrupt_return(struct cpu *cpu, bool is_64, uint64_t *rip)
{
    struct frame *frame = &translator_frame;
    struct return_frame image;
    if (cpu->is_long != is_64 || cpu->is_long64 != is_64 || cpu->cpl != 0 ||
        cpu->state.nmi_blocked || cpu->state.rflags & RETURN_LEFT ||
        !(is_64 ? peek_frame_64(cpu, &image) : peek_frame_32(cpu, &image)) ||
        image.flags & RETURN_LEFT || !has_known_segments(cpu, &image)) {
        return false;
    }
    if (X86_SELECTOR_RPL(image.cs) == 3) {
        syscall_enter(cpu, (uint16_t)image.cs, (uint16_t)image.ss, 3, is_64);
        transfer_drop_data_segments(cpu);
        exchange_segments_in(cpu);
    }
    uint64_t kept = cpu_rflags(cpu) & ~(uint64_t)RETURN_FLAGS;
    cpu_set_rflags(cpu, kept | (image.flags & RETURN_FLAGS));
    cpu->resume_count = cpu->retired;
    frame->arith = cpu->arith;
    frame->gpr[X86_RSP] = image.rsp;
    *rip = image.rip;
    return true;
}

/* Of 32-bit systems. */
static bool fast_call(struct cpu *cpu, bool is_in, uint64_t *rip)
{
    struct frame *frame = &translator_frame;
    if (cpu->is_long) {
        return false;
    }
    cpu->arith = frame->arith;
    cpu->reg[X86_RCX] = frame->gpr[X86_RCX];
    cpu->reg[X86_RDX] = frame->gpr[X86_RDX];
    if (!(is_in ? syscall_sysenter(cpu) : syscall_sysexit(cpu, false))) {
        cpu->has_fault = false;
        return false;
    }
    exchange_segments_in(cpu);
    frame->gpr[X86_RSP] = cpu->reg[X86_RSP];
    *rip = cpu->rip;
    return true;
}

bool level_change(struct translator_cpu *translator, ZydisMnemonic mnemonic,
                  uint64_t *rip)
{
    struct cpu *cpu = translator->cpu;
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_SYSENTER:
    case ZYDIS_MNEMONIC_SYSEXIT:
        return fast_call(cpu, mnemonic == ZYDIS_MNEMONIC_SYSENTER, rip);
    default:
        return interrupt_return(cpu, mnemonic == ZYDIS_MNEMONIC_IRETQ, rip);
    }
}
