/* The file of a saved VM's pages: finding a page in it, reading, checking. */
#include "allocator/source.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "allocator/source_read.h"
#include "base/scope.h"

void memory_source_fini(struct memory_source *source)
{
    if (source->fd >= 0) {
        close(source->fd);
    }
    free(source->extent);
    free(source->checksum);
    *source = (struct memory_source)MEMORY_SOURCE_NONE;
}

unsigned source_chunk_pages(const struct memory_source *source, uint64_t chunk)
{
    uint64_t left = source->page_count - chunk * SOURCE_CHUNK;
    return left < SOURCE_CHUNK ? (unsigned)left : SOURCE_CHUNK;
}

int source_read(const struct memory_source *source, uint64_t chunk, uint8_t *buffer,
                struct error *err)
{
    size_t size = (size_t)source_chunk_pages(source, chunk) * FRAME_SIZE, done = 0;
    while (done < size) {
        ssize_t got = pread(source->fd, buffer + done, size - done,
                            (off_t)(chunk * SOURCE_CHUNK_BYTES + done));
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return fail(err, errno, "saved guest memory cannot be read");
        }
        if (got == 0) {
            return fail_plain(err, EINVAL,
                              "saved guest memory is truncated at byte %" PRIu64,
                              chunk * SOURCE_CHUNK_BYTES + done);
        }
        done += (size_t)got;
    }
    if (XXH3_64bits(buffer, size) != source->checksum[chunk]) {
        return fail_plain(err, EINVAL,
                          "saved guest memory is damaged: the checksum of bytes %" PRIu64
                          " to %" PRIu64 " is wrong",
                          chunk * SOURCE_CHUNK_BYTES,
                          chunk * SOURCE_CHUNK_BYTES + size - 1);
    }
    return 0;
}

int memory_source_verify(const struct memory_source *source, struct error *err)
{
    struct stat status;
    if (fstat(source->fd, &status) < 0) {
        return fail(err, errno, "saved guest memory cannot be read");
    }
    uint64_t size = (uint64_t)status.st_size, expected = source->page_count * FRAME_SIZE;
    if (size != expected) {
        return fail_plain(err, EINVAL,
                          "saved guest memory %s: it has %" PRIu64 " bytes instead of "
                          "%" PRIu64,
                          size < expected ? "is truncated" : "is damaged", size,
                          expected);
    }
    SCOPE_FREE uint8_t *buffer = aligned_alloc(FRAME_SIZE, SOURCE_CHUNK_BYTES);
    if (!buffer) {
        return fail(err, ENOMEM, "saved guest memory cannot be read");
    }
    for (uint64_t chunk = 0; chunk < memory_source_chunks(source); chunk++) {
        int result = source_read(source, chunk, buffer, err);
        if (result < 0) {
            return result;
        }
    }
    return 0;
}

uint64_t *source_index(const struct memory_source *source)
{
    uint64_t *start = calloc(source->extent_count + 1u, sizeof(*start));
    for (uint32_t i = 0; start && i < source->extent_count; i++) {
        start[i + 1] = start[i] + source->extent[i].count;
    }
    return start;
}

uint32_t source_extent_at(const struct memory_source *source, const uint64_t *start,
                          uint64_t page)
{
    uint32_t low = 0, high = source->extent_count;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (start[middle] <= page) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

uint64_t source_page_of(const struct memory_source *source, const uint64_t *start,
                        frame_t frame)
{
    uint32_t low = 0, high = source->extent_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const struct memory_extent *extent = &source->extent[middle];
        if (frame < extent->frame) {
            high = middle;
        } else if (frame - extent->frame >= extent->count) {
            low = middle + 1;
        } else {
            return start[middle] + (frame - extent->frame);
        }
    }
    return SOURCE_NO_PAGE;
}

int source_place(const struct memory_source *source, const uint64_t *start,
                 uint64_t chunk, const uint8_t *data,
                 int (*place)(void *opaque, frame_t frame, uint32_t count,
                              const uint8_t *data),
                 void *opaque)
{
    uint64_t page = chunk * SOURCE_CHUNK;
    uint64_t end = page + source_chunk_pages(source, chunk);
    int result = 0;
    for (uint32_t i = source_extent_at(source, start, page); result >= 0 && page < end;
         i++) {
        uint64_t stop = start[i + 1] < end ? start[i + 1] : end;
        result = place(opaque, source->extent[i].frame + (frame_t)(page - start[i]),
                       (uint32_t)(stop - page), data);
        data += (stop - page) * FRAME_SIZE;
        page = stop;
    }
    return result;
}
