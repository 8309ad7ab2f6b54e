/* What lies at an address, and code put there, for programs about what an address
 * reaches. */
#pragma once

#include <stdint.h>

static inline uint64_t place_get(uint64_t address)
{
    return *(volatile uint64_t *)address;
}

static inline void place_put(uint64_t address, uint64_t value)
{
    *(volatile uint64_t *)address = value;
}

/* MOV EAX, value; RET */
static inline void place_put_code(uint64_t address, uint32_t value)
{
    place_put(address, 0xb8 | (uint64_t)value << 8 | 0xc3ull << 40);
}

static inline uint32_t place_run(uint64_t address)
{
    uint32_t (*code)(void) = (uint32_t(*)(void))address;
    return code();
}
