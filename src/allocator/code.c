/*
 * Which bytes of a frame have been decoded, and when that ceases to hold.
 *
 * The storing side must cost almost nothing: it stores, then loads the frame's entry and
 * is done if no watch bit is set. A processor may perform that load before the store
 * becomes visible, so the decoding side pays: having set FRAME_WATCH_CODE it makes every
 * thread pass a fence (barrier_all_threads) and only then reads the bytes. A store that
 * missed the bit is visible by then. The frame's code lock is held over both, so that a
 * second decoder, which finds the bit set, does not read before the first one's fence.
 *
 * When the bit is long set and only new lines are marked no fence of the other threads is
 * needed: their stores come here, and memory_written has a fence of its own between the
 * store and its look at the lines.
 */
#include "allocator/memory.h"

#include <assert.h>
#include <stdatomic.h>

#include "base/barrier.h"

#define LINE_SHIFT   6 /* 64 lines of 64 bytes */
#define VERSION_STEP (1ull << 32)

static pthread_mutex_t *code_lock(struct memory *memory, frame_t frame)
{
    return &memory->code_lock[frame % MEMORY_CODE_LOCKS];
}

/* The lines that [offset, offset + size) touches; none if size is 0. */
static uint64_t line_mask(unsigned offset, unsigned size)
{
    assert(offset <= FRAME_SIZE && size <= FRAME_SIZE - offset);
    if (size == 0) {
        return 0;
    }
    unsigned first = offset >> LINE_SHIFT;
    unsigned last = (offset + size - 1) >> LINE_SHIFT;
    return (~0ull >> (63 - (last - first))) << first;
}

uint32_t memory_code_watch(struct memory *memory, frame_t frame, unsigned offset,
                           unsigned size)
{
    pthread_mutex_lock(code_lock(memory, frame));
    atomic_fetch_or(&memory->code_lines[frame], line_mask(offset, size));
    uint64_t entry = atomic_fetch_or(&memory->frame[frame], FRAME_WATCH_CODE);
    if (!(entry & FRAME_WATCH_CODE)) {
        barrier_all_threads();
    }
    pthread_mutex_unlock(code_lock(memory, frame));
    return FRAME_VERSION(entry);
}

/*
 * Everything decoded from the frame ceases to be valid; nothing is watched any more, so
 * that a page of code that became a page of data is stored to at full speed again.
 */
static bool code_invalidate(struct memory *memory, frame_t frame, uint64_t hit)
{
    pthread_mutex_lock(code_lock(memory, frame));
    bool is_hit = memory->code_lines[frame] & hit;
    if (is_hit) {
        memory->code_lines[frame] = 0;
        uint64_t entry = memory->frame[frame], next;
        do {
            next = (entry + VERSION_STEP) & ~FRAME_WATCH_CODE;
        } while (!atomic_compare_exchange_weak(&memory->frame[frame], &entry, next));
    }
    pthread_mutex_unlock(code_lock(memory, frame));
    const struct memory_listener *listener = memory->listener;
    if (is_hit && listener && listener->code_changed) {
        listener->code_changed(memory->engine_opaque, frame);
    }
    return is_hit;
}

/*
 * The arming is undone before the bit is set: memory_dirty_fetch takes the bit before it
 * arms, so a frame is never left with neither.
 */
static void mark_dirty(struct memory *memory, frame_t frame)
{
    atomic_fetch_and(&memory->frame[frame], ~FRAME_WATCH_DIRTY);
    atomic_fetch_or(&memory->dirty[frame / 64], 1ull << (frame % 64));
}

bool memory_written(struct memory *memory, frame_t frame, unsigned offset, unsigned size)
{
    uint64_t hit = line_mask(offset, size);
    atomic_thread_fence(memory_order_seq_cst);
    uint64_t entry = memory->frame[frame];
    if (entry & FRAME_WATCH_DIRTY) {
        mark_dirty(memory, frame);
    }
    return (entry & FRAME_WATCH_CODE) && (memory->code_lines[frame] & hit) &&
           code_invalidate(memory, frame, hit);
}
