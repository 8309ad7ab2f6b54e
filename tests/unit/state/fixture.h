#pragma once
/* A small running VM, a folder for its snapshots, and calls of the system that fail when
 * told to. */

#include <dirent.h>
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
#include <sys/syscall.h>
#include <unistd.h>

/* Before cmocka.h, which makes a macro of fail. */
#include "base/scope.h"
#include "machine/board.h"
#include "state/part.h"
#include "state/snapshot.h"

#include <cmocka.h>

#define RAM (16ull << 20)

static char folder[64], kernel_path[96], saved[96];
static struct vm *vm, *copy;
static struct error err;

static inline unsigned console_write(void *opaque, const uint8_t *data, unsigned size)
{
    return size;
}

static const struct console_port console = {console_write, NULL};

/* A 64-bit ELF kernel at 2M that counts in memory for ever:
 * 1: incq 0x300000; jmp 1b */
static inline void make_kernel(void)
{
    static const uint8_t elf[0x82] = {
        0x7f, 'E', 'L', 'F', 2, 1,
        1, [16] = 2, [18] = 62, [20] = 1, [26] = 0x20, [32] = 64, [54] = 56, [56] = 1,
        /* program header: PT_LOAD from 0x78 to 2M, 10 bytes */
        [64] = 1, [64 + 8] = 0x78, [64 + 26] = 0x20, [64 + 32] = 10,
        [64 + 40] = 10, [0x78] = 0x48, 0xff, 0x04, 0x25, 0x00, 0x00, 0x30, 0x00, 0xeb,
        0xf6};
    int fd = open(kernel_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(write(fd, elf, sizeof(elf)), sizeof(elf));
    close(fd);
}

static inline void make_vm(void)
{
    const struct machine_config config = {.name = "sample",
                                          .engine = "interpreter",
                                          .cpus = 2,
                                          .memory = RAM,
                                          .kernel = kernel_path,
                                          .append = "some words",
                                          .debug_exit = true};
    vm = machine_new(&config, &console, &err);
    if (!vm) {
        fail_msg("%s", err.message);
    }
}

static inline void start_vm(void)
{
    make_vm();
    assert_int_equal(vm_start(vm, &err), 0);
}

/* What the guest has counted to. */
static inline uint64_t counter(struct vm *of)
{
    return *(volatile uint64_t *)ram_map(of->memory, 0x300000, 8, false);
}

static inline void wait_for_count(struct vm *of, uint64_t above)
{
    uint64_t end = clock_host_ns() + 20 * NS_PER_SECOND;
    while (counter(of) <= above) {
        assert_true(clock_host_ns() < end);
        usleep(100);
    }
}

static inline int folder_setup(void **state)
{
    strcpy(folder, "/tmp/doppel-state-XXXXXX");
    if (!mkdtemp(folder)) {
        return -1;
    }
    snprintf(kernel_path, sizeof(kernel_path), "%s/kernel.elf", folder);
    snprintf(saved, sizeof(saved), "%s/saved", folder);
    make_kernel();
    return 0;
}

static inline void remove_all(const char *path)
{
    DIR *stream = opendir(path);
    for (struct dirent *entry; stream && (entry = readdir(stream));) {
        if (entry->d_name[0] != '.') {
            unlinkat(dirfd(stream), entry->d_name, 0);
        }
    }
    if (stream) {
        closedir(stream);
    }
    rmdir(path);
}

static inline int folder_teardown(void **state)
{
    vm_free(vm);
    vm_free(copy);
    vm = copy = NULL;
    remove_all(saved);
    remove_all(folder);
    return 0;
}

static inline void snapshot(void)
{
    if (vm_snapshot(vm, saved, &err) < 0) {
        fail_msg("%s", err.message);
    }
}

/* Into `copy`, not started. */
static inline int restore(void)
{
    struct snapshot *opened = snapshot_open(saved, &err);
    if (!opened) {
        return -1;
    }
    struct machine_config config = snapshot_config(opened);
    config.engine = "interpreter";
    copy = vm_restore(opened, &config, &console, &err);
    snapshot_close(opened);
    return copy ? 0 : -1;
}

static inline void refuses(const char *message)
{
    assert_int_equal(restore(), -1);
    if (!strstr(err.message, message)) {
        fail_msg("'%s' does not say '%s'", err.message, message);
    }
    assert_non_null(strstr(err.message, saved));
}

/* --- Files --- */

static inline uint8_t *read_file(const char *name, size_t *size)
{
    char path[128];
    struct stat status;
    snprintf(path, sizeof(path), "%s/%s", saved, name);
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &status), 0);
    *size = (size_t)status.st_size;
    uint8_t *data = malloc(*size + 1);
    assert_int_equal(read(fd, data, *size), *size);
    close(fd);
    return data;
}

static inline void write_file(const char *name, const void *data, size_t size)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", saved, name);
    int fd = open(path, O_WRONLY | O_TRUNC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, size), size);
    close(fd);
}

/* --- What a failure must not leave behind --- */

static inline unsigned count_entries(const char *path)
{
    unsigned count = 0;
    DIR *stream = opendir(path);
    while (readdir(stream)) {
        count++;
    }
    closedir(stream);
    return count;
}

struct resources {
    unsigned descriptors, threads, files;
};

static inline struct resources count_resources(void)
{
    return (struct resources){count_entries("/proc/self/fd"),
                              count_entries("/proc/self/task"), count_entries(folder)};
}

static inline void assert_resources(const struct resources *before)
{
    struct resources now = count_resources();
    assert_int_equal(now.descriptors, before->descriptors);
    assert_int_equal(now.threads, before->threads);
    assert_int_equal(now.files, before->files);
}
