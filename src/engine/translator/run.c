#include "engine/translator/run.h"

#include "base/counter.h"
#include "engine/sampler.h"
#include "engine/translator/emit.h"
#include "engine/translator/exchange.h"
#include "engine/translator/level.h"
#include "engine/translator/recover.h"
#include "interpreter/access.h"
#include "interpreter/event.h"
#include "interpreter/run.h"
#include "x86/paging.h"

/* ---- mode ------------------------------------------------------------------------- */

/* 32-bit code that nothing but paging keeps from going on. */
static bool is_code_32(const struct cpu *cpu)
{
    return cpu->is_protected && cpu->code_bits == 32 && cpu->stack_bits == 32 &&
           cpu->state.seg[X86_CS].limit == UINT32_MAX;
}

static bool can_translate(const struct cpu *cpu)
{
    return (cpu->is_long64 || is_code_32(cpu)) &&
           !(cpu->needs_interpreter & ~NEEDS_STEP) &&
           !(cpu->state.rflags & X86_FLAG_TF) && !cpu->debug && !cpu->debug_traps &&
           (cpu->cpl == 0 || cpu->cpl == 3);
}

static unsigned current_mode(const struct cpu *cpu)
{
    uint64_t avx = X86_XCR0_SSE | X86_XCR0_AVX;
    bool has_avx = cpu->state.cr4 & X86_CR4_OSXSAVE && (cpu->state.xcr0 & avx) == avx;
    unsigned mode = (cpu->cpl == 3 ? MODE_USER : 0) | (has_avx ? MODE_AVX : 0);
    if (!cpu->is_long64) {
        mode |= MODE_32 | (exchange_is_flat(cpu) ? MODE_FLAT : 0);
    }
    return mode;
}

/* Return stacks, jump entries and gs are made to fit what happened since translated code
 * last ran. */
static void prepare(struct translator_cpu *translator)
{
    struct cpu *cpu = translator->cpu;
    struct frame *frame = &translator_frame;
    unsigned mode = current_mode(cpu);
    uint64_t epoch = atomic_load(&translator->cache->epoch);
    bool is_user = mode & MODE_USER;
    bool is_other = (mode ^ translator->mode) & MODE_AVX;
    if (unlikely(epoch != translator->epoch || is_other)) {
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

/* ---- the interpreter's part ------------------------------------------------------- */

/* One instruction at cpu->rip; whatever it does is done. Attention is not zero, so the
 * interpreter stops behind it. */
static void interpret_one(struct translator_cpu *translator)
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
        interpret_one(translator); /* a counting block would stop before its first */
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

/* ---- what translated code left for ------------------------------------------------- */

/* What code counted. It counts an instruction when it begins. */
static void count_retired(struct translator_cpu *translator, uint64_t budget)
{
    const struct frame *frame = &translator_frame;
    bool is_unfinished =
        frame->exit_reason == LEAVE_READ || frame->exit_reason == LEAVE_WRITE ||
        frame->exit_reason == LEAVE_PLAIN || frame->exit_reason == LEAVE_INTERPRET;
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

static struct block *left_block(const struct translator_cpu *translator)
{
    const struct code_cache *cache = translator->cache;
    uint32_t info = translator_frame.exit_info;
    bool by_link = translator_frame.exit_reason == LEAVE_LINK;
    return cache->block[by_link ? cache->link[info].from : EXIT_BLOCK(info)];
}

static uint64_t page_of(const struct block *block)
{
    return code_is_fixed(block->place.mode) ? block->place.page
                                            : translator_frame.code_base;
}

/* Goes on behind an instruction that was interpreted, in the same block if it can. */
static bool resume_behind(struct translator_cpu *translator, const struct block *block,
                          unsigned ordinal, struct entry *entry)
{
    struct cpu *cpu = translator->cpu;
    unsigned next = ordinal + 1;
    /* Before the block is looked at: it may have been evicted meanwhile. */
    if (atomic_load(&translator->cache->epoch) != translator->epoch ||
        next >= block->count || block->is_dead ||
        run_linear_rip(cpu) != entry->page + block->insn[next].offset ||
        cpu_wants_look(cpu) || cpu->state.activity != X86_RUNNING ||
        !can_translate(cpu) ||
        current_mode(cpu) != (block->place.mode & ~MODE_OF_BLOCK) ||
        block->insn[next].host_flags & INSN_NEEDS_BASE || !find_is_open(cpu, block) ||
        !find_fits_limit(cpu, block, next)) {
        return false;
    }
    entry->target = block->insn[next].host;
    return true;
}

/* A store hit a watched frame. */
static bool watched(struct translator_cpu *translator, const struct block *block,
                    struct entry *entry)
{
    struct cpu *cpu = translator->cpu;
    const struct frame *frame = &translator_frame;
    unsigned ordinal = EXIT_ORDINAL(frame->exit_info);
    const struct block_insn *insn = &block->insn[ordinal];
    uint64_t offset = frame->exit_value - (uint64_t)(uintptr_t)cpu->memory->base;
    unsigned in_page = offset % FRAME_SIZE;
    unsigned size = insn->stored == STORED_TO_END ? FRAME_SIZE - in_page : insn->stored;
    bool hits_code =
        memory_written(cpu->memory, (frame_t)(offset >> FRAME_SHIFT), in_page, size);
    if (hits_code && block->is_dead && !(insn->host_flags & INSN_BRANCHES)) {
        exchange_out(translator);
        /* A REP goes on, perhaps with nothing left to do. */
        unsigned done = insn->stored == STORED_TO_END ? 0 : insn->length;
        cpu->rip = run_guest_rip(cpu, entry->page + insn->offset + done);
        return false;
    }
    entry->target = insn->host + insn->resume;
    return true;
}

/* An indirect branch led to an address that is none: the branch faults (SDM 2A "JMP"). */
static void undo_branch(struct translator_cpu *translator)
{
    struct cpu *cpu = translator->cpu;
    uint32_t info = translator_frame.last_branch;
    const struct block *block = translator->cache->block[EXIT_BLOCK(info)];
    const struct block_insn *insn = &block->insn[EXIT_ORDINAL(info)];
    cpu->rip = page_of(block) + insn->offset;
    cpu->reg[X86_RSP] -= (uint64_t)(int64_t)insn->stack_bytes;
    interpret_one(translator);
}

/* Has something to be looked at? Who asks for it sets cpu->attention first, and notifies
 * then (translator_notify), perhaps so late that it has been looked at: code would leave
 * for nothing, and never go on. So the notice is taken down before attention is read. */
static bool wants_look(const struct cpu *cpu)
{
    _Atomic uint8_t *notice = &translator_frame.status[STATUS_ATTENTION];
    if (unlikely(atomic_load_explicit(notice, memory_order_relaxed))) {
        atomic_store(notice, 0);
    }
    return cpu_wants_look(cpu);
}

/* Goes on at a linear address without a detour by struct cpu. */
static bool go_on(struct translator_cpu *translator, uint64_t linear, struct entry *entry)
{
    return !wants_look(translator->cpu) && !translator->cache->counts &&
           find_entry(translator, linear, translator_frame.exit_reason, entry) ==
               FOUND_ENTRY;
}

/* A head led out: attention, a unit that does not hold the guest's state yet, or a block
 * that is dead. */
static bool enter_again(struct translator_cpu *translator, const struct block *block,
                        struct entry *entry)
{
    if (block->is_dead) {
        /* The next one there is noted for the jump that led here; instructions that
         * settle flags would lead away from it, and each jump here once more. */
        return go_on(translator, page_of(block) + block->place.offset, entry);
    }
    if (wants_look(translator->cpu) || translator->cache->counts ||
        !find_is_open(translator->cpu, block)) {
        return false;
    }
    entry->target = block->entry;
    return true;
}

/* The interpreter executes an instruction of a block; true: on behind it. */
static bool interpret_within(struct translator_cpu *translator, const struct block *block,
                             unsigned ordinal, struct entry *entry)
{
    struct cpu *cpu = translator->cpu;
    exchange_out(translator);
    cpu->rip = run_guest_rip(cpu, entry->page + block->insn[ordinal].offset);
    interpret_one(translator);
    if (!resume_behind(translator, block, ordinal, entry)) {
        return false;
    }
    exchange_in(translator);
    prepare(translator);
    return true;
}

/*
 * At an instruction boundary whose flags are lost: goes on, deaf to whoever wants a look,
 * until they have been overwritten, which takes so many instructions that cannot fault.
 * Another processor may be changing them: then they fault with flags that are not the
 * guest's (SDM 3A 9.1.3: what it gets who does not synchronize is not defined).
 */
static void settle(struct translator_cpu *translator, unsigned count)
{
    if (count) {
        /* Where it goes on is not where a link would have led. */
        translator_frame.exit_reason = LEAVE_HEAD;
    }
    for (unsigned i = 0; i < count && translator->cpu->state.activity == X86_RUNNING;
         i++) {
        interpret_one(translator);
    }
}

/* A change of privilege; true: on where it leads to. */
static bool change_level(struct translator_cpu *translator, const struct block *block,
                         unsigned ordinal, struct entry *entry)
{
    struct cpu *cpu = translator->cpu;
    uint64_t rip;
    ZydisMnemonic mnemonic = block->insn[ordinal].mnemonic;
    if (!level_change(translator, mnemonic, &rip)) {
        return interpret_within(translator, block, ordinal, entry);
    }
    prepare(translator);
    cpu->rip = rip;
    uint64_t linear = run_linear_rip(cpu);
    if (!wants_look(cpu) && (find_jump(translator, linear, entry) ||
                             find_entry(translator, linear, translator_frame.exit_reason,
                                        entry) == FOUND_ENTRY)) {
        return true;
    }
    exchange_out(translator);
    cpu->rip = rip;
    return false;
}

/*
 * Handles why code left. True: go on at *entry with the guest's state in the frame.
 * False: it is in struct cpu, at an instruction boundary.
 */
static bool handle(struct translator_cpu *translator, struct entry *entry)
{
    struct cpu *cpu = translator->cpu;
    struct frame *frame = &translator_frame;
    if (frame->exit_reason == LEAVE_JUMP) {
        uint64_t linear = frame->exit_value;
        if (likely(x86_canonical(linear)) && go_on(translator, linear, entry)) {
            return true;
        }
        exchange_out(translator);
        cpu->rip = run_guest_rip(cpu, linear);
        if (unlikely(!x86_canonical(linear))) {
            undo_branch(translator);
        }
        return false;
    }
    struct block *block = left_block(translator);
    uint64_t page = page_of(block);
    if (frame->exit_reason == LEAVE_LINK) {
        const struct link *link = &translator->cache->link[frame->exit_info];
        uint64_t linear = page + link->target;
        unsigned settles = link->settles;
        if (go_on(translator, linear, entry)) {
            return true;
        }
        exchange_out(translator);
        cpu->rip = run_guest_rip(cpu, linear);
        settle(translator, settles);
        return false;
    }
    unsigned ordinal = EXIT_ORDINAL(frame->exit_info);
    *entry = (struct entry){block->insn[ordinal].host, block->status, page};
    if (block->insn[ordinal].recovery) {
        frame->arith = recover_flags(&block->recovery[block->insn[ordinal].recovery - 1],
                                     frame->gpr);
    }
    switch (frame->exit_reason) {
    case LEAVE_READ:
    case LEAVE_WRITE:
        switch (miss_fill(translator, &block->insn[ordinal])) {
        case MISS_FILLED:
            return true;
        case MISS_FAULTS:
            exchange_out(translator);
            cpu->rip = run_guest_rip(cpu, page + block->insn[ordinal].offset);
            event_deliver_fault(cpu);
            return false;
        default:
            break;
        }
        if (block->insn[ordinal].group_size &&
            find_plain(translator, block, ordinal, entry)) {
            return true;
        }
        counter_add(&translator->stats.misses_interpreted, 1);
        return interpret_within(translator, block, ordinal, entry);
    case LEAVE_INTERPRET:
        counter_add(&translator->stats.mnemonic[block->insn[ordinal].mnemonic], 1);
        return interpret_within(translator, block, ordinal, entry);
    case LEAVE_QUICK:
        if (level_is_changed_by(block->insn[ordinal].mnemonic)) {
            return change_level(translator, block, ordinal, entry);
        }
        if (!quick_run(translator, &block->insn[ordinal])) {
            return interpret_within(translator, block, ordinal, entry);
        }
        entry->target += block->insn[ordinal].resume;
        return true;
    case LEAVE_PLAIN:
        return find_plain(translator, block, ordinal, entry) ||
               interpret_within(translator, block, ordinal, entry);
    case LEAVE_WATCHED:
        return watched(translator, block, entry);
    default: /* LEAVE_HEAD */
        if (enter_again(translator, block, entry)) {
            return true;
        }
        exchange_out(translator);
        cpu->rip = run_guest_rip(cpu, page + block->place.offset);
        settle(translator, block->settles);
        return false;
    }
}

/* The entry for cpu->rip. False: there is none, and what there is to do was done. */
static bool find_or_step(struct translator_cpu *translator, unsigned left,
                         struct entry *entry)
{
    uint64_t linear = run_linear_rip(translator->cpu);
    /* A head that was left asks for more than a jump: state, or another block. */
    if (left != LEAVE_HEAD && left != LEAVE_LINK && left != LEAVE_JUMP &&
        find_jump(translator, linear, entry)) {
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
        interpret_one(translator);
        return false;
    }
}

/* Translated code from cpu->rip on, until struct cpu has to be looked at. */
static void run_code(struct translator_cpu *translator)
{
    struct cpu *cpu = translator->cpu;
    unsigned left = LEAVE_HEAD;
    while (cpu->state.activity == X86_RUNNING && can_translate(cpu) && !wants_look(cpu) &&
           cpu->retired < cpu->limit) {
        struct entry entry;
        prepare(translator);
        if (!find_or_step(translator, left, &entry)) {
            left = LEAVE_HEAD;
            continue;
        }
        exchange_in(translator);
        translator_frame.had_vectors = 0;
        do {
            enter(translator, &entry);
        } while (handle(translator, &entry));
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
        if (!can_translate(cpu)) {
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
