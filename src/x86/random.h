#pragma once
/* Random numbers of deterministic runs: what RDRAND and RDSEED give at a guest time, the
 * same in every run. Not for secrets. */

#include <stdint.h>

/* The output function of SplitMix64 (Steele, Lea and Flood 2014): one to one, so that
 * equal numbers mean equal times. */
static inline uint64_t x86_random(uint64_t now_ns)
{
    uint64_t mixed = (now_ns + 1) * 0x9e3779b97f4a7c15ull;
    mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9ull;
    mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111ebull;
    return mixed ^ mixed >> 31;
}
