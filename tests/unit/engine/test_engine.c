#include "engine/engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void test_every_reason_has_a_name_of_its_own(void **state)
{
    for (unsigned i = 0; i < EXIT_REASON_COUNT; i++) {
        assert_non_null(exit_reason_name(i));
        assert_non_null(exit_reason_title(i));
        for (unsigned j = 0; j < i; j++) {
            assert_string_not_equal(exit_reason_name(i), exit_reason_name(j));
        }
    }
    assert_string_equal(exit_reason_name(EXIT_TRIPLE_FAULT), "triple_fault");
}

static void test_finds_every_engine_by_name(void **state)
{
    for (unsigned i = 0; engine_table[i]; i++) {
        assert_ptr_equal(engine_find(engine_table[i]->name), engine_table[i]);
        assert_non_null(engine_table[i]->summary);
    }
    assert_null(engine_find("no-such-engine"));
    assert_null(engine_find("script")); /* for tests only */
}

static void test_chooses_an_engine_that_works(void **state)
{
    struct error err = {0};
    char reason[ENGINE_REASON_SIZE];
    const struct engine_ops *engine = engine_choose(reason, &err);
    if (engine) {
        assert_int_equal(engine->probe(&err), 0);
        assert_non_null(strstr(reason, engine->name));
    } else {
        assert_true(err.message[0] != '\0');
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_reason_has_a_name_of_its_own),
        cmocka_unit_test(test_finds_every_engine_by_name),
        cmocka_unit_test(test_chooses_an_engine_that_works),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
