/*
 * Guest code that changes: which blocks a store ends, and which come back.
 *
 * A block ends when bytes that it was made of are others now. It lives on when the store
 * only hit its lines (data beside code), wrote what was there, or wrote operands that its
 * code reads from the guest's memory (soften.c). A dead one stands by, for programs often
 * write one of few things; when code is wanted at its place and its bytes are there
 * again, it is what would be made of them.
 *
 * Why comparing bytes is enough, whoever else stores meanwhile: lines of a living block
 * are watched all the time, so each store to them comes here after it was made, on its
 * own thread. Before a dead block's bytes are compared its lines are watched again: a
 * store is either seen by the comparison or sees the watch (allocator/code.c).
 */
#include <string.h>

#include "engine/translator/cache.h"

/* So many stand by in a bucket; the one longest dead makes room. */
#define KEPT_MAX 4

#define LINE     64u /* as allocator/code.c has them */

/* ---- what a block was made of ----------------------------------------------------- */

static const uint8_t *kept_bytes(const struct block *block)
{
    return (const uint8_t *)&block->insn[block->count];
}

/* An instruction of the block, and what it was made of. */
static bool has_insn(const struct block_insn *insn, const uint8_t *page,
                     const uint8_t *kept)
{
    const uint8_t *now = page + insn->offset;
    unsigned behind = insn->soft_at + insn->soft_size;
    return memcmp(now, kept, insn->soft_at) == 0 &&
           memcmp(now + behind, kept + behind, insn->length - behind) == 0;
}

static bool has_bytes(const struct code_cache *cache, const struct block *block)
{
    const uint8_t *page = memory_host(cache->memory, block->place.frame);
    const uint8_t *kept = kept_bytes(block);
    const struct block_source *source = &block->source;
    unsigned size = source->end - source->start;
    if (memcmp(page + source->ahead, kept + size, source->ahead_end - source->ahead) !=
        0) {
        return false;
    }
    if (!block->is_soft) {
        return memcmp(page + source->start, kept, size) == 0;
    }
    for (unsigned i = 0; i < block->count; i++) {
        if (!has_insn(&block->insn[i], page, kept)) {
            return false;
        }
        kept += block->insn[i].length;
    }
    return true;
}

/* ---- who stands by ---------------------------------------------------------------- */

static void discard(struct block *block)
{
    code_unchain(block);
    block->is_kept = false;
}

void code_discard(struct block *block)
{
    if (block->is_kept) {
        discard(block);
    }
}

static void keep(struct code_cache *cache, struct block *block)
{
    if (!block->has_kept) {
        return;
    }
    code_chain(&cache->kept[code_hash(&block->place)], block);
    block->is_kept = true;
    struct block *next = block->hash_next;
    for (unsigned i = 1; next; i++) {
        struct block *behind = next->hash_next;
        if (i >= KEPT_MAX) {
            discard(next);
        }
        next = behind;
    }
}

const struct block *code_before(const struct code_cache *cache,
                                const struct code_place *place)
{
    const struct block *block = cache->kept[code_hash(place)];
    while (block && !code_is_same(&block->place, place)) {
        block = block->hash_next;
    }
    return block;
}

const uint8_t *code_before_bytes(const struct block *block, unsigned offset)
{
    return kept_bytes(block) + (offset - block->place.offset);
}

/* ---- back again ------------------------------------------------------------------- */

static bool is_again(struct code_cache *cache, struct block *block)
{
    struct memory *memory = cache->memory;
    struct block_source *source = &block->source;
    source->version = memory_code_watch(memory, source->frame, source->start,
                                        source->end - source->start);
    if (source->ahead != source->ahead_end) {
        memory_code_watch(memory, source->frame, source->ahead,
                          source->ahead_end - source->ahead);
    }
    return has_bytes(cache, block);
}

struct block *code_revive(struct code_cache *cache, const struct code_place *place)
{
    struct block *block = cache->kept[code_hash(place)];
    while (block && !(code_is_same(&block->place, place) && has_bytes(cache, block))) {
        block = block->hash_next;
    }
    if (!block || !is_again(cache, block)) {
        return NULL;
    }
    discard(block);
    code_undo_kill(cache, block);
    return block;
}

/* ---- stores ----------------------------------------------------------------------- */

struct store {
    frame_t frame;
    unsigned start, end; /* in the frame */
};

/* Bytes from start to before end of the frame, in units of so many bytes. */
static bool overlaps(const struct store *store, unsigned start, unsigned end,
                     unsigned unit)
{
    return start < end && store->start < ((end + unit - 1) & -unit) &&
           (start & -unit) < store->end;
}

/* unit: LINE asks for the lines, 1 for the bytes themselves. */
static bool is_stored_to(const struct store *store, const struct block_source *source,
                         unsigned unit)
{
    return overlaps(store, source->start, source->end, unit) ||
           overlaps(store, source->ahead, source->ahead_end, unit);
}

static bool is_ended(const struct code_cache *cache, const struct block_source *source,
                     const struct store *store)
{
    const struct block *block = source->block;
    return is_stored_to(store, source, 1) &&
           !(block->has_kept && has_bytes(cache, block));
}

/* What there was to end. */
struct outcome {
    bool is_code;  /* the lines that were hit hold code, or did */
    bool is_alive; /* the frame has blocks still */
};

/* Ends the frame's blocks; store: only those made before and ended by it. */
static struct outcome end_blocks(struct code_cache *cache, frame_t frame,
                                 const struct store *store, enum code_cause cause)
{
    uint32_t version = FRAME_VERSION(cache->memory->frame[frame]);
    struct block_source **bucket = code_frame_bucket(cache, frame), **at = bucket;
    struct outcome outcome = {false, false};
    while (*at) {
        struct block_source *source = *at;
        struct block *block = source->block;
        if (source->frame != frame) {
            at = &source->next;
            continue;
        }
        if (store) {
            bool is_close = is_stored_to(store, source, LINE);
            outcome.is_code |= is_close;
            if (!is_close || source->version == version ||
                !is_ended(cache, source, store)) {
                outcome.is_alive = true;
                at = &source->next;
                continue;
            }
        }
        code_end(cache, block, cause);
        keep(cache, block);
        if (block->place.next != FRAME_NONE) {
            at = bucket; /* its other frame has left a list, too: perhaps this one */
        }
    }
    return outcome;
}

/*
 * Stores to a watched frame cost a way out of translated code. A page of code that is
 * being made anew, or has become data, must get rid of that: stores to lines whose blocks
 * are dead are a sign of it. Others count little; without them a block that is never run
 * again would hold its line for ever. A page that is forgotten too soon costs coming
 * back.
 */
#define PATIENCE   256
#define COST_CODE  1
#define COST_WASTE 64

static bool is_out_of_patience(struct code_cache *cache, frame_t frame, bool is_code)
{
    struct stored_frame *stored = &cache->stored[frame % STORED_FRAMES];
    if (stored->frame != frame) {
        *stored = (struct stored_frame){frame, 0};
    }
    stored->cost += is_code ? COST_CODE : COST_WASTE;
    if (stored->cost < PATIENCE) {
        return false;
    }
    stored->cost = 0;
    return true;
}

void code_stored(struct code_cache *cache, frame_t frame, unsigned offset, unsigned size,
                 enum code_cause cause)
{
    const struct store store = {frame, offset, offset + size};
    struct outcome outcome = end_blocks(cache, frame, &store, cause);
    if (!outcome.is_alive) {
        memory_code_forget(cache->memory, frame);
    } else if (is_out_of_patience(cache, frame, outcome.is_code)) {
        end_blocks(cache, frame, NULL, cause);
        memory_code_forget(cache->memory, frame);
    }
}
