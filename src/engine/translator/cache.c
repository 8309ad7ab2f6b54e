#include "engine/translator/cache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/scope.h"
#include "engine/translator/decode.h"
#include "engine/translator/look.h"
#include "interpreter/isa.h"

static void *reserve(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

static void use_huge_pages(void *memory, size_t size)
{
    if (memory) {
        madvise(memory, size, MADV_HUGEPAGE); /* in vain where the host has none */
    }
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
    void *write = mmap(NULL, cache->size, PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (write == MAP_FAILED) {
        return fail(err, errno, "cannot map memory for translated code");
    }
    cache->write = write;
    /* mremap(2): with no old size the same pages get a second mapping. */
    void *execute = mremap(write, 0, cache->size, MREMAP_MAYMOVE);
    if (execute == MAP_FAILED) {
        return fail(err, errno, "cannot map memory for translated code a second time");
    }
    cache->execute = execute;
    if (mprotect(execute, cache->size, PROT_READ | PROT_EXEC) < 0) {
        return fail(err, errno,
                    "cannot map memory for translated code as executable (a security "
                    "policy may forbid it); use --engine interpreter");
    }
    return 0;
}

struct code_cache *code_cache_new(struct memory *memory, const struct cpuid_policy *cpuid,
                                  uint64_t size, bool counts, bool looks,
                                  struct error *err)
{
    struct code_cache *cache = calloc(1, sizeof(*cache));
    if (!cache) {
        fail(err, ENOMEM, "cannot make a code cache");
        return NULL;
    }
    pthread_mutex_init(&cache->lock, NULL);
    cache->memory = memory;
    cache->counts = counts;
    cache->looks = looks;
    cache->size = (uint32_t)(size ? size : CODE_SIZE_DEFAULT) & -(1u << 20);
    size_t blocks = code_limit(cache, CODE_BLOCKS), links = code_limit(cache, CODE_LINKS);
    isa_decoder_init(&cache->decoder, 64, cpuid);
    isa_decoder_init(&cache->decoder_32, 32, cpuid);
    cache->metadata = reserve(code_limit(cache, CODE_TABLES));
    cache->block = reserve(blocks * sizeof(*cache->block));
    cache->link = reserve(links * sizeof(*cache->link));
    cache->hash = reserve(BLOCK_HASH * sizeof(*cache->hash));
    cache->kept = reserve(BLOCK_HASH * sizeof(*cache->kept));
    /* Looking a block up, or an instruction's kind, touches them at random. */
    use_huge_pages(cache->hash, BLOCK_HASH * sizeof(*cache->hash));
    use_huge_pages(cache->metadata, code_limit(cache, CODE_TABLES));
    cache->by_frame = reserve(BLOCK_HASH * sizeof(*cache->by_frame));
    cache->known = reserve(decode_size());
    use_huge_pages(cache->known, decode_size());
    if (!cache->metadata || !cache->block || !cache->link || !cache->hash ||
        !cache->kept || !cache->by_frame || !cache->known) {
        fail(err, ENOMEM, "cannot make a code cache");
        code_cache_free(cache);
        return NULL;
    }
    if (map_code(cache, err) < 0) {
        code_cache_free(cache);
        return NULL;
    }
    trampoline_write(cache);
    code_regions_init(cache);
    return cache;
}

void code_cache_free(struct code_cache *cache)
{
    if (!cache) {
        return;
    }
    release(cache->write, cache->size);
    release((void *)(uintptr_t)cache->execute, cache->size);
    size_t blocks = code_limit(cache, CODE_BLOCKS), links = code_limit(cache, CODE_LINKS);
    release(cache->metadata, code_limit(cache, CODE_TABLES));
    release(cache->block, blocks * sizeof(*cache->block));
    release(cache->link, links * sizeof(*cache->link));
    release(cache->hash, BLOCK_HASH * sizeof(*cache->hash));
    release(cache->kept, BLOCK_HASH * sizeof(*cache->kept));
    release(cache->by_frame, BLOCK_HASH * sizeof(*cache->by_frame));
    release(cache->known, decode_size());
    pthread_mutex_destroy(&cache->lock);
    free(cache);
}

/* So much of the code cache has its pages at a time, rather than a fault for each of
 * them in each mapping. */
#define BACKED_STEP (256u << 10)

void code_back(struct code_cache *cache, uint32_t end)
{
    while (cache->backed < end) {
        uint32_t left = cache->size - cache->backed;
        uint32_t size = left < BACKED_STEP ? left : BACKED_STEP;
        /* In vain before Linux 5.14, where pages come as they are touched. */
        madvise(cache->write + cache->backed, size, MADV_POPULATE_WRITE);
        madvise((void *)(uintptr_t)(cache->execute + cache->backed), size,
                MADV_POPULATE_READ);
        cache->backed += size;
    }
}

/* A guest may run one page of kernel code at addresses without number. What lies near
 * each other in a page does here, too: code is met in its order, mostly. */
unsigned code_hash(const struct code_place *place)
{
    uint64_t key = place->frame;
    if (code_is_fixed(place->mode)) {
        key ^= place->page * 0xd6e8feb86659fd93ull;
    }
    unsigned page = (unsigned)(key * 0x9e3779b97f4a7c15ull >> 40);
    return (page ^ place->offset / 16u) & (BLOCK_HASH - 1);
}

unsigned code_read(const struct code_cache *cache, const struct code_place *place,
                   unsigned offset, uint8_t bytes[INSN_BYTES_MAX])
{
    unsigned left = FRAME_SIZE - offset;
    unsigned first = left < INSN_BYTES_MAX ? left : INSN_BYTES_MAX;
    memcpy(bytes, memory_host(cache->memory, place->frame) + offset, first);
    if (first == INSN_BYTES_MAX || place->next == FRAME_NONE) {
        return first;
    }
    memcpy(bytes + first, memory_host(cache->memory, place->next),
           INSN_BYTES_MAX - first);
    return INSN_BYTES_MAX;
}

bool code_crosses(const struct code_cache *cache, const struct code_place *place,
                  unsigned offset)
{
    if (offset <= FRAME_SIZE - INSN_BYTES_MAX) {
        return false;
    }
    uint8_t bytes[INSN_BYTES_MAX];
    memcpy(bytes, memory_host(cache->memory, place->frame) + offset, FRAME_SIZE - offset);
    ZydisDecodedInstruction decoded;
    return ZydisDecoderDecodeInstruction(code_decoder(cache, place->mode), NULL, bytes,
                                         FRAME_SIZE - offset,
                                         &decoded) == ZYDIS_STATUS_NO_MORE_DATA;
}

bool code_is_same(const struct code_place *a, const struct code_place *b)
{
    return a->frame == b->frame && a->offset == b->offset && a->mode == b->mode &&
           a->next == b->next && (!code_is_fixed(a->mode) || a->page == b->page);
}

struct block *code_find(struct code_cache *cache, const struct code_place *place)
{
    struct block *block =
        atomic_load_explicit(&cache->hash[code_hash(place)], memory_order_acquire);
    while (block && (block->is_dead || !code_is_same(&block->place, place))) {
        block = atomic_load_explicit(&block->hash_next, memory_order_acquire);
    }
    return block;
}

void *code_metadata(struct code_cache *cache, size_t size)
{
    void *memory = cache->metadata + cache->metadata_used;
    cache->metadata_used += (size + 15) & ~(size_t)15;
    return memory;
}

void code_chain(struct block *_Atomic *head, struct block *block)
{
    struct block *next = *head;
    block->hash_next = next;
    block->hash_at = head;
    if (next) {
        next->hash_at = &block->hash_next;
    }
    atomic_store_explicit(head, block, memory_order_release);
}

void code_unchain(struct block *block)
{
    struct block *next = block->hash_next;
    if (next) {
        next->hash_at = block->hash_at;
    }
    atomic_store_explicit(block->hash_at, next, memory_order_release);
}

/* Puts it where stores and those who look for it find it. */
static void insert(struct code_cache *cache, struct block *block)
{
    struct block_source *source;
    for (unsigned i = 0; (source = block_source(block, i)); i++) {
        struct block_source **same = code_frame_bucket(cache, source->frame);
        source->block = block;
        source->next = *same;
        source->at = same;
        if (*same) {
            (*same)->at = &source->next;
        }
        *same = source;
    }
    code_chain(&cache->hash[code_hash(&block->place)], block);
}

void code_publish(struct code_cache *cache, struct block *block)
{
    const struct block_insn *last = &block->insn[block->count - 1];
    cache->counters.blocks++;
    cache->counters.loops += block->round != 0;
    cache->counters.insns += block->count;
    cache->counters.guest_bytes += last->offset + last->length - block->place.offset;
    cache->counters.host_bytes += block->end - block_start(block);
    insert(cache, block);
    if (cache->look) {
        look_block(cache->look, cache, block);
    }
    code_region_publish(cache, block);
}

/* Other vCPUs execute what is patched: one store within eight aligned bytes, which is
 * atomic (SDM 3A 9.1.1, APM 2 7.3.2). */
void code_patch(struct code_cache *cache, uint32_t place, uint32_t target)
{
    int32_t distance = (int32_t)(target - (place + 4));
    __asm__ volatile("movl %1, %0"
                     : "=m"(*(uint8_t(*)[4])(cache->write + place))
                     : "r"(distance)
                     : "memory");
}

static uint32_t entry_of(const struct link *link, const struct block *to)
{
    if (link->is_loop && link->from == to->number && to->loop[link->from_memory]) {
        return block_start(to) + to->loop[link->from_memory];
    }
    return link->from_memory ? to->entry_memory : to->entry;
}

void code_link(struct code_cache *cache, struct link *link, struct block *to)
{
    /* Where the page behind lies each jump has to find out. */
    if (link->is_linked || to->is_dead || to->place.next != FRAME_NONE ||
        cache->block[link->from]->is_dead) {
        return;
    }
    link->is_linked = true;
    link->next = to->in;
    link->at = &to->in;
    if (to->in) {
        to->in->at = &link->next;
    }
    to->in = link;
    code_patch(cache, link->place, entry_of(link, to));
}

static void source_remove(struct block_source *source)
{
    *source->at = source->next;
    if (source->next) {
        source->next->at = source->at;
    }
}

static void patch64(struct code_cache *cache, uint32_t place, uint64_t code)
{
    atomic_store_explicit((_Atomic uint64_t *)(cache->write + place), code,
                          memory_order_release);
}

static void lead_out(struct code_cache *cache, struct patch *patch)
{
    memcpy(&patch->code, cache->write + patch->place, 8);
    int32_t distance = (int32_t)(patch->target - (patch->place + 5));
    /* JMP rel32, and what an instruction as long had behind it */
    patch64(cache, patch->place,
            (uint64_t)(uint32_t)distance << 8 | 0xe9 | (patch->code & 0xffffffull << 40));
}

static void kill(struct code_cache *cache, struct block *block)
{
    block->is_dead = true;
    code_region_count_dead(cache, block, 1);
    for (unsigned i = 0; i < block->patch_count; i++) {
        lead_out(cache, &block->patch[i]);
    }
    for (struct link *link = block->in; link; link = link->next) {
        link->is_linked = false;
        code_patch(cache, link->place, link->stub);
    }
    block->in = NULL;
    code_unchain(block);
    struct block_source *source;
    for (unsigned i = 0; (source = block_source(block, i)); i++) {
        source_remove(source);
    }
}

void code_undo_kill(struct code_cache *cache, struct block *block)
{
    block->is_dead = false;
    code_region_count_dead(cache, block, -1);
    cache->counters.revived++;
    for (unsigned i = 0; i < block->patch_count; i++) {
        patch64(cache, block->patch[i].place, block->patch[i].code);
    }
    insert(cache, block);
}

void code_end(struct code_cache *cache, struct block *block, enum code_cause cause)
{
    cache->counters.invalidated[cause]++;
    kill(cache, block);
}

struct block_source **code_frame_bucket(struct code_cache *cache, frame_t frame)
{
    return &cache->by_frame[frame & (BLOCK_HASH - 1)];
}

static void link_remove(struct link *link)
{
    *link->at = link->next;
    if (link->next) {
        link->next->at = link->at;
    }
    link->is_linked = false;
}

void code_retire(struct code_cache *cache, struct block *block, enum code_cause cause)
{
    if (!block->is_dead) {
        code_end(cache, block, cause);
    }
    code_discard(block);
    for (uint32_t i = block->first_link; i < block->last_link; i++) {
        if (cache->link[i].is_linked) {
            link_remove(&cache->link[i]);
        }
    }
}

void code_note_stop(struct code_cache *cache, uint64_t ns)
{
    cache->counters.stopped_ns += ns;
    if (ns > cache->counters.longest_stop_ns) {
        cache->counters.longest_stop_ns = ns;
    }
}
