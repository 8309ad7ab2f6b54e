#include "engine/translator/cache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/scope.h"
#include "engine/translator/look.h"
#include "interpreter/isa.h"

#define BLOCK_ROOM (48u << 10) /* more than the code of any block */

static void *reserve(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

static void release(void *memory, size_t size)
{
    if (memory) {
        munmap(memory, size);
    }
}

/* Of no file: only then perf asks its map for names. */
static int map_code(struct code_cache *cache, struct error *err)
{
    void *write = mmap(NULL, CODE_SIZE, PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (write == MAP_FAILED) {
        return fail(err, errno, "cannot map memory for translated code");
    }
    cache->write = write;
    /* mremap(2): with no old size the same pages get a second mapping. */
    void *execute = mremap(write, 0, CODE_SIZE, MREMAP_MAYMOVE);
    if (execute == MAP_FAILED) {
        return fail(err, errno, "cannot map memory for translated code a second time");
    }
    cache->execute = execute;
    if (mprotect(execute, CODE_SIZE, PROT_READ | PROT_EXEC) < 0) {
        return fail(err, errno,
                    "cannot map memory for translated code as executable (a security "
                    "policy may forbid it); use --engine interpreter");
    }
    return 0;
}

struct code_cache *code_cache_new(struct memory *memory, const struct cpuid_policy *cpuid,
                                  bool counts, struct error *err)
{
    struct code_cache *cache = calloc(1, sizeof(*cache));
    if (!cache) {
        fail(err, ENOMEM, "cannot make a code cache");
        return NULL;
    }
    pthread_mutex_init(&cache->lock, NULL);
    cache->memory = memory;
    cache->counts = counts;
    isa_decoder_init(&cache->decoder, 64, cpuid);
    isa_decoder_init(&cache->decoder_32, 32, cpuid);
    cache->metadata = reserve(METADATA_SIZE);
    cache->block = reserve(BLOCKS_MAX * sizeof(*cache->block));
    cache->link = reserve(LINKS_MAX * sizeof(*cache->link));
    cache->hash = reserve(BLOCK_HASH * sizeof(*cache->hash));
    cache->by_frame = reserve(BLOCK_HASH * sizeof(*cache->by_frame));
    if (!cache->metadata || !cache->block || !cache->link || !cache->hash ||
        !cache->by_frame) {
        fail(err, ENOMEM, "cannot make a code cache");
        code_cache_free(cache);
        return NULL;
    }
    if (map_code(cache, err) < 0) {
        code_cache_free(cache);
        return NULL;
    }
    trampoline_write(cache);
    return cache;
}

void code_cache_free(struct code_cache *cache)
{
    if (!cache) {
        return;
    }
    release(cache->write, CODE_SIZE);
    release((void *)(uintptr_t)cache->execute, CODE_SIZE);
    release(cache->metadata, METADATA_SIZE);
    release(cache->block, BLOCKS_MAX * sizeof(*cache->block));
    release(cache->link, LINKS_MAX * sizeof(*cache->link));
    release(cache->hash, BLOCK_HASH * sizeof(*cache->hash));
    release(cache->by_frame, BLOCK_HASH * sizeof(*cache->by_frame));
    pthread_mutex_destroy(&cache->lock);
    free(cache);
}

/* A guest may run one page of kernel code at addresses without number. */
static unsigned hash_place(frame_t frame, unsigned offset, unsigned mode, uint64_t page)
{
    uint64_t key = (uint64_t)frame << FRAME_SHIFT | offset;
    if (!(mode & MODE_USER)) {
        key ^= page * 0xd6e8feb86659fd93ull;
    }
    return (unsigned)(key * 0x9e3779b97f4a7c15ull >> 48) & (BLOCK_HASH - 1);
}

static struct block *_Atomic *hash_head(struct code_cache *cache,
                                        const struct block *block)
{
    return &cache
                ->hash[hash_place(block->frame, block->offset, block->mode, block->page)];
}

static unsigned frame_place(frame_t frame)
{
    return frame & (BLOCK_HASH - 1);
}

struct block *code_find(struct code_cache *cache, frame_t frame, unsigned offset,
                        unsigned mode, uint64_t page)
{
    struct block *block = atomic_load_explicit(
        &cache->hash[hash_place(frame, offset, mode, page)], memory_order_acquire);
    while (block) {
        if (block->frame == frame && block->offset == offset && block->mode == mode &&
            !block->is_dead && (mode & MODE_USER || block->page == page)) {
            return block;
        }
        block = atomic_load_explicit(&block->hash_next, memory_order_acquire);
    }
    return NULL;
}

bool code_has_room(const struct code_cache *cache)
{
    return cache->used + BLOCK_ROOM <= CODE_SIZE &&
           cache->metadata_used + BLOCK_ROOM <= METADATA_SIZE &&
           cache->block_count < BLOCKS_MAX &&
           cache->link_count + 2 * BLOCK_INSN_MAX <= LINKS_MAX;
}

void *code_metadata(struct code_cache *cache, size_t size)
{
    void *memory = cache->metadata + cache->metadata_used;
    cache->metadata_used += (size + 15) & ~(size_t)15;
    memset(memory, 0, size);
    return memory;
}

void code_publish(struct code_cache *cache, struct block *block)
{
    const struct block_insn *last = &block->insn[block->count - 1];
    cache->counters.blocks++;
    cache->counters.insns += block->count;
    cache->counters.guest_bytes += last->offset + last->length - block->offset;
    cache->counters.host_bytes += block->end - block->entry_memory;
    struct block **same_frame = &cache->by_frame[frame_place(block->frame)];
    block->frame_next = *same_frame;
    *same_frame = block;
    struct block *_Atomic *head = hash_head(cache, block);
    block->hash_next = *head;
    atomic_store_explicit(head, block, memory_order_release);
    if (cache->look) {
        look_block(cache->look, cache, block);
    }
}

/* Other vCPUs execute what is patched: one aligned store each time. */
static void patch32(struct code_cache *cache, uint32_t place, uint32_t target)
{
    int32_t distance = (int32_t)(target - (place + 4));
    atomic_store_explicit((_Atomic int32_t *)(cache->write + place), distance,
                          memory_order_release);
}

void code_link(struct code_cache *cache, struct link *link, struct block *to)
{
    if (link->is_linked || to->is_dead) {
        return;
    }
    link->is_linked = true;
    link->next = to->in;
    to->in = link;
    patch32(cache, link->place, link->from_memory ? to->entry_memory : to->entry);
}

static void kill(struct code_cache *cache, struct block *block)
{
    block->is_dead = true;
    cache->counters.dead_now++;
    uint64_t code = 0xe9; /* JMP rel32, and what the NOP's place had behind it */
    int32_t distance = (int32_t)(block->stale - (block->patch + 5));
    uint64_t old;
    memcpy(&old, cache->write + block->patch, 8);
    code |= (uint64_t)(uint32_t)distance << 8 | (old & 0xffffffull << 40);
    atomic_store_explicit((_Atomic uint64_t *)(cache->write + block->patch), code,
                          memory_order_release);
    for (struct link *link = block->in; link; link = link->next) {
        link->is_linked = false;
        patch32(cache, link->place, link->stub);
    }
    block->in = NULL;
    struct block *_Atomic *at = hash_head(cache, block);
    while (*at && *at != block) {
        at = &(*at)->hash_next;
    }
    if (*at) {
        atomic_store_explicit(at, block->hash_next, memory_order_release);
    }
}

void code_invalidate_frame(struct code_cache *cache, frame_t frame, enum code_cause cause)
{
    uint32_t version = FRAME_VERSION(cache->memory->frame[frame]);
    struct block **at = &cache->by_frame[frame_place(frame)];
    while (*at) {
        struct block *block = *at;
        if (block->frame == frame && block->version != version) {
            kill(cache, block);
            cache->counters.invalidated[cause]++;
            *at = block->frame_next;
        } else {
            at = &block->frame_next;
        }
    }
}

void code_drop_all(struct code_cache *cache)
{
    memset((void *)cache->hash, 0, BLOCK_HASH * sizeof(*cache->hash));
    memset(cache->by_frame, 0, BLOCK_HASH * sizeof(*cache->by_frame));
    cache->counters.invalidated[BY_OVERFLOW] +=
        cache->block_count - cache->counters.dead_now;
    cache->counters.dead_now = 0;
    cache->counters.flushes++;
    if (cache->look) {
        look_evicted(cache->look);
    }
    cache->used = cache->reserved;
    cache->metadata_used = 0;
    cache->block_count = 0;
    cache->link_count = 0;
    atomic_fetch_add(&cache->epoch, 1);
}

void code_note_stop(struct code_cache *cache, uint64_t ns)
{
    cache->counters.stopped_ns += ns;
    if (ns > cache->counters.longest_stop_ns) {
        cache->counters.longest_stop_ns = ns;
    }
}

const struct block *code_at(const struct code_cache *cache, uintptr_t address,
                            unsigned *ordinal)
{
    uintptr_t offset = address - (uintptr_t)cache->execute;
    if (offset >= cache->used || offset < cache->reserved) {
        return NULL;
    }
    uint32_t low = 0, high = cache->block_count;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (cache->block[middle]->patch <= offset) {
            low = middle;
        } else {
            high = middle;
        }
    }
    const struct block *block = high ? cache->block[low] : NULL;
    if (!block || offset < block->insn[0].host || offset >= block->end) {
        return NULL;
    }
    unsigned i = 0;
    while (i + 1u < block->count && block->insn[i + 1].host <= offset) {
        i++;
    }
    *ordinal = i;
    return block;
}
