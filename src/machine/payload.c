#include "machine/payload.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <lz4.h>
#include <lzma.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "base/scope.h"

/* All formats but gzip, which has the size in its own trailer, are followed by it. */
#define TRAILER_SIZE 4u

/* A dictionary larger than this is no kernel's. */
#define LZMA_MEMORY_LIMIT (256ull << 20)

#define LZ4_LEGACY_BLOCK  (8u << 20)
#define LZ4_LEGACY_MAGIC  0x184c2102u

static uint32_t load_u32(const uint8_t *data)
{
    uint32_t value;
    memcpy(&value, data, sizeof(value));
    return value;
}

static int unpack_gzip(const uint8_t *in, uint64_t in_size, uint8_t *out,
                       uint64_t out_size)
{
    if (in_size > UINT_MAX || out_size > UINT_MAX) {
        return -EBADMSG;
    }
    z_stream stream = {
        .next_in = (Bytef *)in,
        .avail_in = (uInt)in_size,
        .next_out = out,
        .avail_out = (uInt)out_size,
    };
    /* 16: a gzip header and trailer, with its CRC. */
    if (inflateInit2(&stream, 16 + MAX_WBITS) != Z_OK) {
        return -ENOMEM;
    }
    int status = inflate(&stream, Z_FINISH);
    bool complete = status == Z_STREAM_END && stream.avail_out == 0;
    inflateEnd(&stream);
    return complete ? 0 : -EBADMSG;
}

static int unpack_xz(const uint8_t *in, uint64_t in_size, uint8_t *out, uint64_t out_size)
{
    uint64_t memory_limit = LZMA_MEMORY_LIMIT;
    size_t in_position = 0, out_position = 0;
    lzma_ret status =
        lzma_stream_buffer_decode(&memory_limit, 0, NULL, in, &in_position,
                                  in_size - TRAILER_SIZE, out, &out_position, out_size);
    if (status == LZMA_MEM_ERROR) {
        return -ENOMEM;
    }
    return status == LZMA_OK && out_position == out_size ? 0 : -EBADMSG;
}

static int unpack_zstd(const uint8_t *in, uint64_t in_size, uint8_t *out,
                       uint64_t out_size)
{
    size_t got = ZSTD_decompress(out, out_size, in, in_size - TRAILER_SIZE);
    return !ZSTD_isError(got) && got == out_size ? 0 : -EBADMSG;
}

/* The legacy frame: magic, then blocks of a 4-byte size and up to 8 MiB when unpacked;
 * the magic may come again between blocks, where frames were concatenated. */
static int unpack_lz4(const uint8_t *in, uint64_t in_size, uint8_t *out,
                      uint64_t out_size)
{
    const uint8_t *end = in + in_size - TRAILER_SIZE;
    uint64_t done = 0;
    while (end - in >= 4) {
        uint32_t block = load_u32(in);
        in += 4;
        if (block == LZ4_LEGACY_MAGIC) {
            continue;
        }
        if (block > (uint64_t)(end - in) || block > INT_MAX) {
            return -EBADMSG;
        }
        uint64_t room = out_size - done;
        int got =
            LZ4_decompress_safe((const char *)in, (char *)out + done, (int)block,
                                (int)(room < LZ4_LEGACY_BLOCK ? room : LZ4_LEGACY_BLOCK));
        if (got < 0) {
            return -EBADMSG;
        }
        done += (uint64_t)got;
        in += block;
    }
    return done == out_size ? 0 : -EBADMSG;
}

static int unpack_nothing(const uint8_t *in, uint64_t in_size, uint8_t *out,
                          uint64_t out_size)
{
    memcpy(out, in, out_size);
    return 0;
}

static const struct payload_format formats[] = {
    {"gzip", {0x1f, 0x8b}, 2, unpack_gzip},
    {"xz", {0xfd, '7', 'z', 'X', 'Z', 0}, 6, unpack_xz},
    {"zstd", {0x28, 0xb5, 0x2f, 0xfd}, 4, unpack_zstd},
    {"lz4", {0x02, 0x21, 0x4c, 0x18}, 4, unpack_lz4},
    {"uncompressed", {0x7f, 'E', 'L', 'F'}, 4, unpack_nothing},
    {"bzip2", {'B', 'Z', 'h'}, 3, NULL},
    {"lzma", {0x5d, 0x00, 0x00}, 3, NULL},
    {"lzo", {0x89, 'L', 'Z', 'O'}, 4, NULL},
};

const struct payload_format *payload_find(const uint8_t *data, uint64_t size)
{
    for (unsigned i = 0; i < array_size(formats); i++) {
        if (size >= formats[i].magic_size &&
            memcmp(data, formats[i].magic, formats[i].magic_size) == 0) {
            return &formats[i];
        }
    }
    return NULL;
}

uint64_t payload_unpacked_size(const uint8_t *data, uint64_t size)
{
    return size < TRAILER_SIZE ? 0 : load_u32(data + size - TRAILER_SIZE);
}

uint8_t *payload_unpack(const uint8_t *data, uint64_t size, uint64_t limit,
                        uint64_t *out_size, struct error *err)
{
    const struct payload_format *format = payload_find(data, size);
    if (!format || !format->unpack) {
        fail_plain(err, ENOTSUP, "its payload is compressed by %s, unpacked in the guest",
                   format ? format->name : "an unknown method");
        return NULL;
    }
    if (size < 16) {
        fail_plain(err, EBADMSG, "its %s payload is only %" PRIu64 " bytes long",
                   format->name, size);
        return NULL;
    }
    uint64_t unpacked =
        format->unpack == unpack_nothing ? size : payload_unpacked_size(data, size);
    if (unpacked > limit) {
        fail_plain(err, E2BIG,
                   "its %s payload unpacks to %" PRIu64 " MiB and the guest has %" PRIu64
                   " MiB; give more with --memory",
                   format->name, unpacked >> 20, limit >> 20);
        return NULL;
    }
    SCOPE_FREE uint8_t *out = malloc(unpacked ? unpacked : 1);
    if (!out) {
        fail(err, ENOMEM, "cannot unpack its payload of %" PRIu64 " bytes", unpacked);
        return NULL;
    }
    int result = unpacked ? format->unpack(data, size, out, unpacked) : -EBADMSG;
    if (result == -ENOMEM) {
        fail(err, ENOMEM, "cannot unpack its %s payload", format->name);
        return NULL;
    }
    if (result < 0) {
        fail_plain(err, EBADMSG, "its %s payload is damaged", format->name);
        return NULL;
    }
    *out_size = unpacked;
    return steal(out);
}
