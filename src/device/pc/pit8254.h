#pragma once
/*
 * The PC's 8254 interval timer (Intel 8254 data sheet 231164) and port 61h, which gates
 * channel 2 and shows its output. Counting is exact rational arithmetic on the guest
 * clock, so no error accumulates.
 */

#include "base/timer.h"
#include "device/device.h"
#include "device/irq.h"

#define PIT8254_HZ 1193182u

struct pit8254;

/* irq is channel 0's output. */
struct pit8254 *pit8254_new(const char *name, struct timer_queue *timers,
                            struct irq_line irq, struct error *err);
struct device *pit8254_device(struct pit8254 *pit);
/* Ports 40h to 43h. */
struct region pit8254_region(struct pit8254 *pit, uint64_t base);
/* Port 61h: system control port B. */
struct region pit8254_port_b_region(struct pit8254 *pit, uint64_t base);

/* Ticks of channel 0 that were not delivered because they came faster than the host's
 * limit, or after it had been late for too long. */
uint64_t pit8254_ticks_dropped(struct pit8254 *pit);
