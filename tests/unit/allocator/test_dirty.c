/* The dirty log: complete, cleared by fetching, also under concurrent stores. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#undef fail /* cmocka has one, too */

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "base/barrier.h"
#include "fixture.h"

static void store(frame_t frame, uint64_t value)
{
    _Atomic uint64_t *word = (_Atomic uint64_t *)(void *)memory_host(memory, frame);
    atomic_store_explicit(word, value, memory_order_relaxed);
    barrier_light();
    if (atomic_load_explicit(&memory->frame[frame], memory_order_relaxed) &
        FRAME_WATCH_ANY) {
        memory_written(memory, frame, 0, 8);
    }
}

static void test_stores_are_logged_once_per_fetch(void **unused)
{
    uint64_t bits = ~0ull;
    store(1, 1); /* not logged yet */
    memory_dirty_start(memory);
    memory_dirty_fetch(memory, 0, ALL_PAGES, &bits);
    assert_int_equal(bits, 0);
    store(2, 1);
    store(2, 2);
    store(20, 1);
    assert_false(memory->frame[2] & FRAME_WATCH_ANY); /* further stores are free */
    memory_dirty_fetch(memory, 0, ALL_PAGES, &bits);
    assert_int_equal(bits, 1ull << 2 | 1ull << 20);
    memory_dirty_fetch(memory, 0, ALL_PAGES, &bits);
    assert_int_equal(bits, 0);
    store(2, 3); /* armed again */
    memory_dirty_fetch(memory, 0, ALL_PAGES, &bits);
    assert_int_equal(bits, 1ull << 2);
    memory_dirty_stop(memory);
    assert_false(memory->frame[9] & FRAME_WATCH_ANY);
}

static void test_ranges_need_not_be_whole_words(void **unused)
{
    int64_t first = memory_add_frames(memory, 100 * FRAME_SIZE, NULL);
    assert_int_equal(first, ALL_PAGES);
    memory_dirty_start(memory);
    store(60, 1);
    store(63, 1);
    store(64, 1);
    store(127, 1);
    uint64_t bits[2] = {~0ull, ~0ull};
    memory_dirty_fetch(memory, 61, 66, bits);
    assert_int_equal(bits[0], 1ull << 2 | 1ull << 3);
    assert_int_equal(bits[1], 0);
    memory_dirty_fetch(memory, 60, 68, bits);
    assert_int_equal(bits[0], 1);
    assert_int_equal(bits[1], 1ull << 3);
    memory_dirty_fetch(memory, 60, 0, bits);
}

static void test_new_frames_begin_dirty(void **unused)
{
    uint64_t bits;
    memory_dirty_start(memory);
    assert_int_equal(memory_add_frames(memory, 2 * FRAME_SIZE, NULL), ALL_PAGES);
    memory_dirty_fetch(memory, 0, ALL_PAGES + 2, &bits);
    assert_int_equal(bits, 3ull << ALL_PAGES);
}

/* A copy kept up to date by the log alone must equal the memory in the end. */
enum { STORES = 40000 };
static _Atomic bool stop;

static void *store_everywhere(void *opaque)
{
    uint32_t seed = 1;
    for (uint64_t value = 1; value <= STORES; value++) {
        seed = seed * 1664525 + 1013904223;
        store((seed >> 16) % RAM_PAGES, value);
    }
    stop = true;
    return NULL;
}

static void copy_dirty(uint64_t copy[RAM_PAGES])
{
    uint64_t bits;
    memory_dirty_fetch(memory, 0, RAM_PAGES, &bits);
    for (frame_t frame = 0; frame < RAM_PAGES; frame++) {
        if (bits >> frame & 1) {
            copy[frame] = *(_Atomic uint64_t *)(void *)memory_host(memory, frame);
        }
    }
}

static void test_a_copy_by_the_log_is_complete(void **unused)
{
    for (int round = 0; round < 5; round++) {
        pthread_t thread;
        uint64_t copy[RAM_PAGES] = {0};
        memset(memory_host(memory, 0), 0, RAM_SIZE);
        memory_dirty_start(memory);
        stop = false;
        pthread_create(&thread, NULL, store_everywhere, NULL);
        while (!stop) {
            copy_dirty(copy);
        }
        pthread_join(thread, NULL);
        copy_dirty(copy);
        for (frame_t frame = 0; frame < RAM_PAGES; frame++) {
            assert_int_equal(copy[frame],
                             *(uint64_t *)(void *)memory_host(memory, frame));
        }
        memory_dirty_stop(memory);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_stores_are_logged_once_per_fetch),
        TEST(test_ranges_need_not_be_whole_words),
        TEST(test_new_frames_begin_dirty),
        TEST(test_a_copy_by_the_log_is_complete),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
