#pragma once
/*
 * Unpacked kernel payloads, kept between runs under $XDG_CACHE_HOME/doppel or
 * ~/.cache/doppel. A file is named by the content of the packed payload, and compared
 * with checksums as it is read; a damaged one is ignored and replaced. The cache is never
 * needed: where its directory cannot be used it is silently off.
 */

#include <stdbool.h>
#include <stdint.h>

#include "machine/image.h"

/* The oldest entries go when the directory would grow beyond this. */
#define CACHE_SIZE_MAX (1ull << 30)

struct cache_key {
    uint64_t low, high; /* XXH3-128 of the packed payload */
    uint64_t size;      /* its length */
};

/* Of the packed payload at [offset, offset + size) of an image. */
int cache_key_make(struct cache_key *key, const struct image *image, uint64_t offset,
                   uint64_t size, struct error *err);

/* Opens, and makes, the directory: path, or the user's if NULL. Returns its descriptor,
 * or -1: no cache. */
int cache_open(const char *path);
/* Opens the entry with that key, whose chunks are checked when they are read (struct
 * image's checksum), the first one now. The caller closes the image. */
bool cache_find(int cache, const struct cache_key *key, struct image *image);
/* Adds or replaces an entry; it appears complete or not at all. Failures are logged. */
void cache_store(int cache, const struct cache_key *key, const void *data, uint64_t size);
/* Removes the oldest files until the rest and `room` bytes more fit into max. */
void cache_trim(int cache, uint64_t room, uint64_t max);
