/* Errors: what is recorded, returned and put in front. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#undef fail /* cmocka has one, too */

#include <errno.h>
#include <string.h>

#include "base/error.h"

static void test_fail_adds_the_text_of_errno(void **unused)
{
    struct error err;
    assert_int_equal(fail(&err, ENOENT, "cannot open %s", "disk"), -ENOENT);
    assert_int_equal(err.code, ENOENT);
    assert_string_equal(err.message, "cannot open disk: No such file or directory");
}

static void test_fail_plain_does_not(void **unused)
{
    struct error err;
    assert_int_equal(fail_plain(&err, EINVAL, "bad %d", 7), -EINVAL);
    assert_string_equal(err.message, "bad 7");
}

static void test_a_code_of_zero_is_still_a_failure(void **unused)
{
    struct error err;
    assert_int_equal(fail_plain(&err, 0, "odd"), -EIO);
    assert_int_equal(err.code, EIO);
    assert_int_equal(fail(NULL, 0, "odd"), -EIO);
}

static void test_fail_within_prefixes(void **unused)
{
    struct error err;
    fail_plain(&err, EINVAL, "too short");
    assert_int_equal(fail_within(&err, "kernel %s", "vmlinux"), -EINVAL);
    assert_string_equal(err.message, "kernel vmlinux: too short");
}

static void test_long_messages_are_cut(void **unused)
{
    struct error err;
    char text[2 * sizeof(err.message)];
    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    fail(&err, EIO, "%s", text);
    assert_int_equal(strlen(err.message), sizeof(err.message) - 1);
    fail_within(&err, "%s", text);
    assert_int_equal(strlen(err.message), sizeof(err.message) - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fail_adds_the_text_of_errno),
        cmocka_unit_test(test_fail_plain_does_not),
        cmocka_unit_test(test_a_code_of_zero_is_still_a_failure),
        cmocka_unit_test(test_fail_within_prefixes),
        cmocka_unit_test(test_long_messages_are_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
