#include "base/timer.h"

#include <assert.h>
#include <stdlib.h>

/*
 * Lock order: a timer's own lock, then the queue's. A due timer is therefore first only
 * noted (`current`), then its lock is taken, and only then is it looked at again: a
 * holder of that lock may have moved or cancelled it meanwhile. `current` keeps
 * timer_fini from returning while its lock or function is still in use here.
 */

/* Timers belong to devices, of which there are few; the guest cannot make any. */
#define TIMERS_MAX 4096

struct heap_entry {
    uint64_t deadline_ns;
    uint64_t sequence; /* of arming: equal deadlines expire in that order */
    struct timer *timer;
};

struct timer_queue {
    struct clock *clock;
    void (*wake)(void *opaque);
    void *wake_opaque;
    struct lateness lateness; /* written by the runner */

    pthread_mutex_t lock; /* what follows, and deadline_ns and heap_index of each timer */
    pthread_cond_t finished;
    struct timer *current; /* being called, or about to be */
    pthread_t runner;      /* the thread that does; valid while current is set */
    uint64_t sequence;
    unsigned count;
    struct heap_entry heap[TIMERS_MAX];
};

struct timer_queue *timer_queue_new(struct clock *clock)
{
    struct timer_queue *queue = calloc(1, sizeof(*queue));
    if (!queue) {
        return NULL;
    }
    queue->clock = clock;
    pthread_mutex_init(&queue->lock, NULL);
    pthread_cond_init(&queue->finished, NULL);
    return queue;
}

void timer_queue_free(struct timer_queue *queue)
{
    if (!queue) {
        return;
    }
    assert(queue->count == 0 && !queue->current);
    pthread_cond_destroy(&queue->finished);
    pthread_mutex_destroy(&queue->lock);
    free(queue);
}

struct clock *timer_queue_clock(struct timer_queue *queue)
{
    return queue->clock;
}

const struct lateness *timer_queue_lateness(const struct timer_queue *queue)
{
    return &queue->lateness;
}

void timer_queue_set_wake(struct timer_queue *queue, void (*wake)(void *opaque),
                          void *opaque)
{
    queue->wake = wake;
    queue->wake_opaque = opaque;
}

static bool entry_before(const struct heap_entry *a, const struct heap_entry *b)
{
    return a->deadline_ns != b->deadline_ns ? a->deadline_ns < b->deadline_ns
                                            : a->sequence < b->sequence;
}

static void heap_place(struct timer_queue *queue, unsigned at, struct heap_entry entry)
{
    queue->heap[at] = entry;
    entry.timer->heap_index = at + 1;
}

/* Puts the entry where it belongs on the path from position `at` to the root or down. */
static void heap_settle(struct timer_queue *queue, unsigned at, struct heap_entry entry)
{
    while (at > 0 && entry_before(&entry, &queue->heap[(at - 1) / 2])) {
        heap_place(queue, at, queue->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (;;) {
        unsigned child = 2 * at + 1;
        if (child + 1 < queue->count &&
            entry_before(&queue->heap[child + 1], &queue->heap[child])) {
            child++;
        }
        if (child >= queue->count || !entry_before(&queue->heap[child], &entry)) {
            break;
        }
        heap_place(queue, at, queue->heap[child]);
        at = child;
    }
    heap_place(queue, at, entry);
}

static void timer_remove_locked(struct timer *timer)
{
    struct timer_queue *queue = timer->queue;
    timer->deadline_ns = TIMER_NEVER;
    if (timer->heap_index == 0) {
        return;
    }
    unsigned at = timer->heap_index - 1;
    timer->heap_index = 0;
    struct heap_entry last = queue->heap[--queue->count];
    if (last.timer != timer) {
        heap_settle(queue, at, last);
    }
}

static void timer_insert_locked(struct timer *timer, uint64_t deadline_ns)
{
    struct timer_queue *queue = timer->queue;
    unsigned at = timer->heap_index - 1;
    if (timer->heap_index == 0) {
        assert(queue->count < TIMERS_MAX);
        at = queue->count++;
    }
    timer->deadline_ns = deadline_ns;
    heap_settle(queue, at,
                (struct heap_entry){
                    .deadline_ns = deadline_ns,
                    .sequence = queue->sequence++,
                    .timer = timer,
                });
}

static uint64_t queue_next_locked(const struct timer_queue *queue)
{
    return queue->count > 0 ? queue->heap[0].deadline_ns : TIMER_NEVER;
}

uint64_t timer_queue_next(struct timer_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    uint64_t next = queue_next_locked(queue);
    pthread_mutex_unlock(&queue->lock);
    return next;
}

/* Notes the earliest timer due at now_ns as current and returns it, or NULL. */
static struct timer *queue_pick(struct timer_queue *queue, uint64_t now_ns)
{
    pthread_mutex_lock(&queue->lock);
    struct timer *timer = NULL;
    if (queue_next_locked(queue) <= now_ns && queue->count > 0) {
        assert(!queue->current); /* one thread at a time, and not from within a timer */
        timer = queue->heap[0].timer;
        queue->current = timer;
        queue->runner = pthread_self();
    }
    pthread_mutex_unlock(&queue->lock);
    return timer;
}

/* Calls a picked timer unless it was moved or cancelled before its lock was ours. */
static bool queue_call(struct timer_queue *queue, struct timer *timer, uint64_t now_ns)
{
    pthread_mutex_t *lock = timer->lock; /* the timer may be gone after its call */
    if (lock) {
        pthread_mutex_lock(lock);
    }
    pthread_mutex_lock(&queue->lock);
    bool is_due = timer->heap_index != 0 && timer->deadline_ns <= now_ns;
    if (is_due) {
        lateness_note(&queue->lateness, now_ns - timer->deadline_ns);
        timer_remove_locked(timer);
    }
    pthread_mutex_unlock(&queue->lock);
    if (is_due) {
        timer->expired(timer->opaque);
    }
    if (lock) {
        pthread_mutex_unlock(lock);
    }
    pthread_mutex_lock(&queue->lock);
    queue->current = NULL;
    pthread_cond_broadcast(&queue->finished);
    pthread_mutex_unlock(&queue->lock);
    return is_due;
}

unsigned timer_queue_run_some(struct timer_queue *queue, unsigned limit)
{
    if (clock_is_paused(queue->clock)) {
        return 0;
    }
    /* One reading for the whole run: a timer that always re-arms for "now" cannot keep us
     * here. */
    uint64_t now_ns = clock_now(queue->clock);
    unsigned calls = 0;
    while (calls < limit) {
        struct timer *timer = queue_pick(queue, now_ns);
        if (!timer) {
            break;
        }
        calls += queue_call(queue, timer, now_ns);
    }
    return calls;
}

unsigned timer_queue_run(struct timer_queue *queue)
{
    return timer_queue_run_some(queue, UINT32_MAX);
}

void timer_init(struct timer *timer, struct timer_queue *queue, pthread_mutex_t *lock,
                void (*expired)(void *opaque), void *opaque)
{
    *timer = (struct timer){
        .queue = queue,
        .lock = lock,
        .expired = expired,
        .opaque = opaque,
        .deadline_ns = TIMER_NEVER,
    };
}

void timer_set(struct timer *timer, uint64_t deadline_ns)
{
    struct timer_queue *queue = timer->queue;
    if (deadline_ns == TIMER_NEVER) {
        timer_cancel(timer);
        return;
    }
    pthread_mutex_lock(&queue->lock);
    uint64_t before = queue_next_locked(queue);
    timer_insert_locked(timer, deadline_ns);
    bool is_earlier = queue_next_locked(queue) < before;
    pthread_mutex_unlock(&queue->lock);
    if (is_earlier && queue->wake) {
        queue->wake(queue->wake_opaque);
    }
}

void timer_cancel(struct timer *timer)
{
    if (!timer->queue) {
        return;
    }
    pthread_mutex_lock(&timer->queue->lock);
    timer_remove_locked(timer);
    pthread_mutex_unlock(&timer->queue->lock);
}

void timer_note_missed(struct timer *timer, uint64_t ticks)
{
    lateness_note_missed(&timer->queue->lateness, ticks);
}

void timer_fini(struct timer *timer)
{
    struct timer_queue *queue = timer->queue;
    if (!queue) {
        return;
    }
    pthread_mutex_lock(&queue->lock);
    timer_remove_locked(timer);
    while (queue->current == timer && !pthread_equal(queue->runner, pthread_self())) {
        pthread_cond_wait(&queue->finished, &queue->lock);
    }
    /* Armed again by the call that was waited for. */
    timer_remove_locked(timer);
    pthread_mutex_unlock(&queue->lock);
}
