#pragma once
/*
 * Guest memory from a file: the pages of a saved VM, brought in when they are first
 * touched where the host can tell (userfaultfd), all at once elsewhere.
 *
 * The file holds the pages of the extents one behind the other and nothing else. Frames
 * outside of the extents are zero.
 */

#include "allocator/memory.h"

/* Pages that are checked and brought in together. */
#define SOURCE_CHUNK       16u
#define SOURCE_CHUNK_BYTES (SOURCE_CHUNK * FRAME_SIZE)

struct memory_extent {
    frame_t frame;
    uint32_t count; /* not 0 */
};

struct memory_source {
    int fd;
    uint32_t extent_count;
    struct memory_extent *extent; /* ascending, disjoint */
    uint64_t page_count;          /* of all extents */
    uint64_t *checksum;           /* XXH3-64 of each chunk of the file */
};

#define MEMORY_SOURCE_NONE \
    {                      \
        .fd = -1           \
    }

void memory_source_fini(struct memory_source *source);
static inline uint64_t memory_source_chunks(const struct memory_source *source)
{
    return (source->page_count + SOURCE_CHUNK - 1) / SOURCE_CHUNK;
}

/* Reads the whole file and compares its size and every checksum. */
int memory_source_verify(const struct memory_source *source, struct error *err);

enum memory_load_mode {
    MEMORY_LOAD_LAZY, /* on first touch, by this process or by the kernel for it */
    /* The same for memory that the kernel itself touches without ram_map (KVM's guests):
     * lazily only if the host lets it wait for us. */
    MEMORY_LOAD_LAZY_IN_KERNEL,
    MEMORY_LOAD_NOW,
};

struct memory_load {
    enum memory_load_mode mode;
    /* A page can no longer be had (the file changed or cannot be read), and reads as
     * zeros. Called in a thread of its own, at most once. */
    void (*failed)(void *opaque, const char *message);
    void *opaque;
};

/*
 * Fills memory that has not been touched since its frames were added. Takes the source,
 * also on failure. Every extent lies in [0, frame_count). Returns 1 if it is brought in
 * lazily, 0 if all is there already.
 */
int memory_load(struct memory *memory, struct memory_source *source,
                const struct memory_load *load, struct error *err);
/* Waits until all is there: before the memory is read as a whole. Does nothing where
 * nothing is owed. */
int memory_load_finish(struct memory *memory, struct error *err);
/* For memory_free. */
void memory_load_stop(struct memory *memory);
/* For ram_map: brings in what the kernel may be told to read or write. */
void memory_load_range(struct memory *memory, const uint8_t *host, uint64_t size);
