#pragma once
/* What the two files of saved guest memory share. A page is named by its number in the
 * file; start[i] is the first page of extent i, start[extent_count] their number. */

#include "allocator/source.h"

#define SOURCE_NO_PAGE UINT64_MAX

/* The caller frees it; NULL when memory is short. */
uint64_t *source_index(const struct memory_source *source);
/* The pages in a chunk: fewer in the last one. */
unsigned source_chunk_pages(const struct memory_source *source, uint64_t chunk);
/* Reads a chunk into a buffer of SOURCE_CHUNK_BYTES and checks it. */
int source_read(const struct memory_source *source, uint64_t chunk, uint8_t *buffer,
                struct error *err);
/* The extent that holds the page. */
uint32_t source_extent_at(const struct memory_source *source, const uint64_t *start,
                          uint64_t page);
/* The page saved for the frame, or SOURCE_NO_PAGE. */
uint64_t source_page_of(const struct memory_source *source, const uint64_t *start,
                        frame_t frame);
/* Calls place for each run of frames in a chunk, until one fails. */
int source_place(const struct memory_source *source, const uint64_t *start,
                 uint64_t chunk, const uint8_t *data,
                 int (*place)(void *opaque, frame_t frame, uint32_t count,
                              const uint8_t *data),
                 void *opaque);
