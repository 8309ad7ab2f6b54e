/* From a guest address to a place in translated code. */
#include "base/counter.h"
#include "base/scope.h"
#include "engine/sampler.h"
#include "engine/translator/emit.h"
#include "engine/translator/exchange.h"
#include "interpreter/access.h"

/* So many blocks are made ahead of the one that is wanted. */
#define AHEAD_BLOCKS 16

/* The lock is held. */
static struct block *find_or_translate(struct translator_cpu *translator,
                                       const struct code_place *place, bool *is_new,
                                       bool *is_full)
{
    struct code_cache *cache = translator->cache;
    struct block *block = code_find(cache, place);
    if (!block) {
        block = code_revive(cache, place);
    }
    *is_new = false;
    if (!block) {
        block = translate(cache, translator->cpu, place, NULL, NULL, is_full);
        *is_new = block != NULL;
        counter_add(&translator->stats.blocks_made, *is_new);
    }
    return block;
}

/*
 * Leads a new block's exits to where there are blocks already, and makes those that it
 * leads to in any case: what translation works with is at hand in the processor's caches
 * now, and nobody has to leave translated code for them again. The lock is held.
 */
static void go_ahead(struct translator_cpu *translator, struct block *block)
{
    struct code_cache *cache = translator->cache;
    struct block *made[1 + AHEAD_BLOCKS] = {block};
    unsigned count = 1;
    bool is_new = false, is_full = false;
    /* Exits of plain variants lead to the others. */
    if (cache->counts || block->place.mode & MODE_PLAIN) {
        return;
    }
    for (unsigned i = 0; i < count; i++) {
        for (uint32_t n = made[i]->first_link; n < made[i]->last_link; n++) {
            struct link *link = &cache->link[n];
            struct code_place place = block->place;
            if (link->is_back ||
                (made[i]->round && block_ends_at(made[i], link->target))) {
                continue; /* until it turns out what the loop is like */
            }
            place.mode &= (uint8_t)~MODE_LOOP;
            place.next = FRAME_NONE;
            place.offset = link->target;
            struct block *to = code_find(cache, &place);
            if (!to && link->is_certain && count < array_size(made)) {
                to = find_or_translate(translator, &place, &is_new, &is_full);
                if (is_new) {
                    made[count++] = to;
                }
            }
            if (to) {
                code_link(cache, link, to);
            }
        }
    }
}

static struct block *make_block(struct translator_cpu *translator,
                                const struct code_place *place, bool *is_full)
{
    struct code_cache *cache = translator->cache;
    enum where before = where_enter(WHERE_TRANSLATION);
    pthread_mutex_lock(&cache->lock);
    bool is_new;
    struct block *block = find_or_translate(translator, place, &is_new, is_full);
    if (is_new) {
        go_ahead(translator, block);
    }
    pthread_mutex_unlock(&cache->lock);
    where_enter(before);
    return block;
}

/* FRAME_NONE: a fault, or no RAM; the interpreter finds out what that means. */
static frame_t fetch_frame(struct cpu *cpu, uint64_t linear)
{
    frame_t frame = access_fetch_frame(cpu, run_guest_rip(cpu, linear));
    cpu->has_fault = cpu->fault_noncanonical = false;
    return frame;
}

/* Address spaces that the processor entered for the first time, but for few. */
static void count_spaces(struct translator_cpu *translator)
{
    uint64_t count = translator->cpu->counters.spaces_replaced;
    if (unlikely(count != translator->spaces_counted)) {
        atomic_fetch_add(&translator->cache->spaces,
                         (uint32_t)(count - translator->spaces_counted));
        translator->spaces_counted = count;
    }
}

static struct block *find_block(struct translator_cpu *translator, uint64_t linear,
                                bool *is_full)
{
    struct cpu *cpu = translator->cpu;
    struct code_cache *cache = translator->cache;
    struct code_place place = {
        .frame = fetch_frame(cpu, linear),
        .next = FRAME_NONE,
        .offset = linear % FRAME_SIZE,
        .mode = (uint8_t)(translator->mode | code_fixed_mode(translator->mode, linear)),
        .page = linear & -(uint64_t)FRAME_SIZE,
    };
    if (place.frame == FRAME_NONE) {
        return NULL;
    }
    if (code_crosses(cache, &place, place.offset)) {
        place.next = fetch_frame(cpu, place.page + FRAME_SIZE);
        if (place.next == FRAME_NONE) {
            return NULL;
        }
    }
    count_spaces(translator);
    if (unlikely(split_is_over(cache, place.frame))) {
        pthread_mutex_lock(&cache->lock);
        split_forget(cache, place.frame);
        pthread_mutex_unlock(&cache->lock);
    }
    struct block *block = code_find(cache, &place);
    if (!block) {
        /* Alone if the other one was retired: what the guest changes dies with both. */
        struct code_place plain = place;
        plain.mode |= MODE_PLAIN;
        block = code_find(cache, &plain);
    }
    if (block) {
        counter_add(&translator->stats.blocks_found, 1);
        return block;
    }
    return make_block(translator, &place, is_full);
}

bool find_fits_limit(const struct cpu *cpu, const struct block *block, unsigned done)
{
    return cpu->limit - cpu->retired >= block->count - done;
}

bool find_is_open(const struct cpu *cpu, const struct block *block)
{
    return (!block->needs_avx || prepare_has_avx(cpu)) &&
           (!block->status[1] || exchange_vector_is_open(cpu)) &&
           (!block->status[0] || exchange_fpu_is_open(cpu));
}

/* As write_jump has them. */
static unsigned jump_index(unsigned kind, uint64_t linear)
{
    return cpu_area_jump(linear) ^ (kind & JUMP_32 ? 1 : 0);
}
static uint64_t jump_tag(unsigned kind, uint64_t linear)
{
    return linear | (kind & JUMP_BASED ? AREA_JUMP_BASED_TAG : 0);
}

/* Where a jump went is remembered in the view that it came from. */
static void note_jump(struct translator_cpu *translator, uint64_t linear,
                      const struct block *block)
{
    unsigned kind = code_jump_kind(translator->mode);
    if (linear != 0) {
        struct cpu *cpu = translator->cpu;
        bool lasts = block->place.next == FRAME_NONE &&
                     access_fetch_lasts(cpu, run_guest_rip(cpu, linear));
        counter_add(&translator->stats.jumps_noted, 1);
        cpu_note_jump((struct tlb_area *)cpu->tlb, jump_index(kind, linear),
                      jump_tag(kind, linear),
                      code_address(translator->cache, block->entry_jump), lasts);
    }
}

/* So often a block's branch to itself has to leave until its loop is unrolled; so often
 * that is left without having gone through all its rounds before it is given up. */
#define BACKS_MIN   2
#define LEFT_MAX    8
#define BACKS_NEVER UINT8_MAX

/* A loop is better not unrolled. The lock is held. */
static void give_up(struct code_cache *cache, struct block *loop)
{
    struct code_place place = loop->place;
    place.mode &= (uint8_t)~MODE_LOOP;
    struct block *first = code_find(cache, &place);
    if (first) {
        first->backs = BACKS_NEVER;
    }
    code_retire(cache, loop, BY_VARIANT);
}

/* Where the branch that closes a loop leads: to what the loop becomes when it is unrolled
 * (NULL: not yet), or else to its own block as others do. The lock is held. */
static struct block *find_back(struct translator_cpu *translator, struct block *from,
                               struct block *to)
{
    if (from->round) {
        from->is_long = true;
        return from;
    }
    if (from->backs == BACKS_NEVER) {
        return to;
    }
    if (++from->backs < BACKS_MIN) {
        return NULL;
    }
    enum where before = where_enter(WHERE_TRANSLATION);
    uint64_t blocks = translator->cache->counters.blocks;
    struct block *loop = translate_loop(translator->cache, translator->cpu, from);
    counter_add(&translator->stats.blocks_made,
                translator->cache->counters.blocks - blocks);
    where_enter(before);
    if (!loop) {
        from->backs = BACKS_NEVER;
        return to;
    }
    from->backs = BACKS_MIN - 1; /* when it ends, another one */
    go_ahead(translator, loop);
    return loop;
}

/* An unrolled loop has been left by its end: where to, or NULL, not yet. One that never
 * comes to its last round is shorter than that, and costs more than it saves. The lock is
 * held. */
static struct block *find_end(struct code_cache *cache, struct block *loop,
                              struct block *to)
{
    if (loop->is_long) {
        return to;
    }
    if (++loop->backs == LEFT_MAX) {
        give_up(cache, loop);
    }
    return NULL;
}

/* Where a link leads that would lead to a block; NULL: nowhere yet. */
static struct block *find_linked(struct translator_cpu *translator,
                                 const struct link *link, struct block *to)
{
    struct block *from = translator->cache->block[link->from];
    if (link->is_back) {
        return find_back(translator, from, to);
    }
    return from->round && block_ends_at(from, link->target)
               ? find_end(translator->cache, from, to)
               : to;
}

/* Not if the page has another frame now. */
static void link_block(struct translator_cpu *translator, struct block *to)
{
    struct code_cache *cache = translator->cache;
    pthread_mutex_lock(&cache->lock);
    struct link *link = &cache->link[translator_frame.exit_info];
    if (atomic_load(&cache->epoch) == translator->epoch &&
        cache->block[link->from]->place.frame == to->place.frame) {
        to = find_linked(translator, link, to);
        if (to) {
            code_link(cache, link, to);
            counter_add(&translator->stats.links_made, 1);
        }
    }
    pthread_mutex_unlock(&cache->lock);
}

enum found find_entry(struct translator_cpu *translator, uint64_t linear, unsigned left,
                      struct entry *entry)
{
    struct cpu *cpu = translator->cpu;
    bool is_full = false;
    struct block *block = find_block(translator, linear, &is_full);
    if (!block || atomic_load(&translator->cache->epoch) != translator->epoch) {
        return is_full ? FOUND_NO_ROOM : FOUND_NOTHING;
    }
    if (!find_fits_limit(cpu, block, 0)) {
        return FOUND_NOTHING;
    }
    if (!find_is_open(cpu, block)) {
        return FOUND_CLOSED;
    }
    if (left == LEAVE_LINK) {
        link_block(translator, block);
    } else {
        note_jump(translator, linear, block);
    }
    *entry = (struct entry){block->entry, block->status, linear & -(uint64_t)FRAME_SIZE};
    return FOUND_ENTRY;
}

bool find_jump(struct translator_cpu *translator, uint64_t linear, struct entry *entry)
{
    static const uint8_t no_status[2];
    const struct tlb_area *area = (const struct tlb_area *)translator->cpu->tlb;
    unsigned kind = code_jump_kind(translator->mode);
    unsigned index = jump_index(kind, linear);
    if (area->jump[index].tag != jump_tag(kind, linear)) {
        index ^= AREA_JUMP_OTHER;
    }
    if (linear == 0 || area->jump[index].tag != jump_tag(kind, linear) ||
        translator->cache->counts) {
        return false;
    }
    uint32_t target = (uint32_t)((const uint8_t *)area->jump[index].target -
                                 translator->cache->execute);
    *entry = (struct entry){target, no_status, linear & -(uint64_t)FRAME_SIZE};
    counter_add(&translator->stats.jumps_found, 1);
    return true;
}

/* So often a block may need its plain variant until another block takes its place. */
#define MISSES_MAX 64

static bool is_missed(void)
{
    return translator_frame.exit_reason == LEAVE_READ ||
           translator_frame.exit_reason == LEAVE_WRITE;
}

/* Do the bytes of a group that begins at an instruction lie in two pages? */
static bool is_across(const struct block_insn *insn)
{
    unsigned left = FRAME_SIZE - translator_frame.exit_value % FRAME_SIZE;
    return is_missed() && left < insn->group_size;
}

/* The group that begins at an instruction does not work out as it is. True: the block can
 * do with a check more, where its first page ended, or with later ones. */
static bool find_splits(const struct block *block, const struct block_insn *insn,
                        struct splits *splits)
{
    unsigned left = FRAME_SIZE - translator_frame.exit_value % FRAME_SIZE;
    *splits = block->more ? block->more->splits : (struct splits){0};
    if (!is_across(insn)) {
        splits->is_late = true;
        return block_is_early(block, (unsigned)(insn - block->insn));
    }
    if (splits->count == SPLITS_MAX) {
        return false;
    }
    splits->split[splits->count++] = (struct split){
        .offset = insn->offset,
        .distance = (int16_t)((int)left - insn->group_offset),
    };
    return true;
}

/* The plain variant, or one with a check more. */
static void replace_block(struct translator_cpu *translator, struct block *block,
                          struct block *plain, unsigned ordinal)
{
    struct code_cache *cache = translator->cache;
    enum where before = where_enter(WHERE_TRANSLATION);
    pthread_mutex_lock(&cache->lock);
    if (!block->is_dead) {
        bool is_full = false;
        const struct block_insn *insn = &block->insn[ordinal];
        struct block *instead = plain;
        struct splits splits;
        if (block->round) {
            instead = NULL;
            give_up(cache, block);
        } else {
            code_retire(cache, block, BY_VARIANT);
        }
        if (instead && find_splits(block, insn, &splits)) {
            instead = translate(cache, translator->cpu, &block->place, block, &splits,
                                &is_full);
        }
        if (instead && (insn->host_flags & INSN_OF_STACK || block->forgets_splits)) {
            split_note(cache, instead, plain);
        }
    }
    pthread_mutex_unlock(&cache->lock);
    where_enter(before);
}

/* An instruction's ordinal in the first block of an unrolled loop, and in its variants.
 */
static unsigned in_round(const struct block *block, unsigned ordinal)
{
    return block->round ? ordinal % block->round : ordinal;
}

/* The block's plain variant, if it has an instruction at the same place. */
static struct block *find_variant(struct translator_cpu *translator,
                                  const struct block *block, unsigned ordinal)
{
    struct code_cache *cache = translator->cache;
    struct code_place place = block->place;
    place.mode = (uint8_t)((place.mode & ~MODE_LOOP) | MODE_PLAIN);
    bool is_full = false;
    struct block *plain = code_find(cache, &place);
    if (!plain) {
        plain = make_block(translator, &place, &is_full);
    }
    unsigned other = in_round(block, ordinal);
    bool is_fit = plain && !block->is_dead && other < plain->count &&
                  plain->insn[other].offset == block->insn[ordinal].offset;
    return is_fit ? plain : NULL;
}

bool find_plain(struct translator_cpu *translator, struct block *block, unsigned ordinal,
                struct entry *entry)
{
    struct block *plain = find_variant(translator, block, ordinal);
    if (!plain) {
        return false;
    }
    if (atomic_fetch_add(&block->misses, 1) == MISSES_MAX) {
        replace_block(translator, block, plain, ordinal);
    }
    *entry = (struct entry){block_host(plain, in_round(block, ordinal)), plain->status,
                            entry->page};
    return true;
}

/* Where only the TLB has no entry yet, the accesses themselves fill it, mostly; if it has
 * none again the next time, they do not. */
static bool is_hopeless(struct translator_cpu *translator, const struct block_insn *insn)
{
    uint64_t page = translator_frame.exit_value >> FRAME_SHIFT;
    bool is_again = !is_missed() || page == translator->early_page || is_across(insn);
    translator->early_page = page;
    return is_again;
}

bool find_late(struct translator_cpu *translator, struct block *block, unsigned ordinal,
               struct entry *entry)
{
    struct block *plain = find_variant(translator, block, ordinal);
    if (!plain || !find_fits_limit(translator->cpu, plain, 0)) {
        return false;
    }
    if (is_hopeless(translator, &block->insn[ordinal]) &&
        atomic_fetch_add(&block->misses, 1) == MISSES_MAX) {
        replace_block(translator, block, plain, ordinal);
    }
    *entry = (struct entry){block_host(plain, 0), plain->status, entry->page};
    return true;
}
