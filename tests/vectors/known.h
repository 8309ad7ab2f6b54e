#pragma once
/* Where the processors of the vectors differ from those that came after them, and what
 * no processor defines. */

#include "vector.h"

struct known {
    uint16_t undefined; /* flags, by the manual of today */
    bool pushes_flags;
    const char *difference; /* not NULL: why this vector does not apply, see known.c */
};

struct known known_about(const struct moo_test *test, enum vector_family family);
