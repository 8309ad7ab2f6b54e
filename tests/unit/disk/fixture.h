#pragma once
/* An image in a folder of its own, which the tear-down removes with its file. */

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[64];
static char image[96];

static inline int image_setup(void **state)
{
    snprintf(folder, sizeof(folder), "/tmp/doppel-disk-XXXXXX");
    if (!mkdtemp(folder)) {
        return -1;
    }
    snprintf(image, sizeof(image), "%s/disk.img", folder);
    return 0;
}

static inline int image_teardown(void **state)
{
    unlink(image);
    return rmdir(folder);
}

static inline void image_make(const void *head, size_t size, off_t length)
{
    int fd = open(image, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert(fd >= 0);
    assert(write(fd, head, size) == (ssize_t)size && ftruncate(fd, length) == 0);
    close(fd);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, image_setup, image_teardown)
