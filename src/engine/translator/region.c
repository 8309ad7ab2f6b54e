/*
 * Room for blocks. The cache is a circle of regions, each with its share of all that
 * blocks are made of. One is filled at a time; when it is full the next one is filled
 * anew, whose blocks are the oldest. But if there is one whose blocks are nearly all
 * dead, as guest code that changes all the time makes them, that is filled, be it the
 * same again: its memory is at hand, and blocks that are in use stay.
 *
 * These blocks are taken out of use one by one beforehand, some with each block that is
 * made, as if their code had been stored to: vCPUs go on meanwhile. Only to make sure
 * that none is still inside, or keeps a place there, all have to come out for a moment.
 */
#include "engine/translator/cache.h"

#include <stddef.h>

#include "engine/translator/look.h"

#define REGION_SIZE (2u << 20) /* of code, if there are not too few or too many */
#define REGIONS_MIN 4u

/* What blocks are made of: how much of it there is, where it is counted, and what the
 * longest block may need. */
static const struct resource {
    size_t cursor;   /* field of struct code_cache: what is next */
    uint32_t shares; /* for so many bytes of code there are */
    uint32_t parts;  /* so many of it */
    uint32_t room;
} resources[CODE_RESOURCES] = {
    [CODE_BYTES] = {offsetof(struct code_cache, used), 1, 1, 84u << 10},
    [CODE_TABLES] = {offsetof(struct code_cache, metadata_used), 2, 3, 84u << 10},
    [CODE_BLOCKS] = {offsetof(struct code_cache, block_count), 256, 1, 1},
    [CODE_LINKS] = {offsetof(struct code_cache, link_count), 128, 1, 2 * LOOP_INSN_MAX},
};

static uint32_t *cursor(struct code_cache *cache, unsigned resource)
{
    return (uint32_t *)((uint8_t *)cache + resources[resource].cursor);
}

static struct code_region *next_region(struct code_cache *cache)
{
    return &cache->region[(cache->filling + 1) % cache->regions];
}

/* Dead blocks of eight, from which on a region's living ones are not worth its memory. */
#define NEARLY_ALL 7

static bool is_nearly_dead(const struct code_region *region)
{
    const struct code_extent *blocks = &region->extent[CODE_BLOCKS];
    uint32_t count = blocks->used - blocks->start;
    return count > 0 && region->dead >= count / 8 * NEARLY_ALL + count % 8;
}

/* The one to be filled when the present one is full. */
static struct code_region *find_victim(struct code_cache *cache)
{
    for (unsigned i = 0; i < cache->regions; i++) {
        struct code_region *region =
            &cache->region[(cache->filling + i) % cache->regions];
        if (is_nearly_dead(region)) {
            return region;
        }
    }
    return next_region(cache);
}

static bool is_empty(const struct code_region *region)
{
    const struct code_extent *blocks = &region->extent[CODE_BLOCKS];
    return blocks->used == blocks->start;
}

uint32_t code_limit(const struct code_cache *cache, enum code_resource resource)
{
    return cache->size / resources[resource].shares * resources[resource].parts;
}

void code_regions_init(struct code_cache *cache)
{
    uint32_t count = cache->size / REGION_SIZE;
    count = count < REGIONS_MIN ? REGIONS_MIN : count;
    cache->regions = count > CODE_REGIONS_MAX ? CODE_REGIONS_MAX : count;
    cache->region_size = (cache->size / cache->regions) & ~(uint32_t)63;
    for (unsigned i = 0; i < cache->regions; i++) {
        for (unsigned resource = 0; resource < CODE_RESOURCES; resource++) {
            uint32_t share =
                (code_limit(cache, resource) / cache->regions) & ~(uint32_t)63;
            cache->region[i].extent[resource] =
                (struct code_extent){i * share, (i + 1) * share, i * share};
        }
    }
    struct code_extent *code = &cache->region[0].extent[CODE_BYTES];
    code->start = code->used = cache->reserved;
}

static bool has_room(struct code_cache *cache)
{
    const struct code_region *region = &cache->region[cache->filling];
    for (unsigned i = 0; i < CODE_RESOURCES; i++) {
        if (*cursor(cache, i) + resources[i].room > region->extent[i].end) {
            return false;
        }
    }
    return true;
}

static void fill(struct code_cache *cache, struct code_region *region)
{
    cache->filling = (unsigned)(region - cache->region);
    region->retired = region->dead = 0;
    for (unsigned i = 0; i < CODE_RESOURCES; i++) {
        region->extent[i].used = region->extent[i].start;
        *cursor(cache, i) = region->extent[i].start;
    }
}

bool code_make_room(struct code_cache *cache)
{
    if (!has_room(cache)) {
        struct code_region *region = find_victim(cache);
        if (!is_empty(region)) {
            return false;
        }
        fill(cache, region);
    }
    code_back(cache, cache->used + resources[CODE_BYTES].room);
    return true;
}

/* The region's first blocks, up to so many, are no longer entered, nor known as the end
 * of a link. */
static void retire(struct code_cache *cache, struct code_region *region, uint32_t count)
{
    uint32_t first = region->extent[CODE_BLOCKS].start;
    while (region->retired < count) {
        code_retire(cache, cache->block[first + region->retired++], BY_OVERFLOW);
    }
}

void code_evict(struct code_cache *cache)
{
    struct code_region *region = find_victim(cache);
    const struct code_extent *blocks = &region->extent[CODE_BLOCKS];
    uint32_t count = blocks->used - blocks->start;
    retire(cache, region, count);
    cache->counters.dead_now -= count;
    cache->counters.flushes++;
    fill(cache, region);
    atomic_fetch_add(&cache->epoch, 1);
    if (cache->look) {
        look_evicted(cache->look);
    }
}

/* How much of the scarcest is used, in thousandths. */
static uint64_t fullness(const struct code_region *region)
{
    uint64_t most = 0;
    for (unsigned i = 0; i < CODE_RESOURCES; i++) {
        const struct code_extent *extent = &region->extent[i];
        uint64_t share =
            (extent->used - extent->start) * 1000ull / (extent->end - extent->start);
        most = share > most ? share : most;
    }
    return most;
}

static bool is_half_full(const struct code_region *region)
{
    bool is_half = false;
    for (unsigned i = 0; i < CODE_RESOURCES; i++) {
        const struct code_extent *extent = &region->extent[i];
        is_half |= extent->used - extent->start > (extent->end - extent->start) / 2;
    }
    return is_half;
}

/* Where the block being published got its links from, and what comes next. */
void code_region_publish(struct code_cache *cache, struct block *block)
{
    struct code_region *region = &cache->region[cache->filling];
    block->first_link = region->extent[CODE_LINKS].used;
    block->last_link = cache->link_count;
    for (unsigned i = 0; i < CODE_RESOURCES; i++) {
        region->extent[i].used = *cursor(cache, i);
    }
    if (!is_half_full(region)) {
        return;
    }
    /* From the half on, so that all are out of use when the region is full. */
    uint64_t full = fullness(region);
    struct code_region *victim = find_victim(cache);
    const struct code_extent *blocks = &victim->extent[CODE_BLOCKS];
    if (victim != region) {
        uint64_t count = blocks->used - blocks->start;
        retire(cache, victim, (uint32_t)(count * (full - 500) / 500));
    }
}

void code_region_count_dead(struct code_cache *cache, const struct block *block,
                            int change)
{
    const struct code_extent *blocks = &cache->region[0].extent[CODE_BLOCKS];
    struct code_region *region =
        &cache->region[block->number / (blocks->end - blocks->start)];
    region->dead += (uint32_t)change;
    cache->counters.dead_now += (uint64_t)(int64_t)change;
}

uint32_t code_usage(const struct code_cache *cache, enum code_resource resource)
{
    uint32_t sum = 0;
    for (unsigned i = 0; i < cache->regions; i++) {
        const struct code_extent *extent = &cache->region[i].extent[resource];
        sum += extent->used - extent->start;
    }
    return sum;
}

void code_each(const struct code_cache *cache,
               void (*each)(void *opaque, const struct block *block), void *opaque)
{
    for (unsigned i = 0; i < cache->regions; i++) {
        const struct code_extent *blocks = &cache->region[i].extent[CODE_BLOCKS];
        for (uint32_t number = blocks->start; number < blocks->used; number++) {
            each(opaque, cache->block[number]);
        }
    }
}

const struct block *code_at(const struct code_cache *cache, uintptr_t address,
                            unsigned *ordinal)
{
    uintptr_t offset = address - (uintptr_t)cache->execute;
    if (offset >= (uintptr_t)cache->regions * cache->region_size) {
        return NULL;
    }
    const struct code_region *region = &cache->region[offset / cache->region_size];
    const struct code_extent *code = &region->extent[CODE_BYTES];
    if (offset < code->start || offset >= code->used) {
        return NULL;
    }
    /* Their code lies in ascending order. */
    uint32_t low = region->extent[CODE_BLOCKS].start;
    uint32_t high = region->extent[CODE_BLOCKS].used;
    if (low == high) {
        return NULL;
    }
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (block_start(cache->block[middle]) <= offset) {
            low = middle;
        } else {
            high = middle;
        }
    }
    const struct block *block = cache->block[low];
    if (offset < block_start(block) || offset >= block->end) {
        return NULL;
    }
    unsigned i = 0;
    while (i + 1u < block->count && block_host(block, i + 1) <= offset) {
        i++;
    }
    *ordinal = i;
    return block;
}
