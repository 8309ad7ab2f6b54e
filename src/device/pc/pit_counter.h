#pragma once
/*
 * One counter of an 8254 (data sheet 231164), never stepped: its count and output are
 * functions of the time since it was loaded. `now` is in ticks and never falls.
 */

#include <stdbool.h>
#include <stdint.h>

#define PIT_NEVER       UINT64_MAX

#define PIT_ACCESS_LOW  1
#define PIT_ACCESS_HIGH 2
#define PIT_ACCESS_BOTH 3

/* Times are in ticks of PIT8254_HZ since guest time 0. */
struct pit_counter {
    uint64_t start;    /* when the counting element took `count`, or its gate rose */
    uint64_t held;     /* ticks counted before the gate last fell */
    uint64_t switches; /* modes 2 and 3: when `next` replaces `count`, or PIT_NEVER */
    uint32_t count;    /* in the counting element, 1 to 10000h */
    uint32_t next;     /* in the count register */
    uint16_t latch;
    uint8_t mode, access, is_bcd, gate;
    uint8_t has_count;               /* `next` was written after the control word */
    uint8_t is_loaded;               /* the counting element has a count */
    uint8_t is_counting;             /* and is clocked */
    uint8_t write_low;               /* first byte of a two-byte count */
    uint8_t writes_high, reads_high; /* the next byte is the second of two */
    uint8_t latch_left;              /* bytes of the latched count still to be read */
    uint8_t status, has_status;      /* latched status byte */
};

static inline bool pit_counter_is_periodic(const struct pit_counter *counter)
{
    return counter->mode == 2 || counter->mode == 3;
}

/* Started by the gate alone. */
static inline bool pit_counter_is_triggered(const struct pit_counter *counter)
{
    return counter->mode == 1 || counter->mode == 5;
}

/* Lets a count written during a period take effect once that has ended; to be called
 * before anything else at a later time. */
void pit_counter_sync(struct pit_counter *counter, uint64_t now);
/* The level of OUT. */
bool pit_counter_out(const struct pit_counter *counter, uint64_t now);
/* The control word's bits 5 to 0; access is not 0. */
void pit_counter_set_mode(struct pit_counter *counter, uint8_t control);
/* One byte of a count. True if counting starts anew or stops at once. */
bool pit_counter_write(struct pit_counter *counter, uint64_t now, uint8_t value);
uint8_t pit_counter_read(struct pit_counter *counter, uint64_t now);
void pit_counter_latch_count(struct pit_counter *counter, uint64_t now);
void pit_counter_latch_status(struct pit_counter *counter, uint64_t now);
void pit_counter_set_gate(struct pit_counter *counter, uint64_t now, bool gate);
/* Brings fields of any value into their ranges. */
void pit_counter_loaded(struct pit_counter *counter);
