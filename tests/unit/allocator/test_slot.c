/* Slots: what is found where, what may not be mapped, replacement under readers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#undef fail /* cmocka has one, too */

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "fixture.h"

static void test_addresses_lead_to_frames(void **unused)
{
    bool writable;
    assert_int_equal(memory_frame(memory, 0, &writable), 0);
    assert_true(writable);
    assert_int_equal(memory_frame(memory, RAM_SIZE - 1, NULL), RAM_PAGES - 1);
    assert_int_equal(memory_frame(memory, RAM_SIZE, &writable), FRAME_NONE);
    assert_false(writable);
    assert_int_equal(memory_frame(memory, ROM_BASE - 1, NULL), FRAME_NONE);
    assert_int_equal(memory_frame(memory, ROM_BASE, &writable), RAM_PAGES);
    assert_false(writable);
    assert_int_equal(memory_frame(memory, HIGH_BASE + 4096, &writable),
                     RAM_PAGES + ROM_PAGES + 1);
    assert_true(writable);
    assert_int_equal(memory_frame(memory, HIGH_BASE + HIGH_SIZE, NULL), FRAME_NONE);
    assert_int_equal(memory_frame(memory, UINT64_MAX, NULL), FRAME_NONE);
}

static void test_bad_slots_are_refused(void **unused)
{
    static const struct {
        gpa_t gpa;
        uint64_t size;
        frame_t frame;
        int code;
    } rows[] = {
        {RAM_SIZE, 0, 0, EINVAL},
        {RAM_SIZE + 1, FRAME_SIZE, 0, EINVAL},
        {RAM_SIZE, FRAME_SIZE + 1, 0, EINVAL},
        {RAM_SIZE, FRAME_SIZE, ALL_PAGES, EINVAL},
        {RAM_SIZE, 2 * FRAME_SIZE, ALL_PAGES - 1, EINVAL},
        {RAM_SIZE, FRAME_SIZE, FRAME_NONE, EINVAL},
        {RAM_SIZE, UINT64_MAX & ~4095ull, 0, EINVAL},
        {UINT64_MAX & ~4095ull, FRAME_SIZE, 0, EINVAL},
        {1ull << 52, FRAME_SIZE, 0, EINVAL},
        {0, FRAME_SIZE, 0, EEXIST},
        {RAM_SIZE - FRAME_SIZE, FRAME_SIZE, 0, EEXIST},
        {RAM_SIZE - FRAME_SIZE, 2 * FRAME_SIZE, 0, EEXIST},
        {ROM_BASE - FRAME_SIZE, 2 * FRAME_SIZE, 0, EEXIST},
    };
    uint64_t generation = memory->slots->generation;
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct error err = {0};
        assert_int_equal(
            memory_map(memory, rows[i].gpa, rows[i].size, rows[i].frame, SLOT_RAM, &err),
            -rows[i].code);
        assert_int_equal(err.code, rows[i].code);
    }
    assert_int_equal(memory_unmap(memory, FRAME_SIZE, NULL), -ENOENT);
    assert_int_equal(memory->slots->generation, generation);
}

static void count_call(void *opaque)
{
    ++*(int *)opaque;
}

static void test_slots_come_and_go_and_are_told(void **unused)
{
    int calls = 0;
    static const struct memory_listener listener = {.changed = count_call};
    memory_set_engine(memory, &listener, &calls);
    /* An alias: the same frame at a second address. */
    assert_int_equal(memory_map(memory, RAM_SIZE, FRAME_SIZE, 3, SLOT_RAM, NULL), 0);
    assert_int_equal(memory_frame(memory, RAM_SIZE, NULL), 3);
    assert_int_equal(memory_frame(memory, 3 * FRAME_SIZE, NULL), 3);
    assert_int_equal(memory_unmap(memory, RAM_SIZE, NULL), 0);
    assert_int_equal(memory_frame(memory, RAM_SIZE, NULL), FRAME_NONE);
    assert_int_equal(calls, 2);
    assert_int_equal(memory_unmap(memory, RAM_SIZE, NULL), -ENOENT);
    assert_int_equal(calls, 2);
}

static void expect_reached(frame_t read, frame_t write)
{
    bool is_writable;
    assert_int_equal(memory_frame(memory, FRAME_SIZE, &is_writable),
                     read == FRAME_NONE ? FRAME_NONE : read + 1);
    assert_int_equal(is_writable, read != FRAME_NONE && read == write);
    const uint8_t *reads = ram_map(memory, FRAME_SIZE, 1, false);
    const uint8_t *writes = ram_map(memory, FRAME_SIZE, 1, true);
    assert_ptr_equal(reads, read == FRAME_NONE ? NULL : memory_host(memory, read + 1));
    assert_ptr_equal(writes, write == FRAME_NONE ? NULL : memory_host(memory, write + 1));
    uint8_t byte = 0x5a;
    assert_int_equal(ram_read(memory, FRAME_SIZE, &byte, 1), read != FRAME_NONE);
    assert_int_equal(ram_write(memory, FRAME_SIZE, &byte, 1), write != FRAME_NONE);
}

static void test_a_slot_can_be_switched(void **unused)
{
    int calls = 0;
    static const struct memory_listener listener = {.changed = count_call};
    memory_set_engine(memory, &listener, &calls);
    const frame_t other = (frame_t)memory_add_frames(memory, RAM_SIZE, NULL);
    const struct slot_table *table = memory->slots;
    uint64_t layout = memory->layout;
    expect_reached(0, 0);
    memory_switch(memory, 0, 0, FRAME_NONE);
    expect_reached(0, FRAME_NONE);
    memory_switch(memory, 0, other, 0);
    expect_reached(other, 0);
    memory_switch(memory, 0, FRAME_NONE, FRAME_NONE);
    expect_reached(FRAME_NONE, FRAME_NONE);
    memory_switch(memory, 0, FRAME_NONE, 0);
    expect_reached(FRAME_NONE, 0);
    assert_int_equal(calls, 4);
    assert_int_equal(memory->layout, layout + 4);
    memory_switch(memory, 0, FRAME_NONE, 0); /* nothing new */
    assert_int_equal(calls, 4);
    assert_ptr_equal(memory->slots, table); /* as often as the guest likes, for free */
    /* What it has become stays when others come and go. */
    assert_int_equal(memory_map(memory, RAM_SIZE, FRAME_SIZE, 3, SLOT_RAM, NULL), 0);
    expect_reached(FRAME_NONE, 0);
}

static void test_the_gate_masks_what_processors_send(void **unused)
{
    int calls = 0;
    static const struct memory_listener listener = {.changed = count_call};
    memory_set_engine(memory, &listener, &calls);
    assert_int_equal(memory_bus_address(memory, 0x345678), 0x345678);
    memory_set_a20(memory, true);
    assert_int_equal(calls, 0);
    memory_set_a20(memory, false);
    assert_int_equal(calls, 1);
    assert_int_equal(memory_bus_address(memory, 0x345678), 0x245678);
    assert_int_equal(memory_bus_address(memory, 0xfffffffff0), 0xffffeffff0);
    assert_int_equal(memory_frame(memory, FRAME_SIZE, NULL), 1); /* not devices' */
    memory_set_a20(memory, true);
    assert_int_equal(calls, 2);
    assert_int_equal(memory_bus_address(memory, 0x345678), 0x345678);
}

static void test_the_table_has_an_end(void **unused)
{
    struct error err;
    int result = 0;
    unsigned count = memory->slots->count;
    for (uint64_t i = 0; result == 0 && i < 100; i++) {
        result = memory_map(memory, 0x10000000 + i * FRAME_SIZE, FRAME_SIZE, 0, SLOT_RAM,
                            &err);
        count += result == 0;
    }
    assert_int_equal(result, -ENOSPC);
    assert_int_equal(count, SLOTS_MAX);
    for (unsigned i = 1; i < count; i++) {
        assert_true(memory->slots->slot[i - 1].gpa < memory->slots->slot[i].gpa);
    }
}

static _Atomic bool stop, wrong;

/* What never changes must be found always, whatever else is mapped beside it. */
static void *look_up(void *opaque)
{
    while (!stop) {
        if (memory_frame(memory, HIGH_BASE, NULL) != RAM_PAGES + ROM_PAGES ||
            memory_frame(memory, RAM_SIZE - 1, NULL) != RAM_PAGES - 1) {
            wrong = true;
        }
    }
    return NULL;
}

static void test_readers_see_one_table_or_the_next(void **unused)
{
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, look_up, NULL), 0);
    for (int i = 0; i < 300; i++) {
        assert_int_equal(memory_map(memory, RAM_SIZE, FRAME_SIZE, 0, SLOT_RAM, NULL), 0);
        assert_int_equal(memory_unmap(memory, RAM_SIZE, NULL), 0);
    }
    stop = true;
    pthread_join(thread, NULL);
    assert_false(wrong);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_addresses_lead_to_frames),
        TEST(test_bad_slots_are_refused),
        TEST(test_slots_come_and_go_and_are_told),
        TEST(test_the_table_has_an_end),
        TEST(test_a_slot_can_be_switched),
        TEST(test_the_gate_masks_what_processors_send),
        TEST(test_readers_see_one_table_or_the_next),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
