/* What translated code left for, and where it goes on. */
#include "base/counter.h"
#include "engine/translator/exchange.h"
#include "engine/translator/level.h"
#include "engine/translator/recover.h"
#include "engine/translator/run.h"
#include "engine/translator/target.h"
#include "interpreter/event.h"
#include "x86/paging.h"

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
        !prepare_can_translate(cpu) ||
        prepare_mode(cpu) != (block->place.mode & ~MODE_OF_BLOCK) ||
        block->insn[next].host_flags & INSN_NEEDS_BASE || !find_is_open(cpu, block) ||
        !find_fits_limit(cpu, block, next)) {
        return false;
    }
    entry->target = block_host(block, next);
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
    entry->target = block_host(block, ordinal) + insn->resume;
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
    if (insn->mnemonic == ZYDIS_MNEMONIC_CALL) {
        cpu->reg[X86_RSP] += 8;
    } else if (insn->mnemonic == ZYDIS_MNEMONIC_RET) {
        cpu->reg[X86_RSP] -= 8u + insn->popped;
    }
    if (translator->cache->counts) {
        cpu->retired--; /* it was counted when it began */
    }
    run_interpret_one(translator);
}

/* Goes on at a linear address without a detour by struct cpu. */
static bool go_on(struct translator_cpu *translator, uint64_t linear, struct entry *entry)
{
    return !run_wants_look(translator->cpu) && !translator->cache->counts &&
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
    if (run_wants_look(translator->cpu) || translator->cache->counts ||
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
    run_interpret_one(translator);
    if (!resume_behind(translator, block, ordinal, entry)) {
        return false;
    }
    exchange_in(translator);
    prepare_code(translator);
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
        run_interpret_one(translator);
    }
}

/* A check that a block begins with failed: at its beginning, where nothing has been done.
 */
static bool fail_early(struct translator_cpu *translator, struct block *block,
                       unsigned ordinal, struct entry *entry)
{
    struct cpu *cpu = translator->cpu;
    if (block->is_dead) { /* its look, which would have led away, comes behind */
        translator_frame.exit_reason = LEAVE_HEAD;
        if (go_on(translator, entry->page + block->place.offset, entry)) {
            return true;
        }
    }
    bool goes_on = !block->is_dead && !run_wants_look(cpu) && find_is_open(cpu, block);
    if (goes_on && find_late(translator, block, ordinal, entry)) {
        return true;
    }
    if (goes_on && find_fits_limit(cpu, block, 0)) {
        return interpret_within(translator, block, 0, entry);
    }
    /* As a head that was left: it asks for more than a jump. */
    translator_frame.exit_reason = LEAVE_HEAD;
    exchange_out(translator);
    cpu->rip = run_guest_rip(cpu, entry->page + block->place.offset);
    settle(translator, block->settles);
    return false;
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
    prepare_code(translator);
    cpu->rip = rip;
    uint64_t linear = run_linear_rip(cpu);
    if (!run_wants_look(cpu) &&
        (find_jump(translator, linear, entry) ||
         find_entry(translator, linear, translator_frame.exit_reason, entry) ==
             FOUND_ENTRY)) {
        return true;
    }
    exchange_out(translator);
    cpu->rip = rip;
    return false;
}

bool leave_is_early(const struct translator_cpu *translator)
{
    unsigned reason = translator_frame.exit_reason;
    bool is_check =
        reason == LEAVE_READ || reason == LEAVE_WRITE || reason == LEAVE_PLAIN;
    return is_check && block_is_early(left_block(translator),
                                      EXIT_ORDINAL(translator_frame.exit_info));
}

bool leave_handle(struct translator_cpu *translator, struct entry *entry)
{
    struct cpu *cpu = translator->cpu;
    struct frame *frame = &translator_frame;
    if (frame->exit_reason == LEAVE_JUMP || frame->exit_reason == LEAVE_TARGET) {
        uint64_t linear = frame->exit_value;
        if (frame->exit_reason == LEAVE_TARGET) {
            struct block *from = left_block(translator);
            target_learn(translator, from, page_of(from), linear);
        }
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
        frame->backs_left = frame->backs_left ? frame->backs_left : BACKS_EACH;
        if (go_on(translator, linear, entry)) {
            return true;
        }
        exchange_out(translator);
        cpu->rip = run_guest_rip(cpu, linear);
        settle(translator, settles);
        return false;
    }
    unsigned ordinal = EXIT_ORDINAL(frame->exit_info);
    *entry = (struct entry){block_host(block, ordinal), block->status, page};
    if (leave_is_early(translator)) {
        return fail_early(translator, block, ordinal, entry);
    }
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
