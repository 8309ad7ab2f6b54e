/* Frames: limits, laziness, what memory_new refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#undef fail /* cmocka has one, too */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "allocator/memory.h"

#define MIB (1ull << 20)
#define TIB (1ull << 40)

static void test_untouched_memory_costs_nothing(void **unused)
{
    struct memory *memory = memory_new(64ull << 30, NULL);
    assert_non_null(memory);
    assert_int_equal(memory_add_frames(memory, 64ull << 30, NULL), 0);
    assert_int_equal(memory_resident(memory), 0);
    memory_host(memory, 5)[17] = 1;
    memory_host(memory, (frame_t)((64ull << 30) / FRAME_SIZE) - 1)[FRAME_SIZE - 1] = 1;
    assert_in_range(memory_resident(memory), 2 * FRAME_SIZE, 4 * MIB);
    memory_free(memory);
}

static void test_frames_are_given_in_order_up_to_the_limit(void **unused)
{
    struct error err;
    struct memory *memory = memory_new(MIB + 1, &err); /* rounded up to a page */
    assert_int_equal(memory->frame_limit, 257);
    assert_int_equal(memory_add_frames(memory, MIB, &err), 0);
    assert_int_equal(memory_add_frames(memory, FRAME_SIZE, &err), 256);
    assert_int_equal(memory_add_frames(memory, FRAME_SIZE, &err), -ENOSPC);
    assert_int_equal(memory_add_frames(memory, 0, &err), -EINVAL);
    assert_int_equal(memory_add_frames(memory, 100, &err), -EINVAL);
    assert_int_equal(memory_add_frames(memory, UINT64_MAX & ~4095ull, &err), -ENOSPC);
    assert_int_equal(memory->frame_count, 257);
    memory_free(memory);
}

static void test_absurd_limits_are_refused(void **unused)
{
    static const uint64_t limits[] = {0, 16 * TIB, 1ull << 60, UINT64_MAX};
    for (unsigned i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        struct error err = {0};
        assert_null(memory_new(limits[i], &err));
        assert_int_equal(err.code, EINVAL);
        assert_non_null(strstr(err.message, "bytes of guest memory"));
    }
    memory_free(NULL);
}

/* In a child: its limits must not follow this process. Exit status 0 if memory_new failed
 * with that code. */
static int under_limit(int resource, uint64_t limit, int code)
{
    pid_t child = fork();
    if (child == 0) {
        struct rlimit value = {limit, limit};
        struct error err = {0};
        if (setrlimit(resource, &value) < 0) {
            _exit(3);
        }
        struct memory *memory = memory_new(256 * MIB, &err);
        _exit(memory == NULL && err.code == code ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    return status;
}

static void test_limits_of_the_process_are_reported(void **unused)
{
    assert_int_equal(under_limit(RLIMIT_FSIZE, MIB, EFBIG), 0);
    assert_int_equal(under_limit(RLIMIT_AS, 128 * MIB, ENOMEM), 0);
}

static int open_descriptors(void)
{
    int count = 0;
    for (int fd = 0; fd < 256; fd++) {
        count += fcntl(fd, F_GETFD) >= 0;
    }
    return count;
}

static void test_nothing_leaks_and_the_size_is_sealed(void **unused)
{
    int before = open_descriptors();
    struct memory *memory = memory_new(MIB, NULL);
    assert_true(fcntl(memory->fd, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(ftruncate(memory->fd, 0), -1);
    assert_int_equal(ftruncate(memory->fd, 2 * MIB), -1);
    memory_free(memory);
    assert_int_equal(open_descriptors(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_untouched_memory_costs_nothing),
        cmocka_unit_test(test_frames_are_given_in_order_up_to_the_limit),
        cmocka_unit_test(test_absurd_limits_are_refused),
        cmocka_unit_test(test_limits_of_the_process_are_reported),
        cmocka_unit_test(test_nothing_leaks_and_the_size_is_sealed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
