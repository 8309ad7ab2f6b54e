/* The software TLB's entries when they are empty. */
#include "fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* A check may ask where an access begins or where it ends (struct tlb_entry): an access
 * that comes to an entry by the page it begins in ends in that one or in the next. */
static void test_empty_entries_match_no_access(void **state)
{
    for (uint64_t i = 0; i < TLB_SIZE; i++) {
        uint64_t page = cpu_never((unsigned)i) >> FRAME_SHIFT;
        assert_int_not_equal(page % TLB_SIZE, i);
        assert_int_not_equal((page - 1) % TLB_SIZE, i);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty_entries_match_no_access),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
