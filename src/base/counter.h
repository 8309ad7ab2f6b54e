#pragma once
/* Counters with one writer, read by any thread: no read-modify-write across threads. */

#include <stdatomic.h>
#include <stdint.h>

static inline void counter_add(_Atomic uint64_t *counter, uint64_t value)
{
    uint64_t before = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, before + value, memory_order_relaxed);
}

static inline uint64_t counter_get(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

/* Keeps the largest value. */
static inline void counter_max(_Atomic uint64_t *counter, uint64_t value)
{
    if (value > counter_get(counter)) {
        atomic_store_explicit(counter, value, memory_order_relaxed);
    }
}
