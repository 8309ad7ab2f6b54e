#pragma once
/* Framing of the GDB remote protocol: $data#checksum, acknowledgements, escapes. Knows
 * nothing of what is said. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GDB_PACKET_MAX 16384 /* as told to the debugger; longer ones are refused */

enum gdb_event {
    GDB_NOTHING, /* more bytes are needed */
    GDB_PACKET,  /* data, size: the packet without its frame */
    GDB_DAMAGED, /* a packet with a wrong checksum */
    GDB_TOO_LONG,
    GDB_INTERRUPT, /* the byte 3 */
    GDB_NACK,      /* the last packet is to be sent again */
};

struct gdb_reader {
    enum { GDB_IDLE, GDB_DATA, GDB_SUM_HIGH, GDB_SUM_LOW } state;
    uint8_t sum, told;
    size_t size;
    char data[GDB_PACKET_MAX + 1]; /* NUL-terminated when complete */
};

/* Takes one byte. */
enum gdb_event gdb_read(struct gdb_reader *reader, uint8_t byte);
/* Undoes the escapes of binary data in place; returns the new size. */
size_t gdb_unescape(char *data, size_t size);

/* A number of hexadecimal digits at *text, which moves behind it; false if there is none
 * or it has over 64 bits. */
bool gdb_parse_hex(const char **text, uint64_t *value);
/* size bytes from 2 * size digits. False if they are not all there. */
bool gdb_parse_bytes(const char *text, uint8_t *bytes, size_t size);
/* Digits for bytes; out has room for 2 * size + 1. */
void gdb_format_bytes(char *out, const uint8_t *bytes, size_t size);
/* Writes the frame around data: out has room for 2 * size + 4. Returns its length. */
size_t gdb_frame(char *out, const char *data, size_t size);
