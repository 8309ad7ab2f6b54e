/* Writing the stream: into memory that grows. */

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "state/stream_format.h"

void stream_init(struct stream_writer *writer)
{
    *writer = (struct stream_writer){0};
}

void stream_fini(struct stream_writer *writer)
{
    free(writer->data);
    *writer = (struct stream_writer){0};
}

/* Room for size more bytes, or NULL. */
static uint8_t *append(struct stream_writer *writer, size_t size)
{
    if (writer->is_short_of_memory) {
        return NULL;
    }
    if (writer->size == 0) {
        size += sizeof(struct stream_header);
    }
    if (size > writer->capacity - writer->size) {
        size_t capacity = (writer->size + size) * 2;
        uint8_t *data = realloc(writer->data, capacity);
        if (!data) {
            writer->is_short_of_memory = true;
            return NULL;
        }
        writer->data = data;
        writer->capacity = capacity;
    }
    uint8_t *room = writer->data + writer->size;
    if (writer->size == 0) {
        memset(room, 0, sizeof(struct stream_header));
        room += sizeof(struct stream_header);
    }
    writer->size += size;
    return room;
}

static void copy_name(char *target, size_t size, const char *name)
{
    size_t length = strlen(name);
    assert(length < size);
    memcpy(target, name, length);
}

void stream_begin(struct stream_writer *writer, const char *kind, const char *instance,
                  uint32_t version, uint32_t flags)
{
    struct section_header header = {.version = version, .flags = flags};
    copy_name(header.kind, sizeof(header.kind), kind);
    copy_name(header.instance, sizeof(header.instance), instance);
    uint8_t *room = append(writer, sizeof(header));
    if (room) {
        memcpy(room, &header, sizeof(header));
        writer->section = (size_t)(room - writer->data);
        writer->section_count++;
    }
}

static uint8_t *put_header(struct stream_writer *writer, const char *name, unsigned size,
                           uint32_t count)
{
    size_t length = strlen(name);
    assert(length > 0 && length <= UINT8_MAX);
    const struct field_header header = {
        .name_length = (uint8_t)length, .size = (uint8_t)size, .count = count};
    size_t bytes = (size_t)size * count;
    uint8_t *room = append(writer, sizeof(header) + length + bytes);
    if (!room) {
        return NULL;
    }
    memcpy(room, &header, sizeof(header));
    memcpy(room + sizeof(header), name, length);
    return room + sizeof(header) + length;
}

void stream_put(struct stream_writer *writer, const char *name, const void *data,
                unsigned size, uint32_t count)
{
    uint8_t *room = put_header(writer, name, size, count);
    if (room && count > 0) {
        memcpy(room, data, (size_t)size * count);
    }
}

void stream_put_text(struct stream_writer *writer, const char *name, const char *text)
{
    stream_put(writer, name, text, 1, (uint32_t)strlen(text));
}

void stream_put_u64(struct stream_writer *writer, const char *name, uint64_t value)
{
    stream_put(writer, name, &value, sizeof(value), 1);
}

void stream_put_fields(struct stream_writer *writer, const struct device_field *fields,
                       const void *object)
{
    for (const struct device_field *field = fields; field->name; field++) {
        stream_put(writer, field->name, (const uint8_t *)object + field->offset,
                   field->size, field->count);
    }
}

void stream_put_flat(struct stream_writer *writer, const struct device_field *fields,
                     const uint8_t *flat)
{
    for (const struct device_field *field = fields; field->name; field++) {
        stream_put(writer, field->name, flat, field->size, field->count);
        flat += (size_t)field->size * field->count;
    }
}

void stream_end(struct stream_writer *writer)
{
    if (writer->is_short_of_memory) {
        return;
    }
    uint8_t *start = writer->data + writer->section;
    const uint8_t *fields = start + sizeof(struct section_header);
    struct section_header header;
    memcpy(&header, start, sizeof(header));
    header.length = (uint64_t)(writer->data + writer->size - fields);
    header.data_checksum = XXH3_64bits(fields, header.length);
    header.checksum = XXH3_64bits(&header, offsetof(struct section_header, checksum));
    memcpy(start, &header, sizeof(header));
}

int stream_finish(struct stream_writer *writer, struct error *err)
{
    append(writer, 0);
    if (writer->is_short_of_memory) {
        return fail(err, ENOMEM, "cannot save the state");
    }
    struct stream_header header = {
        .magic = STREAM_MAGIC,
        .format = STREAM_FORMAT,
        .section_count = writer->section_count,
        .size = writer->size,
    };
    copy_name(header.writer_version, sizeof(header.writer_version), DOPPEL_VERSION);
    header.checksum = XXH3_64bits(&header, offsetof(struct stream_header, checksum));
    memcpy(writer->data, &header, sizeof(header));
    return 0;
}
