#pragma once
/* What differs between two machines that stand still and should be the same. */

#include "dispatcher/vm.h"

#define DIFFERENCE_TEXT 2048

/*
 * Compares every part of the state, and the pages that either machine has written since
 * the last call (memory_dirty_start comes before the first; is_whole: all of them).
 * Returns 1 if they differ, with a line for each of the first differences in text; 0 if
 * they do not, with an empty text.
 */
int difference_find(struct vm *a, struct vm *b, bool is_whole, char text[DIFFERENCE_TEXT],
                    struct error *err);
