#pragma once
/*
 * Guest time. One clock is the source of every time a guest can see: device timers, APIC
 * timers, the TSC. It counts nanoseconds since the VM was made and stands still while the
 * VM is paused. A virtual clock stands still unless it is advanced, which makes unit
 * tests exact; in deterministic runs it also moves with a counter of instructions.
 */

#include <stdbool.h>
#include <stdint.h>

#define NS_PER_SECOND 1000000000ull

struct clock {
    bool is_virtual;
    /* Odd while the fields below change; a reader that saw a change reads again. */
    _Atomic uint32_t sequence;
    _Atomic bool is_paused;
    _Atomic uint64_t offset_ns;  /* host monotonic time at which the guest clock read 0 */
    _Atomic uint64_t stopped_ns; /* the reading while paused or virtual, less *counter */
    const _Atomic uint64_t *counter; /* see clock_set_counter */
    /* See clock_set_changed. */
    void (*changed)(void *opaque);
    void *changed_opaque;
};

/* Starts at 0, running on the host's CLOCK_MONOTONIC. */
void clock_init(struct clock *clock);
/* Starts at 0; only clock_advance moves it, and a counter, if it is given one. */
void clock_init_virtual(struct clock *clock);
/* Virtual clocks only: each step of the counter is a nanosecond from now on, also while
 * paused; who counts stops for that. Borrowed. */
void clock_set_counter(struct clock *clock, const _Atomic uint64_t *counter);
/* Nanoseconds of guest time. Thread-safe. */
uint64_t clock_now(const struct clock *clock);
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
