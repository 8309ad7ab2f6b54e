#include "state/memory_file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/scope.h"
#include "state/directory.h"

#define MEMORY_VERSION 1

/* --- Writing --- */

/* Grows an array to hold one more element. */
static bool reserve(void **array, size_t size, uint64_t count, uint64_t *capacity)
{
    if (count < *capacity) {
        return true;
    }
    uint64_t larger = *capacity ? *capacity * 2 : 1024;
    void *grown = reallocarray(*array, larger, size);
    if (!grown) {
        return false;
    }
    *array = grown;
    *capacity = larger;
    return true;
}

static bool is_zero(const uint8_t *page)
{
    const uint64_t *words = (const uint64_t *)(const void *)page;
    for (unsigned i = 0; i < FRAME_SIZE / sizeof(*words); i += 8) {
        if (words[i] | words[i + 1] | words[i + 2] | words[i + 3] | words[i + 4] |
            words[i + 5] | words[i + 6] | words[i + 7]) {
            return false;
        }
    }
    return true;
}

/* Adds the frame to the last extent, or begins one. */
static bool add_frame(struct memory_source *source, uint64_t *capacity, frame_t frame)
{
    if (source->extent_count > 0) {
        struct memory_extent *last = &source->extent[source->extent_count - 1];
        if (last->frame + last->count == frame) {
            last->count++;
            return true;
        }
    }
    if (!reserve((void **)&source->extent, sizeof(*source->extent), source->extent_count,
                 capacity)) {
        return false;
    }
    source->extent[source->extent_count++] = (struct memory_extent){frame, 1};
    return true;
}

/* The next run of frames that the host has pages for, from *first on; what it has none
 * for is zero. */
static bool next_resident(const struct memory *memory, frame_t *first, frame_t *end)
{
    off_t limit = (off_t)memory->frame_count * FRAME_SIZE;
    off_t data = lseek(memory->fd, (off_t)*first * FRAME_SIZE, SEEK_DATA);
    if (data < 0 || data >= limit) {
        return false;
    }
    off_t hole = lseek(memory->fd, data, SEEK_HOLE);
    if (hole < 0 || hole > limit) {
        hole = limit;
    }
    *first = (frame_t)(data / FRAME_SIZE);
    *end = (frame_t)((hole + FRAME_SIZE - 1) / FRAME_SIZE);
    return true;
}

static int find_extents(const struct memory *memory, struct memory_source *source,
                        struct error *err)
{
    uint64_t capacity = 0;
    frame_t first = 0, end;
    while (first < memory->frame_count && next_resident(memory, &first, &end)) {
        for (; first < end; first++) {
            if (is_zero(memory_host(memory, first))) {
                continue;
            }
            if (!add_frame(source, &capacity, first)) {
                return fail(err, ENOMEM, "cannot save guest memory");
            }
            source->page_count++;
        }
    }
    return 0;
}

/* One checksum for each SOURCE_CHUNK pages of the file, wherever they come from. */
static void hash_pages(struct memory_source *source, XXH3_state_t *state, uint64_t *page,
                       const uint8_t *data, uint32_t count)
{
    while (count > 0) {
        uint32_t room = SOURCE_CHUNK - (uint32_t)(*page % SOURCE_CHUNK);
        uint32_t part = count < room ? count : room;
        if (*page % SOURCE_CHUNK == 0) {
            XXH3_64bits_reset(state);
        }
        XXH3_64bits_update(state, data, (size_t)part * FRAME_SIZE);
        source->checksum[*page / SOURCE_CHUNK] = XXH3_64bits_digest(state);
        *page += part;
        data += (size_t)part * FRAME_SIZE;
        count -= part;
    }
}

static int write_extents(struct memory *memory, int fd, struct memory_source *source,
                         struct error *err)
{
    XXH3_state_t *state = XXH3_createState();
    source->checksum = calloc(memory_source_chunks(source) + 1, sizeof(uint64_t));
    int result = 0;
    if (!state || !source->checksum) {
        result = fail(err, ENOMEM, "cannot save guest memory");
    }
    uint64_t page = 0;
    for (uint32_t i = 0; result >= 0 && i < source->extent_count; i++) {
        const struct memory_extent *extent = &source->extent[i];
        const uint8_t *data = memory_host(memory, extent->frame);
        result = file_write(fd, data, (uint64_t)extent->count * FRAME_SIZE, err);
        if (result >= 0) {
            hash_pages(source, state, &page, data, extent->count);
        }
    }
    XXH3_freeState(state);
    return result;
}

int memory_file_find(struct memory *memory, struct memory_source *source,
                     struct error *err)
{
    *source = (struct memory_source)MEMORY_SOURCE_NONE;
    int result = memory_load_finish(memory, err);
    return result < 0 ? result : find_extents(memory, source, err);
}

int memory_file_write(struct memory *memory, int fd, struct memory_source *source,
                      struct error *err)
{
    int result = memory_file_find(memory, source, err);
    if (result >= 0) {
        result = write_extents(memory, fd, source, err);
    }
    if (result < 0) {
        memory_source_fini(source);
    }
    return result;
}

/* --- The section --- */

#define SLOT_WORDS 4 /* gpa, size, frame, kind */

static unsigned slot_words(const struct memory *memory,
                           uint64_t words[SLOTS_MAX * SLOT_WORDS])
{
    const struct slot_table *table = memory->slots;
    for (unsigned i = 0; i < table->count; i++) {
        const struct slot *slot = &table->slot[i];
        const uint64_t row[SLOT_WORDS] = {slot->gpa, slot->size, slot->frame, slot->kind};
        memcpy(&words[i * SLOT_WORDS], row, sizeof(row));
    }
    return table->count * SLOT_WORDS;
}

void memory_file_put(struct stream_writer *writer, const struct memory *memory,
                     const struct memory_source *source)
{
    uint64_t words[SLOTS_MAX * SLOT_WORDS];
    unsigned count = slot_words(memory, words);
    stream_begin(writer, "memory", "", MEMORY_VERSION, STREAM_REQUIRED);
    stream_put(writer, "slots", words, 8, count);
    stream_put_u64(writer, "pages", source->page_count);
    stream_put(writer, "extents", source->extent, 4, source->extent_count * 2);
    stream_put(writer, "checksums", source->checksum, 8,
               (uint32_t)memory_source_chunks(source));
    stream_end(writer);
}

static int check_slots(const struct stream_section *section, const struct memory *memory,
                       struct error *err)
{
    struct stream_field field;
    uint64_t words[SLOTS_MAX * SLOT_WORDS];
    unsigned count = slot_words(memory, words);
    int result = section_field(section, "slots", 8, &field, err);
    if (result < 0) {
        return result;
    }
    if (field.count != count || memcmp(field.data, words, count * 8ul) != 0) {
        return fail_plain(err, EINVAL, "has another memory map than this machine");
    }
    return 0;
}

/* Ascending, disjoint, within the memory, and as many pages as promised. */
static int check_extents(const struct memory_source *source, const struct memory *memory,
                         struct error *err)
{
    uint64_t pages = 0, end = 0;
    for (uint32_t i = 0; i < source->extent_count; i++) {
        const struct memory_extent *extent = &source->extent[i];
        if (extent->frame < end || extent->count == 0) {
            return fail_plain(err, EINVAL, "section memory: extent %" PRIu32 " is wrong",
                              i);
        }
        end = (uint64_t)extent->frame + extent->count;
        pages += extent->count;
    }
    if (end > memory->frame_count || pages != source->page_count) {
        return fail_plain(err, EINVAL,
                          "section memory: the extents do not fit the memory");
    }
    return 0;
}

static int get_extents(const struct stream_section *section, struct memory_source *source,
                       struct error *err)
{
    struct stream_field extents, checksums;
    int result = section_u64(section, "pages", &source->page_count, err);
    if (result >= 0) {
        result = section_field(section, "extents", 4, &extents, err);
    }
    if (result >= 0) {
        result = section_field(section, "checksums", 8, &checksums, err);
    }
    if (result < 0) {
        return result;
    }
    if (extents.count % 2 || source->page_count > FRAME_NONE ||
        checksums.count != memory_source_chunks(source)) {
        return fail_plain(err, EINVAL, "section memory: the counts do not match");
    }
    source->extent_count = extents.count / 2;
    source->extent = malloc(extents.count * 4ul + 1);
    source->checksum = malloc(checksums.count * 8ul + 1);
    if (!source->extent || !source->checksum) {
        return fail(err, ENOMEM, "cannot load guest memory");
    }
    memcpy(source->extent, extents.data, extents.count * 4ul);
    memcpy(source->checksum, checksums.data, checksums.count * 8ul);
    return 0;
}

int memory_file_get(struct stream *stream, const struct memory *memory,
                    struct memory_source *source, struct error *err)
{
    *source = (struct memory_source)MEMORY_SOURCE_NONE;
    const struct stream_section *section =
        stream_need(stream, "memory", "", MEMORY_VERSION, err);
    if (!section) {
        return -err->code;
    }
    int result = check_slots(section, memory, err);
    if (result >= 0) {
        result = get_extents(section, source, err);
    }
    if (result >= 0) {
        result = check_extents(source, memory, err);
    }
    if (result < 0) {
        memory_source_fini(source);
    }
    return result;
}
