#pragma once
/*
 * Guest time. One clock is the source of every time a guest can see: device timers, APIC
 * timers, the TSC. It counts nanoseconds since the VM was made and stands still while the
 * VM is paused. A virtual clock stands still unless it is advanced, which makes unit
 * tests exact; in deterministic runs it also moves with a counter of instructions.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/clock_line.h"

#define NS_PER_SECOND 1000000000ull

/* Where the host's time comes from: for tests. */
struct clock_host {
    uint64_t (*ns)(void *opaque);
    /* A counter that runs with ns, on all processors alike, and is cheaper to read. NULL:
     * there is none. */
    uint64_t (*ticks)(void *opaque);
    void *opaque;
};

struct clock {
    bool is_virtual;
    struct clock_host host;
    pthread_mutex_t lock; /* for who changes the fields below; and pace */
    /* Odd while they change; a reader that saw a change reads again. */
    _Atomic uint32_t sequence;
    _Atomic bool is_paused;
    _Atomic uint64_t offset_ns;  /* host monotonic time at which the guest clock read 0 */
    _Atomic uint64_t stopped_ns; /* the reading while paused or virtual, less *counter */
    /* While it runs: struct clock_line's fields, and where that is not, host.ns. */
    _Atomic uint64_t line_start, line_length, line_ns, line_slope;
    _Atomic uint64_t floor_ns; /* no reading of the host that is behind counts */
    _Atomic uint64_t renew_ns; /* the host's time from which on there may be a line */
    struct clock_pace pace;
    const _Atomic uint64_t *counter; /* see clock_set_counter */
    /* See clock_set_changed. */
    void (*changed)(void *opaque);
    void *changed_opaque;
};

/*
 * Starts at 0, running on the host's CLOCK_MONOTONIC. Where the host makes that of the
 * TSC, so does this clock: along lines (clock_line.h) that whoever reads it beyond the
 * end of one draws anew, by what the host's clock says then. The two are as
 * far apart as the host's was slewed within a line, microseconds at most.
 */
void clock_init(struct clock *clock);
void clock_init_on(struct clock *clock, const struct clock_host *host);
/* Starts at 0; only clock_advance moves it, and a counter, if it is given one. */
void clock_init_virtual(struct clock *clock);
/* Virtual clocks only: each step of the counter is a nanosecond from now on, also while
 * paused; who counts stops for that. Borrowed. */
void clock_set_counter(struct clock *clock, const _Atomic uint64_t *counter);
/* Nanoseconds of guest time. Thread-safe. */
uint64_t clock_now(const struct clock *clock);
/*
 * The line that readings follow now, for who makes them by the host's TSC himself: all
 * that it covers, until the clock is paused. False: there is none, ask clock_now.
 */
bool clock_get_line(const struct clock *clock, struct clock_line *line);
/* Virtual clocks only. Advancing, pausing and resuming are serialised by the caller. */
void clock_advance(struct clock *clock, uint64_t ns);
/* Pausing what is paused, and resuming what runs, changes nothing. */
void clock_pause(struct clock *clock);
void clock_resume(struct clock *clock);
/* Sets the reading of a paused or virtual clock: a restored VM goes on where it was. */
void clock_set(struct clock *clock, uint64_t ns);
bool clock_is_paused(const struct clock *clock);
/*
 * Who waits for guest times has to look again when the clock was paused, resumed or
 * advanced: changed is called then, in the thread that did it. Set it (NULL: nobody)
 * before other threads use the clock.
 */
void clock_set_changed(struct clock *clock, void (*changed)(void *opaque), void *opaque);
/*
 * The host monotonic time at which the clock will read guest_ns, or UINT64_MAX if it
 * stands still before that. A time already reached gives the host's present or past.
 */
uint64_t clock_host_deadline(const struct clock *clock, uint64_t guest_ns);
/* Host CLOCK_MONOTONIC in nanoseconds. */
uint64_t clock_host_ns(void);

/* value * multiplier / divisor without overflow in between. divisor is not 0. */
static inline uint64_t scale_u64(uint64_t value, uint64_t multiplier, uint64_t divisor)
{
    return (uint64_t)((unsigned __int128)value * multiplier / divisor);
}
