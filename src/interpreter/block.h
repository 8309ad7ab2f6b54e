#pragma once
/*
 * Decoded code: blocks of instructions from one frame, cached per vCPU. A block belongs
 * to a place in a frame and a mode, not to a virtual address, so processes share it; it
 * is valid while the frame's code version stands. Blocks live in an arena of fixed size
 * that is emptied as a whole when full.
 */

#include "interpreter/insn.h"

struct block {
    const _Atomic uint64_t *frame_entry;
    uint32_t version; /* of the frame when it was decoded */
    uint16_t offset;  /* of the first instruction in the frame */
    uint8_t mode;     /* code_bits and what else decoding depends on */
    uint8_t count;    /* instructions, the closing pseudo instruction not counted */
    struct block *hash_next;
    frame_t frame;
    struct insn insn[]; /* count + 1 */
};

struct block_cache *block_cache_new(struct error *err);
void block_cache_free(struct block_cache *cache);

/* The block at cpu->rip, decoded if need be; NULL if fetching faulted (the exception is
 * recorded). Sets REG_CODE_BASE. */
const struct block *block_find(struct cpu *cpu);

static inline bool block_is_valid(const struct block *block)
{
    return FRAME_VERSION(*block->frame_entry) == block->version;
}
