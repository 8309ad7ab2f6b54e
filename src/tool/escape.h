#pragma once
/* The escape key of the terminal console: Ctrl-A X (or D), Ctrl-A H, Ctrl-A Ctrl-A. */

#include <stdbool.h>
#include <stdint.h>

enum escape_action {
    ESCAPE_NONE,
    ESCAPE_QUIT,
    ESCAPE_HELP,
};

struct escape {
    bool is_pending; /* Ctrl-A was the last byte */
    bool takes_d;    /* Ctrl-A D is ESCAPE_QUIT too */
};

#define ESCAPE_KEY 0x01 /* Ctrl-A */

/*
 * Reads data up to the first action and puts into out what is for the guest.
 * *used is the number of bytes read, *kept of those put out. Ctrl-A with any other key
 * passes both on; out has room for size + 1 bytes, for a Ctrl-A pending from before.
 */
enum escape_action escape_filter(struct escape *escape, const uint8_t *data,
                                 unsigned size, unsigned *used, uint8_t *out,
                                 unsigned *kept);
