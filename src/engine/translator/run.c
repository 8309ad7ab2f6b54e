#include "engine/translator/run.h"

#include "base/counter.h"
#include "engine/sampler.h"
#include "engine/translator/exchange.h"
#include "engine/translator/level.h"
#include "interpreter/run.h"

/* ---- the interpreter's part ------------------------------------------------------- */

/* One instruction at cpu->rip; whatever it does is done. Attention is not zero, so the
 * interpreter stops behind it. */
void run_interpret_one(struct translator_cpu *translator)
{
    enum where before = where_enter(WHERE_INTERPRETER);
    counter_add(&translator->stats.interpreted, 1);
    cpu_run_block(translator->cpu);
    where_enter(before);
}

/* One block of the interpreter's, where translated code may not run. */
static void interpret_block(struct translator_cpu *translator)
{
    struct cpu *cpu = translator->cpu;
    if (translator->cache->counts) {
        run_interpret_one(translator); /* a counting block would stop before its first */
        return;
    }
    enum where before = where_enter(WHERE_INTERPRETER);
    counter_add(&translator->stats.interpreted_blocks, 1);
    cpu_set_single(cpu, false);
    cpu_run_block(cpu);
    cpu_set_single(cpu, true);
    where_enter(before);
}

static bool set_stop(struct cpu *cpu)
{
    uint32_t none = 0;
    return atomic_compare_exchange_strong(&cpu->attention, &none, ATTENTION_STOP) ||
           none == ATTENTION_STOP;
}

static void clear_stop(struct cpu *cpu)
{
    uint32_t stop = ATTENTION_STOP;
    atomic_compare_exchange_strong(&cpu->attention, &stop, 0);
}

static void make_room(struct translator_cpu *translator)
{
    struct cpu *cpu = translator->cpu;
    struct code_cache *cache = translator->cache;
    enum where before = where_enter(WHERE_TRANSLATION);
    uint64_t start_ns = clock_host_ns();
    cpu->hooks->exclusive_begin(cpu);
    pthread_mutex_lock(&cache->lock);
    if (!code_make_room(cache)) {
        code_evict(cache);
    }
    code_note_stop(cache, clock_host_ns() - start_ns);
    pthread_mutex_unlock(&cache->lock);
    cpu->hooks->exclusive_end(cpu);
    where_enter(before);
}

/* ---- translated code --------------------------------------------------------------- */

/* What code counted. It counts an instruction when it begins. */
static void count_retired(struct translator_cpu *translator, uint64_t budget)
{
    const struct frame *frame = &translator_frame;
    bool is_unfinished =
        frame->exit_reason == LEAVE_READ || frame->exit_reason == LEAVE_WRITE ||
        frame->exit_reason == LEAVE_PLAIN || frame->exit_reason == LEAVE_INTERPRET;
    is_unfinished = is_unfinished && !leave_is_early(translator);
    struct cpu *cpu = translator->cpu;
    cpu->retired += budget - (uint64_t)frame->budget - is_unfinished;
}

static void enter(struct translator_cpu *translator, const struct entry *entry)
{
    struct frame *frame = &translator_frame;
    unsigned load = 0;
    /* Code that has just used vectors does so again soon: at a head that would leave. */
    if ((entry->status[1] || frame->had_vectors) &&
        exchange_vector_is_open(translator->cpu)) {
        load |= 1;
    }
    frame->had_vectors = 0;
    if (entry->status[0] && exchange_fpu_is_open(translator->cpu)) {
        load |= 2;
        exchange_fpu_in(translator);
    }
    struct cpu *cpu = translator->cpu;
    translator->entered_user = cpu->cpl == 3;
    translator->entered_cs = cpu->state.seg[X86_CS].selector;
    frame->code_base = entry->page;
    frame->target = (uint64_t)(uintptr_t)code_address(translator->cache, entry->target);
    uint64_t budget = cpu->limit - cpu->retired;
    frame->budget = budget > INT64_MAX ? INT64_MAX : (int64_t)budget;
    budget = (uint64_t)frame->budget;
    void (*code)(unsigned) = (void (*)(unsigned))(uintptr_t)code_address(
        translator->cache, translator->cache->enter);
    code(load);
    if (frame->moved) {
        level_follow(translator);
    }
    counter_add(&translator->stats.entered, 1);
    counter_add(&translator->stats.left[frame->exit_reason], 1);
    if (translator->cache->counts) {
        count_retired(translator, budget);
    }
    if (frame->status[STATUS_FPU]) {
        exchange_fpu_out(translator);
    }
}

/* Has something to be looked at? Who asks for it sets cpu->attention first, and notifies
 * then (translator_notify), perhaps so late that it has been looked at: code would leave
 * for nothing, and never go on. So the notice is taken down before attention is read. */
bool run_wants_look(const struct cpu *cpu)
{
    const struct frame *frame = &translator_frame;
    if (unlikely(atomic_load_explicit(&frame->status[STATUS_ATTENTION],
                                      memory_order_relaxed) ||
                 atomic_load_explicit(&frame->poll, memory_order_relaxed) == POLL_TRAP)) {
        thread_take_notice();
    }
    return cpu_wants_look(cpu);
}

/* The entry for cpu->rip. False: there is none, and what there is to do was done. */
static bool find_or_step(struct translator_cpu *translator, unsigned left,
                         struct entry *entry)
{
    uint64_t linear = run_linear_rip(translator->cpu);
    /* A head that was left asks for more than a jump: state, or another block. */
    if (left != LEAVE_HEAD && left != LEAVE_LINK && left != LEAVE_JUMP &&
        left != LEAVE_TARGET && find_jump(translator, linear, entry)) {
        return true;
    }
    switch (find_entry(translator, linear, left, entry)) {
    case FOUND_ENTRY:
        return true;
    case FOUND_NO_ROOM:
        make_room(translator);
        return false;
    case FOUND_CLOSED:
        interpret_block(translator);
        return false;
    default:
        run_interpret_one(translator);
        return false;
    }
}

/* Translated code from cpu->rip on, until struct cpu has to be looked at. */
static void run_code(struct translator_cpu *translator)
{
    struct cpu *cpu = translator->cpu;
    unsigned left = LEAVE_HEAD;
    while (cpu->state.activity == X86_RUNNING && prepare_can_translate(cpu) &&
           !run_wants_look(cpu) && cpu->retired < cpu->limit) {
        struct entry entry;
        prepare_code(translator);
        if (!find_or_step(translator, left, &entry)) {
            left = LEAVE_HEAD;
            continue;
        }
        exchange_in(translator);
        translator_frame.had_vectors = 0;
        do {
            enter(translator, &entry);
        } while (leave_handle(translator, &entry));
        left = translator_frame.exit_reason;
    }
}

/* Where nothing is translated: other modes, and what needs a look at each instruction. */
static void interpret_elsewhere(struct translator_cpu *translator)
{
    struct cpu *cpu = translator->cpu;
    enum where before = where_enter(WHERE_INTERPRETER);
    counter_add(&translator->stats.interpreted_elsewhere, 1);
    cpu_set_single(cpu, false);
    if (cpu->needs_interpreter || cpu->debug || cpu->debug_traps) {
        cpu_run(cpu);
        cpu_set_attention(cpu);
    } else {
        cpu_run_block(cpu);
    }
    cpu_set_single(cpu, true);
    where_enter(before);
}

static void run(struct translator_cpu *translator)
{
    struct cpu *cpu = translator->cpu;
    if (!cpu->single_step) {
        cpu_set_single(cpu, true);
    }
    while (cpu->state.activity == X86_RUNNING) {
        if (!prepare_can_translate(cpu)) {
            clear_stop(cpu);
            if (cpu_has_attention(cpu) || cpu->retired >= cpu->limit) {
                return;
            }
            interpret_elsewhere(translator);
            continue;
        }
        if (!set_stop(cpu)) {
            return;
        }
        run_code(translator);
        if (cpu_wants_look(cpu) || cpu->retired >= cpu->limit) {
            return;
        }
    }
}

void translator_run(struct translator_cpu *translator)
{
    thread_attach(translator);
    run(translator);
    thread_detach(translator);
}
