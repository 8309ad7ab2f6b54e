/* Log lines: one write each, cut, made harmless; the limit on what guests cause. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

/* stderr goes into a pipe in packet mode while a test runs: one read per write. */
static int packets, saved_stderr;

static int capture(void **unused)
{
    int ends[2];
    if (pipe2(ends, O_DIRECT | O_NONBLOCK) < 0) {
        return -1;
    }
    saved_stderr = dup(STDERR_FILENO);
    dup2(ends[1], STDERR_FILENO);
    close(ends[1]);
    packets = ends[0];
    log_set_level(LOG_WARNING);
    return 0;
}

static int release(void **unused)
{
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    close(packets);
    return 0;
}

/* The next write to stderr, "" if there was none. */
static const char *next_packet(void)
{
    static char text[4096];
    ssize_t size = read(packets, text, sizeof(text) - 1);
    text[size > 0 ? size : 0] = '\0';
    return text;
}

static void test_each_line_is_one_write(void **unused)
{
    log_error("first %d", 1);
    log_warning("second");
    assert_string_equal(next_packet(), "doppel: first 1\n");
    assert_string_equal(next_packet(), "doppel: second\n");
}

static void test_the_level_decides(void **unused)
{
    log_info("quiet");
    log_guest("quiet");
    assert_string_equal(next_packet(), "");
    log_set_level(LOG_INFO);
    log_info("heard");
    log_debug("quiet");
    assert_string_equal(next_packet(), "doppel: heard\n");
    assert_string_equal(next_packet(), "");
    assert_true(log_enabled(LOG_INFO));
    assert_false(log_enabled(LOG_DEBUG));
}

static void test_control_characters_become_spaces(void **unused)
{
    log_error("a\nb\033[2Jc\td");
    assert_string_equal(next_packet(), "doppel: a b [2Jc\td\n");
}

static void test_long_lines_are_cut_and_end(void **unused)
{
    char text[3000];
    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    log_error("%s", text);
    const char *line = next_packet();
    assert_int_equal(strlen(line), 1023);
    assert_string_equal(line + strlen(line) - 5, "x...\n");
}

static void test_errno_survives(void **unused)
{
    errno = ENOTDIR;
    log_error("%s", "message");
    assert_int_equal(errno, ENOTDIR);
}

static void test_guest_lines_are_limited(void **unused)
{
    log_set_level(LOG_INFO);
    for (int i = 0; i < 1000; i++) {
        log_guest("port %d", i);
    }
    int lines = 0;
    while (next_packet()[0] != '\0') {
        lines++;
    }
    /* Ten at once, and a few more if this machine needed part of a second. */
    assert_in_range(lines, 10, 30);
}

static void test_bucket_counts_what_it_suppressed(void **unused)
{
    struct log_bucket bucket = {.tokens = 2, .limit = 2, .interval_ns = 100};
    uint64_t suppressed = 99;
    assert_true(log_bucket_take(&bucket, 1000, &suppressed));
    assert_int_equal(suppressed, 0);
    assert_true(log_bucket_take(&bucket, 1000, &suppressed));
    assert_false(log_bucket_take(&bucket, 1000, &suppressed));
    assert_false(log_bucket_take(&bucket, 1099, &suppressed));
    assert_true(log_bucket_take(&bucket, 1100, &suppressed));
    assert_int_equal(suppressed, 2);
    assert_false(log_bucket_take(&bucket, 1199, &suppressed));
    assert_true(log_bucket_take(&bucket, 1200, &suppressed));
    assert_int_equal(suppressed, 1);
}

static void test_bucket_holds_no_more_than_its_limit(void **unused)
{
    struct log_bucket bucket = {.tokens = 0, .limit = 2, .interval_ns = 100};
    uint64_t suppressed;
    assert_true(log_bucket_take(&bucket, UINT64_MAX - 5, &suppressed));
    assert_true(log_bucket_take(&bucket, UINT64_MAX - 5, &suppressed));
    assert_false(log_bucket_take(&bucket, UINT64_MAX - 5, &suppressed));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_each_line_is_one_write, capture, release),
        cmocka_unit_test_setup_teardown(test_the_level_decides, capture, release),
        cmocka_unit_test_setup_teardown(test_control_characters_become_spaces, capture,
                                        release),
        cmocka_unit_test_setup_teardown(test_long_lines_are_cut_and_end, capture,
                                        release),
        cmocka_unit_test_setup_teardown(test_errno_survives, capture, release),
        cmocka_unit_test_setup_teardown(test_guest_lines_are_limited, capture, release),
        cmocka_unit_test(test_bucket_counts_what_it_suppressed),
        cmocka_unit_test(test_bucket_holds_no_more_than_its_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
