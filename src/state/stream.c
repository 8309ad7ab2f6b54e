/*
 * Reading the stream. Nothing in it is trusted: lengths and counts are checked against
 * what is left before they are used, names must be printable and terminated.
 */

#include "state/stream.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "state/stream_format.h"

/* More than any machine has parts. */
#define SECTIONS_MAX 1024u

static bool is_printable(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (text[i] < ' ' || text[i] > '~') {
            return false;
        }
    }
    return true;
}

/* Terminated within its array, and nothing behind the end. */
static bool is_name(const char *name, size_t size)
{
    size_t length = strnlen(name, size);
    if (length == size || !is_printable(name, length)) {
        return false;
    }
    for (size_t i = length; i < size; i++) {
        if (name[i]) {
            return false;
        }
    }
    return true;
}

static int parse_header(struct stream_header *header, const uint8_t *data, size_t size,
                        struct error *err)
{
    if (size < sizeof(header->magic) ||
        memcmp(data, STREAM_MAGIC, sizeof(header->magic)) != 0) {
        return fail_plain(err, EINVAL, "is not the saved state of a Doppel VM");
    }
    if (size < sizeof(*header)) {
        return fail_plain(err, EINVAL, "is truncated: %zu bytes are not even a header",
                          size);
    }
    memcpy(header, data, sizeof(*header));
    if (header->checksum !=
            XXH3_64bits(header, offsetof(struct stream_header, checksum)) ||
        !is_name(header->writer_version, sizeof(header->writer_version))) {
        return fail_plain(err, EINVAL, "is damaged: its header's checksum is wrong");
    }
    if (header->format > STREAM_FORMAT || header->format == 0) {
        return fail_plain(err, ENOTSUP,
                          "has format %" PRIu32 ", written by Doppel %s; this is Doppel "
                          "%s, which reads formats up to %u",
                          header->format, header->writer_version, DOPPEL_VERSION,
                          STREAM_FORMAT);
    }
    if (size < header->size) {
        return fail_plain(err, EINVAL, "is truncated: %zu of %" PRIu64 " bytes are there",
                          size, header->size);
    }
    if (size > header->size) {
        return fail_plain(err, EINVAL, "is damaged: %zu bytes follow its end",
                          size - (size_t)header->size);
    }
    return 0;
}

/* Takes a field off the front of [data, data + *left). */
static bool take_field(const uint8_t *data, size_t left, struct stream_field *field,
                       size_t *taken)
{
    struct field_header header;
    if (left < sizeof(header)) {
        return false;
    }
    memcpy(&header, data, sizeof(header));
    left -= sizeof(header);
    bool is_sized =
        header.size == 1 || header.size == 2 || header.size == 4 || header.size == 8;
    if (!is_sized || header.reserved != 0 || header.name_length == 0 ||
        header.name_length > left) {
        return false;
    }
    left -= header.name_length;
    uint64_t bytes = (uint64_t)header.size * header.count;
    if (bytes > left) {
        return false;
    }
    memcpy(field->name, data + sizeof(header), header.name_length);
    field->name[header.name_length] = 0;
    if (!is_printable(field->name, header.name_length)) {
        return false;
    }
    field->data = data + sizeof(header) + header.name_length;
    field->size = header.size;
    field->count = header.count;
    *taken = sizeof(header) + header.name_length + bytes;
    return true;
}

static int check_fields(const struct stream_section *section, struct error *err)
{
    struct stream_field field;
    for (size_t at = 0, taken; at < section->length; at += taken) {
        if (!take_field(section->data + at, section->length - at, &field, &taken)) {
            return fail_plain(err, EINVAL,
                              "section %s '%s' is malformed at byte %zu of its fields",
                              section->kind, section->instance, at);
        }
    }
    return 0;
}

static int take_section(struct stream *stream, const uint8_t *data, size_t size,
                        size_t *at, struct error *err)
{
    struct section_header header;
    if (size - *at < sizeof(header)) {
        return fail_plain(err, EINVAL, "ends within the header of section %u",
                          stream->count + 1);
    }
    memcpy(&header, data + *at, sizeof(header));
    if (header.checksum !=
            XXH3_64bits(&header, offsetof(struct section_header, checksum)) ||
        !is_name(header.kind, sizeof(header.kind)) ||
        !is_name(header.instance, sizeof(header.instance))) {
        return fail_plain(err, EINVAL, "is damaged: the header of section %u is wrong",
                          stream->count + 1);
    }
    *at += sizeof(header);
    if (header.length > size - *at) {
        return fail_plain(err, EINVAL, "ends within section %s '%s'", header.kind,
                          header.instance);
    }
    if (header.data_checksum != XXH3_64bits(data + *at, header.length)) {
        return fail_plain(err, EINVAL,
                          "is damaged: the checksum of section %s '%s' is wrong",
                          header.kind, header.instance);
    }
    if (stream_find(stream, header.kind, header.instance)) {
        return fail_plain(err, EINVAL, "has section %s '%s' twice", header.kind,
                          header.instance);
    }
    struct stream_section *section = &stream->section[stream->count++];
    *section = (struct stream_section){
        .version = header.version,
        .flags = header.flags,
        .data = data + *at,
        .length = header.length,
    };
    memcpy(section->kind, header.kind, sizeof(section->kind));
    memcpy(section->instance, header.instance, sizeof(section->instance));
    *at += header.length;
    return check_fields(section, err);
}

static int parse_sections(struct stream *stream, const struct stream_header *header,
                          const uint8_t *data, size_t size, struct error *err)
{
    size_t at = sizeof(*header);
    if (header->section_count > SECTIONS_MAX) {
        return fail_plain(err, EINVAL, "has %" PRIu32 " sections; there are at most %u",
                          header->section_count, SECTIONS_MAX);
    }
    if (header->section_count > (size - at) / sizeof(struct section_header)) {
        return fail_plain(err, EINVAL, "is too short for its %" PRIu32 " sections",
                          header->section_count);
    }
    stream->section = calloc(header->section_count + 1u, sizeof(*stream->section));
    if (!stream->section) {
        return fail(err, ENOMEM, "cannot be read");
    }
    for (uint32_t i = 0; i < header->section_count; i++) {
        int result = take_section(stream, data, size, &at, err);
        if (result < 0) {
            return result;
        }
    }
    if (at != size) {
        return fail_plain(err, EINVAL, "is damaged: %zu bytes follow its last section",
                          size - at);
    }
    return 0;
}

int stream_parse(struct stream *stream, const uint8_t *data, size_t size,
                 struct error *err)
{
    struct stream_header header;
    *stream = (struct stream){0};
    int result = parse_header(&header, data, size, err);
    if (result < 0) {
        return result;
    }
    memcpy(stream->writer_version, header.writer_version, sizeof(header.writer_version));
    result = parse_sections(stream, &header, data, size, err);
    if (result < 0) {
        stream_free(stream);
    }
    return result;
}

void stream_free(struct stream *stream)
{
    free(stream->section);
    *stream = (struct stream){0};
}

static struct stream_section *find(const struct stream *stream, const char *kind,
                                   const char *instance)
{
    for (unsigned i = 0; i < stream->count; i++) {
        struct stream_section *section = &stream->section[i];
        if (strcmp(section->kind, kind) == 0 &&
            strcmp(section->instance, instance) == 0) {
            return section;
        }
    }
    return NULL;
}

const struct stream_section *stream_find(const struct stream *stream, const char *kind,
                                         const char *instance)
{
    return find(stream, kind, instance);
}

const struct stream_section *stream_need(struct stream *stream, const char *kind,
                                         const char *instance, uint32_t newest,
                                         struct error *err)
{
    struct stream_section *section = find(stream, kind, instance);
    if (!section) {
        fail_plain(err, EINVAL, "has no section %s '%s'", kind, instance);
        return NULL;
    }
    if (section->version > newest) {
        fail_plain(err, ENOTSUP,
                   "has section %s '%s' in version %" PRIu32 ", written by Doppel %s; "
                   "this is Doppel %s, which reads versions up to %" PRIu32,
                   kind, instance, section->version, stream->writer_version,
                   DOPPEL_VERSION, newest);
        return NULL;
    }
    section->is_known = true;
    return section;
}

int stream_check_known(const struct stream *stream, struct error *err)
{
    for (unsigned i = 0; i < stream->count; i++) {
        const struct stream_section *section = &stream->section[i];
        if (!section->is_known && section->flags & STREAM_REQUIRED) {
            return fail_plain(err, ENOTSUP,
                              "has section %s '%s', which Doppel %s does not know or "
                              "this machine does not have",
                              section->kind, section->instance, DOPPEL_VERSION);
        }
    }
    return 0;
}

bool section_next(const struct stream_section *section, size_t *at,
                  struct stream_field *field)
{
    size_t taken;
    if (*at >= section->length) {
        return false;
    }
    bool is_whole = take_field(section->data + *at, section->length - *at, field, &taken);
    assert(is_whole); /* stream_parse has been through all of them */
    *at += taken;
    return true;
}

int section_field(const struct stream_section *section, const char *name, unsigned size,
                  struct stream_field *field, struct error *err)
{
    size_t at = 0;
    while (section_next(section, &at, field)) {
        if (strcmp(field->name, name) != 0) {
            continue;
        }
        if (field->size != size) {
            return fail_plain(err, EINVAL,
                              "section %s '%s': field %.64s has elements of %u bytes, "
                              "not %u",
                              section->kind, section->instance, name, field->size, size);
        }
        return 0;
    }
    return fail_plain(err, EINVAL, "section %s '%s': field %.64s is missing",
                      section->kind, section->instance, name);
}

int section_u64(const struct stream_section *section, const char *name, uint64_t *value,
                struct error *err)
{
    struct stream_field field;
    int result = section_field(section, name, sizeof(*value), &field, err);
    if (result < 0) {
        return result;
    }
    if (field.count != 1) {
        return fail_plain(err, EINVAL,
                          "section %s '%s': field %.64s has %" PRIu32 " elements, not 1",
                          section->kind, section->instance, name, field.count);
    }
    memcpy(value, field.data, sizeof(*value));
    return 0;
}

int section_text(const struct stream_section *section, const char *name, char **text,
                 struct error *err)
{
    struct stream_field field;
    int result = section_field(section, name, 1, &field, err);
    if (result < 0) {
        return result;
    }
    if (memchr(field.data, 0, field.count)) {
        return fail_plain(err, EINVAL, "section %s '%s': field %.64s is no text",
                          section->kind, section->instance, name);
    }
    *text = strndup((const char *)field.data, field.count);
    return *text ? 0 : fail(err, ENOMEM, "cannot be read");
}

/* --- Tables of fields --- */

static const struct device_field *row_find(const struct device_field *fields,
                                           const char *name)
{
    while (fields->name && strcmp(fields->name, name) != 0) {
        fields++;
    }
    return fields->name ? fields : NULL;
}

/* A field that the table does not have would be state that is silently lost. */
static int check_unknown(const struct stream_section *section,
                         const struct device_field *fields, struct error *err)
{
    struct stream_field field;
    unsigned rows = 0, found = 0;
    while (fields[rows].name) {
        rows++;
    }
    for (size_t at = 0; section_next(section, &at, &field); found++) {
        if (!row_find(fields, field.name)) {
            return fail_plain(
                err, ENOTSUP, "section %s '%s': field %.64s is unknown to Doppel %s",
                section->kind, section->instance, field.name, DOPPEL_VERSION);
        }
    }
    if (found > rows) {
        return fail_plain(err, EINVAL, "section %s '%s' has a field twice", section->kind,
                          section->instance);
    }
    return 0;
}

static int check_shapes(const struct stream_section *section,
                        const struct device_field *fields, struct error *err)
{
    for (const struct device_field *row = fields; row->name; row++) {
        struct stream_field field;
        int result = section_field(section, row->name, row->size, &field, err);
        if (result < 0) {
            return result;
        }
        if (field.count != row->count) {
            return fail_plain(
                err, EINVAL,
                "section %s '%s': field %.64s has %" PRIu32 " elements, not %" PRIu32,
                section->kind, section->instance, row->name, field.count, row->count);
        }
    }
    return 0;
}

int section_fields(const struct stream_section *section,
                   const struct device_field *fields, void *object, struct error *err)
{
    int result = check_unknown(section, fields, err);
    return result < 0 ? result : section_fields_some(section, fields, object, err);
}

int section_fields_some(const struct stream_section *section,
                        const struct device_field *fields, void *object,
                        struct error *err)
{
    int result = check_shapes(section, fields, err);
    if (result < 0) {
        return result;
    }
    for (const struct device_field *row = fields; row->name; row++) {
        struct stream_field field;
        section_field(section, row->name, row->size, &field, NULL);
        memcpy((uint8_t *)object + row->offset, field.data,
               (size_t)row->size * row->count);
    }
    return 0;
}

int section_flat(const struct stream_section *section, const struct device_field *fields,
                 uint8_t *flat, struct error *err)
{
    int result = check_unknown(section, fields, err);
    if (result >= 0) {
        result = check_shapes(section, fields, err);
    }
    if (result < 0) {
        return result;
    }
    for (const struct device_field *row = fields; row->name; row++) {
        struct stream_field field;
        size_t bytes = (size_t)row->size * row->count;
        section_field(section, row->name, row->size, &field, NULL);
        memcpy(flat, field.data, bytes);
        flat += bytes;
    }
    return 0;
}
