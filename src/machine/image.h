#pragma once
/*
 * The bytes of a boot file: a regular file, or memory (decompressed payloads, tests).
 * Nothing in it is trusted and nothing is mapped: a file that shrinks under us is a read
 * error, not a SIGBUS.
 */

#include <stdbool.h>
#include <stdint.h>

#include "allocator/memory.h"
#include "base/error.h"

struct image {
    int fd;              /* -1: data holds the bytes */
    const uint8_t *data; /* borrowed, or freed with the image if owns_data */
    bool owns_data;
    uint64_t start; /* where the image begins in the file */
    uint64_t size;
    /* XXH3-64 of each IMAGE_CHUNK of its bytes, which are compared when they are read: a
     * difference is -EUCLEAN. Freed with the image; NULL: there is nothing to compare. */
    uint64_t *checksum;
};

/* Files are read in pieces that stay in the processor's cache. */
#define IMAGE_CHUNK (256u << 10)

#define IMAGE_NONE             \
    {                          \
        .fd = -1, .data = NULL \
    }

/*
 * Opens a regular file. Directories, devices, FIFOs and sockets are refused before they
 * are opened, so that none can block or be set off. The message is the cause alone ("is a
 * directory"); the caller says what it was for.
 */
int image_open(struct image *image, const char *path, struct error *err);
/* data is borrowed. */
void image_init_memory(struct image *image, const void *data, uint64_t size);
/* Takes data, which is freed by image_close. */
void image_take_memory(struct image *image, void *data, uint64_t size);
void image_close(struct image *image);

/* Is [offset, offset + size) inside? */
static inline bool image_contains(const struct image *image, uint64_t offset,
                                  uint64_t size)
{
    return offset <= image->size && size <= image->size - offset;
}

/* Reads exactly size bytes; fails with "truncated in WHAT" if the image does not have
 * them. */
int image_read(const struct image *image, uint64_t offset, void *buffer, uint64_t size,
               const char *what, struct error *err);

/* The same, straight into guest RAM, which must be one slot's. */
int image_load(const struct image *image, uint64_t offset, uint64_t size,
               struct memory *memory, gpa_t gpa, const char *what, struct error *err);
