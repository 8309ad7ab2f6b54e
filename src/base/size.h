#pragma once
/* Sizes as users write them: 512M. */

#include <stdint.h>

#include "base/error.h"

/*
 * Digits and an optional suffix K, M, G or T (powers of 1024, either case); without one,
 * bytes. Anything else, and what exceeds 64 bits, is refused with a message that quotes
 * the text.
 */
int size_parse(const char *text, uint64_t *bytes, struct error *err);

#define SIZE_TEXT 24

/* The shortest exact form that size_parse reads back. Returns buffer. */
const char *size_format(uint64_t bytes, char buffer[SIZE_TEXT]);
