#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include "base/scope.h"
#include "tool/escape.h"

#include <cmocka.h>

static void test_filter(void **state)
{
    static const struct {
        const char *in, *out;
        enum escape_action action;
        unsigned used;
    } cases[] = {
        {"hello", "hello", ESCAPE_NONE, 5},
        {"ab\001xcd", "ab", ESCAPE_QUIT, 4},
        {"\001X", "", ESCAPE_QUIT, 2},
        {"\001hls", "", ESCAPE_HELP, 2},
        {"a\001\001b", "a\001b", ESCAPE_NONE, 4},
        {"\001c", "\001c", ESCAPE_NONE, 2},
        {"a\001", "a", ESCAPE_NONE, 2},
        {"", "", ESCAPE_NONE, 0},
    };
    for (unsigned i = 0; i < array_size(cases); i++) {
        struct escape escape = {0};
        uint8_t out[16];
        unsigned used, kept, size = (unsigned)strlen(cases[i].in);
        enum escape_action action =
            escape_filter(&escape, (const uint8_t *)cases[i].in, size, &used, out, &kept);
        assert_int_equal(action, cases[i].action);
        assert_int_equal(used, cases[i].used);
        assert_int_equal(kept, strlen(cases[i].out));
        assert_memory_equal(out, cases[i].out, kept);
    }
}

static void test_sequence_split_between_reads(void **state)
{
    struct escape escape = {0};
    uint8_t out[4];
    unsigned used, kept;
    assert_int_equal(
        escape_filter(&escape, (const uint8_t *)"\001", 1, &used, out, &kept),
        ESCAPE_NONE);
    assert_int_equal(kept, 0);
    assert_int_equal(escape_filter(&escape, (const uint8_t *)"x", 1, &used, out, &kept),
                     ESCAPE_QUIT);
    escape_filter(&escape, (const uint8_t *)"\001", 1, &used, out, &kept);
    escape_filter(&escape, (const uint8_t *)"b", 1, &used, out, &kept);
    assert_int_equal(kept, 2);
    assert_memory_equal(out, "\001b", 2);
}

static void test_detaching_is_asked_for(void **state)
{
    uint8_t out[4];
    unsigned used, kept;
    struct escape runs = {0}, attaches = {.takes_d = true};
    const uint8_t *typed = (const uint8_t *)"\001d";
    assert_int_equal(escape_filter(&runs, typed, 2, &used, out, &kept), ESCAPE_NONE);
    assert_memory_equal(out, "\001d", 2);
    assert_int_equal(escape_filter(&attaches, typed, 2, &used, out, &kept), ESCAPE_QUIT);
    assert_int_equal(kept, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_filter),
        cmocka_unit_test(test_detaching_is_asked_for),
        cmocka_unit_test(test_sequence_split_between_reads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
