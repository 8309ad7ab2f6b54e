#pragma once
/* The known name that a mistyped one was probably meant to be. */

#include <stddef.h>

/* Edits that turn a into b: insertions, deletions, substitutions and swaps of neighbours
 * (Damerau-Levenshtein, optimal string alignment). Names over 63 characters are
 * unlike everything: the result is SIZE_MAX. */
size_t name_distance(const char *a, const char *b);

/* Collects candidates one by one; best stays NULL while nothing is near enough. */
struct nearest {
    const char *wanted;
    const char *best; /* borrowed */
    size_t distance;
};

void nearest_init(struct nearest *nearest, const char *wanted);
void nearest_offer(struct nearest *nearest, const char *candidate);
