/*
 * Page faults of the host, saved: who uses a page will use those beside it, since a guest
 * hands its memory out by neighbours. The first use of any page of a chunk brings them
 * all, by one call instead of a fault for each. A chunk is brought once: what is taken
 * from the guest afterwards comes back page by page, when it is used.
 */
#include <stdatomic.h>
#include <sys/mman.h>

#include "allocator/memory.h"

void memory_populate(struct memory *memory, frame_t frame)
{
    frame_t chunk = frame / POPULATE_FRAMES;
    _Atomic uint64_t *word = &memory->populated[chunk / 64];
    uint64_t bit = 1ull << chunk % 64;
    if (atomic_load_explicit(word, memory_order_relaxed) & bit ||
        atomic_fetch_or(word, bit) & bit) {
        return;
    }
    if (memory->loader) {
        return; /* pages of a saved VM come one by one, when they are touched */
    }
    frame_t first = chunk * POPULATE_FRAMES, left = memory->frame_limit - first;
    frame_t count = left < POPULATE_FRAMES ? left : POPULATE_FRAMES;
    /* Where it fails, for want of memory or on a host before Linux 5.14, faults do it. */
    madvise(memory_host(memory, first), (size_t)count * FRAME_SIZE, MADV_POPULATE_WRITE);
}
