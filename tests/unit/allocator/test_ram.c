/* DMA: bounds, ROM, copies over slots, what a write leaves behind; pages brought ahead.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#undef fail /* cmocka has one, too */

#include <string.h>

#include "fixture.h"

static void test_only_ram_is_mapped(void **unused)
{
    assert_ptr_equal(ram_map(memory, 0, RAM_SIZE, true), memory_host(memory, 0));
    assert_ptr_equal(ram_map(memory, 4097, 1, true), memory_host(memory, 1) + 1);
    assert_non_null(ram_map(memory, ROM_BASE, FRAME_SIZE, false));
    assert_null(ram_map(memory, ROM_BASE, FRAME_SIZE, true));
    assert_null(ram_map(memory, 0, 0, false));
    assert_null(ram_map(memory, 0, RAM_SIZE + 1, false));
    assert_null(ram_map(memory, RAM_SIZE, 1, false));
    assert_null(ram_map(memory, RAM_SIZE - 1, 2, false));
    assert_null(ram_map(memory, 1, UINT64_MAX, false));
    assert_null(ram_map(memory, UINT64_MAX, 1, false));
    assert_null(ram_map(memory, UINT64_MAX, UINT64_MAX, true));
    /* Neighbours, but two slots. */
    assert_null(ram_map(memory, HIGH_BASE - 1, 2, false));
}

static void test_copies_cross_slots(void **unused)
{
    char text[8] = "";
    memcpy(memory_host(memory, RAM_PAGES + ROM_PAGES) - 4, "abcd", 4);
    memcpy(memory_host(memory, RAM_PAGES + ROM_PAGES), "efgh", 4);
    assert_true(ram_read(memory, HIGH_BASE - 4, text, 8));
    assert_memory_equal(text, "abcdefgh", 8);
    /* Part of it ROM: nothing is written. */
    assert_false(ram_write(memory, HIGH_BASE - 4, "ABCDEFGH", 8));
    assert_memory_equal(memory_host(memory, RAM_PAGES + ROM_PAGES), "efgh", 4);
    assert_int_equal(memory_map(memory, RAM_SIZE, FRAME_SIZE, 0, SLOT_RAM, NULL), 0);
    assert_true(ram_write(memory, RAM_SIZE - 2, "WXYZ", 4));
    assert_memory_equal(memory_host(memory, RAM_PAGES) - 2, "WX", 2);
    assert_memory_equal(memory_host(memory, 0), "YZ", 2);
}

static void test_copies_out_of_ram_copy_nothing(void **unused)
{
    char text[4] = "----";
    assert_false(ram_read(memory, RAM_SIZE - 2, text, 4));
    assert_memory_equal(text, "----", 4);
    assert_false(ram_write(memory, RAM_SIZE - 2, "abcd", 4));
    assert_int_equal(memory_host(memory, RAM_PAGES)[-2], 0);
    assert_false(ram_read(memory, UINT64_MAX - 1, text, 4));
    assert_false(ram_read(memory, HIGH_BASE + HIGH_SIZE, text, 1));
    assert_true(ram_read(memory, RAM_SIZE, text, 0));
}

static void test_written_pages_are_marked_and_others_not(void **unused)
{
    uint64_t dirty;
    memory_dirty_start(memory);
    uint32_t version = memory_code_watch(memory, 3, 128, 16);
    uint8_t *host = ram_map(memory, 2 * FRAME_SIZE, 4 * FRAME_SIZE, true);
    memset(host + 100, 1, FRAME_SIZE);
    ram_unmap(memory, host, 100 + FRAME_SIZE);
    memory_dirty_fetch(memory, 0, ALL_PAGES, &dirty);
    assert_int_equal(dirty, 0xc);
    /* 100 bytes of page 3 were written, the code begins at 128. */
    assert_int_equal(FRAME_VERSION(memory->frame[3]), version);
    assert_true(ram_write(memory, 3 * FRAME_SIZE + 120, "12345678", 8));
    assert_int_equal(FRAME_VERSION(memory->frame[3]), version);
    assert_true(ram_write(memory, 3 * FRAME_SIZE + 120, "123456789", 9));
    assert_int_not_equal(FRAME_VERSION(memory->frame[3]), version);
    ram_unmap(memory, host, 0); /* nothing written */
    memory_dirty_fetch(memory, 0, ALL_PAGES, &dirty);
    assert_int_equal(dirty, 0x8);
}

static void test_filling_and_clearing_leave_the_rest(void **unused)
{
    uint8_t text[2 * FRAME_SIZE];
    uint64_t dirty;
    memset(text, 0x5a, sizeof(text));
    memset(memory_host(memory, 0), 0xff, RAM_SIZE);
    memory_dirty_start(memory);
    assert_true(ram_fill(memory, FRAME_SIZE + 8, text, sizeof(text)));
    assert_int_equal(memory_host(memory, 1)[7], 0xff);
    assert_memory_equal(memory_host(memory, 1) + 8, text, sizeof(text));
    assert_int_equal(memory_host(memory, 3)[8], 0xff);
    uint32_t version = memory_code_watch(memory, 5, 0, 64);
    /* Parts of the pages at both ends, two whole ones between them. */
    assert_true(ram_clear(memory, 4 * FRAME_SIZE + 16, 3 * FRAME_SIZE));
    assert_int_equal(memory_host(memory, 4)[15], 0xff);
    for (unsigned i = 16; i < 3 * FRAME_SIZE + 16; i++) {
        assert_int_equal(memory_host(memory, 4)[i], 0);
    }
    assert_int_equal(memory_host(memory, 7)[16], 0xff);
    assert_int_not_equal(FRAME_VERSION(memory->frame[5]), version);
    memory_dirty_fetch(memory, 0, ALL_PAGES, &dirty);
    assert_int_equal(dirty, 0xfe);
    assert_true(ram_clear(memory, 12 * FRAME_SIZE + 1, 2));
    assert_int_equal(memory_host(memory, 12)[0], 0xff);
    assert_int_equal(memory_host(memory, 12)[2], 0);
    assert_int_equal(memory_host(memory, 12)[3], 0xff);
    memset(text, 0, FRAME_SIZE + 9);
    assert_true(ram_fill(memory, 9 * FRAME_SIZE + 8, text, sizeof(text)));
    assert_int_equal(memory_host(memory, 9)[7], 0xff);
    assert_memory_equal(memory_host(memory, 9) + 8, text, sizeof(text));
    assert_true(ram_clear(memory, 0, 0));
    assert_false(ram_clear(memory, RAM_SIZE - 1, 2));
    assert_false(ram_clear(memory, ROM_BASE, 1));
    assert_false(ram_fill(memory, RAM_SIZE - 1, text, 2));
}

static void test_neighbours_are_populated_once(void **unused)
{
    assert_int_equal(memory_resident(memory), 0);
    memory_populate(memory, 5);
    memory_populate(memory, 15);
    assert_int_equal(memory_resident(memory), 16 * FRAME_SIZE);
    memory_populate(memory, 16);
    assert_int_equal(memory_resident(memory), 32 * FRAME_SIZE);
    assert_int_equal(memory_host(memory, 31)[FRAME_SIZE - 1], 0);
    /* What is taken away comes back page by page. */
    assert_true(ram_clear(memory, 0, RAM_SIZE));
    memory_populate(memory, 5);
    assert_int_equal(memory_resident(memory), 16 * FRAME_SIZE);
    memory_host(memory, 5)[0] = 1;
    assert_int_equal(memory_resident(memory), 17 * FRAME_SIZE);
}

static void test_populating_ends_with_the_memory(void **unused)
{
    struct memory *odd = memory_new(21ull * FRAME_SIZE, NULL);
    assert_non_null(odd);
    memory_populate(odd, 20);
    assert_int_equal(memory_resident(odd), 5 * FRAME_SIZE);
    memory_free(odd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_only_ram_is_mapped),
        TEST(test_copies_cross_slots),
        TEST(test_copies_out_of_ram_copy_nothing),
        TEST(test_written_pages_are_marked_and_others_not),
        TEST(test_filling_and_clearing_leave_the_rest),
        TEST(test_neighbours_are_populated_once),
        cmocka_unit_test(test_populating_ends_with_the_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
