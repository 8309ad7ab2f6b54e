/* What a vCPU's thread needs to run translated code: its frame, return stacks, gs. */
#include "engine/translator/exchange.h"

#include <asm/prctl.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "interpreter/x87.h"

/* Also named by assembly (frame_offset). */
__attribute__((used, externally_visible)) __thread struct frame translator_frame;

#define GUARD_SIZE  FRAME_SIZE
#define STACKS_SIZE (2 * (GUARD_SIZE + RETURN_STACK_SIZE))

uint64_t thread_stack_bottom(const struct translator_cpu *translator, bool is_user)
{
    uintptr_t end = (uintptr_t)translator->return_stack +
                    (is_user ? 1 : 2) * (GUARD_SIZE + RETURN_STACK_SIZE);
    return end - 64;
}

void thread_set_bottom(const struct translator_cpu *translator, unsigned kind)
{
    uint64_t *bottom = (uint64_t *)thread_stack_bottom(translator, kind & JUMP_USER);
    const struct code_cache *cache = translator->cache;
    *bottom = (uint64_t)(uintptr_t)code_address(cache, cache->return_miss[kind]);
}

int translator_cpu_init(struct translator_cpu *translator, struct code_cache *cache,
                        struct cpu *cpu, struct error *err)
{
    translator->cache = cache;
    translator->cpu = cpu;
    translator->epoch = UINT64_MAX;
    translator->signal_stack = malloc(SIGNAL_STACK_SIZE);
    if (!translator->signal_stack) {
        return fail(err, ENOMEM, "cannot make a stack for signals");
    }
    uint8_t *stack =
        mmap(NULL, STACKS_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack == MAP_FAILED) {
        return fail(err, errno, "cannot make return stacks for translated code");
    }
    translator->return_stack = stack;
    for (unsigned i = 0; i < 2; i++) {
        uint8_t *usable = stack + i * (GUARD_SIZE + RETURN_STACK_SIZE) + GUARD_SIZE;
        if (mprotect(usable, RETURN_STACK_SIZE, PROT_READ | PROT_WRITE) < 0) {
            return fail(err, errno, "cannot make return stacks for translated code");
        }
    }
    for (unsigned i = 0; i < 2; i++) {
        translator->stack_kind[i] = i ? JUMP_USER : 0;
        thread_set_bottom(translator, translator->stack_kind[i]);
    }
    return 0;
}

void translator_cpu_fini(struct translator_cpu *translator)
{
    if (translator->return_stack) {
        munmap(translator->return_stack, STACKS_SIZE);
    }
    free(translator->signal_stack);
}

bool thread_has_fsgsbase(void)
{
    static int has = -1;
    if (has < 0) {
        has = (getauxval(AT_HWCAP2) & 2) != 0;
    }
    return has;
}

__attribute__((target("fsgsbase"))) void thread_set_gs(const void *base)
{
    if (translator_frame.view == (uint64_t)(uintptr_t)base) {
        return;
    }
    translator_frame.view = (uint64_t)(uintptr_t)base;
    if (thread_has_fsgsbase()) {
        __builtin_ia32_wrgsbase64((uint64_t)(uintptr_t)base);
    } else {
        syscall(SYS_arch_prctl, ARCH_SET_GS, base);
    }
}

void thread_take_notice(void)
{
    struct frame *frame = &translator_frame;
    atomic_store(&frame->status[STATUS_ATTENTION], 0);
    atomic_store(&frame->poll, (uint64_t)(uintptr_t)&frame->poll);
}

void thread_attach(struct translator_cpu *translator)
{
    struct frame *frame = &translator_frame;
    if (frame->cpu != translator->cpu) {
        memset(frame, 0, sizeof(*frame));
        frame->cpu = translator->cpu;
        frame->host_mxcsr = MXCSR_INIT;
        frame->backs_left = BACKS_EACH;
        frame->index_mask = (TLB_SIZE - 1) << FRAME_SHIFT;
        frame->page_mask = -(uint64_t)FRAME_SIZE;
        for (unsigned i = 0; i < 2; i++) {
            frame->level_base[i] = thread_stack_bottom(translator, i);
        }
        translator->flushes = translator->cpu->flushes - 1;
        signal_prepare_thread(translator);
    }
    frame->tsc_line.length = 0; /* the clock may have been paused */
    thread_take_notice();
    atomic_store(&translator->frame, frame);
}

/* The thread may end after this, and its frame with it. */
void thread_detach(struct translator_cpu *translator)
{
    atomic_store(&translator->frame, NULL);
    while (atomic_load(&translator->notifiers)) {
        sched_yield();
    }
}

void translator_notify(struct translator_cpu *translator)
{
    atomic_fetch_add(&translator->notifiers, 1);
    struct frame *frame = atomic_load(&translator->frame);
    if (frame) {
        atomic_store(&frame->status[STATUS_ATTENTION], 1);
        atomic_store(&frame->poll, POLL_TRAP);
    }
    atomic_fetch_sub(&translator->notifiers, 1);
}
