/*
 * Splits that hold for where a stack happens to lie. Each process has its own at another
 * place, and code that all share would in time be split everywhere. So such splits are
 * forgotten when a few address spaces have been entered since, and the frame is come to
 * by a jump that is not known in the present one.
 */
#include "engine/translator/cache.h"

/* A new process is about two. */
#define SPACES_MAX 4

static _Atomic uint64_t *find(struct code_cache *cache, frame_t frame)
{
    return &cache->split_at[frame % SPLIT_FRAMES];
}

/* A frame, and what cache->spaces was. */
static uint64_t pack(frame_t frame, uint32_t spaces)
{
    return (uint64_t)frame << 32 | spaces;
}

void split_note(struct code_cache *cache, struct block *block, struct block *plain)
{
    frame_t frame = block->place.frame;
    block->forgets_splits = plain->forgets_splits = true;
    atomic_store(find(cache, frame), pack(frame, cache->spaces));
}

bool split_is_over(struct code_cache *cache, frame_t frame)
{
    uint64_t at = atomic_load_explicit(find(cache, frame), memory_order_relaxed);
    return at >> 32 == frame && at != 0 && cache->spaces - (uint32_t)at >= SPACES_MAX;
}

static struct block *find_split(struct code_cache *cache, frame_t frame)
{
    struct block_source *source = *code_frame_bucket(cache, frame);
    while (source && (source->frame != frame || !source->block->forgets_splits)) {
        source = source->next;
    }
    return source ? source->block : NULL;
}

void split_forget(struct code_cache *cache, frame_t frame)
{
    struct block *block;
    while ((block = find_split(cache, frame)) != NULL) {
        code_retire(cache, block, BY_VARIANT);
    }
    atomic_store(find(cache, frame), 0);
}
