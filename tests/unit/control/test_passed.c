#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/scope.h"
#include "control/passed.h"

#include <cmocka.h>

static int ends[2];

static int open_ends(void **state)
{
    return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends);
}

static int close_ends(void **state)
{
    return close(ends[0]) | close(ends[1]);
}

static unsigned count_open(void)
{
    unsigned count = 0;
    for (int fd = 0; fd < 256; fd++) {
        count += fcntl(fd, F_GETFD) >= 0;
    }
    return count;
}

static struct passed pipes(unsigned count)
{
    struct passed passed = {0};
    while (passed.count < count) {
        assert_int_equal(pipe2(&passed.descriptor[passed.count], O_CLOEXEC), 0);
        passed.count += 2;
    }
    return passed;
}

/* The same files, once, with the first byte, and close-on-exec. */
static void test_passing(void **state)
{
    char bytes[8];
    struct passed sent = pipes(4), got = {0};
    struct stat before, after;
    assert_int_equal(passed_send(ends[0], "abcd", 4, &sent), 4);
    assert_int_equal(passed_receive(ends[1], bytes, 2, &got), 2);
    assert_int_equal(got.count, 4);
    assert_int_equal(passed_receive(ends[1], bytes, 8, &got), 2);
    assert_int_equal(got.count, 4);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(fcntl(got.descriptor[i], F_GETFD), FD_CLOEXEC);
        fstat(sent.descriptor[i], &before);
        fstat(got.descriptor[i], &after);
        assert_int_equal(before.st_ino, after.st_ino);
    }
    passed_close(&sent);
    passed_close(&got);
}

static void test_nothing(void **state)
{
    char byte;
    struct passed none = {0}, got = {0};
    assert_int_equal(passed_send(ends[0], "x", 1, &none), 1);
    assert_int_equal(passed_receive(ends[1], &byte, 1, &got), 1);
    assert_int_equal(got.count, 0);
    assert_true(passed_receive(ends[1], &byte, 1, &got) < 0);
    assert_int_equal(errno, EAGAIN);
}

/* Whoever sends more than is taken does not fill up the receiver. */
static void test_too_many(void **state)
{
    char byte;
    unsigned before = count_open();
    struct passed sent = pipes(PASSED_MAX), got = {0};
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(passed_send(ends[0], "x", 1, &sent), 1);
        assert_int_equal(passed_receive(ends[1], &byte, 1, &got), 1);
        assert_int_equal(got.count, PASSED_MAX);
    }
    passed_close(&sent);
    assert_int_equal(count_open(), before + PASSED_MAX);
    passed_close(&got);
    assert_int_equal(count_open(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_passing, open_ends, close_ends),
        cmocka_unit_test_setup_teardown(test_nothing, open_ends, close_ends),
        cmocka_unit_test_setup_teardown(test_too_many, open_ends, close_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
