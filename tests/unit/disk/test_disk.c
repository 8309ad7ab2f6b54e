#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "base/scope.h"
#include "disk/disk.h"
#include "fixture.h"

#include <cmocka.h>

#define SIZE (64u << 10)

static struct disk *open_image(const char *format, bool is_readonly,
                               struct worker_pool *pool, struct error *err)
{
    struct disk_options options = {.format = format, .is_readonly = is_readonly};
    return disk_open(image, &options, pool, err);
}

static void test_sizes(void **state)
{
    static const struct {
        off_t size;
        const char *message; /* NULL: accepted */
    } cases[] = {
        {512, NULL},
        {SIZE, NULL},
        {0, "empty"},
        {1, "not a multiple of 512"},
        {1000, "truncate -s 1024"},
    };
    for (unsigned i = 0; i < array_size(cases); i++) {
        struct error err;
        image_make("", 0, cases[i].size);
        struct disk *disk = open_image("raw", false, NULL, &err);
        assert_int_equal(disk != NULL, cases[i].message == NULL);
        if (disk) {
            assert_int_equal(disk->size, cases[i].size);
        } else {
            assert_non_null(strstr(err.message, cases[i].message));
            assert_non_null(strstr(err.message, image));
        }
        disk_close(disk);
    }
}

/* A guest that writes another format's header to its raw disk gains nothing by it. */
static void test_formats(void **state)
{
    static const struct {
        const char *head, *name;
    } cases[] = {{"QFI\xfb", "qcow2"}, {"KDMV", "vmdk"}, {"conectix", "vhd"}};
    for (unsigned i = 0; i < array_size(cases); i++) {
        struct error err;
        image_make(cases[i].head, strlen(cases[i].head), SIZE);
        assert_null(open_image(NULL, false, NULL, &err));
        assert_non_null(strstr(err.message, cases[i].name));
        assert_non_null(strstr(err.message, "format=raw"));
        struct disk *disk = open_image("raw", false, NULL, &err);
        assert_string_equal(disk->format->name, "raw");
        disk_close(disk);
    }
    struct error err;
    image_make("plain", 5, SIZE);
    struct disk *disk = open_image(NULL, false, NULL, &err);
    assert_string_equal(disk->format->name, "raw");
    disk_close(disk);
    assert_null(open_image("qcow2", false, NULL, &err));
    assert_non_null(strstr(err.message, "there is no format qcow2"));
}

/* A failure must not leave the image open: its lock would stay, too. */
static void test_failure_lets_go(void **state)
{
    struct error err;
    image_make("QFI\xfb", 4, SIZE);
    assert_null(open_image(NULL, false, NULL, &err));
    image_make("", 0, 100);
    assert_null(open_image(NULL, false, NULL, &err));
    image_make("", 0, SIZE);
    struct disk *disk = open_image(NULL, false, NULL, &err);
    assert_non_null(disk);
    disk_close(disk);
    disk_close(NULL);
}

struct waiter {
    struct disk_request request;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool is_done;
    int result;
};

static void done(struct disk_request *request, int result)
{
    struct waiter *waiter = container_of(request, struct waiter, request);
    pthread_mutex_lock(&waiter->lock);
    waiter->is_done = true;
    waiter->result = result;
    pthread_cond_signal(&waiter->changed);
    pthread_mutex_unlock(&waiter->lock);
}

static int run(struct disk *disk, struct disk_request request)
{
    struct waiter waiter = {.request = request,
                            .lock = PTHREAD_MUTEX_INITIALIZER,
                            .changed = PTHREAD_COND_INITIALIZER};
    waiter.request.done = done;
    disk_submit(disk, &waiter.request);
    pthread_mutex_lock(&waiter.lock);
    while (!waiter.is_done) {
        pthread_cond_wait(&waiter.changed, &waiter.lock);
    }
    pthread_mutex_unlock(&waiter.lock);
    return waiter.result;
}

static int run_transfer(struct disk *disk, enum disk_operation operation, uint64_t offset,
                        void *data, size_t size)
{
    struct iovec iov = {data, size};
    return run(
        disk, (struct disk_request){
                  .operation = operation, .offset = offset, .iov = &iov, .iov_count = 1});
}

static int run_range(struct disk *disk, enum disk_operation operation, uint64_t offset,
                     uint64_t size)
{
    return run(disk, (struct disk_request){.operation = operation,
                                           .range_count = 1,
                                           .range = {{offset, size, true}}});
}

static void test_requests(void **state)
{
    struct error err;
    uint8_t data[1024], back[1024];
    memset(data, 7, sizeof(data));
    image_make("", 0, SIZE);
    struct worker_pool *pool = worker_pool_open(&(struct worker_config){"test", 2}, &err);
    struct disk *disk = open_image(NULL, false, pool, &err);
    assert_int_equal(run_transfer(disk, DISK_WRITE, 512, data, sizeof(data)), 0);
    assert_int_equal(run(disk, (struct disk_request){.operation = DISK_FLUSH}), 0);
    assert_int_equal(run_transfer(disk, DISK_READ, 512, back, sizeof(back)), 0);
    assert_memory_equal(data, back, sizeof(data));
    assert_int_equal(run_range(disk, DISK_WRITE_ZEROES, 1024, 512), 0);
    assert_int_equal(run_range(disk, DISK_DISCARD, 4096, 4096), 0);
    assert_int_equal(run_transfer(disk, DISK_READ, 512, back, sizeof(back)), 0);
    assert_int_equal(back[511], 7);
    assert_int_equal(back[512], 0);
    /* The image became shorter under us. */
    assert_int_equal(truncate(image, 1024), 0);
    assert_int_equal(run_transfer(disk, DISK_READ, 512, back, sizeof(back)), -EIO);
    disk_close(disk);
    worker_pool_close(pool);
}

static void test_readonly(void **state)
{
    struct error err;
    uint8_t data[512] = {0};
    image_make("content", 7, SIZE);
    assert_int_equal(chmod(image, 0400), 0);
    struct worker_pool *pool = worker_pool_open(&(struct worker_config){"test", 2}, &err);
    struct disk *disk = open_image(NULL, true, pool, &err);
    assert_int_equal(run_transfer(disk, DISK_READ, 0, data, sizeof(data)), 0);
    assert_memory_equal(data, "content", 7);
    assert_int_equal(run_transfer(disk, DISK_WRITE, 0, data, sizeof(data)), -EROFS);
    assert_int_equal(run_range(disk, DISK_DISCARD, 0, 512), -EROFS);
    assert_int_equal(run_range(disk, DISK_WRITE_ZEROES, 0, 512), -EROFS);
    assert_int_equal(run(disk, (struct disk_request){.operation = DISK_FLUSH}), 0);
    disk_close(disk);
    worker_pool_close(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_sizes),    TEST(test_formats),  TEST(test_failure_lets_go),
        TEST(test_requests), TEST(test_readonly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
