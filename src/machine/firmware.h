#pragma once
/*
 * A firmware image: where it is mapped. As on a PC its last byte is the last below 4G,
 * and its end, up to 128 KiB of it, appears below 1M, too; the bootstrap processor
 * begins 16 bytes before it.
 */

#include "allocator/memory.h"
#include "machine/image.h"

#define FIRMWARE_UNIT     0x10000u    /* a size is a multiple of it */
#define FIRMWARE_SIZE_MAX (16u << 20) /* what the chip sets decode below 4G */

/* Opens the file and checks its size. The message is the cause alone. */
int firmware_open(struct image *image, const char *path, struct error *err);
/* The part of the image that appears below 1M. */
uint64_t firmware_low_size(const struct image *image);
/* Adds its frames, maps them below 4G and reads the file; returns the first one. What
 * appears below 1M is shadow.h's. */
int64_t firmware_map(const struct image *image, struct memory *memory, struct error *err);
