/*
 * Which bytes of a frame have been decoded, and when that ceases to hold.
 *
 * The storing side must cost almost nothing: it stores, then loads the frame's entry and
 * is done if no watch bit is set. A processor may perform that load before the store
 * becomes visible, so the decoding side pays: having set FRAME_WATCH_CODE it makes every
 * thread pass a fence (barrier_all_threads) and only then reads the bytes. A store that
 * missed the bit is visible by then. A second decoder must not read before that fence: if
 * it finds its lines watched, which they are not before, it may; else it waits for the
 * frame's code lock, which is held over all of this.
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
    /* The version first: a store behind the look at it that has the lines forgotten
     * advances it. */
    uint64_t before = memory->frame[frame], lines = line_mask(offset, size);
    if (before & FRAME_WATCH_CODE && !(lines & ~memory->code_lines[frame])) {
        return FRAME_VERSION(before);
    }
    pthread_mutex_lock(code_lock(memory, frame));
    uint64_t entry = atomic_fetch_or(&memory->frame[frame], FRAME_WATCH_CODE);
    if (!(entry & FRAME_WATCH_CODE)) {
        const struct memory_listener *listener = memory->listener;
        if (listener && listener->code_watched) {
            listener->code_watched(memory->engine_opaque, frame);
        }
        barrier_all_threads();
    }
    atomic_fetch_or(&memory->code_lines[frame], lines);
    pthread_mutex_unlock(code_lock(memory, frame));
    return FRAME_VERSION(entry);
}

/* The code lock is held. */
static void advance_version(struct memory *memory, frame_t frame)
{
    uint64_t entry = memory->frame[frame];
    while (!atomic_compare_exchange_weak(&memory->frame[frame], &entry,
                                         entry + VERSION_STEP)) {
    }
}

/*
 * The bit stays until the next store to the frame that finds no line watched, for who
 * changes an instruction often executes it next, and decoding anew needs no fence of the
 * other threads while the bit is set.
 */
void memory_code_forget(struct memory *memory, frame_t frame)
{
    pthread_mutex_lock(code_lock(memory, frame));
    memory->code_lines[frame] = 0;
    advance_version(memory, frame);
    pthread_mutex_unlock(code_lock(memory, frame));
}

static bool code_invalidate(struct memory *memory, frame_t frame, unsigned offset,
                            unsigned size)
{
    const struct memory_listener *listener = memory->listener;
    bool is_heard = listener && listener->code_changed;
    pthread_mutex_lock(code_lock(memory, frame));
    bool is_hit = memory->code_lines[frame] & line_mask(offset, size);
    if (is_hit) {
        advance_version(memory, frame);
        if (!is_heard) {
            memory->code_lines[frame] = 0;
        }
    }
    pthread_mutex_unlock(code_lock(memory, frame));
    if (is_hit && is_heard) {
        listener->code_changed(memory->engine_opaque, frame, offset, size);
    }
    return is_hit;
}

/* Nothing was decoded since the last store to code: a page of data is stored to at full
 * speed again. */
static void code_unwatch(struct memory *memory, frame_t frame)
{
    pthread_mutex_lock(code_lock(memory, frame));
    if (memory->code_lines[frame] == 0) {
        atomic_fetch_and(&memory->frame[frame], ~FRAME_WATCH_CODE);
    }
    pthread_mutex_unlock(code_lock(memory, frame));
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
    if (!(entry & FRAME_WATCH_CODE)) {
        return false;
    }
    uint64_t lines = memory->code_lines[frame];
    if (lines == 0) {
        code_unwatch(memory, frame);
    }
    return (lines & hit) && code_invalidate(memory, frame, offset, size);
}
