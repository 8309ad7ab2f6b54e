/* Where translated code may run, and what it finds there. */
#include "base/counter.h"
#include "engine/translator/exchange.h"
#include "engine/translator/level.h"
#include "engine/translator/run.h"

/* 32-bit code that nothing but paging keeps from going on. */
static bool is_code_32(const struct cpu *cpu)
{
    return cpu->is_protected && cpu->code_bits == 32 && cpu->stack_bits == 32 &&
           cpu->state.seg[X86_CS].limit == UINT32_MAX;
}

bool prepare_can_translate(const struct cpu *cpu)
{
    return (cpu->is_long64 || is_code_32(cpu)) &&
           !(cpu->needs_interpreter & ~NEEDS_STEP) &&
           !(cpu->state.rflags & X86_FLAG_TF) && !cpu->debug && !cpu->debug_traps &&
           (cpu->cpl == 0 || cpu->cpl == 3);
}

bool prepare_has_avx(const struct cpu *cpu)
{
    uint64_t avx = X86_XCR0_SSE | X86_XCR0_AVX;
    return cpu->state.cr4 & X86_CR4_OSXSAVE && (cpu->state.xcr0 & avx) == avx;
}

unsigned prepare_mode(const struct cpu *cpu)
{
    unsigned mode = cpu->cpl == 3 ? MODE_USER : 0;
    if (!cpu->is_long64) {
        mode |= MODE_32 | (exchange_is_flat(cpu) ? MODE_FLAT : 0);
    }
    return mode;
}

void prepare_code(struct translator_cpu *translator)
{
    struct cpu *cpu = translator->cpu;
    struct frame *frame = &translator_frame;
    unsigned mode = prepare_mode(cpu);
    uint64_t epoch = atomic_load(&translator->cache->epoch);
    bool is_user = mode & MODE_USER;
    atomic_store_explicit(&frame->status[STATUS_NO_AVX], !prepare_has_avx(cpu),
                          memory_order_relaxed);
    if (unlikely(epoch != translator->epoch)) {
        counter_add(&translator->stats.jumps_emptied, 1);
        cpu_forget_jumps(cpu,
                         code_address(translator->cache, translator->cache->jump_miss));
        translator->epoch = epoch;
        translator->flushes = cpu->flushes - 1;
    }
    /* A return site is right in the address space it was made in only. */
    if (unlikely(cpu->flushes != translator->flushes)) {
        counter_add(&translator->stats.returns_emptied, 1);
        translator->flushes = cpu->flushes;
        frame->user_rsp = frame->level_base[1];
        frame->stack_base = frame->host_rsp = frame->level_base[is_user];
        translator->was_user = is_user;
    } else if (is_user != translator->was_user) {
        /* The kernel begins anew each time, the user goes on. */
        if (is_user) {
            frame->host_rsp = frame->user_rsp;
        } else {
            frame->user_rsp = frame->host_rsp;
            frame->host_rsp = frame->level_base[0];
        }
        frame->stack_base = frame->level_base[is_user];
        translator->was_user = is_user;
    }
    /* Nor is it in another mode. */
    unsigned kind = code_jump_kind(mode);
    if (unlikely(kind != translator->stack_kind[is_user])) {
        translator->stack_kind[is_user] = kind;
        thread_set_bottom(translator, kind);
        frame->host_rsp = frame->stack_base;
    }
    translator->mode = mode;
    thread_set_gs(cpu->tlb);
    level_prepare(translator);
}
