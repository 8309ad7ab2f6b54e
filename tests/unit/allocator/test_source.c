/* Guest memory from a file: every page arrives where it belongs, touched in any order by
 * any thread; what cannot be had is told. */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

/* Before cmocka.h, which makes a macro of fail. */
#include "allocator/source.h"
#include "base/scope.h"

#include <cmocka.h>

#define FRAMES 4096u

static struct memory *memory;
static struct error err;
static int file; /* the source's, to be damaged */
static uint64_t pages;
static _Atomic unsigned failures;
static char failure[512];

/* Many small extents, one large, one that ends with the memory. */
static const struct memory_extent extents[] = {
    {0, 1}, {2, 1}, {4, 3}, {10, 20}, {31, 1}, {600, 200}, {2000, 777}, {FRAMES - 3, 3},
};

static void on_failure(void *opaque, const char *message)
{
    snprintf(failure, sizeof(failure), "%s", message);
    failures++;
}

static uint64_t content(frame_t frame, unsigned word)
{
    return frame * 0x9e3779b97f4a7c15ull + word + 1;
}

static bool is_saved(frame_t frame)
{
    for (unsigned i = 0; i < array_size(extents); i++) {
        if (frame >= extents[i].frame && frame - extents[i].frame < extents[i].count) {
            return true;
        }
    }
    return false;
}

static void assert_page(frame_t frame)
{
    const uint64_t *words = (const uint64_t *)memory_host(memory, frame);
    for (unsigned i = 0; i < 512; i += 73) {
        uint64_t expected = is_saved(frame) ? content(frame, i) : 0;
        if (words[i] != expected) {
            fail_msg("frame %u word %u: %lx instead of %lx", frame, i, words[i],
                     expected);
        }
    }
}

static void write_file(struct memory_source *source)
{
    uint64_t buffer[512];
    file = memfd_create("source", MFD_CLOEXEC);
    assert_true(file >= 0);
    pages = 0;
    for (unsigned i = 0; i < array_size(extents); i++) {
        for (uint32_t n = 0; n < extents[i].count; n++, pages++) {
            for (unsigned word = 0; word < 512; word++) {
                buffer[word] = content(extents[i].frame + n, word);
            }
            assert_int_equal(write(file, buffer, sizeof(buffer)), sizeof(buffer));
        }
    }
    source->page_count = pages;
    source->checksum = calloc(memory_source_chunks(source), 8);
    uint8_t *all = mmap(NULL, pages * FRAME_SIZE, PROT_READ, MAP_SHARED, file, 0);
    for (uint64_t chunk = 0; chunk < memory_source_chunks(source); chunk++) {
        uint64_t at = chunk * SOURCE_CHUNK_BYTES, left = pages * FRAME_SIZE - at;
        source->checksum[chunk] =
            XXH3_64bits(all + at, left < SOURCE_CHUNK_BYTES ? left : SOURCE_CHUNK_BYTES);
    }
    munmap(all, pages * FRAME_SIZE);
}

static struct memory_source make_source(void)
{
    struct memory_source source = MEMORY_SOURCE_NONE;
    write_file(&source);
    source.fd = dup(file);
    source.extent_count = array_size(extents);
    source.extent = malloc(sizeof(extents));
    memcpy(source.extent, extents, sizeof(extents));
    return source;
}

static int load(enum memory_load_mode mode)
{
    struct memory_source source = make_source();
    const struct memory_load how = {mode, on_failure, NULL};
    return memory_load(memory, &source, &how, &err);
}

static void load_lazily(void)
{
    if (load(MEMORY_LOAD_LAZY) != 1) {
        print_message("this host has no userfaultfd\n");
        skip();
    }
}

static int setup(void **state)
{
    memory = memory_new(FRAMES * FRAME_SIZE, &err);
    failures = 0;
    return memory && memory_add_frames(memory, FRAMES * FRAME_SIZE, &err) == 0 &&
                   memory_map(memory, 0, FRAMES * FRAME_SIZE, 0, SLOT_RAM, &err) == 0
               ? 0
               : -1;
}

static int teardown(void **state)
{
    memory_free(memory);
    close(file);
    return 0;
}

static void test_all_at_once(void **state)
{
    assert_int_equal(load(MEMORY_LOAD_NOW), 0);
    for (frame_t frame = 0; frame < FRAMES; frame++) {
        assert_page(frame);
    }
}

static void test_untouched_pages_stay_in_the_file(void **state)
{
    load_lazily();
    assert_int_equal(memory_resident(memory), 0);
    assert_page(2100);
    assert_in_range(memory_resident(memory), FRAME_SIZE, SOURCE_CHUNK_BYTES);
}

static void test_pages_come_in_any_order(void **state)
{
    load_lazily();
    for (frame_t i = 0; i < FRAMES; i++) {
        assert_page(i * 2731u % FRAMES);
    }
}

static void test_a_store_is_kept(void **state)
{
    load_lazily();
    volatile uint64_t *words = (volatile uint64_t *)memory_host(memory, 601);
    words[1] = 42;
    assert_int_equal(memory_load_finish(memory, &err), 0);
    assert_int_equal(words[0], content(601, 0));
    assert_int_equal(words[1], 42);
}

static void *touch_all(void *argument)
{
    uintptr_t seed = (uintptr_t)argument, wrong = 0;
    for (frame_t i = 0; i < FRAMES; i++) {
        frame_t frame = (i * 2731u + (frame_t)seed * 1000) % FRAMES;
        uint64_t word = *(volatile uint64_t *)memory_host(memory, frame);
        wrong += word != (is_saved(frame) ? content(frame, 0) : 0);
    }
    return (void *)wrong;
}

static void test_many_threads_touch(void **state)
{
    pthread_t thread[4];
    load_lazily();
    for (uintptr_t i = 0; i < array_size(thread); i++) {
        assert_int_equal(pthread_create(&thread[i], NULL, touch_all, (void *)i), 0);
    }
    assert_int_equal(memory_load_finish(memory, &err), 0);
    for (unsigned i = 0; i < array_size(thread); i++) {
        void *wrong;
        pthread_join(thread[i], &wrong);
        assert_null(wrong);
    }
}

static void test_finishing_brings_all(void **state)
{
    load_lazily();
    assert_page(5);
    assert_int_equal(memory_load_finish(memory, &err), 0);
    assert_true(memory_resident(memory) >= pages * FRAME_SIZE);
    for (frame_t frame = 0; frame < FRAMES; frame++) {
        assert_page(frame);
    }
    assert_int_equal(memory_load_finish(memory, &err), 0);
}

/* The kernel reads and writes what ram_map gave, whether it may wait for us or not. */
static void test_mapped_memory_is_there(void **state)
{
    uint8_t buffer[2 * FRAME_SIZE];
    int pipes[2];
    load_lazily();
    assert_int_equal(pipe(pipes), 0);
    uint8_t *host = ram_map(memory, 2003 * FRAME_SIZE + 100, sizeof(buffer), false);
    assert_int_equal(write(pipes[1], host, sizeof(buffer)), sizeof(buffer));
    assert_int_equal(read(pipes[0], buffer, sizeof(buffer)), sizeof(buffer));
    assert_memory_equal(buffer, host, sizeof(buffer));
    assert_page(2003);
    assert_page(2005);
    close(pipes[0]);
    close(pipes[1]);
}

static void damage(uint64_t offset)
{
    assert_int_equal(pwrite(file, "x", 1, (off_t)offset), 1);
}

static void test_every_damaged_chunk_is_found(void **state)
{
    struct memory_source source = make_source();
    assert_int_equal(memory_source_verify(&source, &err), 0);
    for (uint64_t chunk = 0; chunk < memory_source_chunks(&source); chunk++) {
        char before;
        uint64_t at = chunk * SOURCE_CHUNK_BYTES + 4000;
        assert_int_equal(pread(file, &before, 1, (off_t)at), 1);
        damage(at);
        assert_int_equal(memory_source_verify(&source, &err), -EINVAL);
        assert_non_null(strstr(err.message, "damaged"));
        assert_int_equal(pwrite(file, &before, 1, (off_t)at), 1);
    }
    memory_source_fini(&source);
}

static void test_truncation_is_found(void **state)
{
    struct memory_source source = make_source();
    assert_int_equal(ftruncate(file, (off_t)(pages * FRAME_SIZE - 1)), 0);
    assert_int_equal(memory_source_verify(&source, &err), -EINVAL);
    assert_non_null(strstr(err.message, "truncated"));
    memory_source_fini(&source);
}

static void test_a_file_that_changes_later_is_told_once(void **state)
{
    load_lazily();
    damage(30 * FRAME_SIZE); /* within the extent at frame 600 */
    frame_t frame = 604;
    assert_int_equal(*(volatile uint64_t *)memory_host(memory, frame), 0);
    assert_int_equal(*(volatile uint64_t *)memory_host(memory, frame + 1), 0);
    assert_int_equal(failures, 1);
    assert_non_null(strstr(failure, "damaged"));
    assert_true(memory_load_finish(memory, &err) < 0);
    assert_page(2000);
    assert_int_equal(failures, 1);
}

static void test_a_source_without_pages(void **state)
{
    struct memory_source source = MEMORY_SOURCE_NONE;
    source.fd = memfd_create("source", MFD_CLOEXEC);
    assert_int_equal(memory_source_verify(&source, &err), 0);
    const struct memory_load how = {MEMORY_LOAD_LAZY, on_failure, NULL};
    assert_true(memory_load(memory, &source, &how, &err) >= 0);
    assert_int_equal(*(volatile uint64_t *)memory_host(memory, 7), 0);
    assert_int_equal(memory_load_finish(memory, &err), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_all_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_untouched_pages_stay_in_the_file, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_pages_come_in_any_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_store_is_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_threads_touch, setup, teardown),
        cmocka_unit_test_setup_teardown(test_finishing_brings_all, setup, teardown),
        cmocka_unit_test_setup_teardown(test_mapped_memory_is_there, setup, teardown),
        cmocka_unit_test_setup_teardown(test_every_damaged_chunk_is_found, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_truncation_is_found, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_file_that_changes_later_is_told_once,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_source_without_pages, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
