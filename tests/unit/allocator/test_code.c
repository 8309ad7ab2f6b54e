/* Code tracking: lines, versions, and stores racing with decoders. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#undef fail /* cmocka has one, too */

#include <pthread.h>
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
    /* What became data is data again. */
    assert_false(memory->frame[2] & FRAME_WATCH_ANY);
    assert_false(memory_written(memory, 2, 0, 64));
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
    assert_int_equal(memory->frame[4] & 0xffffffff, FRAME_RESIDENT);
}

/*
 * One thread stores ever larger values to a line, as a guest would: the store, a look at
 * the entry, and memory_written if it is watched. Two others "decode" the line. At the
 * end, a decoded value whose version still stands must be the last one stored.
 */
enum { STORES = 60000, DECODERS = 2, TARGET = 5 };

struct decoded {
    uint32_t version;
    uint64_t value;
};

static struct decoded decoded[DECODERS];
static _Atomic bool stop;

static _Atomic uint64_t *target(void)
{
    return (_Atomic uint64_t *)(void *)memory_host(memory, TARGET);
}

static void *store_values(void *opaque)
{
    for (uint64_t value = 1; value <= STORES; value++) {
        atomic_store_explicit(target(), value, memory_order_relaxed);
        barrier_light();
        if (atomic_load_explicit(&memory->frame[TARGET], memory_order_relaxed) &
            FRAME_WATCH_ANY) {
            memory_written(memory, TARGET, 0, 8);
        }
    }
    stop = true;
    return NULL;
}

static void *decode_values(void *opaque)
{
    struct decoded *mine = opaque;
    do {
        mine->version = memory_code_watch(memory, TARGET, 0, 8);
        mine->value = atomic_load_explicit(target(), memory_order_relaxed);
    } while (!stop && mine->value < STORES);
    return NULL;
}

static void test_no_store_is_missed(void **unused)
{
    pthread_t thread[DECODERS + 1];
    for (int round = 0; round < 5; round++) {
        stop = false;
        *target() = 0;
        pthread_create(&thread[DECODERS], NULL, store_values, NULL);
        for (int i = 0; i < DECODERS; i++) {
            pthread_create(&thread[i], NULL, decode_values, &decoded[i]);
        }
        for (int i = 0; i <= DECODERS; i++) {
            pthread_join(thread[i], NULL);
        }
        for (int i = 0; i < DECODERS; i++) {
            if (decoded[i].version == version_of(TARGET)) {
                assert_int_equal(decoded[i].value, STORES);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_only_stores_to_decoded_lines_invalidate),
        TEST(test_lines_accumulate),
        TEST(test_the_version_leaves_other_bits_alone),
        TEST(test_no_store_is_missed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
