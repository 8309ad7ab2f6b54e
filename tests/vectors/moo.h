#pragma once
/*
 * Single-step vectors of 16-bit processors in the MOO format (chunks of a four-character
 * name, a length and data, little-endian): for each test the state before and after one
 * instruction, as captured from the real part.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* In the order of the format's bits. */
enum moo_register {
    MOO_AX,
    MOO_BX,
    MOO_CX,
    MOO_DX,
    MOO_CS,
    MOO_SS,
    MOO_DS,
    MOO_ES,
    MOO_SP,
    MOO_BP,
    MOO_SI,
    MOO_DI,
    MOO_IP,
    MOO_FLAGS,
    MOO_REGISTER_COUNT,
};

extern const char *const moo_register_name[MOO_REGISTER_COUNT];

struct moo_state {
    uint16_t present; /* a bit for each register that has a value here */
    uint16_t reg[MOO_REGISTER_COUNT];
    const uint8_t *ram; /* ram_count entries, see moo_byte */
    uint32_t ram_count;
};

struct moo_byte {
    uint32_t address;
    uint8_t value;
};

#define MOO_NAME_MAX  80
#define MOO_BYTES_MAX 32

struct moo_test {
    uint32_t index;
    char name[MOO_NAME_MAX];
    uint8_t bytes[MOO_BYTES_MAX];
    uint32_t byte_count;
    struct moo_state initial, final; /* final: what has changed */
    bool has_exception;
    uint8_t exception;
};

struct moo_file {
    uint8_t *data; /* owned */
    size_t size, place;
    char cpu[5]; /* "8086", "C286" */
    uint32_t test_count;
};

/* Reads a whole file. Returns 0 or -errno. */
int moo_open(struct moo_file *file, const char *path, struct error *err);
/* The same from memory, which it takes. */
int moo_parse(struct moo_file *file, uint8_t *data, size_t size, struct error *err);
void moo_close(struct moo_file *file);
/* The next test: 1, 0 at the end, -errno if the file is damaged. What it points to lives
 * as long as the file is open. */
int moo_next(struct moo_file *file, struct moo_test *test, struct error *err);
struct moo_byte moo_ram(const struct moo_state *state, uint32_t i);
