#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>

#include "base/scope.h"
#include "disk/file.h"
#include "fixture.h"

#include <cmocka.h>

#define SIZE (1u << 20)

static void test_transfers_in_pieces(void **state)
{
    struct disk_file file;
    struct error err;
    uint8_t left[700], right[300], back[1000];
    memset(left, 1, sizeof(left));
    memset(right, 2, sizeof(right));
    image_make("", 0, SIZE);
    assert_int_equal(disk_file_open(&file, image, false, &err), 0);
    assert_int_equal(file.size, SIZE);
    struct iovec out[] = {{NULL, 0}, {left, 700}, {NULL, 0}, {right, 300}};
    assert_int_equal(disk_file_write(&file, out, 4, 5000), 0);
    assert_int_equal(disk_file_flush(&file), 0);
    struct iovec in[] = {{back + 500, 500}, {back, 500}};
    assert_int_equal(disk_file_read(&file, in, 2, 5000), 0);
    assert_int_equal(back[500], 1);
    assert_int_equal(back[199], 1);
    assert_int_equal(back[200], 2);
    struct iovec end = {back, 512};
    assert_int_equal(disk_file_read(&file, &end, 1, SIZE - 100), -EIO);
    disk_file_close(&file);
    disk_file_close(&file);
}

static void test_more_pieces_than_a_call_takes(void **state)
{
    struct disk_file file;
    struct iovec iov[3000];
    uint8_t byte[3000];
    image_make("", 0, SIZE);
    assert_int_equal(disk_file_open(&file, image, false, NULL), 0);
    for (unsigned i = 0; i < 3000; i++) {
        byte[i] = (uint8_t)(i * 7);
        iov[i] = (struct iovec){&byte[i], 1};
    }
    assert_int_equal(disk_file_write(&file, iov, 3000, 0), 0);
    uint8_t back[3000];
    struct iovec in = {back, 3000};
    assert_int_equal(disk_file_read(&file, &in, 1, 0), 0);
    assert_memory_equal(back, byte, 3000);
    disk_file_close(&file);
}

static off_t blocks(void)
{
    struct stat status;
    stat(image, &status);
    return status.st_blocks;
}

static void test_discard_and_zero(void **state)
{
    struct disk_file file;
    SCOPE_FREE uint8_t *data = malloc(SIZE);
    memset(data, 0x55, SIZE);
    image_make(data, SIZE, SIZE);
    assert_int_equal(disk_file_open(&file, image, false, NULL), 0);
    off_t full = blocks();
    assert_int_equal(disk_file_discard(&file, 0, SIZE / 2), 0);
    if (!file.lacks_punch) {
        assert_true(blocks() < full);
    }
    assert_int_equal(disk_file_zero(&file, SIZE / 2 + 1000, 5000, false), 0);
    assert_int_equal(disk_file_zero(&file, SIZE - 70000, 70000, true), 0);
    /* What hosts without fallocate get. */
    file.lacks_punch = file.lacks_zero = true;
    assert_int_equal(disk_file_discard(&file, SIZE / 2, 1000), 0);
    assert_int_equal(disk_file_zero(&file, SIZE / 2 + 100000, 70000, true), 0);
    struct iovec in = {data, SIZE};
    assert_int_equal(disk_file_read(&file, &in, 1, 0), 0);
    for (unsigned i = SIZE / 2; i < SIZE; i++) {
        unsigned at = i - SIZE / 2;
        bool is_zero = (at >= 1000 && at < 6000) || (at >= 100000 && at < 170000) ||
                       i >= SIZE - 70000;
        assert_int_equal(data[i], is_zero ? 0 : 0x55);
    }
    struct stat status;
    stat(image, &status);
    assert_int_equal(status.st_size, SIZE);
    disk_file_close(&file);
}

static void test_locks(void **state)
{
    struct disk_file first, second;
    struct error err;
    image_make("", 0, SIZE);
    assert_int_equal(disk_file_open(&first, image, false, &err), 0);
    for (unsigned readonly = 0; readonly < 2; readonly++) {
        assert_int_equal(disk_file_open(&second, image, readonly, &err), -EBUSY);
        assert_non_null(strstr(err.message, image));
        assert_non_null(strstr(err.message, "in use"));
    }
    disk_file_close(&first);
    assert_int_equal(disk_file_open(&first, image, true, &err), 0);
    assert_int_equal(disk_file_open(&second, image, true, &err), 0);
    disk_file_close(&first);
    assert_int_equal(disk_file_open(&first, image, false, &err), -EBUSY);
    disk_file_close(&second);
    assert_int_equal(disk_file_open(&first, image, false, &err), 0);
    disk_file_close(&first);
}

static void test_what_is_no_disk(void **state)
{
    struct disk_file file;
    struct error err;
    assert_int_equal(disk_file_open(&file, image, false, &err), -ENOENT);
    assert_non_null(strstr(err.message, image));
    assert_int_equal(disk_file_open(&file, folder, true, &err), -EISDIR);
    assert_int_equal(disk_file_open(&file, "/dev/null", true, &err), -EINVAL);
    assert_non_null(strstr(err.message, "neither a regular file nor a block device"));
    assert_int_equal(mkfifo(image, 0600), 0);
    assert_int_equal(disk_file_open(&file, image, true, &err), -EINVAL);
}

/* A file system that is full, or a limit: an error, at each such write, and no more. */
static void test_write_errors(void **state)
{
    struct disk_file file;
    struct rlimit before, limit;
    uint8_t data[4096] = {1};
    signal(SIGXFSZ, SIG_IGN);
    image_make("", 0, SIZE);
    assert_int_equal(disk_file_open(&file, image, false, NULL), 0);
    getrlimit(RLIMIT_FSIZE, &before);
    limit = (struct rlimit){SIZE / 2, before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    struct iovec beyond = {data, sizeof(data)}, across = beyond, within = beyond;
    assert_int_equal(disk_file_write(&file, &beyond, 1, SIZE / 2 + 4096), -EFBIG);
    assert_int_equal(disk_file_write(&file, &across, 1, SIZE / 2 - 100), -EFBIG);
    assert_int_equal(disk_file_write(&file, &within, 1, 0), 0);
    setrlimit(RLIMIT_FSIZE, &before);
    disk_file_close(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_transfers_in_pieces), TEST(test_more_pieces_than_a_call_takes),
        TEST(test_discard_and_zero),    TEST(test_locks),
        TEST(test_what_is_no_disk),     TEST(test_write_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
