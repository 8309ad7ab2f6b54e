#include "base/lateness.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void test_grades_have_upper_limits(void **state)
{
    struct lateness lateness = {0};
    uint64_t before = 0;
    for (unsigned i = 0; i < LATENESS_GRADES; i++) {
        uint64_t limit = lateness_limit(i);
        assert_true(limit > before);
        lateness_note(&lateness, before + (i > 0));
        lateness_note(&lateness, limit);
        assert_int_equal(lateness.count[i], 2);
        before = limit;
    }
    assert_int_equal(before, UINT64_MAX);
    assert_int_equal(lateness_total(&lateness), 2 * LATENESS_GRADES);
}

static void test_the_worst_and_the_missed_are_kept(void **state)
{
    struct lateness a = {0}, b = {0};
    lateness_note(&a, 5000);
    lateness_note(&a, 3000);
    lateness_note_missed(&a, 2);
    lateness_note(&b, 4000000);
    lateness_note_missed(&b, 5);
    assert_int_equal(a.worst_ns, 5000);
    lateness_add(&a, &b);
    assert_int_equal(a.worst_ns, 4000000);
    assert_int_equal(a.missed, 7);
    assert_int_equal(lateness_total(&a), 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grades_have_upper_limits),
        cmocka_unit_test(test_the_worst_and_the_missed_are_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
