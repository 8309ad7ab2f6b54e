#include "moo.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RAM_ENTRY 5 /* address and value */

const char *const moo_register_name[MOO_REGISTER_COUNT] = {
    "ax", "bx", "cx", "dx", "cs", "ss", "ds", "es", "sp", "bp", "si", "di", "ip", "flags",
};

struct chunk {
    char name[5];
    const uint8_t *data;
    uint32_t size;
};

static uint32_t get32(const uint8_t *from)
{
    uint32_t value;
    memcpy(&value, from, sizeof(value));
    return value;
}

/* Takes one chunk off the front. */
static bool next_chunk(const uint8_t **data, size_t *left, struct chunk *chunk)
{
    if (*left < 8 || get32(*data + 4) > *left - 8) {
        return false;
    }
    memcpy(chunk->name, *data, 4);
    chunk->name[4] = 0;
    chunk->size = get32(*data + 4);
    chunk->data = *data + 8;
    *data += 8 + (size_t)chunk->size;
    *left -= 8 + (size_t)chunk->size;
    return true;
}

static bool is(const struct chunk *chunk, const char *name)
{
    return !strcmp(chunk->name, name);
}

static bool parse_registers(const struct chunk *chunk, struct moo_state *state)
{
    const uint8_t *from = chunk->data + 2;
    if (chunk->size < 2) {
        return false;
    }
    memcpy(&state->present, chunk->data, 2);
    for (unsigned i = 0; i < MOO_REGISTER_COUNT; i++) {
        if (!(state->present >> i & 1)) {
            continue;
        }
        if ((size_t)(from - chunk->data) + 2 > chunk->size) {
            return false;
        }
        memcpy(&state->reg[i], from, 2);
        from += 2;
    }
    return true;
}

static bool parse_state(const struct chunk *parent, struct moo_state *state)
{
    const uint8_t *data = parent->data;
    size_t left = parent->size;
    struct chunk chunk;
    while (left && next_chunk(&data, &left, &chunk)) {
        if (is(&chunk, "REGS") && !parse_registers(&chunk, state)) {
            return false;
        }
        if (is(&chunk, "RAM ")) {
            if (chunk.size < 4 || get32(chunk.data) > (chunk.size - 4) / RAM_ENTRY) {
                return false;
            }
            state->ram_count = get32(chunk.data);
            state->ram = chunk.data + 4;
        }
    }
    return left == 0;
}

/* A count and as many bytes; those that do not fit are left out. */
static bool parse_counted(const struct chunk *chunk, void *to, uint32_t room,
                          uint32_t *count)
{
    if (chunk->size < 4 || get32(chunk->data) > chunk->size - 4) {
        return false;
    }
    *count = get32(chunk->data);
    *count = *count < room ? *count : room;
    memcpy(to, chunk->data + 4, *count);
    return true;
}

static bool parse_part(const struct chunk *chunk, struct moo_test *test)
{
    uint32_t length = 0;
    if (is(chunk, "NAME")) {
        return parse_counted(chunk, test->name, MOO_NAME_MAX - 1, &length);
    }
    if (is(chunk, "BYTS")) {
        return parse_counted(chunk, test->bytes, MOO_BYTES_MAX, &test->byte_count);
    }
    if (is(chunk, "INIT")) {
        return parse_state(chunk, &test->initial);
    }
    if (is(chunk, "FINA")) {
        return parse_state(chunk, &test->final);
    }
    if (is(chunk, "EXCP")) {
        if (chunk->size < 5) {
            return false;
        }
        test->has_exception = true;
        test->exception = chunk->data[0];
    }
    return true; /* cycles, hashes, and what a later version adds */
}

static bool parse_test(const struct chunk *parent, struct moo_test *test)
{
    memset(test, 0, sizeof(*test));
    if (parent->size < 4) {
        return false;
    }
    test->index = get32(parent->data);
    const uint8_t *data = parent->data + 4;
    size_t left = parent->size - 4;
    struct chunk chunk;
    while (left) {
        if (!next_chunk(&data, &left, &chunk) || !parse_part(&chunk, test)) {
            return false;
        }
    }
    return true;
}

int moo_parse(struct moo_file *file, uint8_t *data, size_t size, struct error *err)
{
    *file = (struct moo_file){.data = data, .size = size};
    const uint8_t *from = data;
    size_t left = size;
    struct chunk header;
    if (!next_chunk(&from, &left, &header) || !is(&header, "MOO ") || header.size < 12) {
        return fail(err, EINVAL, "not a file of vectors in the MOO format");
    }
    file->test_count = get32(header.data + 4);
    memcpy(file->cpu, header.data + 8, 4);
    file->place = size - left;
    return 0;
}

int moo_open(struct moo_file *file, const char *path, struct error *err)
{
    *file = (struct moo_file){0};
    FILE *stream = fopen(path, "rb");
    if (!stream) {
        return fail(err, errno, "cannot open %s", path);
    }
    fseek(stream, 0, SEEK_END);
    long size = ftell(stream);
    uint8_t *data = size > 0 ? malloc((size_t)size) : NULL;
    rewind(stream);
    bool is_read = data && fread(data, 1, (size_t)size, stream) == (size_t)size;
    fclose(stream);
    if (!is_read) {
        free(data);
        return fail(err, EIO, "cannot read %s", path);
    }
    int status = moo_parse(file, data, (size_t)size, err);
    if (status < 0) {
        moo_close(file);
    }
    return status;
}

void moo_close(struct moo_file *file)
{
    free(file->data);
    *file = (struct moo_file){0};
}

int moo_next(struct moo_file *file, struct moo_test *test, struct error *err)
{
    const uint8_t *from = file->data + file->place;
    size_t left = file->size - file->place;
    struct chunk chunk;
    while (left) {
        if (!next_chunk(&from, &left, &chunk)) {
            return fail(err, EINVAL, "a chunk reaches beyond the end of the file");
        }
        file->place = file->size - left;
        if (!is(&chunk, "TEST")) {
            continue;
        }
        if (!parse_test(&chunk, test)) {
            return fail(err, EINVAL, "test %u is damaged", test->index);
        }
        return 1;
    }
    return 0;
}

struct moo_byte moo_ram(const struct moo_state *state, uint32_t i)
{
    const uint8_t *entry = state->ram + (size_t)i * RAM_ENTRY;
    return (struct moo_byte){get32(entry), entry[4]};
}
