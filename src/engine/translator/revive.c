/*
 * Blocks that died by a store, whose guest code comes back: programs that change their
 * code often write one of few things, or the same again, or data that lies in a line with
 * code. Such a block stands by, with the bytes that it was made of; when code is wanted
 * at its place and these bytes are there it is what would be made of them.
 */
#include <string.h>

#include "engine/translator/cache.h"

/* So many stand by in a bucket; the one longest dead makes room. */
#define KEPT_MAX 4

void code_keep(struct code_cache *cache, struct block *block)
{
    /* What crosses a page's end is two frames', and rare. */
    if (block->place.next != FRAME_NONE || block->kept_size == 0) {
        return;
    }
    struct block *_Atomic *head = &cache->kept[code_hash(&block->place)];
    struct block *next = *head;
    block->hash_next = next;
    block->hash_at = head;
    if (next) {
        next->hash_at = &block->hash_next;
    }
    *head = block;
    block->is_kept = true;
    for (unsigned i = 0; next && i < KEPT_MAX; i++) {
        struct block *behind = next->hash_next;
        if (i == KEPT_MAX - 1) {
            code_discard(next);
        }
        next = behind;
    }
}

void code_discard(struct block *block)
{
    struct block *next = block->hash_next;
    if (next) {
        next->hash_at = block->hash_at;
    }
    *block->hash_at = next;
    block->is_kept = false;
}

static const uint8_t *kept_bytes(const struct block *block)
{
    return (const uint8_t *)&block->insn[block->count];
}

static bool has_bytes(const struct code_cache *cache, const struct block *block)
{
    const uint8_t *page = memory_host(cache->memory, block->place.frame);
    const uint8_t *bytes = kept_bytes(block);
    return memcmp(page + block->place.offset, bytes, block->kept_size) == 0 &&
           memcmp(page + block->ahead, bytes + block->kept_size, block->ahead_size) == 0;
}

/* As for a block being made: lines are marked first, then the bytes are read, and they
 * count if the version that was marked still stands. */
static bool is_again(struct code_cache *cache, struct block *block)
{
    struct memory *memory = cache->memory;
    frame_t frame = block->place.frame;
    uint32_t version =
        memory_code_watch(memory, frame, block->place.offset, block->kept_size);
    if (block->ahead_size) {
        memory_code_watch(memory, frame, block->ahead, block->ahead_size);
    }
    block->source[0].version = version;
    return has_bytes(cache, block) && FRAME_VERSION(memory->frame[frame]) == version;
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
    code_discard(block);
    code_undo_kill(cache, block);
    return block;
}
