/* Packs data as a kernel's build does and unpacks it. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include "base/scope.h"
#include "machine/payload.h"

#include <cmocka.h>

#define PLAIN_SIZE (100u << 10)
#define LIMIT      (1u << 20)

static uint8_t plain[PLAIN_SIZE], packed[2 * PLAIN_SIZE];

static void fill_plain(void)
{
    uint32_t random = 1;
    for (unsigned i = 0; i < PLAIN_SIZE; i++) {
        random = random * 1664525 + 1013904223;
        /* Compressible, with the calls that the x86 filter rewrites. */
        plain[i] = i % 16 == 0 ? 0xe8 : i % 16 < 6 ? (uint8_t)(random >> 30) : (uint8_t)i;
    }
}

static uint64_t append_size(uint64_t size)
{
    uint32_t plain_size = PLAIN_SIZE;
    memcpy(packed + size, &plain_size, 4);
    return size + 4;
}

static uint64_t pack_gzip(void)
{
    z_stream stream = {.next_in = plain,
                       .avail_in = PLAIN_SIZE,
                       .next_out = packed,
                       .avail_out = sizeof(packed)};
    deflateInit2(&stream, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
    assert_int_equal(deflate(&stream, Z_FINISH), Z_STREAM_END);
    deflateEnd(&stream);
    return stream.total_out;
}

static uint64_t pack_xz(void)
{
    lzma_options_lzma options;
    lzma_lzma_preset(&options, 6);
    const lzma_filter filters[] = {
        {LZMA_FILTER_X86, NULL}, {LZMA_FILTER_LZMA2, &options}, {LZMA_VLI_UNKNOWN, NULL}};
    size_t size = 0;
    assert_int_equal(lzma_stream_buffer_encode((lzma_filter *)filters, LZMA_CHECK_CRC32,
                                               NULL, plain, PLAIN_SIZE, packed, &size,
                                               sizeof(packed)),
                     LZMA_OK);
    return append_size(size);
}

static uint64_t pack_zstd(void)
{
    size_t size = ZSTD_compress(packed, sizeof(packed), plain, PLAIN_SIZE, 3);
    assert_false(ZSTD_isError(size));
    return append_size(size);
}

static uint64_t pack_lz4(void)
{
    static const uint32_t magic = 0x184c2102;
    uint64_t size = 4;
    memcpy(packed, &magic, 4);
    /* Two blocks, with the magic between them. */
    for (unsigned half = 0; half < 2; half++) {
        int block = LZ4_compress_default((char *)plain + half * PLAIN_SIZE / 2,
                                         (char *)packed + size + 4, PLAIN_SIZE / 2,
                                         (int)(sizeof(packed) - size - 4));
        assert_true(block > 0);
        memcpy(packed + size, &block, 4);
        size += 4 + (uint64_t)block;
        if (half == 0) {
            memcpy(packed + size, &magic, 4);
            size += 4;
        }
    }
    return append_size(size);
}

static const struct {
    const char *name;
    uint64_t (*pack)(void);
} formats[] = {
    {"gzip", pack_gzip},
    {"xz", pack_xz},
    {"zstd", pack_zstd},
    {"lz4", pack_lz4},
};

static void test_unpacks_every_format(void **state)
{
    fill_plain();
    for (unsigned i = 0; i < array_size(formats); i++) {
        struct error err = {0};
        uint64_t size = formats[i].pack(), out_size = 0;
        assert_string_equal(payload_find(packed, size)->name, formats[i].name);
        SCOPE_FREE uint8_t *out = payload_unpack(packed, size, LIMIT, &out_size, &err);
        assert_non_null(out);
        assert_int_equal(out_size, PLAIN_SIZE);
        assert_memory_equal(out, plain, PLAIN_SIZE);
    }
}

static void test_truncation_is_damage(void **state)
{
    fill_plain();
    for (unsigned i = 0; i < array_size(formats); i++) {
        uint64_t full = formats[i].pack();
        for (uint64_t size = 0; size < full; size += size < 64 ? 1 : 997) {
            struct error err = {0};
            uint64_t out_size;
            /* At its end the size it had, so that only the data is wrong. */
            uint8_t *copy = malloc(size + 4);
            memcpy(copy, packed, size);
            memcpy(copy + size, &(uint32_t){PLAIN_SIZE}, 4);
            uint8_t *out = payload_unpack(copy, size + 4, LIMIT, &out_size, &err);
            free(copy);
            assert_null(out);
            assert_true(err.code == EBADMSG || err.code == ENOTSUP);
        }
    }
}

static void test_announced_size_must_be_right(void **state)
{
    static const uint32_t sizes[] = {0, 1, PLAIN_SIZE - 1, PLAIN_SIZE + 1, LIMIT};
    fill_plain();
    for (unsigned i = 0; i < array_size(formats); i++) {
        uint64_t size = formats[i].pack();
        for (unsigned j = 0; j < array_size(sizes); j++) {
            struct error err = {0};
            uint64_t out_size;
            memcpy(packed + size - 4, &sizes[j], 4);
            assert_null(payload_unpack(packed, size, LIMIT, &out_size, &err));
            assert_int_equal(err.code, EBADMSG);
        }
    }
}

static void test_size_is_limited(void **state)
{
    struct error err = {0};
    uint64_t out_size, size;
    fill_plain();
    size = pack_lz4();
    assert_null(payload_unpack(packed, size, PLAIN_SIZE - 1, &out_size, &err));
    assert_int_equal(err.code, E2BIG);
}

static void test_other_formats_are_left_to_the_guest(void **state)
{
    static const char *const heads[] = {"BZh9", "\x89LZO", "\x5d\0\0\0", "????"};
    for (unsigned i = 0; i < array_size(heads); i++) {
        struct error err = {0};
        uint64_t out_size;
        uint8_t data[64] = {0};
        memcpy(data, heads[i], 4);
        assert_null(payload_unpack(data, sizeof(data), LIMIT, &out_size, &err));
        assert_int_equal(err.code, ENOTSUP);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unpacks_every_format),
        cmocka_unit_test(test_truncation_is_damage),
        cmocka_unit_test(test_announced_size_must_be_right),
        cmocka_unit_test(test_size_is_limited),
        cmocka_unit_test(test_other_formats_are_left_to_the_guest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
