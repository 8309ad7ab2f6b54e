#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/nearest.h"
#include "base/scope.h"

/* After the headers of ours: it defines a macro fail(). */
#include <cmocka.h>

static void test_distance(void **state)
{
    static const struct {
        const char *a, *b;
        size_t distance;
    } cases[] = {
        {"", "", 0},
        {"", "abc", 3},
        {"memory", "memory", 0},
        {"memroy", "memory", 1},
        {"memory", "memry", 1},
        {"kernel", "kernell", 1},
        {"cpus", "cpuz", 1},
        {"ab", "ba", 1},
        {"kitten", "sitting", 3},
    };
    for (unsigned i = 0; i < array_size(cases); i++) {
        assert_int_equal(name_distance(cases[i].a, cases[i].b), cases[i].distance);
        assert_int_equal(name_distance(cases[i].b, cases[i].a), cases[i].distance);
    }
}

static void test_overlong_names_are_unlike_everything(void **state)
{
    char name[70];
    memset(name, 'a', sizeof(name));
    name[64] = '\0';
    assert_true(name_distance(name, "a") == SIZE_MAX);
    name[63] = '\0';
    assert_int_equal(name_distance(name, "a"), 62);
}

static const char *nearest_of(const char *wanted)
{
    static const char *const names[] = {"run", "doctor", "help", "version"};
    struct nearest nearest;
    nearest_init(&nearest, wanted);
    for (unsigned i = 0; i < array_size(names); i++) {
        nearest_offer(&nearest, names[i]);
    }
    return nearest.best;
}

static void test_nearest_is_a_slip_not_another_word(void **state)
{
    assert_string_equal(nearest_of("rnu"), "run");
    assert_string_equal(nearest_of("docter"), "doctor");
    assert_string_equal(nearest_of("versoin"), "version");
    assert_null(nearest_of("launch"));
    assert_null(nearest_of(""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_distance),
        cmocka_unit_test(test_overlong_names_are_unlike_everything),
        cmocka_unit_test(test_nearest_is_a_slip_not_another_word),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
