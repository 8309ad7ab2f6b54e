#pragma once
/*
 * For people who look at what is made of guest code: each block, when it has been made,
 * goes to the perf map (--perf-map) and, if its guest code lies in a chosen range, to the
 * listing (--trace). Files are opened before the jail closes.
 */

#include "engine/engine.h"
#include "engine/translator/cache.h"

struct look;

/* *look gets NULL if nobody wants to look. */
int look_open(struct look **look, const struct code_cache *cache,
              const struct engine_look *config, struct error *err);
/* Completes the files; the cache still holds its blocks. Accepts NULL. */
void look_close(struct look *look, const struct code_cache *cache);

/* A new block; the cache's lock is held. */
void look_block(struct look *look, const struct code_cache *cache,
                const struct block *block);
/* Blocks have gone, and their memory will be others'. */
void look_evicted(struct look *look);

/* Linear address of the block's instruction; of user code where it was first met. */
static inline uint64_t look_address(const struct block *block, unsigned ordinal)
{
    return block->place.page + block->insn[ordinal].offset;
}

#define LOOK_NAME_SIZE 200
/* "ffffffff81000123 start_kernel+0x12", "7f0123456789 user": a place in the guest. */
void look_name(const struct look *look, const struct block *block,
               char name[LOOK_NAME_SIZE]);
