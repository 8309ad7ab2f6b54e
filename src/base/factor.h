#pragma once
/*
 * Conversions between counts of different rates, without a division each time: a factor
 * is computed once, as a whole number and 2^-64ths, rounded up.
 */

#include <stdint.h>

struct factor {
    uint64_t whole, fraction;
};

/* numerator / denominator, which is not 0. */
static inline struct factor factor_make(uint64_t numerator, uint64_t denominator)
{
    unsigned __int128 rest = (unsigned __int128)(numerator % denominator) << 64;
    return (struct factor){numerator / denominator,
                           (uint64_t)((rest + denominator - 1) / denominator)};
}

static inline uint64_t factor_high(uint64_t a, uint64_t b)
{
    return (uint64_t)((unsigned __int128)a * b >> 64);
}

/* value * factor modulo 2^64, rounded down; never less than that, and at most 1 more.
 * Never falls as value grows, and of a sum is at least the sum of both. */
static inline uint64_t factor_scale(const struct factor *factor, uint64_t value)
{
    return value * factor->whole + factor_high(value, factor->fraction);
}
