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
    frame_t frame;
    uint8_t slots; /* places in insn, the closing pseudo instruction's not counted */
    struct block *hash_next;
    struct insn
        insn[]; /* slots + 1: count, or twice as many while the processor counts */
};

/* The VM's processors share a budget of decoded code. */
struct block_cache *block_cache_new(const struct cpuid_policy *cpuid, struct error *err);
void block_cache_free(struct block_cache *cache);

/* Drops everything decoded, and what points to it. Not while a block runs. */
void block_cache_empty(struct cpu *cpu);

/* The block at cpu->rip, decoded if need be; NULL if fetching faulted (the exception is
 * recorded). Sets REG_CODE_BASE. */
const struct block *block_find(struct cpu *cpu);

/* Finds the successor of a direct branch within the page, remembers it, and goes on
 * there. */
const struct insn *block_chain_slow(struct cpu *cpu, const struct insn *insn,
                                    uint64_t rip);

/* A store by this vCPU hit decoded code of the frame: if the running block is from there,
 * the rest of it is not executed as decoded. */
void block_spoil(struct cpu *cpu, frame_t frame);

static inline bool block_is_valid(const struct block *block)
{
    return FRAME_VERSION(*block->frame_entry) == block->version;
}

#if DOPPEL_THREADED
#define RUN(cpu, first) return (first)->exec((cpu), (first))
#else
#define RUN(cpu, first) return (first)
#endif

/* Goes on with a block whose first instruction is at rip. */
static inline __attribute__((always_inline)) const struct insn *
block_enter(struct cpu *cpu, const struct block *block, uint64_t rip)
{
    cpu->reg[REG_CODE_BASE] = rip - block->offset;
    cpu->block = block;
    RUN(cpu, block->insn);
}

/*
 * Ends a control transfer within the mode: retires it and goes on at rip, which has been
 * checked. Returns to the run loop when there are events to look at or the target is not
 * in the jump cache.
 */
static inline __attribute__((always_inline)) const struct insn *
block_jump(struct cpu *cpu, const struct insn *insn, uint64_t rip)
{
    cpu->retired += insn->ordinal + 1u;
    const struct jump_entry *jump = cpu_jump_entry(cpu, rip);
    if (likely(jump->rip == rip && jump->key == cpu->code_key &&
               !cpu_has_attention(cpu) && block_is_valid(jump->block))) {
        return block_enter(cpu, jump->block, rip);
    }
    cpu->rip = rip;
    return NULL;
}

/* The same for a direct branch within its page, whose target block is cached in the
 * instruction. */
static inline __attribute__((always_inline)) const struct insn *
block_chain(struct cpu *cpu, const struct insn *insn, uint64_t rip)
{
    const struct block *block = insn->target;
    if (likely(block && !cpu_has_attention(cpu) && block_is_valid(block))) {
        cpu->retired += insn->ordinal + 1u;
        cpu->block = block;
        RUN(cpu, block->insn); /* the same page: REG_CODE_BASE stands */
    }
    return block_chain_slow(cpu, insn, rip);
}
