/*
 * The dirty log: which frames were stored to since last asked. A clean frame is armed
 * (FRAME_WATCH_DIRTY), so that the next store to it reports; the report disarms it, so
 * that further stores are free.
 */
#include "allocator/memory.h"

#include <assert.h>
#include <stdatomic.h>
#include <string.h>

#include "base/barrier.h"

static void tell_engine(struct memory *memory, bool is_on)
{
    if (memory->listener && memory->listener->log) {
        memory->listener->log(memory->engine_opaque, is_on);
    }
}

void memory_dirty_start(struct memory *memory)
{
    pthread_mutex_lock(&memory->lock);
    frame_t count = memory->frame_count;
    memory->dirty_logging = true;
    for (frame_t word = 0; word < (count + 63ull) / 64; word++) {
        memory->dirty[word] = 0;
    }
    for (frame_t frame = 0; frame < count; frame++) {
        atomic_fetch_or(&memory->frame[frame], FRAME_WATCH_DIRTY);
    }
    pthread_mutex_unlock(&memory->lock);
    tell_engine(memory, true);
    /* Stores that missed the arming are visible to whoever copies the memory from now. */
    barrier_all_threads();
}

void memory_dirty_stop(struct memory *memory)
{
    pthread_mutex_lock(&memory->lock);
    memory->dirty_logging = false;
    for (frame_t frame = 0; frame < memory->frame_count; frame++) {
        atomic_fetch_and(&memory->frame[frame], ~FRAME_WATCH_DIRTY);
    }
    pthread_mutex_unlock(&memory->lock);
    tell_engine(memory, false);
}

/* Frames that were marked stay armed: a further report changes nothing. */
void memory_dirty_mark(struct memory *memory, frame_t first, frame_t count,
                       const uint64_t *bitmap)
{
    for (frame_t i = 0; i < count; i++) {
        if (bitmap && i % 64 == 0 && bitmap[i / 64] == 0) {
            i += 63;
        } else if (!bitmap || bitmap[i / 64] >> (i % 64) & 1) {
            frame_t frame = first + i;
            atomic_fetch_or(&memory->dirty[frame / 64], 1ull << (frame % 64));
        }
    }
}

void memory_dirty_add_locked(struct memory *memory, frame_t first)
{
    for (frame_t frame = first; memory->dirty_logging && frame < memory->frame_count;
         frame++) {
        atomic_fetch_or(&memory->dirty[frame / 64], 1ull << (frame % 64));
    }
}

/* The bits of a word of the log that lie in [first, first + count). */
static uint64_t word_mask(uint64_t word, frame_t first, frame_t count)
{
    uint64_t begin = word * 64, end = (uint64_t)first + count;
    uint64_t mask = ~0ull;
    if (first > begin) {
        mask &= ~0ull << (first - begin);
    }
    if (end < begin + 64) {
        mask &= ~0ull >> (begin + 64 - end);
    }
    return mask;
}

void memory_dirty_fetch(struct memory *memory, frame_t first, frame_t count,
                        uint64_t *bitmap)
{
    assert(first <= memory->frame_count && count <= memory->frame_count - first);
    memset(bitmap, 0, (count + 63ull) / 64 * sizeof(*bitmap));
    if (count == 0) {
        return;
    }
    if (memory->listener && memory->listener->collect) {
        memory->listener->collect(memory->engine_opaque);
    }
    bool armed = false;
    uint64_t last = ((uint64_t)first + count - 1) / 64;
    for (uint64_t word = first / 64; word <= last; word++) {
        uint64_t mask = word_mask(word, first, count);
        if (!(memory->dirty[word] & mask)) {
            continue;
        }
        uint64_t taken = atomic_fetch_and(&memory->dirty[word], ~mask) & mask;
        for (; taken != 0; taken &= taken - 1) {
            frame_t frame = (frame_t)(word * 64) + (frame_t)__builtin_ctzll(taken);
            if (memory->dirty_logging) {
                atomic_fetch_or(&memory->frame[frame], FRAME_WATCH_DIRTY);
            }
            bitmap[(frame - first) / 64] |= 1ull << ((frame - first) % 64);
            armed = true;
        }
    }
    /* A store that saw its frame not yet armed is visible before the caller copies it. */
    if (armed) {
        barrier_all_threads();
    }
}
