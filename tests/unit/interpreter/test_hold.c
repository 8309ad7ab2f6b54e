/* Stores to watched frames, held back by the software TLB. */
#include "fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include "interpreter/access.h"
#include "interpreter/hold.h"

#include <cmocka.h>

#define FRAME     (FIXTURE_DATA / FRAME_SIZE)
#define ALIAS     0x100000u /* linear pages from here on may be FRAME, too */
#define PRESENT_W 3u

static int set_up(void **state)
{
    struct fixture *fixture = fixture_long();
    struct error err;
    assert_int_equal(hold_begin(fixture->cpu, &err), 0);
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    fixture_free(*state);
    return 0;
}

static bool lets_through(struct fixture *fixture, gva_t gva)
{
    return gva - access_entry(fixture->cpu, gva)->write < FRAME_SIZE;
}

static void store(struct fixture *fixture, gva_t gva, uint64_t value)
{
    assert_true(access_store(fixture->cpu, gva, 8, value));
    assert_int_equal(fixture_read(fixture, FIXTURE_DATA + gva % FRAME_SIZE, 8), value);
}

/* As whoever decodes code does. */
static uint32_t watch(struct fixture *fixture)
{
    uint32_t version = memory_code_watch(fixture->memory, FRAME, 0, 64);
    hold_frame(fixture->cpu, FRAME);
    return version;
}

static uint32_t version(struct fixture *fixture)
{
    return FRAME_VERSION(fixture->memory->frame[FRAME]);
}

static void test_an_entry_filled_lets_stores_through(void **state)
{
    store(*state, FIXTURE_DATA, 1);
    assert_true(lets_through(*state, FIXTURE_DATA));
}

static void test_what_is_watched_already_is_held_back_and_noticed(void **state)
{
    uint32_t before = watch(*state);
    store(*state, FIXTURE_DATA, 2);
    assert_false(lets_through(*state, FIXTURE_DATA));
    assert_int_equal(version(*state), before + 1);
    assert_true(access_load(((struct fixture *)*state)->cpu, FIXTURE_DATA, 8).ok);
}

static void test_a_watch_holds_back_what_was_let_through(void **state)
{
    store(*state, FIXTURE_DATA, 3);
    uint32_t before = watch(*state);
    assert_false(lets_through(*state, FIXTURE_DATA));
    store(*state, FIXTURE_DATA, 4);
    assert_int_equal(version(*state), before + 1);
}

/* By more addresses than are remembered of a frame, too. */
static void test_a_watch_holds_back_every_address(void **state)
{
    struct fixture *fixture = *state;
    for (unsigned count = 1; count <= 8; count++) {
        for (unsigned i = 0; i < count; i++) {
            gva_t gva = ALIAS + i * FRAME_SIZE;
            fixture_write(fixture, FIXTURE_PAGES + gva / FRAME_SIZE * 8, 8,
                          FIXTURE_DATA | PRESENT_W);
            cpu_flush_page(fixture->cpu, gva);
            store(fixture, gva, count);
            assert_true(lets_through(fixture, gva));
        }
        watch(fixture);
        for (unsigned i = 0; i < count; i++) {
            assert_false(lets_through(fixture, ALIAS + i * FRAME_SIZE));
        }
        memory_code_forget(fixture->memory, FRAME);
        store(fixture, ALIAS, 0); /* finds no line watched */
    }
}

static void test_other_views_are_held_back(void **state)
{
    struct fixture *fixture = *state;
    store(fixture, FIXTURE_DATA, 5);
    cpu_set_ac(fixture->cpu, true);
    store(fixture, FIXTURE_DATA, 6);
    watch(fixture);
    assert_false(lets_through(fixture, FIXTURE_DATA));
    cpu_set_ac(fixture->cpu, false);
    assert_false(lets_through(fixture, FIXTURE_DATA));
}

static void test_what_is_watched_no_longer_is_let_through(void **state)
{
    struct fixture *fixture = *state;
    watch(fixture);
    store(fixture, FIXTURE_DATA, 7); /* ends all code there */
    store(fixture, FIXTURE_DATA, 8); /* finds none, and ends the watch */
    assert_false(lets_through(fixture, FIXTURE_DATA));
    store(fixture, FIXTURE_DATA, 9);
    assert_true(lets_through(fixture, FIXTURE_DATA));
    uint32_t before = watch(fixture);
    assert_false(lets_through(fixture, FIXTURE_DATA));
    store(fixture, FIXTURE_DATA, 10);
    assert_int_equal(version(fixture), before + 1);
}

static void test_what_may_not_be_stored_to_is_not_held(void **state)
{
    struct fixture *fixture = *state;
    watch(fixture);
    store(fixture, FIXTURE_DATA, 11);
    fixture->cpu->state.cr0 |= X86_CR0_WP;
    fixture_write(fixture, FIXTURE_PAGES + FIXTURE_DATA / FRAME_SIZE * 8, 8,
                  FIXTURE_DATA | 1);
    cpu_flush_page(fixture->cpu, FIXTURE_DATA);
    assert_true(access_load(fixture->cpu, FIXTURE_DATA, 8).ok);
    assert_false(access_store(fixture->cpu, FIXTURE_DATA, 8, 12));
    assert_int_equal(fixture_read(fixture, FIXTURE_DATA, 8), 11);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_an_entry_filled_lets_stores_through),
        TEST(test_what_is_watched_already_is_held_back_and_noticed),
        TEST(test_a_watch_holds_back_what_was_let_through),
        TEST(test_a_watch_holds_back_every_address),
        TEST(test_other_views_are_held_back),
        TEST(test_what_is_watched_no_longer_is_let_through),
        TEST(test_what_may_not_be_stored_to_is_not_held),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
