#include "base/clock.h"

#include <assert.h>
#include <string.h>
#include <time.h>

/* A consistent copy of what changes when a clock is paused, resumed or advanced. */
struct reading {
    uint64_t host_ns;
    uint64_t guest_ns;
    bool is_still;
};

uint64_t clock_host_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_SECOND + (uint64_t)now.tv_nsec;
}

static uint64_t counted(const struct clock *clock)
{
    return clock->counter ? *clock->counter : 0;
}

/* Host time is read between the two looks at the sequence, so that no reading lies beyond
 * the one at which a later pause stops the clock. */
static struct reading clock_read(const struct clock *clock)
{
    for (;;) {
        uint32_t sequence = clock->sequence;
        struct reading reading = {.is_still = clock->is_virtual || clock->is_paused};
        if (reading.is_still) {
            reading.guest_ns = clock->stopped_ns + counted(clock);
        } else {
            reading.host_ns = clock_host_ns();
            reading.guest_ns = reading.host_ns - clock->offset_ns;
        }
        if (!(sequence & 1) && sequence == clock->sequence) {
            return reading;
        }
    }
}

static void notify(struct clock *clock)
{
    if (clock->changed) {
        clock->changed(clock->changed_opaque);
    }
}

void clock_init(struct clock *clock)
{
    memset(clock, 0, sizeof(*clock));
    clock->offset_ns = clock_host_ns();
}

void clock_init_virtual(struct clock *clock)
{
    memset(clock, 0, sizeof(*clock));
    clock->is_virtual = true;
}

void clock_set_counter(struct clock *clock, const _Atomic uint64_t *counter)
{
    assert(clock->is_virtual);
    clock->stopped_ns -= *counter;
    clock->counter = counter;
}

uint64_t clock_now(const struct clock *clock)
{
    return clock_read(clock).guest_ns;
}

void clock_advance(struct clock *clock, uint64_t ns)
{
    assert(clock->is_virtual);
    clock->stopped_ns += ns;
    notify(clock);
}

void clock_pause(struct clock *clock)
{
    if (clock->is_paused) {
        return;
    }
    clock->sequence++;
    if (!clock->is_virtual) {
        clock->stopped_ns = clock_host_ns() - clock->offset_ns;
    }
    clock->is_paused = true;
    clock->sequence++;
    notify(clock);
}

void clock_resume(struct clock *clock)
{
    if (!clock->is_paused) {
        return;
    }
    clock->sequence++;
    if (!clock->is_virtual) {
        clock->offset_ns = clock_host_ns() - clock->stopped_ns;
    }
    clock->is_paused = false;
    clock->sequence++;
    notify(clock);
}

void clock_set(struct clock *clock, uint64_t ns)
{
    assert(clock->is_virtual || clock->is_paused);
    clock->sequence++;
    clock->stopped_ns = ns - counted(clock);
    clock->sequence++;
    notify(clock);
}

bool clock_is_paused(const struct clock *clock)
{
    return clock->is_paused;
}

void clock_set_changed(struct clock *clock, void (*changed)(void *opaque), void *opaque)
{
    clock->changed = changed;
    clock->changed_opaque = opaque;
}

uint64_t clock_host_deadline(const struct clock *clock, uint64_t guest_ns)
{
    struct reading now = clock_read(clock);
    if (guest_ns <= now.guest_ns) {
        return now.is_still ? clock_host_ns() : now.host_ns;
    }
    uint64_t wait_ns = guest_ns - now.guest_ns;
    if (now.is_still || wait_ns > UINT64_MAX - now.host_ns) {
        return UINT64_MAX;
    }
    return now.host_ns + wait_ns;
}
