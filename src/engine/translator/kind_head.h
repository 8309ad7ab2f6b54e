#pragma once
/* What tells an instruction's kind: all its bytes before displacement and immediate. */

#include <stdbool.h>
#include <stdint.h>

struct head {
    uint64_t bytes;
    unsigned size; /* 0: of a kind that is not remembered */
};

/* Of the instruction that room bytes begin with. first: the first eight of them, in a
 * register, for where the next instruction begins waits for this. */
struct head head_find(const uint8_t *bytes, uint64_t first, unsigned room, bool is_64);
