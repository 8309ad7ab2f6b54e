#pragma once
/*
 * The compressed kernel inside a bzImage, unpacked on the host: libraries do in tens of
 * milliseconds what the kernel's own decompressor does in minutes of guest instructions.
 *
 * To add a format: one row in payload.c's table.
 */

#include <stdint.h>

#include "base/error.h"

struct payload_format {
    const char *name;
    uint8_t magic[6];
    uint8_t magic_size;
    /*
     * Unpacks exactly out_size bytes. Returns 0, or -EBADMSG if the data is damaged,
     * -ENOMEM. NULL: recognised, but left to the kernel's own decompressor.
     */
    int (*unpack)(const uint8_t *in, uint64_t in_size, uint8_t *out, uint64_t out_size);
};

/* The format that data begins with, or NULL. */
const struct payload_format *payload_find(const uint8_t *data, uint64_t size);

/* The unpacked size that a payload announces in its last 4 bytes, as the kernel's build
 * stores it for every format. 0 if it is too short to have them. */
uint64_t payload_unpacked_size(const uint8_t *data, uint64_t size);

/*
 * Unpacks into memory that the caller frees. At most limit bytes. Fails with -ENOTSUP
 * where the format has no unpacker here, -EBADMSG if it is damaged, -E2BIG above limit.
 */
uint8_t *payload_unpack(const uint8_t *data, uint64_t size, uint64_t limit,
                        uint64_t *out_size, struct error *err);
