#pragma once
/* Guest memory in a snapshot: the pages that are not zero in a file of their own, where
 * they belong in the stream's section "memory". */

#include "allocator/source.h"
#include "state/stream.h"

/* Fills the extents of *source with the pages that are not zero; no file, no checksums.
 * The guest does not run. */
int memory_file_find(struct memory *memory, struct memory_source *source,
                     struct error *err);
/* Writes the pages to fd, which is at its beginning, and fills *source, whose descriptor
 * stays -1. The guest does not run. */
int memory_file_write(struct memory *memory, int fd, struct memory_source *source,
                      struct error *err);
/* The section: the slots, and what the file holds. */
void memory_file_put(struct stream_writer *writer, const struct memory *memory,
                     const struct memory_source *source);
/* Checks that the memory has just these slots and fills *source but for the descriptor.
 */
int memory_file_get(struct stream *stream, const struct memory *memory,
                    struct memory_source *source, struct error *err);
