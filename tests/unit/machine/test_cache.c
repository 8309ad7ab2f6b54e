#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/scope.h"
#include "machine/cache.h"

#include <cmocka.h>

static char directory[64];
static int cache;

static int setup(void **state)
{
    snprintf(directory, sizeof(directory), "/tmp/doppel-cache-XXXXXX");
    if (!mkdtemp(directory)) {
        return -1;
    }
    cache = cache_open(directory);
    return cache >= 0 ? 0 : -1;
}

static int teardown(void **state)
{
    cache_trim(cache, 1, 0);
    close(cache);
    return rmdir(directory);
}

/* The only file of the directory. */
static int open_entry(const struct cache_key *key, int flags)
{
    char name[128];
    snprintf(name, sizeof(name), "%016lx%016lx-%lu.kernel", key->high, key->low,
             key->size);
    return openat(cache, name, flags);
}

static struct cache_key key_of(const char *packed)
{
    struct image image;
    struct cache_key key;
    image_init_memory(&image, packed, strlen(packed));
    assert_int_equal(cache_key_make(&key, &image, 0, image.size, NULL), 0);
    return key;
}

static struct cache_key store(const char *packed, const char *content)
{
    struct cache_key key = key_of(packed);
    cache_store(cache, &key, content, strlen(content));
    return key;
}

static void test_finds_what_was_stored(void **state)
{
    char content[16] = {0};
    struct image image;
    struct cache_key key = store("packed", "unpacked");
    assert_true(cache_find(cache, &key, &image));
    assert_int_equal(image.size, 8);
    assert_int_equal(image_read(&image, 0, content, 8, "test", NULL), 0);
    assert_string_equal(content, "unpacked");
    image_close(&image);
}

static void test_other_content_is_not_found(void **state)
{
    struct image image;
    store("packed", "unpacked");
    struct cache_key other = key_of("other");
    assert_false(cache_find(cache, &other, &image));
}

/* Every single damaged byte, every lost tail is noticed. */
static void test_damage_is_noticed(void **state)
{
    struct image image;
    struct cache_key key = store("packed", "unpacked");
    SCOPE_FD int fd = open_entry(&key, O_RDWR);
    struct stat status;
    assert_int_equal(fstat(fd, &status), 0);
    for (off_t i = 0; i < status.st_size; i++) {
        uint8_t byte, damaged;
        assert_int_equal(pread(fd, &byte, 1, i), 1);
        damaged = byte ^ 0x10;
        assert_int_equal(pwrite(fd, &damaged, 1, i), 1);
        assert_false(cache_find(cache, &key, &image));
        assert_int_equal(pwrite(fd, &byte, 1, i), 1);
    }
    assert_true(cache_find(cache, &key, &image));
    image_close(&image);
    for (off_t size = status.st_size - 1; size >= 0; size--) {
        assert_int_equal(ftruncate(fd, size), 0);
        assert_false(cache_find(cache, &key, &image));
    }
}

/* What lies behind the first chunk is found to be damaged when it is read. */
static void test_damage_is_noticed_where_it_is_read(void **state)
{
    static char content[2 * IMAGE_CHUNK + 1000], read[sizeof(content)];
    for (size_t i = 0; i < sizeof(content); i++) {
        content[i] = (char)('a' + i % 23);
    }
    struct image image;
    struct error err = {0};
    struct cache_key key = key_of("long");
    cache_store(cache, &key, content, sizeof(content));
    assert_true(cache_find(cache, &key, &image));
    assert_int_equal(image_read(&image, 7, read, sizeof(content) - 7, "test", &err), 0);
    assert_memory_equal(read, content + 7, sizeof(content) - 7);
    SCOPE_FD int fd = open_entry(&key, O_RDWR);
    off_t at = (off_t)image.start + 2 * IMAGE_CHUNK + 999;
    assert_int_equal(pwrite(fd, "!", 1, at), 1);
    assert_int_equal(image_read(&image, 5, read, 2 * IMAGE_CHUNK - 5, "test", &err), 0);
    assert_int_equal(image_read(&image, 2 * IMAGE_CHUNK - 1, read, 1, "test", &err), 0);
    assert_int_equal(image_read(&image, 2 * IMAGE_CHUNK - 1, read, 2, "test", &err),
                     -EUCLEAN);
    assert_non_null(strstr(err.message, "damaged at byte 524288"));
    assert_int_equal(ftruncate(fd, at), 0);
    assert_int_equal(image_read(&image, 2 * IMAGE_CHUNK, read, 1, "test", &err),
                     -EUCLEAN);
    image_close(&image);
    assert_false(cache_find(cache, &key, &image)); /* its size is another one now */
}

static void test_damaged_entry_is_replaced(void **state)
{
    struct image image;
    struct cache_key key = store("packed", "unpacked");
    SCOPE_FD int fd = open_entry(&key, O_RDWR);
    assert_int_equal(ftruncate(fd, 3), 0);
    store("packed", "unpacked");
    assert_true(cache_find(cache, &key, &image));
    image_close(&image);
}

static void test_trim_removes_the_oldest(void **state)
{
    struct image image;
    struct cache_key old = store("a", "1111"), young = store("b", "2222");
    SCOPE_FD int fd = open_entry(&old, O_RDWR);
    const struct timespec times[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
    assert_int_equal(futimens(fd, times), 0);
    struct stat status;
    assert_int_equal(fstat(fd, &status), 0);
    cache_trim(cache, 0, (uint64_t)status.st_size);
    assert_false(cache_find(cache, &old, &image));
    assert_true(cache_find(cache, &young, &image));
    image_close(&image);
}

static void test_a_link_is_not_followed(void **state)
{
    struct image image;
    struct cache_key key = store("packed", "unpacked");
    char name[128];
    snprintf(name, sizeof(name), "%016lx%016lx-%lu.kernel", key.high, key.low, key.size);
    assert_int_equal(renameat(cache, name, cache, "elsewhere"), 0);
    assert_int_equal(symlinkat("elsewhere", cache, name), 0);
    assert_false(cache_find(cache, &key, &image));
    assert_int_equal(unlinkat(cache, name, 0), 0);
}

static void test_directory_that_others_write_is_refused(void **state)
{
    assert_int_equal(chmod(directory, 0777), 0);
    assert_int_equal(cache_open(directory), -1);
    assert_int_equal(chmod(directory, 0700), 0);
    assert_int_equal(cache_open("/nonexistent/doppel"), -1);
}

static void test_default_directory(void **state)
{
    char expected[128];
    struct stat status;
    setenv("XDG_CACHE_HOME", directory, 1);
    int fd = cache_open(NULL);
    assert_true(fd >= 0);
    close(fd);
    snprintf(expected, sizeof(expected), "%s/doppel", directory);
    assert_int_equal(stat(expected, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0700);
    assert_int_equal(rmdir(expected), 0);
    unsetenv("XDG_CACHE_HOME");
    unsetenv("HOME");
    assert_int_equal(cache_open(NULL), -1);
}

#define CACHE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CACHE_TEST(test_finds_what_was_stored),
        CACHE_TEST(test_other_content_is_not_found),
        CACHE_TEST(test_damage_is_noticed),
        CACHE_TEST(test_damage_is_noticed_where_it_is_read),
        CACHE_TEST(test_damaged_entry_is_replaced),
        CACHE_TEST(test_trim_removes_the_oldest),
        CACHE_TEST(test_a_link_is_not_followed),
        CACHE_TEST(test_directory_that_others_write_is_refused),
        CACHE_TEST(test_default_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
