#pragma once
/*
 * The stream that saved state is written in: a header, then sections, each with its name,
 * version, length and checksum, each made of fields that carry their own name and shape.
 * The bytes are described in docs/snapshots.md.
 *
 * A stream is read from memory, whole: stream_parse verifies every checksum and bound
 * before anything is handed out, so that a reader sees either an intact stream or an
 * error that names what is wrong.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "device/device.h"

#define STREAM_FORMAT       1u /* what this program writes, and the newest it reads */

#define STREAM_KIND_SIZE    24 /* with the final 0 */
#define STREAM_NAME_SIZE    32
#define STREAM_VERSION_SIZE 32

/* A reader that does not know the section must refuse the stream. */
#define STREAM_REQUIRED 1u

/* --- Writing --- */

struct stream_writer {
    uint8_t *data; /* owned */
    size_t size, capacity;
    size_t section; /* where the open section's header begins */
    unsigned section_count;
    bool is_short_of_memory; /* sticky; told by stream_finish */
};

void stream_init(struct stream_writer *writer);
void stream_fini(struct stream_writer *writer);
/* Sections do not nest. kind and instance together name the section: they are unique in a
 * stream and fit their sizes. */
void stream_begin(struct stream_writer *writer, const char *kind, const char *instance,
                  uint32_t version, uint32_t flags);
/* count elements of size 1, 2, 4 or 8 bytes. The name has 1 to 255 bytes. */
void stream_put(struct stream_writer *writer, const char *name, const void *data,
                unsigned size, uint32_t count);
void stream_put_text(struct stream_writer *writer, const char *name, const char *text);
void stream_put_u64(struct stream_writer *writer, const char *name, uint64_t value);
/* Every field of a table, read from a struct. */
void stream_put_fields(struct stream_writer *writer, const struct device_field *fields,
                       const void *object);
/* The same from the flat form that device_save makes. */
void stream_put_flat(struct stream_writer *writer, const struct device_field *fields,
                     const uint8_t *flat);
void stream_end(struct stream_writer *writer);
/* Fills in the header. After it data and size are the stream. Fails when memory ran out
 * on the way. */
int stream_finish(struct stream_writer *writer, struct error *err);

/* --- Reading --- */

struct stream_field {
    char name[256];
    const uint8_t *data; /* little-endian, not aligned */
    unsigned size;
    uint32_t count;
};

struct stream_section {
    char kind[STREAM_KIND_SIZE];
    char instance[STREAM_NAME_SIZE];
    uint32_t version;
    uint32_t flags;
    const uint8_t *data;
    size_t length;
    bool is_known; /* a reader has asked for it */
};

struct stream {
    char writer_version[STREAM_VERSION_SIZE]; /* of the program that wrote it */
    unsigned count;
    struct stream_section *section; /* owned */
};

/* data is borrowed and must outlive the stream. After a failure there is nothing to free.
 */
int stream_parse(struct stream *stream, const uint8_t *data, size_t size,
                 struct error *err);
void stream_free(struct stream *stream);

/* The section, or NULL. */
const struct stream_section *stream_find(const struct stream *stream, const char *kind,
                                         const char *instance);
/* The same, but its absence, or a version above newest, is an error. From then on it is
 * known. */
const struct stream_section *stream_need(struct stream *stream, const char *kind,
                                         const char *instance, uint32_t newest,
                                         struct error *err);
/* After the readers: a required section that none has asked for is an error. */
int stream_check_known(const struct stream *stream, struct error *err);

/* Goes through a section's fields: *at starts at 0. False behind the last. */
bool section_next(const struct stream_section *section, size_t *at,
                  struct stream_field *field);
/* The field of that name and element size; its absence is an error. */
int section_field(const struct stream_section *section, const char *name, unsigned size,
                  struct stream_field *field, struct error *err);
int section_u64(const struct stream_section *section, const char *name, uint64_t *value,
                struct error *err);
/* A text, which has no 0 in it. The caller frees *text. */
int section_text(const struct stream_section *section, const char *name, char **text,
                 struct error *err);
/*
 * All the fields of a table, into a struct: each must be there with exactly that shape,
 * and no other. The struct is changed only if all is well.
 */
int section_fields(const struct stream_section *section,
                   const struct device_field *fields, void *object, struct error *err);
/* The same for a section that has other fields besides. */
int section_fields_some(const struct stream_section *section,
                        const struct device_field *fields, void *object,
                        struct error *err);
/* The same as section_fields, into the flat form that device_load takes, of
 * device_state_size bytes. */
int section_flat(const struct stream_section *section, const struct device_field *fields,
                 uint8_t *flat, struct error *err);
