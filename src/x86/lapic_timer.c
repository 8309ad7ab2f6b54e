/*
 * The APIC timer (SDM 3A 11.5.4). The bus runs at 1 GHz: a count of the initial count
 * register, divided by 1, is 1 ns. The deadline alone is kept; the current count is what
 * is left until then. A write first fires what was due before it, which hardware would
 * have done already.
 */

#include <assert.h>

#include "x86/lapic_registers.h"

/*
 * A periodic timer fires at most this often, at a multiple of its period. Faster it would
 * be due again before anybody could have looked: the processor would see interrupts
 * collapse, the host would do nothing else.
 */
#define SHORTEST_PERIOD_NS 20000u

uint32_t lapic_timer_divisor(const struct lapic *lapic)
{
    uint32_t divide = lapic_get(lapic, LAPIC_TIMER_DIVIDE);

    /* Bits 3, 1 and 0: 2, 4, ... 128, and 1 for the last code. */
    return 1u << (((divide & 3) | (divide >> 1 & 4)) + 1) % 8;
}

/* At most 2^32 * 128 ns, nine minutes. */
static uint64_t period_ns(const struct lapic *lapic)
{
    return (uint64_t)lapic_get(lapic, LAPIC_TIMER_INITIAL) * lapic_timer_divisor(lapic);
}

static uint32_t timer_mode(const struct lapic *lapic)
{
    return lapic_get(lapic, LAPIC_LVT_TIMER) & LAPIC_LVT_TIMER_MODE;
}

static bool is_counting_mode(uint32_t mode)
{
    return mode == LAPIC_TIMER_ONE_SHOT || mode == LAPIC_TIMER_PERIODIC;
}

/* Never LAPIC_TIMER_STOPPED unless it is that far away. */
static uint64_t later(uint64_t now_ns, uint64_t ns)
{
    uint64_t sum;

    return __builtin_add_overflow(now_ns, ns, &sum) ? LAPIC_TIMER_STOPPED : sum;
}

/* Time until the count is 0 next, which for a periodic timer that is overdue, because
 * nobody has run it yet, is in a later period. */
static uint64_t remaining_ns(const struct lapic *lapic, uint64_t now_ns)
{
    uint64_t deadline_ns = lapic->timer_deadline_ns;

    if (deadline_ns == LAPIC_TIMER_STOPPED || !is_counting_mode(timer_mode(lapic))) {
        return 0;
    }
    uint64_t period = period_ns(lapic);
    if (deadline_ns > now_ns) {
        uint64_t left = deadline_ns - now_ns;

        /* More than a period if SHORTEST_PERIOD_NS has put it off. */
        return timer_mode(lapic) == LAPIC_TIMER_PERIODIC ? (left - 1) % period + 1 : left;
    }
    if (timer_mode(lapic) == LAPIC_TIMER_ONE_SHOT) {
        return 0;
    }
    return period - (now_ns - deadline_ns) % period;
}

uint32_t lapic_timer_current(const struct lapic *lapic, uint64_t now_ns)
{
    uint32_t divide = lapic_timer_divisor(lapic);

    return (uint32_t)((remaining_ns(lapic, now_ns) + divide - 1) / divide);
}

void lapic_timer_set_initial(struct lapic *lapic, uint64_t now_ns, uint32_t count)
{
    if (!is_counting_mode(timer_mode(lapic))) {
        return; /* SDM 3A 11.5.4.1: ignored in TSC-deadline mode */
    }
    lapic_timer_run(lapic, now_ns);
    lapic_put(lapic, LAPIC_TIMER_INITIAL, count);
    lapic->timer_deadline_ns =
        count ? later(now_ns, period_ns(lapic)) : LAPIC_TIMER_STOPPED;
}

void lapic_timer_set_divide(struct lapic *lapic, uint64_t now_ns, uint32_t divide)
{
    lapic_timer_run(lapic, now_ns);
    uint32_t count = lapic_timer_current(lapic, now_ns);

    lapic_put(lapic, LAPIC_TIMER_DIVIDE, divide);
    /* What is left of the count goes on at the new rate. */
    if (count) {
        lapic->timer_deadline_ns =
            later(now_ns, (uint64_t)count * lapic_timer_divisor(lapic));
    }
}

/*
 * Between one-shot and periodic the count goes on. To or from TSC-deadline mode the timer
 * is disarmed; so it is by the reserved mode.
 */
void lapic_timer_set_lvt(struct lapic *lapic, uint64_t now_ns, uint32_t value)
{
    uint32_t before = timer_mode(lapic), after = value & LAPIC_LVT_TIMER_MODE;

    lapic_timer_run(lapic, now_ns);
    if (before == after) {
        return;
    }
    if (is_counting_mode(before) && is_counting_mode(after)) {
        uint64_t left = remaining_ns(lapic, now_ns);

        if (left) {
            lapic->timer_deadline_ns = later(now_ns, left);
        }
        return;
    }
    lapic->timer_deadline_ns = LAPIC_TIMER_STOPPED;
    lapic->tsc_deadline = 0;
    lapic_put(lapic, LAPIC_TIMER_INITIAL, 0);
}

/* The time from tsc to a later one in ns, rounded up, so that the guest finds its
 * deadline reached. */
static uint64_t tsc_to_ns(const struct lapic *lapic, uint64_t ticks)
{
    assert(lapic->tsc_khz != 0);
    unsigned __int128 ns =
        ((unsigned __int128)ticks * 1000000 + lapic->tsc_khz - 1) / lapic->tsc_khz;

    return ns > UINT64_MAX ? UINT64_MAX : (uint64_t)ns;
}

void lapic_timer_set_tsc_deadline(struct lapic *lapic, uint64_t now_ns, uint64_t tsc,
                                  uint64_t deadline)
{
    if (timer_mode(lapic) != LAPIC_TIMER_TSC) {
        return;
    }
    lapic_timer_run(lapic, now_ns);
    lapic->tsc_deadline = deadline;
    if (deadline == 0) {
        lapic->timer_deadline_ns = LAPIC_TIMER_STOPPED;
    } else if (deadline <= tsc) {
        lapic->timer_deadline_ns = now_ns;
        lapic_timer_run(lapic, now_ns);
    } else {
        lapic->timer_deadline_ns = later(now_ns, tsc_to_ns(lapic, deadline - tsc));
    }
}

void lapic_tsc_changed(struct lapic *lapic, uint64_t now_ns, uint64_t tsc,
                       struct lapic_effect *effect)
{
    *effect = (struct lapic_effect){0};
    if (lapic->tsc_deadline == 0) {
        return;
    }
    effect->what = LAPIC_EFFECT_TIMER | LAPIC_EFFECT_RECHECK;
    if (!lapic_timer_run(lapic, now_ns)) {
        lapic_timer_set_tsc_deadline(lapic, now_ns, tsc, lapic->tsc_deadline);
    }
}

/* The period, or as many of them as make the shortest one that is served. */
static uint64_t served_period_ns(const struct lapic *lapic)
{
    uint64_t period = period_ns(lapic);

    return period < SHORTEST_PERIOD_NS
               ? period * ((SHORTEST_PERIOD_NS + period - 1) / period)
               : period;
}

/* The first multiple of the period, counted from the deadline just reached, that is ahead
 * of now_ns. */
static uint64_t next_deadline(const struct lapic *lapic, uint64_t now_ns)
{
    uint64_t period = served_period_ns(lapic);
    uint64_t periods = (now_ns - lapic->timer_deadline_ns) / period + 1;
    uint64_t ahead;
    if (__builtin_mul_overflow(periods, period, &ahead)) {
        return LAPIC_TIMER_STOPPED;
    }
    return later(lapic->timer_deadline_ns, ahead);
}

bool lapic_timer_run(struct lapic *lapic, uint64_t now_ns)
{
    if (lapic->timer_deadline_ns == LAPIC_TIMER_STOPPED ||
        lapic->timer_deadline_ns > now_ns) {
        return false;
    }
    if (timer_mode(lapic) == LAPIC_TIMER_PERIODIC) {
        lapic->timer_deadline_ns = next_deadline(lapic, now_ns);
    } else {
        lapic->timer_deadline_ns = LAPIC_TIMER_STOPPED;
        lapic->tsc_deadline = 0;
    }
    uint32_t entry = lapic_get(lapic, LAPIC_LVT_TIMER);
    if (!(entry & LAPIC_LVT_MASKED)) {
        lapic_request(lapic, (uint8_t)entry, false);
    }
    return true;
}

uint64_t lapic_timer_missed(const struct lapic *lapic, uint64_t now_ns)
{
    uint32_t entry = lapic_get(lapic, LAPIC_LVT_TIMER);
    struct apic_message message = {.vector = (uint8_t)entry};

    if (entry & LAPIC_LVT_MASKED || lapic->timer_deadline_ns > now_ns) {
        return 0;
    }
    uint64_t periods = timer_mode(lapic) == LAPIC_TIMER_PERIODIC
                           ? (now_ns - lapic->timer_deadline_ns) / served_period_ns(lapic)
                           : 0;
    return periods + lapic_is_waiting(lapic, &message);
}
