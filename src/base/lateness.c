#include "base/lateness.h"

#include <assert.h>
#include <stdatomic.h>

static const uint64_t limits[LATENESS_GRADES] = {10000,    100000,    1000000,
                                                 10000000, 100000000, UINT64_MAX};

static uint64_t load(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

/* One thread writes, so no locked instruction is needed. */
static void add(_Atomic uint64_t *counter, uint64_t value)
{
    atomic_store_explicit(counter, load(counter) + value, memory_order_relaxed);
}

static void raise(_Atomic uint64_t *worst_ns, uint64_t ns)
{
    if (ns > load(worst_ns)) {
        atomic_store_explicit(worst_ns, ns, memory_order_relaxed);
    }
}

void lateness_note(struct lateness *lateness, uint64_t ns)
{
    unsigned grade = 0;
    while (ns > limits[grade]) {
        grade++;
    }
    add(&lateness->count[grade], 1);
    raise(&lateness->worst_ns, ns);
}

void lateness_note_missed(struct lateness *lateness, uint64_t ticks)
{
    atomic_fetch_add_explicit(&lateness->missed, ticks, memory_order_relaxed);
}

void lateness_add(struct lateness *sum, const struct lateness *lateness)
{
    for (unsigned i = 0; i < LATENESS_GRADES; i++) {
        add(&sum->count[i], load(&lateness->count[i]));
    }
    add(&sum->missed, load(&lateness->missed));
    raise(&sum->worst_ns, load(&lateness->worst_ns));
}

uint64_t lateness_total(const struct lateness *lateness)
{
    uint64_t total = 0;
    for (unsigned i = 0; i < LATENESS_GRADES; i++) {
        total += load(&lateness->count[i]);
    }
    return total;
}

uint64_t lateness_limit(unsigned grade)
{
    assert(grade < LATENESS_GRADES);
    return limits[grade];
}
