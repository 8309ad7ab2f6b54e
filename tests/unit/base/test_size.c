/* Sizes: what is read, what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#undef fail /* cmocka has one, too */

#include <errno.h>
#include <string.h>

#include "base/scope.h"
#include "base/size.h"

static void test_sizes_are_read(void **unused)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } rows[] = {
        {"0", 0},
        {"1", 1},
        {"4096", 4096},
        {"1K", 1024},
        {"64k", 65536},
        {"512M", 512ull << 20},
        {"3g", 3ull << 30},
        {"16T", 16ull << 40},
        {"0000000000000000000000000000007M", 7ull << 20},
        {"18446744073709551615", UINT64_MAX},
        {"16777215T", 16777215ull << 40},
    };
    for (size_t i = 0; i < array_size(rows); i++) {
        uint64_t bytes = 42;
        assert_int_equal(size_parse(rows[i].text, &bytes, NULL), 0);
        assert_int_equal(bytes, rows[i].bytes);
    }
}

static void test_junk_is_refused_and_quoted(void **unused)
{
    static const char *const rows[] = {"",    " ",   "M",    "-1",   "+1", " 1",   "1 ",
                                       "1KB", "1Mi", "1.5G", "0x10", "1P", "12QM", "ten"};
    for (size_t i = 0; i < array_size(rows); i++) {
        struct error err;
        uint64_t bytes = 42;
        assert_int_equal(size_parse(rows[i], &bytes, &err), -EINVAL);
        assert_int_equal(bytes, 42);
        char quoted[32] = "'";
        strcat(strcat(quoted, rows[i]), "'");
        assert_non_null(strstr(err.message, quoted));
    }
}

static void test_overflow_is_refused(void **unused)
{
    static const char *const rows[] = {
        "18446744073709551616",
        "18446744073709551616K",
        "16777216T",
        "99999999999999999999999999999999999999",
        "18014398509481984K",
    };
    for (size_t i = 0; i < array_size(rows); i++) {
        struct error err;
        uint64_t bytes = 42;
        assert_int_equal(size_parse(rows[i], &bytes, &err), -ERANGE);
        assert_int_equal(bytes, 42);
        assert_non_null(strstr(err.message, "too large"));
    }
}

static void test_sizes_are_written_as_they_are_read(void **unused)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } rows[] = {
        {0, "0"},
        {1, "1"},
        {1023, "1023"},
        {1024, "1K"},
        {1536, "1536"},
        {512ull << 20, "512M"},
        {3ull << 29, "1536M"},
        {5ull << 50, "5120T"},
        {UINT64_MAX, "18446744073709551615"},
    };
    for (size_t i = 0; i < array_size(rows); i++) {
        char text[SIZE_TEXT];
        uint64_t bytes;
        assert_string_equal(size_format(rows[i].bytes, text), rows[i].text);
        assert_int_equal(size_parse(text, &bytes, NULL), 0);
        assert_int_equal(bytes, rows[i].bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes_are_read),
        cmocka_unit_test(test_junk_is_refused_and_quoted),
        cmocka_unit_test(test_overflow_is_refused),
        cmocka_unit_test(test_sizes_are_written_as_they_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
