#include "base/clock.h"

#include <assert.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include "base/scope.h"

/* A consistent copy of what changes when a clock is paused, resumed or advanced. */
struct reading {
    uint64_t guest_ns;
    uint64_t offset_ns;
    bool is_still;
};

/* ---- the host --------------------------------------------------------------------- */

uint64_t clock_host_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_SECOND + (uint64_t)now.tv_nsec;
}

static uint64_t monotonic_ns(void *opaque)
{
    return clock_host_ns();
}

/* Not before what comes before in the program, nor behind what comes behind (SDM 2B
 * "RDTSC"). */
static uint64_t ordered_tsc(void *opaque)
{
    _mm_lfence();
    uint64_t ticks = __rdtsc();
    _mm_lfence();
    return ticks;
}

/* The kernel has looked whether the TSC stops, changes its rate, or differs between
 * processors, and goes on looking. */
static bool host_uses_tsc(void)
{
    SCOPE_FD int fd =
        open("/sys/devices/system/clocksource/clocksource0/current_clocksource",
             O_RDONLY | O_CLOEXEC);
    char name[8] = "";
    return fd >= 0 && read(fd, name, sizeof(name) - 1) == 4 && !strcmp(name, "tsc\n");
}

static uint64_t host_ns(const struct clock *clock)
{
    return clock->host.ns(clock->host.opaque);
}

static uint64_t host_ticks(const struct clock *clock)
{
    return clock->host.ticks(clock->host.opaque);
}

#define SAMPLE_ATTEMPTS 4
#define SAMPLE_TICKS    4096 /* 1 to 2 microseconds */

/*
 * The host's two clocks at one moment, ticks being the later by what reading the other
 * takes: of several attempts the one that took the least time. False: each was
 * interrupted, or its clock takes a system call and a device, so that the kernel has
 * turned away from the TSC.
 */
static bool take_sample(const struct clock *clock, struct clock_sample *sample)
{
    uint64_t best = UINT64_MAX;
    for (unsigned i = 0; i < SAMPLE_ATTEMPTS; i++) {
        uint64_t before = host_ticks(clock);
        uint64_t ns = host_ns(clock);
        uint64_t after = host_ticks(clock);
        if (after - before < best) {
            best = after - before;
            *sample = (struct clock_sample){after, ns};
        }
    }
    return best < SAMPLE_TICKS;
}

/* ---- lines ------------------------------------------------------------------------ */

static void lock_fields(struct clock *clock)
{
    pthread_mutex_lock(&clock->lock);
    clock->sequence++;
}

static void unlock_fields(struct clock *clock)
{
    clock->sequence++;
    pthread_mutex_unlock(&clock->lock);
}

/* For who holds the lock, or looks at the sequence. */
static struct clock_line current_line(const struct clock *clock)
{
    return (struct clock_line){clock->line_start, clock->line_length, clock->line_ns,
                               clock->line_slope};
}

/* No line from now on: all that the last one has told, or will tell, is past. */
static void drop_line(struct clock *clock)
{
    struct clock_line line = current_line(clock);
    if (line.length) {
        clock->floor_ns = clock_line_at(&line, line.start + line.length);
        clock->line_length = 0;
    }
}

/* Guest time by the host's clock: where the last line went ahead it stands still. */
static uint64_t guest_by_host(const struct clock *clock, uint64_t now_ns)
{
    uint64_t guest_ns = now_ns - clock->offset_ns;
    uint64_t floor_ns = clock->floor_ns;
    return guest_ns > floor_ns ? guest_ns : floor_ns;
}

/* Who comes here has found no line for the present. Meanwhile another may have drawn it.
 */
static void renew(struct clock *clock)
{
    lock_fields(clock);
    struct clock_line line = current_line(clock);
    bool is_due = host_ns(clock) >= clock->renew_ns;
    if (!clock->is_paused && is_due && !clock_line_covers(&line, host_ticks(clock))) {
        drop_line(clock);
        struct clock_sample now;
        if (take_sample(clock, &now) && clock_pace_note(&clock->pace, now)) {
            line = clock_line_draw(&clock->pace, now.ticks, now.ns - clock->offset_ns,
                                   clock->floor_ns);
            clock->line_start = line.start;
            clock->line_ns = line.ns;
            clock->line_slope = line.slope;
            clock->line_length = line.length;
            clock->renew_ns = now.ns;
        } else {
            clock->renew_ns = host_ns(clock) + CLOCK_LINE_NS;
        }
    }
    unlock_fields(clock);
}

/* Guest time now of a clock that runs, by the fields as they are. False: they are due to
 * be renewed. */
static bool read_running(const struct clock *clock, uint64_t *guest_ns)
{
    struct clock_line line = current_line(clock);
    if (line.length) {
        uint64_t ticks = host_ticks(clock);
        *guest_ns = clock_line_at(&line, ticks);
        return clock_line_covers(&line, ticks);
    }
    uint64_t now_ns = host_ns(clock);
    *guest_ns = guest_by_host(clock, now_ns);
    return now_ns < clock->renew_ns;
}

static uint64_t counted(const struct clock *clock)
{
    return clock->counter ? *clock->counter : 0;
}

/* The host is read between the two looks at the sequence, so that no reading lies beyond
 * the one at which a later pause stops the clock. Lines are drawn on the way, but what
 * the clock tells does not change by that: it is const to who reads it. */
static struct reading clock_read(const struct clock *readers)
{
    struct clock *clock = (struct clock *)readers;
    for (;;) {
        uint32_t sequence = clock->sequence;
        if (sequence & 1) {
            /* Perhaps its thread does not run: not by turning round. */
            pthread_mutex_lock(&clock->lock);
            pthread_mutex_unlock(&clock->lock);
            continue;
        }
        struct reading reading = {.is_still = clock->is_virtual || clock->is_paused};
        bool is_right = true;
        if (reading.is_still) {
            reading.guest_ns = clock->stopped_ns + counted(clock);
        } else {
            reading.offset_ns = clock->offset_ns;
            is_right = read_running(clock, &reading.guest_ns);
        }
        if (sequence != clock->sequence) {
            continue;
        }
        if (is_right) {
            return reading;
        }
        renew(clock);
    }
}

bool clock_get_line(const struct clock *clock, struct clock_line *line)
{
    uint32_t sequence;
    do {
        clock_read(clock);
        sequence = clock->sequence;
        *line = current_line(clock);
    } while (sequence & 1 || sequence != clock->sequence);
    return line->length;
}

/* ---- the clock -------------------------------------------------------------------- */

static void notify(struct clock *clock)
{
    if (clock->changed) {
        clock->changed(clock->changed_opaque);
    }
}

void clock_init_on(struct clock *clock, const struct clock_host *host)
{
    memset(clock, 0, sizeof(*clock));
    pthread_mutex_init(&clock->lock, NULL);
    clock->host = *host;
    clock->offset_ns = host_ns(clock);
    clock->renew_ns = UINT64_MAX;
    if (clock->host.ticks) {
        struct clock_sample now = {host_ticks(clock), clock->offset_ns};
        clock_pace_init(&clock->pace, now);
        clock->renew_ns = now.ns + CLOCK_LINE_NS;
    }
}

void clock_init(struct clock *clock)
{
    struct clock_host host = {.ns = monotonic_ns};
    if (host_uses_tsc()) {
        host.ticks = ordered_tsc;
    }
    clock_init_on(clock, &host);
}

void clock_init_virtual(struct clock *clock)
{
    const struct clock_host host = {.ns = monotonic_ns};
    clock_init_on(clock, &host);
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
    lock_fields(clock);
    if (!clock->is_virtual) {
        uint64_t guest_ns;
        if (!read_running(clock, &guest_ns)) {
            drop_line(clock);
            guest_ns = guest_by_host(clock, host_ns(clock));
        }
        clock->line_length = 0;
        clock->stopped_ns = guest_ns;
    }
    clock->is_paused = true;
    unlock_fields(clock);
    notify(clock);
}

void clock_resume(struct clock *clock)
{
    if (!clock->is_paused) {
        return;
    }
    lock_fields(clock);
    if (!clock->is_virtual) {
        uint64_t now_ns = host_ns(clock);
        clock->offset_ns = now_ns - clock->stopped_ns;
        clock->floor_ns = clock->stopped_ns;
        clock->renew_ns = clock->host.ticks ? now_ns : UINT64_MAX;
    }
    clock->is_paused = false;
    unlock_fields(clock);
    notify(clock);
}

void clock_set(struct clock *clock, uint64_t ns)
{
    assert(clock->is_virtual || clock->is_paused);
    lock_fields(clock);
    clock->stopped_ns = ns - counted(clock);
    unlock_fields(clock);
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
    uint64_t now_ns = host_ns(clock);
    if (guest_ns <= now.guest_ns) {
        return now_ns;
    }
    if (now.is_still) {
        return UINT64_MAX;
    }
    /* The line may be behind: who was woken by the host's clock waits for the rest. */
    uint64_t by_host_ns = now_ns - now.offset_ns;
    uint64_t wait_ns = guest_ns - (guest_ns > by_host_ns ? by_host_ns : now.guest_ns);
    return wait_ns > UINT64_MAX - now_ns ? UINT64_MAX : now_ns + wait_ns;
}
