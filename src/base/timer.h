#pragma once
/*
 * Timers on a guest clock. Any thread may set and cancel them; the queue's owner (the
 * event loop, or a test) runs those that are due. A timer's function is called with the
 * timer's lock held, the lock of the device that owns it, so device code stays
 * single-threaded in style. Between becoming due and being called a timer may be re-armed
 * or cancelled by a thread that holds the lock; it is then not called for the old
 * deadline. While the clock is paused nothing is called.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/lateness.h"

#define TIMER_NEVER UINT64_MAX

struct timer_queue;

struct timer {
    struct timer_queue *queue;
    pthread_mutex_t *lock; /* taken around the call; may be NULL */
    void (*expired)(void *opaque);
    void *opaque;
    uint64_t deadline_ns; /* TIMER_NEVER when idle; owned by the queue's lock */
    unsigned heap_index;  /* position in the queue's heap + 1; 0 when idle */
};

/* The clock is borrowed. NULL when memory is short. */
struct timer_queue *timer_queue_new(struct clock *clock);
/* Every timer must be idle. Accepts NULL. */
void timer_queue_free(struct timer_queue *queue);
struct clock *timer_queue_clock(struct timer_queue *queue);
/* wake is called, from the setting thread, whenever the earliest deadline becomes
 * earlier. */
void timer_queue_set_wake(struct timer_queue *queue, void (*wake)(void *opaque),
                          void *opaque);
/* How late its timers were called; by whoever runs it. */
const struct lateness *timer_queue_lateness(const struct timer_queue *queue);
/* The earliest deadline on the queue's clock in ns, or TIMER_NEVER. */
uint64_t timer_queue_next(struct timer_queue *queue);
/*
 * Calls everything that is due, earliest first, equal deadlines in the order of arming;
 * also what becomes due while it runs by being armed for a time already past. Returns the
 * number of calls. By one thread at a time and never from within a timer's function.
 */
unsigned timer_queue_run(struct timer_queue *queue);
/* The same, with at most limit calls. */
unsigned timer_queue_run_some(struct timer_queue *queue, unsigned limit);

void timer_init(struct timer *timer, struct timer_queue *queue, pthread_mutex_t *lock,
                void (*expired)(void *opaque), void *opaque);
/* Arms or re-arms for an absolute guest time; one in the past is due at once. TIMER_NEVER
 * cancels. */
void timer_set(struct timer *timer, uint64_t deadline_ns);
void timer_cancel(struct timer *timer);
/* So many further times it would have been due were lost. Any thread. */
void timer_note_missed(struct timer *timer, uint64_t ticks);
/* Cancels and waits for a call under way; must not be called with the timer's lock held.
 * Accepts a timer that is all zero. */
void timer_fini(struct timer *timer);
