/* Code tracking: lines, versions, and stores racing with decoders. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#undef fail /* cmocka has one, too */

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "base/barrier.h"
#include "fixture.h"

static uint32_t version_of(frame_t frame)
{
    return FRAME_VERSION(memory->frame[frame]);
}

static void test_only_stores_to_decoded_lines_invalidate(void **unused)
{
    uint32_t version = memory_code_watch(memory, 2, 60, 10); /* lines 0 and 1 */
    assert_true(memory->frame[2] & FRAME_WATCH_CODE);
    assert_false(memory_written(memory, 2, 128, 64));
    assert_false(memory_written(memory, 2, 4095, 1));
    assert_false(memory_written(memory, 2, 0, 0));
    assert_false(memory_written(memory, 3, 0, 64));
    assert_int_equal(version_of(2), version);
    assert_true(memory_written(memory, 2, 127, 1));
    assert_int_equal(version_of(2), version + 1);
    /* What became data is data again when it is stored to once more. */
    assert_false(memory_written(memory, 2, 0, 64));
    assert_false(memory->frame[2] & FRAME_WATCH_ANY);
    assert_int_equal(version_of(2), version + 1);
    assert_int_equal(memory_code_watch(memory, 2, 0, FRAME_SIZE), version + 1);
    assert_true(memory_written(memory, 2, 4032, 64));
    assert_int_equal(version_of(2), version + 2);
}

static void test_lines_accumulate(void **unused)
{
    uint32_t version = memory_code_watch(memory, 1, 0, 1);
    assert_int_equal(memory_code_watch(memory, 1, 640, 64), version);
    assert_false(memory_written(memory, 1, 64, 576));
    assert_true(memory_written(memory, 1, 63, 577));
    assert_false(memory_written(memory, 1, 640, 1)); /* all went at once */
}

static void test_the_version_leaves_other_bits_alone(void **unused)
{
    memory_dirty_start(memory);
    memory->frame[4] |= 0xffffffffull << 32; /* the last version */
    memory_code_watch(memory, 4, 0, 8);
    assert_true(memory_written(memory, 4, 0, 8));
    assert_int_equal(version_of(4), 0);
    assert_int_equal(memory->frame[4] & 0xffffffff, FRAME_RESIDENT | FRAME_WATCH_CODE);
    memory_dirty_stop(memory);
    memory_written(memory, 4, 0, 8);
    assert_int_equal(memory->frame[4] & 0xffffffff, FRAME_RESIDENT);
    assert_int_equal(version_of(4), 0);
}

/* Of a frame that becomes watched no line is before the fence: who finds one may read. */
static void note_lines(void *opaque, frame_t frame)
{
    uint64_t *lines = opaque;
    assert_true(memory->frame[frame] & FRAME_WATCH_CODE);
    *lines = memory->code_lines[frame];
}

static void test_lines_are_watched_behind_the_fence(void **unused)
{
    static const struct memory_listener listener = {.code_watched = note_lines};
    uint64_t lines = 1;
    memory_set_engine(memory, &listener, &lines);
    uint32_t version = memory_code_watch(memory, 6, 0, 128);
    assert_int_equal(lines, 0);
    assert_int_equal(memory->code_lines[6], 3);
    lines = 1;
    assert_int_equal(memory_code_watch(memory, 6, 64, 192), version);
    assert_int_equal(memory->code_lines[6], 15);
    assert_int_equal(lines, 1); /* not told again */
    memory_set_engine(memory, NULL, NULL);
}

/*
 * The race itself, in rounds begun by both threads at once: one stores the round's number
 * as a guest does, the other decodes the same bytes. The decoder has seen the store, or
 * its version no longer stands. In even rounds the frame is not watched before, in odd
 * ones it is, for another line.
 */
enum { ROUNDS = 3000, TARGET = 5 };

static _Atomic int begun, stored;

static _Atomic uint64_t *target(void)
{
    return (_Atomic uint64_t *)(void *)memory_host(memory, TARGET);
}

static void *store_rounds(void *opaque)
{
    for (int round = 1; round <= ROUNDS; round++) {
        /* With the entry at hand and the line elsewhere the store takes longest. */
        for (int spins = 1; begun < round; spins++) {
            (void)memory->frame[TARGET];
            if (spins % 4096 == 0) {
                sched_yield(); /* the other thread may want this very processor */
            }
        }
        atomic_store_explicit(target(), (uint64_t)round, memory_order_relaxed);
        barrier_light();
        if (atomic_load_explicit(&memory->frame[TARGET], memory_order_relaxed) &
            FRAME_WATCH_ANY) {
            memory_written(memory, TARGET, 0, 8);
        }
        stored = round;
    }
    return NULL;
}

static void test_no_store_is_missed(void **unused)
{
    pthread_t thread;
    int stale = 0;
    assert_int_equal(pthread_create(&thread, NULL, store_rounds, NULL), 0);
    for (int round = 1; round <= ROUNDS; round++) {
        memory_code_watch(memory, TARGET, 0, FRAME_SIZE);
        memory_written(memory, TARGET, 0, FRAME_SIZE);
        if (round & 1) {
            memory_code_watch(memory, TARGET, 640, 8);
        }
        atomic_fetch_add(target() + 1, 1);
        atomic_store_explicit(&begun, round, memory_order_release);
        for (int delay = round % 40; delay > 0; delay--) {
            __builtin_ia32_pause();
        }
        uint32_t version = memory_code_watch(memory, TARGET, 0, 8);
        uint64_t seen = atomic_load_explicit(target(), memory_order_relaxed);
        for (int spins = 1; stored < round; spins++) {
            if (spins % 4096 == 0) {
                sched_yield();
            }
        }
        stale += version == version_of(TARGET) && seen != (uint64_t)round;
    }
    pthread_join(thread, NULL);
    assert_int_equal(stale, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_only_stores_to_decoded_lines_invalidate),
        TEST(test_lines_accumulate),
        TEST(test_the_version_leaves_other_bits_alone),
        TEST(test_lines_are_watched_behind_the_fence),
        TEST(test_no_store_is_missed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
