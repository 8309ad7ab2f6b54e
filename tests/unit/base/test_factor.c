/* Conversions by a multiplication, against the division. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/factor.h"

static const uint64_t rates[] = {1,       999999,  1000000, 1000001,
                                 1899999, 2100000, 2500000, 9999999};
#define RATES (sizeof(rates) / sizeof(rates[0]))

static const uint64_t values[] = {
    0, 1, 2, 3, 999, 1000, 1000000007, 123456789012345, 1ull << 53, (1ull << 62) + 12345,
};
#define VALUES (sizeof(values) / sizeof(values[0]))

static void test_scaling_is_the_divisions(void **unused)
{
    for (unsigned i = 0; i < RATES; i++) {
        struct factor factor = factor_make(rates[i], 1000000);
        for (unsigned j = 0; j < VALUES; j++) {
            unsigned __int128 product = (unsigned __int128)values[j] * rates[i];
            uint64_t exact = (uint64_t)(product / 1000000);
            uint64_t found = factor_scale(&factor, values[j]);
            assert_in_range(found - exact, 0, 1);
            /* Up to hours in nanoseconds it is the same. */
            assert_true(found == exact || values[j] > 3600000000000);
        }
    }
}

static void test_scaling_by_whole_numbers_is_exact(void **unused)
{
    struct factor one = factor_make(1000000, 1000000), three = factor_make(3, 1);
    assert_int_equal(factor_scale(&one, UINT64_MAX), UINT64_MAX);
    assert_int_equal(factor_scale(&three, UINT64_MAX), UINT64_MAX - 2);
}

/* A wait by the exact division, from any time on, is not too short by the factor: so is a
 * deadline of the TSC made. */
static void test_a_sum_is_at_least_the_sum_of_both(void **unused)
{
    const uint64_t khz = 1899999;
    struct factor factor = factor_make(khz, 1000000);
    for (uint64_t now = 1; now < 1ull << 60; now = now * 3 + 7) {
        for (uint64_t ticks = 1; ticks < 1ull << 43; ticks = ticks * 5 + 1) {
            uint64_t wait = (ticks * 1000000 + khz - 1) / khz;
            assert_true(factor_scale(&factor, now + wait) >=
                        factor_scale(&factor, now) + ticks);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scaling_is_the_divisions),
        cmocka_unit_test(test_scaling_by_whole_numbers_is_exact),
        cmocka_unit_test(test_a_sum_is_at_least_the_sum_of_both),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
