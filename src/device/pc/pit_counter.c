#include "device/pc/pit_counter.h"

void pit_counter_sync(struct pit_counter *counter, uint64_t now)
{
    if (counter->switches <= now) {
        counter->start = counter->switches;
        counter->count = counter->next;
        counter->switches = PIT_NEVER;
    }
}

static uint64_t counter_elapsed(const struct pit_counter *counter, uint64_t now)
{
    uint64_t running =
        counter->is_counting && now > counter->start ? now - counter->start : 0;
    return counter->held + running;
}

bool pit_counter_out(const struct pit_counter *counter, uint64_t now)
{
    if (!counter->is_loaded) {
        return counter->mode != 0;
    }
    uint64_t elapsed = counter_elapsed(counter, now);
    switch (counter->mode) {
    case 0:
    case 1:
        return elapsed >= counter->count;
    case 2:
        return !counter->gate || counter->count == 1 ||
               elapsed % counter->count != counter->count - 1;
    case 3:
        return !counter->gate || elapsed % counter->count < (counter->count + 1) / 2;
    default:
        return elapsed != counter->count;
    }
}

/* Mode 3 counts down by two in each half; an odd count starts at one less. */
static uint32_t square_wave_value(uint32_t count, uint64_t elapsed)
{
    uint32_t phase = (uint32_t)(elapsed % count), high = (count + 1) / 2;
    return (count & ~1u) - 2 * (phase < high ? phase : phase - high);
}

static uint16_t to_bcd(uint32_t value)
{
    return (uint16_t)(value % 10 | value / 10 % 10 << 4 | value / 100 % 10 << 8 |
                      value / 1000 % 10 << 12);
}

static uint32_t from_bcd(uint16_t raw)
{
    return (raw & 15u) + (raw >> 4 & 15u) * 10 + (raw >> 8 & 15u) * 100 +
           (raw >> 12) * 1000u;
}

/* The 16 bits that reading the counter gives. */
static uint16_t counter_value(const struct pit_counter *counter, uint64_t now)
{
    uint32_t modulus = counter->is_bcd ? 10000 : 0x10000;
    uint32_t value = counter->next;
    if (counter->is_loaded) {
        uint64_t elapsed = counter_elapsed(counter, now);
        if (counter->mode == 3) {
            value = square_wave_value(counter->count, elapsed);
        } else if (counter->mode == 2) {
            value = counter->count - (uint32_t)(elapsed % counter->count);
        } else {
            value = counter->count % modulus + modulus - (uint32_t)(elapsed % modulus);
        }
    }
    value %= modulus;
    return counter->is_bcd ? to_bcd(value) : (uint16_t)value;
}

/* Puts `next` into the counting element, which takes one tick. */
static void counter_start(struct pit_counter *counter, uint64_t now)
{
    counter->count = counter->next;
    counter->start = now + 1;
    counter->held = 0;
    counter->switches = PIT_NEVER;
    counter->is_loaded = 1;
    counter->is_counting = counter->gate || pit_counter_is_triggered(counter);
}

static bool counter_set_count(struct pit_counter *counter, uint64_t now, uint16_t raw)
{
    uint32_t count = counter->is_bcd ? from_bcd(raw) : raw;
    counter->next = count ? count : counter->is_bcd ? 10000 : 0x10000;
    counter->has_count = 1;
    if (pit_counter_is_triggered(counter)) {
        return false; /* waits for the gate to rise */
    }
    if (pit_counter_is_periodic(counter) && counter->is_loaded && now >= counter->start) {
        if (counter->is_counting) {
            uint64_t periods = (now - counter->start) / counter->count + 1;
            counter->switches = counter->start + periods * counter->count;
        }
        return false;
    }
    counter_start(counter, now);
    return true;
}

bool pit_counter_write(struct pit_counter *counter, uint64_t now, uint8_t value)
{
    if (counter->access == PIT_ACCESS_LOW) {
        return counter_set_count(counter, now, value);
    }
    if (counter->access == PIT_ACCESS_HIGH) {
        return counter_set_count(counter, now, (uint16_t)(value << 8));
    }
    counter->writes_high ^= 1;
    if (!counter->writes_high) {
        return counter_set_count(counter, now,
                                 (uint16_t)(value << 8 | counter->write_low));
    }
    counter->write_low = value;
    if (counter->mode != 0) {
        return false;
    }
    counter->is_loaded = 0; /* the first byte stops it and drives OUT low */
    counter->is_counting = 0;
    return true;
}

uint8_t pit_counter_read(struct pit_counter *counter, uint64_t now)
{
    if (counter->has_status) {
        counter->has_status = 0;
        return counter->status;
    }
    uint16_t value = counter->latch_left ? counter->latch : counter_value(counter, now);
    if (counter->latch_left) {
        counter->latch_left--;
    }
    bool is_high = counter->access == PIT_ACCESS_HIGH;
    if (counter->access == PIT_ACCESS_BOTH) {
        is_high = counter->reads_high;
        counter->reads_high = !is_high;
    }
    return (uint8_t)(is_high ? value >> 8 : value);
}

void pit_counter_latch_count(struct pit_counter *counter, uint64_t now)
{
    if (counter->latch_left == 0) {
        counter->latch = counter_value(counter, now);
        counter->latch_left = counter->access == PIT_ACCESS_BOTH ? 2 : 1;
    }
}

void pit_counter_latch_status(struct pit_counter *counter, uint64_t now)
{
    if (!counter->has_status) {
        bool is_null =
            !counter->is_loaded || now < counter->start || counter->switches != PIT_NEVER;
        counter->status =
            (uint8_t)(pit_counter_out(counter, now) << 7 | is_null << 6 |
                      counter->access << 4 | counter->mode << 1 | counter->is_bcd);
        counter->has_status = 1;
    }
}

void pit_counter_set_gate(struct pit_counter *counter, uint64_t now, bool gate)
{
    if (gate == counter->gate) {
        return;
    }
    pit_counter_sync(counter, now);
    counter->gate = gate;
    if (pit_counter_is_triggered(counter)) {
        if (gate && counter->has_count) {
            counter_start(counter, now);
        }
    } else if (!gate) {
        counter->held = counter_elapsed(counter, now);
        counter->is_counting = 0;
    } else if (counter->is_loaded && pit_counter_is_periodic(counter)) {
        counter_start(counter, now);
    } else if (counter->is_loaded) {
        counter->start = now;
        counter->is_counting = 1;
    }
}

void pit_counter_set_mode(struct pit_counter *counter, uint8_t control)
{
    uint8_t mode = control >> 1 & 7;
    *counter = (struct pit_counter){
        .switches = PIT_NEVER,
        .count = 0x10000,
        .next = 0x10000,
        .mode = mode > 5 ? mode & 3 : mode, /* the high bit of 6 and 7 is ignored */
        .access = control >> 4 & 3,
        .is_bcd = control & 1,
        .gate = counter->gate,
    };
}

void pit_counter_loaded(struct pit_counter *counter)
{
    counter->mode %= 6;
    if (counter->access < PIT_ACCESS_LOW || counter->access > PIT_ACCESS_BOTH) {
        counter->access = PIT_ACCESS_BOTH;
    }
    if (counter->count < 1 || counter->count > 0x10000) {
        counter->count = 0x10000;
    }
    if (counter->next < 1 || counter->next > 0x10000) {
        counter->next = 0x10000;
    }
    if (!pit_counter_is_periodic(counter)) {
        counter->switches = PIT_NEVER;
    }
    counter->latch_left &= 3;
    counter->is_bcd &= 1;
    counter->reads_high &= 1;
    counter->writes_high &= 1;
}
