#pragma once
/*
 * The code cache of a VM: translated blocks, found by where their guest code lies (frame,
 * offset, mode, for most code but position-independent programs the address, too), so
 * that processes share them. One memory mapped twice: what is written is never executable
 * through the same mapping.
 *
 * Blocks are made one after another until the memory is full; then the oldest are
 * dropped, with every vCPU at rest, and the epoch advances: whoever kept a place in the
 * code compares it. A block whose guest code was stored to is dead: its head leads out,
 * links to it are undone, its memory comes back when its turn comes.
 *
 * Threads: everything here is under `lock`, but code_find and the code itself.
 */

#include <Zydis/Zydis.h>
#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "allocator/memory.h"
#include "base/error.h"
#include "engine/translator/frame.h"
#include "engine/translator/host.h"
#include "interpreter/cpu.h"
#include "x86/cpuid.h"

#define BLOCK_INSN_MAX 64
#define LOOP_INSN_MAX  112 /* of an unrolled loop */

/* Where guest code lies: what its block is found by. */
struct code_place {
    frame_t frame;
    frame_t next; /* the page behind's, if an instruction crosses into it; FRAME_NONE */
    uint16_t offset; /* in its page */
    uint8_t mode;    /* MODE_* */
    uint64_t page;   /* linear address of its page; counts for code_is_fixed */
};

/* What code depends on besides its bytes. */
#define MODE_USER 1u /* CPL 3 */
#define MODE_32   2u /* 32-bit code on a 32-bit stack, CS being 4 GiB; else 64-bit mode */
#define MODE_FLAT 4u /* MODE_32: bases of CS, DS, ES and SS are 0, and none is odd */
/* A variant of the code: a check for each access (group.c). */
#define MODE_PLAIN 8u
/* MODE_USER: at this address only. All other code of users is position-independent. */
#define MODE_FIXED 16u
/* A variant of a block that branches to its own beginning: several rounds (unroll.c). */
#define MODE_LOOP 32u

/* What a block's mode has besides a vCPU's. */
#define MODE_OF_BLOCK (MODE_PLAIN | MODE_FIXED | MODE_LOOP)

static inline bool code_is_fixed(unsigned mode)
{
    return !(mode & MODE_USER) || mode & MODE_FIXED;
}

/* Of user code at a linear address. 64-bit programs that are linked to addresses below
 * 2 GiB are there in each process, and such an address fits into an instruction. What
 * the loader places, and 32-bit code, is elsewhere each time. */
static inline unsigned code_fixed_mode(unsigned mode, uint64_t linear)
{
    bool is_fixed = mode & MODE_USER && !(mode & MODE_32) && linear < 1ull << 31;
    return is_fixed ? MODE_FIXED : 0;
}

/* An instruction of a block. */
struct block_insn {
    uint16_t offset;        /* in its page */
    uint16_t host;          /* where its code begins, in the block's: block_host */
    uint16_t resume;        /* offset in its code: behind the look after its last store */
    uint16_t popped;        /* by a RET, besides the address */
    uint16_t mnemonic : 12; /* ZydisMnemonic */
    /* Its bytes, so many from there, that its code reads from the guest's memory. */
    uint16_t soft_at : 4;
    uint8_t soft_size : 4;
    uint8_t length : 4; /* guest bytes */
#define STORED_TO_END 0
    uint8_t stored;     /* bytes it stores, by its last store */
    uint8_t host_flags; /* INSN_* */
    uint8_t group_size; /* bytes that it checks for a group of accesses; 0: begins none */
    uint8_t group_offset; /* its own among them */
    uint8_t recovery; /* where it is left: 0, flags are kept; else block->recovery[-1] */
};

static_assert(sizeof(struct block_insn) == 16, "most of what there is of a block");
static_assert(ZYDIS_MNEMONIC_MAX_VALUE < 1 << 12, "struct block_insn's mnemonic");

/* Are the guest's flags in the host's (else in frame.arith) at the instruction's start,
 * and where it may fault. */
#define INSN_FLAGS_START 1u
#define INSN_FLAGS_FAULT 2u
/* It loads a new RIP: with its code done the instruction behind it is not next. */
#define INSN_BRANCHES 4u
/* Its code needs the host addresses of groups that began before it. */
#define INSN_NEEDS_BASE 8u
/* It begins a group: it stores itself, or nothing in the group does. */
#define INSN_FILLS 16u
/* Its only access, so that a page fault there comes before any other fault of the
 * instruction: alignment of vectors, a CMPXCHG16B's, the other operand of a CMPS (which
 * is looked at first on some processors). */
#define INSN_FAULTS 32u
/* The access is one of the stack. */
#define INSN_OF_STACK 64u
/* Its operand in memory must be aligned, to 16 bytes or 32. */
#define INSN_ALIGNED 128u

/* A direct exit. */
struct link {
    uint32_t place;       /* of the displacement, within 8 aligned bytes */
    uint32_t stub;        /* what it leads to while not linked */
    uint32_t from;        /* number of its block */
    uint16_t target;      /* offset in the page */
    bool from_memory : 1; /* the guest's flags are in frame.arith there */
    bool is_linked : 1;
    bool is_certain : 1; /* no branch of its block leads elsewhere before */
    bool is_loop : 1;    /* to its block's beginning, whose early checks hold yet */
    bool is_back : 1;    /* the same, closing a loop that can be unrolled */
    uint8_t settles;     /* struct block's, at the target */
    /* Of those that lead to the same block; and what points to this one. */
    struct link *next, **at;
};

/* Where a group of accesses must not go across: so far behind the address of the access
 * that begins one at an instruction. A page ended there, often. */
struct split {
    uint16_t offset; /* of the instruction, in its page */
    int16_t distance;
};

/* A block that needs more of them has a check for each access. */
#define SPLITS_MAX 8

struct splits {
    uint8_t count;
    bool is_late; /* nor is any checked before its first access is due (early.c) */
    struct split split[SPLITS_MAX];
};

/*
 * Flags that code overwrites unread, but shows if it is left before that, need not be
 * kept while registers hold what they can be computed from: the operands of an
 * instruction, or its result (recover.c).
 */
struct recovery {
#define RECOVER_TEST    0 /* of what TEST compares; of AND's, OR's, XOR's result, twice */
#define RECOVER_COMPARE 1 /* of what CMP compares */
#define RECOVER_SUB     2 /* of a difference and what was subtracted */
#define RECOVER_ADD     3 /* of a sum and what was added */
#define RECOVER_NEG     4 /* of NEG's result */
    uint8_t kind;
    uint8_t size; /* of operands, bytes */
#define RECOVER_CONSTANT 16
    uint8_t reg[2]; /* the two values: a general register, or none, and a constant */
    int32_t add[2];
};

/* A frame that a block's guest code lies in. */
struct block_source {
    frame_t frame;
    uint32_t version;
    /* Its bytes in the frame, from start to before end, and more of them that told which
     * flags are live behind the block; start = end: none. */
    uint16_t start, end, ahead, ahead_end;
    struct block *block;
    struct block_source *next, **at; /* in the same hash bucket of frames */
};

/* A place of a block's code that leads out when the block is dead: 8 bytes, aligned, of
 * which the first five are one instruction's. */
struct patch {
    uint32_t place, target;
    uint64_t code; /* what was there, when it is dead */
};

/* CALLs that a block goes on behind. */
#define BLOCK_CALLS_MAX 2

/* What an indirect JMP compares its target with, at most (target.c). */
#define BLOCK_TARGETS_MAX 4

/* What few blocks have. */
struct block_more {
    struct block_source source; /* the second frame's, if the place has one */
    struct splits splits;
};

struct block {
    uint32_t number;
    struct code_place place;
    struct block_source source;
    struct block_more *more; /* or NULL */
    uint8_t count;           /* of instructions */
    /* What its head compares: whether the guest's x87, its vector state must be in the
     * host's units, and AVX on. */
    uint8_t status[2];
    bool needs_avx;
    /* Who leaves at the head has lost the guest's flags, which so many instructions, that
     * cannot fault, overwrite unread; 0: they are known. */
    uint8_t settles;
    bool forgets_splits; /* made for where a stack lay (split.c) */
    uint8_t round;       /* MODE_LOOP: instructions of a round; else 0 */
    uint8_t back;        /* the instruction that closes a loop to be unrolled; 0: none */
    uint8_t backs;       /* how often it did, up to so many; or never again (find.c) */
    bool is_long;        /* MODE_LOOP: has gone through all its rounds */
    bool is_dead;
    bool is_kept;          /* dead, and stands by to be revived (change.c) */
    bool has_kept;         /* behind insn: the bytes of source, own ones and ahead */
    bool is_soft;          /* has instructions with soft operands (soften.h) */
    uint8_t changes;       /* others that died at its place before; at most 255 */
    uint32_t entry;        /* with the guest's flags in the host's */
    uint32_t entry_memory; /* with the guest's flags in frame.arith */
    uint32_t entry_jump;   /* the same, by a jump to linear address r8 */
    /* Behind the head's early checks (early.c), with the flags in the host's, in memory:
     * so far from block_start; 0: as from elsewhere. */
    uint16_t loop[2];
    uint64_t early; /* the instructions that those are for, a bit each; not of loops */
    /* Where it is entered: the look of its head, behind both, whose first instruction has
     * HEAD_POLL_SIZE bytes if what it loads is read then (frame.poll); return sites that
     * it goes on behind. */
#define HEAD_POLL_SIZE 9
    uint8_t patch_count;
    struct patch patch[1 + BLOCK_CALLS_MAX];
    /* Of an indirect JMP at its end: the targets in its page, while they are learnt;
     * where its jump out of the block is patched then, and how often it has been asked.
     */
    uint16_t target[BLOCK_TARGETS_MAX];
    uint8_t target_count, targets_asked;
    bool has_learnt; /* or nothing is to be learnt */
    uint32_t target_place;
    uint32_t cold;           /* its code that is rarely run, behind the rest */
    uint32_t end;            /* of its code */
    _Atomic uint16_t misses; /* how often the plain variant had to go on */
    struct block *_Atomic hash_next, *_Atomic *hash_at;
    struct link *in;
    uint32_t first_link, last_link; /* its own: from, to before */
    const struct recovery *recovery;
    struct block_insn insn[];
};

/* Why blocks cease to be. */
enum code_cause {
    BY_STORE,    /* the guest stored to their code */
    BY_DEVICE,   /* a device did, or somebody outside the guest */
    BY_OVERFLOW, /* the cache was full */
    BY_VARIANT,  /* others, with more checks, took their place */
    CODE_CAUSES,
};

/* Where its code begins. */
static inline uint32_t block_start(const struct block *block)
{
    uint32_t start =
        block->entry < block->entry_memory ? block->entry : block->entry_memory;
    return start < block->entry_jump ? start : block->entry_jump;
}

/* Where an instruction's code begins. */
static inline uint32_t block_host(const struct block *block, unsigned ordinal)
{
    return block_start(block) + block->insn[ordinal].host;
}

/* Is that the offset in the page where an unrolled loop leads when it ends? */
static inline bool block_ends_at(const struct block *block, unsigned offset)
{
    const struct block_insn *last = &block->insn[block->back];
    return offset == last->offset + last->length;
}

/* Is the group that begins at an instruction checked at the block's head (early.c)? Who
 * finds such a check failed in an unrolled loop does not leave by it. */
static inline bool block_is_early(const struct block *block, unsigned ordinal)
{
    return !block->round && block->early >> ordinal & 1;
}

/* Its frames, by number; NULL: it has no more. */
static inline struct block_source *block_source(struct block *block, unsigned number)
{
    if (number == 0) {
        return &block->source;
    }
    return number == 1 && block->place.next != FRAME_NONE ? &block->more->source : NULL;
}

/* For people. */
struct code_counters {
    uint64_t blocks, loops, insns, guest_bytes, host_bytes; /* translated */
    uint64_t invalidated[CODE_CAUSES];
    uint64_t revived;
    uint64_t dead_now; /* blocks whose memory has not come back */
    uint64_t flushes, stopped_ns, longest_stop_ns;
};

/*
 * Ways of remembering where jumps went. The view's entries are shared by all modes of its
 * privilege, so tags tell them apart: those of 32-bit code are one entry off where the
 * same address would be in 64-bit code, and have a bit more if segments have bases.
 */
#define JUMP_USER  1u
#define JUMP_32    2u
#define JUMP_BASED 4u /* with JUMP_32 */
#define JUMP_KINDS 8u

static inline unsigned code_jump_kind(unsigned mode)
{
    return (mode & MODE_USER ? JUMP_USER : 0) | (mode & MODE_32 ? JUMP_32 : 0) |
           ((mode & (MODE_32 | MODE_FLAT)) == MODE_32 ? JUMP_BASED : 0);
}

/* What blocks are made of. */
enum code_resource {
    CODE_BYTES,
    CODE_TABLES, /* bytes of struct block and what belongs to it */
    CODE_BLOCKS,
    CODE_LINKS,
    CODE_RESOURCES,
};

/* A part of one: from start to before end, of which [start, used) holds blocks. */
struct code_extent {
    uint32_t start, end, used;
};

/* See region.c. */
struct code_region {
    struct code_extent extent[CODE_RESOURCES];
    uint32_t retired; /* its first blocks, so many, are out of use */
    uint32_t dead;    /* of its blocks */
};

/* A frame whose code was stored to, and what has that cost (change.c). */
struct stored_frame {
    frame_t frame;
    uint32_t cost;
};
#define STORED_FRAMES     256u
#define SPLIT_FRAMES      1024u

#define CODE_REGIONS_MAX  32u
#define CODE_SIZE_DEFAULT (64u << 20)
#define BLOCK_HASH        (1u << 18)

#define STACK_WRITE       1u
#define STACK_R10         2u /* not r8 */
#define STACK_LATER       4u /* r9 becomes the page's host address; else that is added */

struct code_cache {
    pthread_mutex_t lock;
    uint8_t *write;         /* PROT_READ | PROT_WRITE */
    const uint8_t *execute; /* the same, PROT_READ | PROT_EXEC */
    uint32_t size;          /* of either; the limits of all else follow from it */
    uint32_t reserved;      /* so much of it are trampolines */
    uint32_t backed;        /* so much of it has pages */
    uint8_t *metadata;
    struct block **block; /* by number */
    struct link *link;
    /* Where the next block's code, tables, number and links come from. */
    uint32_t used, metadata_used, block_count, link_count;
    struct code_region region[CODE_REGIONS_MAX];
    unsigned regions, filling; /* how many, and which one is filled */
    uint32_t region_size;      /* bytes of code */
    struct block *_Atomic *hash;
    struct block *_Atomic *kept; /* dead blocks by their places */
    struct block_source **by_frame;
    struct stored_frame stored[STORED_FRAMES]; /* by the frame's low bits */
    /* The last split of a frame for where a stack lay, by the frame's low bits. */
    _Atomic uint64_t split_at[SPLIT_FRAMES];
    _Atomic uint32_t spaces; /* address spaces that were entered anew */
    _Atomic uint64_t epoch;
    struct memory *memory;
    ZydisDecoder decoder, decoder_32;
    void *known; /* decode.c's */
    bool counts; /* code counts the instructions that it executes in frame.budget */
    /* Behind a store code looks whether the frame is watched, for that may change at any
     * time; else the TLB lets no store to a watched frame through (interpreter/hold.h).
     */
    bool looks;

    /* Trampolines, offsets. leave[reason][h]: h, the guest's flags are in the host's. */
    uint32_t enter;
    uint32_t leave[LEAVE_COUNT][2];
    uint32_t miss[2][2]; /* [is_write][h]: r8 less the tag at r9 is not in the TLB */
    uint32_t watch[2];   /* [h]: a store to host address r8 */
    /* To be called: an access of the stack, in another page than the last one. The bits
     * are STACK_*; r8 or r10 is the address less the tag of before, r9d how far in the
     * page it may lie; frame.exit_info says whose it is. */
    uint32_t stack[8];
    /* By code_jump_kind. */
    uint32_t jump[JUMP_KINDS];        /* goes on at guest address r8 */
    uint32_t return_miss[JUMP_KINDS]; /* lies at the bottom of return stacks */
    uint32_t jump_miss;

    struct code_counters counters;
    struct look *look; /* translator/look.h; NULL: nobody looks at what is made */
};

struct code_cache *code_cache_new(struct memory *memory, const struct cpuid_policy *cpuid,
                                  uint64_t size, bool counts, bool looks,
                                  struct error *err);
void code_cache_free(struct code_cache *cache);

/* The bytes of the instruction at an offset of a place's page: as many as one may have,
 * or up to the page's end, unless the place names the page behind. */
unsigned code_read(const struct code_cache *cache, const struct code_place *place,
                   unsigned offset, uint8_t bytes[INSN_BYTES_MAX]);
/* Does the instruction at an offset of a place's page cross the page's end? */
bool code_crosses(const struct code_cache *cache, const struct code_place *place,
                  unsigned offset);

/* The block at a place, or NULL. */
struct block *code_find(struct code_cache *cache, const struct code_place *place);

/* The rest is called with the lock held. */

/* What is in it is anything. */
void *code_metadata(struct code_cache *cache, size_t size);
/* Code is going to be written up to an offset. */
void code_back(struct code_cache *cache, uint32_t end);
/* Makes a finished block known. */
void code_publish(struct code_cache *cache, struct block *block);
/* Leads a displacement of 4 of 8 aligned bytes to an offset in the cache. */
void code_patch(struct code_cache *cache, uint32_t place, uint32_t target);
/* Leads a direct exit to a block. */
void code_link(struct code_cache *cache, struct link *link, struct block *to);
/* Every vCPU has stood still for so long. */
void code_note_stop(struct code_cache *cache, uint64_t ns);
/* No longer entered, nor known as the end of a link: as if its code had changed. */
void code_retire(struct code_cache *cache, struct block *block, enum code_cause cause);

/* A dead block is as it was: its guest code came back, and is watched since before its
 * source's version. */
void code_undo_kill(struct code_cache *cache, struct block *block);
unsigned code_hash(const struct code_place *place);
/* Into a bucket of a hash of blocks, in front of the others; out of it. */
void code_chain(struct block *_Atomic *head, struct block *block);
void code_unchain(struct block *block);
bool code_is_same(const struct code_place *a, const struct code_place *b);

/* Those of a frame that have a source in it, among others. */
struct block_source **code_frame_bucket(struct code_cache *cache, frame_t frame);
/* A living one dies. */
void code_end(struct code_cache *cache, struct block *block, enum code_cause cause);

/* change.c. The guest's code in this frame was stored to, and the frame's version has
 * advanced since. */
void code_stored(struct code_cache *cache, frame_t frame, unsigned offset, unsigned size,
                 enum code_cause cause);
/* A dead block that may come back will not. */
void code_discard(struct block *block);
/* The one that died last at a place, of those that may come back; else NULL. What it was
 * made of, from an offset in its page on. */
const struct block *code_before(const struct code_cache *cache,
                                const struct code_place *place);
const uint8_t *code_before_bytes(const struct block *block, unsigned offset);
/* The block at a place, if one that was kept is right again; else NULL. */
struct block *code_revive(struct code_cache *cache, const struct code_place *place);

/* split.c. A block has a split for where a stack lies, or is the plain variant that came
 * instead of one that had too many. */
void split_note(struct code_cache *cache, struct block *block, struct block *plain);
/* Is it time to forget those of a frame? Without the lock. */
bool split_is_over(struct code_cache *cache, frame_t frame);
/* Retires blocks that have such. */
void split_forget(struct code_cache *cache, frame_t frame);

/* region.c. Room for a block of the longest kind? If not, there will be after
 * code_evict. */
bool code_make_room(struct code_cache *cache);
/* Drops the oldest blocks; no vCPU is inside translated code. Places in code that anybody
 * keeps are void: the epoch advances. */
void code_evict(struct code_cache *cache);
void code_regions_init(struct code_cache *cache);
void code_region_publish(struct code_cache *cache, struct block *block);
/* One more dead block, or one less: change is 1 or -1. */
void code_region_count_dead(struct code_cache *cache, const struct block *block,
                            int change);
/* How much there is of a resource, and how much of it is used. */
uint32_t code_limit(const struct code_cache *cache, enum code_resource resource);
uint32_t code_usage(const struct code_cache *cache, enum code_resource resource);
/* Calls each with every block, dead ones too. */
void code_each(const struct code_cache *cache,
               void (*each)(void *opaque, const struct block *block), void *opaque);

/* The block and instruction whose code holds an address of the executable mapping, the
 * head's being the first instruction's; NULL: none does. Also from signal handlers. */
const struct block *code_at(const struct code_cache *cache, uintptr_t address,
                            unsigned *ordinal);

/* Writes the trampolines; once. */
void trampoline_write(struct code_cache *cache);

static inline const ZydisDecoder *code_decoder(const struct code_cache *cache,
                                               unsigned mode)
{
    return mode & MODE_32 ? &cache->decoder_32 : &cache->decoder;
}

static inline const void *code_address(const struct code_cache *cache, uint32_t offset)
{
    return cache->execute + offset;
}
