#pragma once
/* Programs that a test writes itself, in memory that it may execute. */

#include "guest.h"

typedef uint64_t code_function(uint64_t argument, uint64_t second);

/* MOV EAX, value; RET at an address: six bytes. */
static inline void put_program(uint8_t *at, uint32_t value)
{
    at[0] = 0xb8;
    memcpy(at + 1, &value, 4);
    at[5] = 0xc3;
}

static inline uint64_t run(const uint8_t *at)
{
    return ((code_function *)(uintptr_t)at)(0, 0);
}
