#include "engine/translator/level.h"

#include "engine/translator/exchange.h"
#include "interpreter/syscall.h"
#include "x86/paging.h"

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
