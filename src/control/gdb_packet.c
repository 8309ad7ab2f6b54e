#include "control/gdb_packet.h"

#include <string.h>

static int digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static enum gdb_event finish(struct gdb_reader *reader, int low)
{
    bool is_too_long = reader->size > GDB_PACKET_MAX;
    reader->state = GDB_IDLE;
    if (low < 0 || (uint8_t)(reader->told | low) != reader->sum) {
        return GDB_DAMAGED;
    }
    if (is_too_long) {
        return GDB_TOO_LONG;
    }
    reader->data[reader->size] = '\0';
    return GDB_PACKET;
}

static enum gdb_event read_idle(struct gdb_reader *reader, uint8_t byte)
{
    if (byte == '$') {
        reader->state = GDB_DATA;
        reader->size = 0;
        reader->sum = 0;
    }
    return byte == 3 ? GDB_INTERRUPT : byte == '-' ? GDB_NACK : GDB_NOTHING;
}

enum gdb_event gdb_read(struct gdb_reader *reader, uint8_t byte)
{
    switch (reader->state) {
    case GDB_IDLE:
        return read_idle(reader, byte);
    case GDB_DATA:
        if (byte == '#') {
            reader->state = GDB_SUM_HIGH;
            break;
        }
        reader->sum += byte;
        if (reader->size < GDB_PACKET_MAX) {
            reader->data[reader->size] = (char)byte;
        }
        reader->size += reader->size <= GDB_PACKET_MAX;
        break;
    case GDB_SUM_HIGH:
        reader->told = (uint8_t)(digit((char)byte) << 4);
        reader->state = GDB_SUM_LOW;
        break;
    case GDB_SUM_LOW:
        return finish(reader, digit((char)byte));
    }
    return GDB_NOTHING;
}

size_t gdb_unescape(char *data, size_t size)
{
    size_t out = 0;
    for (size_t i = 0; i < size; i++) {
        bool is_escaped = data[i] == '}' && i + 1 < size;
        data[out++] = is_escaped ? (char)(data[++i] ^ 0x20) : data[i];
    }
    return out;
}

bool gdb_parse_hex(const char **text, uint64_t *value)
{
    const char *start = *text;
    uint64_t sum = 0;
    while (digit(**text) >= 0) {
        if (sum >> 60) {
            return false;
        }
        sum = sum << 4 | (uint64_t)digit(*(*text)++);
    }
    *value = sum;
    return *text != start;
}

bool gdb_parse_bytes(const char *text, uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        int high = digit(text[2 * i]);
        int low = high < 0 ? -1 : digit(text[2 * i + 1]);
        if (low < 0) {
            return false;
        }
        bytes[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

void gdb_format_bytes(char *out, const uint8_t *bytes, size_t size)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < size; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    out[2 * size] = '\0';
}

size_t gdb_frame(char *out, const char *data, size_t size)
{
    size_t length = 0;
    uint8_t sum = 0;
    out[length++] = '$';
    for (size_t i = 0; i < size; i++) {
        char c = data[i];
        if (c == '#' || c == '$' || c == '}' || c == '*') {
            out[length++] = '}';
            sum += '}';
            c ^= 0x20;
        }
        out[length++] = c;
        sum += (uint8_t)c;
    }
    out[length++] = '#';
    gdb_format_bytes(out + length, &sum, 1);
    return length + 2;
}
