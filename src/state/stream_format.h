#pragma once
/* The stream's bytes, as docs/snapshots.md describes them. All numbers are little-endian,
 * as on every host that Doppel runs on. */

#include <stdint.h>

#include "state/stream.h"

#define STREAM_MAGIC "DOPPELVM"

/* The same in every format version, so that any version can name a newer one. */
struct stream_header {
    char magic[8];
    uint32_t format;
    uint32_t section_count;
    uint64_t size; /* of the whole stream */
    char writer_version[STREAM_VERSION_SIZE];
    uint64_t checksum; /* XXH3-64 of what is before it */
};

struct section_header {
    char kind[STREAM_KIND_SIZE];
    char instance[STREAM_NAME_SIZE];
    uint32_t version;
    uint32_t flags;
    uint64_t length; /* of the fields that follow */
    uint64_t data_checksum;
    uint64_t checksum; /* XXH3-64 of what is before it */
};

/* Behind it come the name, without a final 0, and size * count bytes. */
struct field_header {
    uint8_t name_length;
    uint8_t size;
    uint16_t reserved; /* 0 */
    uint32_t count;
};

_Static_assert(sizeof(struct stream_header) == 64, "no padding");
_Static_assert(sizeof(struct section_header) == 88, "no padding");
_Static_assert(sizeof(struct field_header) == 8, "no padding");
