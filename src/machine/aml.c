#include "machine/aml.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

enum aml_op {
    AML_ZERO = 0x00,
    AML_ONE = 0x01,
    AML_NAME = 0x08,
    AML_BYTE = 0x0a,
    AML_WORD = 0x0b,
    AML_DWORD = 0x0c,
    AML_STRING = 0x0d,
    AML_QWORD = 0x0e,
    AML_SCOPE = 0x10,
    AML_BUFFER = 0x11,
    AML_PACKAGE = 0x12,
    AML_EXTENDED = 0x5b,
    AML_DEVICE = 0x82, /* after AML_EXTENDED */
};

/* PkgLength with 28 bits: every length is written in the form of 4 bytes. */
#define PACKAGE_LENGTH_SIZE 4u

/* In a buffer, between its PkgLength and its bytes: a word constant with their number. */
#define BUFFER_SIZE_SIZE 3u

void aml_init(struct aml *aml, void *data, uint32_t capacity)
{
    *aml = (struct aml){.data = data, .capacity = capacity};
}

void aml_bytes(struct aml *aml, const void *bytes, uint32_t size)
{
    if (aml->size <= aml->capacity && size <= aml->capacity - aml->size) {
        memcpy(aml->data + aml->size, bytes, size);
    }
    aml->size += size;
}

static void byte(struct aml *aml, uint8_t value)
{
    aml_bytes(aml, &value, 1);
}

static void patch(struct aml *aml, uint32_t offset, const void *bytes, uint32_t size)
{
    if (offset <= aml->capacity && size <= aml->capacity - offset) {
        memcpy(aml->data + offset, bytes, size);
    }
}

/* Room for a PkgLength, which aml_end fills in. */
static uint32_t length_begin(struct aml *aml)
{
    const uint8_t room[PACKAGE_LENGTH_SIZE] = {0};
    uint32_t begin = aml->size;
    aml_bytes(aml, room, sizeof(room));
    return begin;
}

void aml_end(struct aml *aml, uint32_t begin)
{
    uint32_t length = aml->size - begin;
    /* Bits 6-7 of the first byte: how many bytes follow it; its low 4 bits and theirs are
     * the length (20.2.4). */
    const uint8_t bytes[PACKAGE_LENGTH_SIZE] = {
        0xc0 | (length & 0xf), (uint8_t)(length >> 4), (uint8_t)(length >> 12),
        (uint8_t)(length >> 20)};
    patch(aml, begin, bytes, sizeof(bytes));
}

static void name_string(struct aml *aml, const char *name)
{
    if (*name == '\\') {
        byte(aml, (uint8_t)*name++);
    }
    assert(strlen(name) == 4);
    aml_bytes(aml, name, 4);
}

uint32_t aml_scope_begin(struct aml *aml, const char *name)
{
    byte(aml, AML_SCOPE);
    uint32_t begin = length_begin(aml);
    name_string(aml, name);
    return begin;
}

uint32_t aml_device_begin(struct aml *aml, const char *name)
{
    byte(aml, AML_EXTENDED);
    byte(aml, AML_DEVICE);
    uint32_t begin = length_begin(aml);
    name_string(aml, name);
    return begin;
}

uint32_t aml_package_begin(struct aml *aml, uint8_t elements)
{
    byte(aml, AML_PACKAGE);
    uint32_t begin = length_begin(aml);
    byte(aml, elements);
    return begin;
}

uint32_t aml_resources_begin(struct aml *aml)
{
    const uint8_t room[BUFFER_SIZE_SIZE] = {AML_WORD};
    byte(aml, AML_BUFFER);
    uint32_t begin = length_begin(aml);
    aml_bytes(aml, room, sizeof(room));
    return begin;
}

void aml_resources_end(struct aml *aml, uint32_t begin)
{
    /* End tag; a checksum of 0 means that there is none (6.4.2.9). */
    const uint8_t end_tag[2] = {0x79, 0};
    aml_bytes(aml, end_tag, sizeof(end_tag));
    uint32_t content = begin + PACKAGE_LENGTH_SIZE + BUFFER_SIZE_SIZE;
    uint16_t size = (uint16_t)(aml->size - content);
    patch(aml, content - sizeof(size), &size, sizeof(size));
    aml_end(aml, begin);
}

void aml_name(struct aml *aml, const char *name)
{
    byte(aml, AML_NAME);
    name_string(aml, name);
}

void aml_integer(struct aml *aml, uint64_t value)
{
    if (value <= 1) {
        byte(aml, value ? AML_ONE : AML_ZERO);
        return;
    }
    static const struct {
        uint64_t max;
        uint8_t op, size;
    } forms[] = {
        {UINT8_MAX, AML_BYTE, 1},
        {UINT16_MAX, AML_WORD, 2},
        {UINT32_MAX, AML_DWORD, 4},
        {UINT64_MAX, AML_QWORD, 8},
    };
    unsigned i = 0;
    while (value > forms[i].max) {
        i++;
    }
    byte(aml, forms[i].op);
    aml_bytes(aml, &value, forms[i].size);
}

void aml_string(struct aml *aml, const char *text)
{
    byte(aml, AML_STRING);
    aml_bytes(aml, text, (uint32_t)strlen(text) + 1);
}

static unsigned hex_digit(char digit)
{
    return (unsigned)(digit <= '9' ? digit - '0' : digit - 'A' + 10);
}

void aml_eisa_id(struct aml *aml, const char *id)
{
    assert(strlen(id) == 7);
    /* Three letters of 5 bits, four digits of 4 bits, most significant byte first
     * (19.3.4). */
    uint32_t value = 0;
    for (unsigned i = 0; i < 3; i++) {
        value = value << 5 | (uint32_t)(id[i] - '@');
    }
    for (unsigned i = 3; i < 7; i++) {
        value = value << 4 | hex_digit(id[i]);
    }
    value = __builtin_bswap32(value);
    byte(aml, AML_DWORD);
    aml_bytes(aml, &value, sizeof(value));
}

void aml_resource_io(struct aml *aml, uint16_t port, uint8_t count)
{
    const uint8_t bytes[] = {0x47,
                             1, /* 16 bits decoded */
                             (uint8_t)port,
                             (uint8_t)(port >> 8),
                             (uint8_t)port,
                             (uint8_t)(port >> 8),
                             1, /* alignment */
                             count};
    aml_bytes(aml, bytes, sizeof(bytes));
}

void aml_resource_irq(struct aml *aml, uint8_t irq)
{
    uint16_t mask = (uint16_t)(1u << irq);
    const uint8_t bytes[] = {0x22, (uint8_t)mask, (uint8_t)(mask >> 8)};
    aml_bytes(aml, bytes, sizeof(bytes));
}

void aml_resource_memory(struct aml *aml, uint32_t base, uint32_t size)
{
    const uint8_t head[] = {0x86, 9, 0, 1 /* writable */};
    aml_bytes(aml, head, sizeof(head));
    aml_bytes(aml, &base, sizeof(base));
    aml_bytes(aml, &size, sizeof(size));
}

/* Word and double word address space descriptors, 6.4.3.5.2 and 6.4.3.5.3. */
void aml_resource_window(struct aml *aml, enum aml_window kind, uint32_t first,
                         uint32_t last)
{
    static const uint8_t type_flags[] = {
        [AML_WINDOW_MEMORY] = 0x01, /* read and write, not cached */
        [AML_WINDOW_IO] = 0x03,     /* the entire range */
        [AML_WINDOW_BUS] = 0x00,
    };
    unsigned width = kind == AML_WINDOW_MEMORY ? 4 : 2;
    const uint32_t numbers[] = {0 /* granularity */, first, last, 0 /* translation */,
                                last - first + 1};
    const uint8_t head[] = {
        width == 4 ? 0x87 : 0x88,
        (uint8_t)(3 + 5 * width),
        0,
        kind,
        0x0c, /* produced for others; both ends are fixed */
        type_flags[kind],
    };
    aml_bytes(aml, head, sizeof(head));
    for (unsigned i = 0; i < 5; i++) {
        aml_bytes(aml, &numbers[i], width);
    }
}

void aml_resource_interrupt(struct aml *aml, uint32_t gsi, int is_level)
{
    const uint8_t head[] = {0x89, 6, 0, (uint8_t)(1 /* consumer */ | (is_level ? 0 : 2)),
                            1 /* one interrupt */};
    aml_bytes(aml, head, sizeof(head));
    aml_bytes(aml, &gsi, sizeof(gsi));
}
