#include "interpreter/block.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "interpreter/breakpoint.h"
#include "interpreter/debug.h"
#include "interpreter/isa.h"

#define HASH_BITS         13
#define HASH_COUNT        (1u << HASH_BITS)
#define BLOCK_INSN_MAX    64

#define WATCH_STEP        64u          /* code is tracked in lines of 64 bytes */
#define ARENA_OWN         (512u << 10) /* for each vCPU */
#define ARENA_SHARED      (8u << 20)   /* for those that need more */
#define ARENA_STEP        (256u << 10) /* which they take by pieces of this */
#define CROSSING_COUNT    64
#define BLOCK_SIZE(slots) (sizeof(struct block) + ((slots) + 1) * sizeof(struct insn))

/* An instruction whose bytes lie in two pages: valid only while both are mapped as they
 * were, so its bytes are fetched and compared each time. */
struct crossing {
    uint64_t rip;
    uint8_t mode;
    uint8_t length;
    uint8_t bytes[INSN_BYTES_MAX];
    const struct block *block;
};

/*
 * What all caches of the process may still take beyond their own part, in steps. Most
 * code is run by few vCPUs at a time (booting: by one); a cache gives back what it took
 * when it is emptied, which happens to a large one in time.
 */
static atomic_int shared_steps = ARENA_SHARED / ARENA_STEP;

struct block_cache {
    uint8_t *arena;          /* ARENA_OWN + ARENA_SHARED bytes of addresses */
    size_t size, used;       /* size: as far as it may be used */
    bool is_full;            /* an allocation failed: empty it before the next block */
    ZydisDecoder decoder[3]; /* by code width: 16, 32, 64 */
    struct block *hash[HASH_COUNT];
    struct crossing crossing[CROSSING_COUNT];
};

struct block_cache *block_cache_new(const struct cpuid_policy *cpuid, struct error *err)
{
    struct block_cache *cache = mmap(NULL, sizeof(*cache), PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (cache == MAP_FAILED) {
        fail(err, errno, "cannot make a cache of decoded code");
        return NULL;
    }
    cache->size = ARENA_OWN;
    cache->arena = mmap(NULL, ARENA_OWN + ARENA_SHARED, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (cache->arena == MAP_FAILED) {
        cache->arena = NULL;
        fail(err, errno, "cannot make a cache of decoded code (%u bytes)",
             ARENA_OWN + ARENA_SHARED);
        block_cache_free(cache);
        return NULL;
    }
    for (unsigned i = 0; i < 3; i++) {
        isa_decoder_init(&cache->decoder[i], 16u << i, cpuid);
    }
    return cache;
}

/* Gives back what was shared; nothing is in use any more. */
static void arena_shrink(struct block_cache *cache)
{
    size_t taken = cache->size - ARENA_OWN;
    if (taken) {
        madvise(cache->arena + ARENA_OWN, taken, MADV_DONTNEED);
        cache->size = ARENA_OWN;
        atomic_fetch_add(&shared_steps, (int)(taken / ARENA_STEP));
    }
}

static bool arena_grow(struct block_cache *cache)
{
    int steps = atomic_load(&shared_steps);
    while (steps > 0) {
        if (atomic_compare_exchange_weak(&shared_steps, &steps, steps - 1)) {
            cache->size += ARENA_STEP;
            return true;
        }
    }
    return false;
}

void block_cache_free(struct block_cache *cache)
{
    if (!cache) {
        return;
    }
    if (cache->arena) {
        arena_shrink(cache);
        munmap(cache->arena, ARENA_OWN + ARENA_SHARED);
    }
    munmap(cache, sizeof(*cache));
}

static void *arena_alloc(struct block_cache *cache, size_t size)
{
    size = (size + 31) & ~(size_t)31;
    if (cache->size - cache->used < size && !arena_grow(cache)) {
        cache->is_full = true;
        return NULL;
    }
    void *memory = cache->arena + cache->used;
    cache->used += size;
    return memory;
}

void *bind_alloc(struct binding *binding, unsigned size)
{
    return arena_alloc(binding->blocks, size);
}

void block_cache_empty(struct cpu *cpu)
{
    struct block_cache *cache = cpu->blocks;
    arena_shrink(cache);
    cache->used = 0;
    cache->is_full = false;
    memset(cache->hash, 0, sizeof(cache->hash));
    memset(cache->crossing, 0, sizeof(cache->crossing));
    memset(cpu->jump, 0, JUMP_COUNT * sizeof(*cpu->jump));
    cpu->block = NULL;
}

static unsigned hash_place(frame_t frame, unsigned offset, uint8_t mode)
{
    uint64_t key = (((uint64_t)frame << 16 | offset) << CODE_MODE_BITS) + mode;
    return (unsigned)(key * 0x9e3779b97f4a7c15ull >> (64 - HASH_BITS));
}

/* Ends: pseudo instructions behind the last real one. */

static const struct insn *exec_block_end(struct cpu *cpu, const struct insn *insn)
{
    uint64_t rip = insn_rip(cpu, insn);
    cpu->retired += insn->ordinal;
    const struct jump_entry *jump = cpu_jump_entry(cpu, rip);
    if (jump->rip == rip && jump->key == cpu->code_key && !cpu_has_attention(cpu) &&
        block_is_valid(jump->block)) {
        return block_enter(cpu, jump->block, rip);
    }
    cpu->rip = cpu->is_long64 ? rip : (uint32_t)rip;
    return NULL;
}

/* In place of an instruction whose bytes have been overwritten. */
static const struct insn *exec_stale(struct cpu *cpu, const struct insn *insn)
{
    cpu->retired += insn->ordinal;
    cpu->rip = insn_rip(cpu, insn);
    return NULL;
}

static const struct insn *exec_undefined(struct cpu *cpu, const struct insn *insn)
{
    return insn_raise(cpu, insn, X86_UD, 0);
}

/* SDM 3A 6.15: an instruction longer than 15 bytes. */
static const struct insn *exec_too_long(struct cpu *cpu, const struct insn *insn)
{
    return insn_raise(cpu, insn, X86_GP, 0);
}

void block_spoil(struct cpu *cpu, frame_t frame)
{
    struct block *block = (struct block *)cpu->block;
    if (block && block->frame == frame) {
        for (unsigned i = 0; i <= block->slots; i++) {
            block->insn[i].exec = exec_stale;
        }
    }
}

/* In front of each instruction while the processor counts: everything is looked at
 * between any two. */
static const struct insn *exec_count(struct cpu *cpu, const struct insn *insn)
{
    cpu->counted = cpu->retired + insn->ordinal;
    bool has_to_look = cpu_has_attention(cpu) && !cpu->single_step;
    if (unlikely(has_to_look || cpu->counted >= cpu->limit)) {
        return insn_again(cpu, insn);
    }
    NEXT(cpu, insn);
}

enum decode_result {
    DECODED,        /* goes on with the next instruction */
    DECODED_LAST,   /* ends the block */
    DECODE_NO_DATA, /* the bytes end before the instruction does */
    DECODE_FULL,    /* no room in the arena */
};

static enum decode_result undefined(struct insn *insn, insn_exec *exec)
{
    insn->exec = exec;
    return DECODED_LAST;
}

static const struct insn_row *bind_row(struct binding *binding, struct insn *insn)
{
    const struct insn form = *insn;
    const struct insn_row *row;
    for (unsigned i = 0; (row = insn_find_row(binding->decoded->mnemonic, i)); i++) {
        *insn = form;
        if (row->bind(binding, row, insn)) {
            return row;
        }
    }
    return NULL;
}

/* Decodes the instruction at the start of bytes into *insn. */
static enum decode_result decode(struct cpu *cpu, const uint8_t *bytes, unsigned size,
                                 struct insn *insn)
{
    struct block_cache *cache = cpu->blocks;
    ZydisDecodedInstruction decoded;
    ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
    unsigned room = size < INSN_BYTES_MAX ? size : INSN_BYTES_MAX;
    ZyanStatus status = ZydisDecoderDecodeFull(&cache->decoder[cpu->code_mode & 3], bytes,
                                               room, &decoded, operand);
    if (status == ZYDIS_STATUS_NO_MORE_DATA) {
        return room < INSN_BYTES_MAX ? DECODE_NO_DATA : undefined(insn, exec_too_long);
    }
    if (status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG) {
        return undefined(insn, exec_too_long);
    }
    if (!ZYAN_SUCCESS(status)) {
        return undefined(insn, exec_undefined);
    }
    insn->length = decoded.length;
    insn->base = insn->index = REG_OFFSET(REG_ZERO);
    struct binding binding = {cpu, &decoded, operand, bytes, cache};
    const struct insn_row *row = NULL;
    if (native_isa_offered(cpu->cpuid, &decoded)) {
        row = bind_row(&binding, insn);
    }
    if (!row) {
        return cache->is_full ? DECODE_FULL : undefined(insn, exec_undefined);
    }
    return row->flags & ROW_ENDS_BLOCK ? DECODED_LAST : DECODED;
}

static unsigned slots_each(const struct cpu *cpu)
{
    return cpu->is_counting ? 2 : 1;
}

/* Decodes the instruction with this ordinal, whose bytes begin at an offset in the page,
 * into its slots. */
static enum decode_result decode_next(struct cpu *cpu, const uint8_t *bytes,
                                      unsigned size, struct block *block,
                                      unsigned ordinal, unsigned offset)
{
    unsigned slots = slots_each(cpu);
    struct insn *first = &block->insn[ordinal * slots];
    struct insn *insn = first + slots - 1;
    memset(first, 0, slots * sizeof(*first));
    insn->offset = (uint16_t)offset;
    insn->ordinal = (uint8_t)ordinal;
    enum decode_result result = decode(cpu, bytes, size, insn);
    if (cpu->is_counting) {
        first->exec = exec_count;
        first->offset = insn->offset;
        first->ordinal = insn->ordinal;
        first->length = insn->length;
    }
    return result;
}

static void close_block(const struct cpu *cpu, struct block *block, unsigned count,
                        unsigned end)
{
    block->slots = (uint8_t)(count * slots_each(cpu));
    struct insn *last = &block->insn[block->slots];
    memset(last, 0, sizeof(*last));
    last->exec = exec_block_end;
    last->offset = (uint16_t)end;
    last->ordinal = (uint8_t)count;
    block->count = (uint8_t)count;
}

/* Blocks begin at breakpoints, and are then found by the run loop alone, which looks. */
static bool has_breakpoint(const struct cpu *cpu, unsigned offset)
{
    return unlikely(cpu->needs_interpreter & NEEDS_BREAK) &&
           ((cpu->debug && debug_has_offset(cpu, offset)) ||
            breakpoint_has_offset(cpu, offset));
}

/*
 * Decodes from an offset in a frame up to the first instruction that ends the block, does
 * not fit in the page, or exceeds the limits. NULL if the first one crosses the page's
 * end, or the arena is full.
 */
static struct block *decode_block(struct cpu *cpu, frame_t frame, unsigned offset)
{
    struct memory *memory = cpu->memory;
    unsigned limit = cpu->code_mode & CODE_MODE_SINGLE ? 1 : BLOCK_INSN_MAX;
    /* Room for the longest is taken first, and what is not used given back, unless
     * bind_alloc has put something behind it. */
    struct block *block = arena_alloc(cpu->blocks, BLOCK_SIZE(limit * slots_each(cpu)));
    if (!block) {
        return NULL;
    }
    size_t mark = cpu->blocks->used;
    const uint8_t *bytes = memory_host(memory, frame);
    unsigned watched = offset & -WATCH_STEP, place = offset, count = 0;
    uint32_t version = 0;
    enum decode_result result = DECODED;
    while (result == DECODED && count < limit && place < FRAME_SIZE &&
           (count == 0 || !has_breakpoint(cpu, place))) {
        while (watched < FRAME_SIZE && watched < place + INSN_BYTES_MAX) {
            uint32_t now = memory_code_watch(memory, frame, watched, WATCH_STEP);
            if (watched > (offset & -WATCH_STEP) && now != version) {
                limit = count; /* overwritten meanwhile: end here; the block is already
                                  stale */
            }
            version = watched > (offset & -WATCH_STEP) ? version : now;
            watched += WATCH_STEP;
        }
        result = decode_next(cpu, bytes + place, FRAME_SIZE - place, block, count, place);
        if (result == DECODED || result == DECODED_LAST) {
            place += block->insn[count * slots_each(cpu)].length;
            count++;
        }
    }
    if (result == DECODE_FULL || count == 0) {
        return NULL;
    }
    close_block(cpu, block, count, place);
    block->frame_entry = &memory->frame[frame];
    block->version = version;
    block->offset = (uint16_t)offset;
    block->mode = cpu->code_mode & ~CODE_MODE_USER;
    block->frame = frame;
    if (cpu->blocks->used == mark) {
        cpu->blocks->used = (size_t)((uint8_t *)block - cpu->blocks->arena) +
                            ((BLOCK_SIZE(block->slots) + 31) & ~31ul);
    }
    return block;
}

/* An instruction that crosses a page's end, or lies in MMIO space. NULL with a fault
 * recorded. */
static const struct block *find_crossing(struct cpu *cpu)
{
    struct block_cache *cache = cpu->blocks;
    struct crossing *crossing =
        &cache->crossing[(cpu->rip ^ cpu->rip >> FRAME_SHIFT) % CROSSING_COUNT];
    uint8_t bytes[INSN_BYTES_MAX];
    unsigned size = access_fetch(cpu, cpu->rip, bytes, sizeof(bytes));
    struct x86_exception fault = cpu->fault;
    bool is_faulting = size < sizeof(bytes);
    cpu->has_fault = false;
    if (crossing->block && crossing->rip == cpu->rip &&
        crossing->mode == cpu->code_mode && crossing->length <= size &&
        !memcmp(crossing->bytes, bytes, crossing->length)) {
        return crossing->block;
    }
    crossing->block = NULL;
    struct block *block = arena_alloc(cache, BLOCK_SIZE(slots_each(cpu)));
    if (!block) {
        return NULL;
    }
    static const _Atomic uint64_t always_version_0;
    memset(block, 0, BLOCK_SIZE(slots_each(cpu)));
    block->frame_entry = &always_version_0;
    block->frame = FRAME_NONE;
    block->offset = cpu->rip % FRAME_SIZE;
    enum decode_result result = DECODE_NO_DATA;
    if (size) {
        result = decode_next(cpu, bytes, size, block, 0, block->offset);
    }
    if (result == DECODE_FULL) {
        return NULL;
    }
    if (result == DECODE_NO_DATA) {
        /* The missing bytes are those that cannot be fetched. */
        if (is_faulting) {
            cpu->has_fault = true;
            cpu->fault = fault;
            return NULL;
        }
        block->insn[slots_each(cpu) - 1].exec = exec_undefined;
    }
    close_block(cpu, block, 1, block->offset + block->insn[0].length);
    crossing->rip = cpu->rip;
    crossing->mode = cpu->code_mode;
    /* Of what is undefined every byte counts. */
    crossing->length = block->insn[0].length ? block->insn[0].length : (uint8_t)size;
    memcpy(crossing->bytes, bytes, sizeof(bytes));
    crossing->block = block;
    return block;
}

static struct block *find_decoded(struct cpu *cpu, frame_t frame, unsigned offset)
{
    uint8_t mode = cpu->code_mode & ~CODE_MODE_USER;
    struct block **link = &cpu->blocks->hash[hash_place(frame, offset, mode)];
    while (*link) {
        struct block *block = *link;
        if (!block_is_valid(block)) {
            *link = block->hash_next;
        } else if (block->frame == frame && block->offset == offset &&
                   block->mode == mode) {
            return block;
        } else {
            link = &block->hash_next;
        }
    }
    return NULL;
}

static const struct block *find_in_frame(struct cpu *cpu, frame_t frame, unsigned offset)
{
    struct block *block = find_decoded(cpu, frame, offset);
    if (!block) {
        block = decode_block(cpu, frame, offset);
        if (block) {
            struct block **head =
                &cpu->blocks->hash[hash_place(frame, offset, block->mode)];
            block->hash_next = *head;
            *head = block;
        }
    }
    return block;
}

/* Outside 64-bit mode every byte of an instruction must lie within CS's limit; blocks are
 * then of one instruction unless the limit is 4 GiB. */
static bool check_limit(struct cpu *cpu, const struct block *block)
{
    const struct x86_segment *cs = &cpu->state.seg[X86_CS];
    if (cpu->is_long64 || cs->limit == UINT32_MAX) {
        return true;
    }
    unsigned length = block && block->insn[0].length ? block->insn[0].length : 1;
    return (uint64_t)cpu->rip + length - 1 <= cs->limit || cpu_raise(cpu, X86_GP, 0);
}

static const struct block *find_once(struct cpu *cpu)
{
    if (!check_limit(cpu, NULL)) {
        return NULL;
    }
    frame_t frame = access_fetch_frame(cpu, cpu->rip);
    if (cpu->has_fault) {
        return NULL;
    }
    const struct block *block = NULL;
    if (frame != FRAME_NONE) {
        uint64_t linear =
            cpu->is_long64 ? cpu->rip : cpu->state.seg[X86_CS].base + cpu->rip;
        block = find_in_frame(cpu, frame, linear % FRAME_SIZE);
    }
    if (block && !has_breakpoint(cpu, block->offset)) {
        *cpu_jump_entry(cpu, cpu->rip) =
            (struct jump_entry){cpu->rip, cpu->code_key, block};
    }
    if (!block && !cpu->blocks->is_full) {
        block = find_crossing(cpu);
    }
    return block && check_limit(cpu, block) ? block : NULL;
}

const struct block *block_find(struct cpu *cpu)
{
    cpu->has_fault = false;
    if (unlikely(cpu->drops_blocks)) {
        block_cache_empty(cpu);
        cpu->drops_blocks = false;
    }
    const struct block *block = find_once(cpu);
    /* Twice if the room for stubs is found to be full, too, once there is room for
     * blocks. */
    while (!block && cpu->blocks->is_full) {
        block_cache_empty(cpu);
        block = find_once(cpu);
    }
    assert(block || cpu->has_fault);
    return block;
}

const struct insn *block_chain_slow(struct cpu *cpu, const struct insn *insn,
                                    uint64_t rip)
{
    const struct block *from = cpu->block;
    cpu->retired += insn->ordinal + 1u;
    cpu->rip = rip;
    unsigned offset = (unsigned)(rip - cpu->reg[REG_CODE_BASE]);
    if (!cpu_has_attention(cpu) && block_is_valid(from) && !has_breakpoint(cpu, offset)) {
        struct block *target = find_decoded(cpu, from->frame, offset);
        ((struct insn *)insn)->target = target; /* NULL: until it has been decoded */
    }
    return NULL;
}
