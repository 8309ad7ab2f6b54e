#pragma once
/*
 * A 16550A serial port with its FIFOs (National PC16550D data sheet). Bytes sent go to a
 * sink at once; the line speed only sets the receiver's time-out.
 */

#include "base/timer.h"
#include "device/device.h"
#include "device/irq.h"

#define UART16550_FIFO_SIZE 16

struct uart16550;

struct uart16550_sink {
    /* Takes up to size bytes and returns how many; after a short answer uart16550_ready
     * has to be called. Called with the port's lock held: must not block. */
    unsigned (*write)(void *opaque, const uint8_t *data, unsigned size);
    /* The receiver has room again after uart16550_input took less than it was given.
     * Called with the port's lock held: may only schedule the next uart16550_input. May
     * be NULL. */
    void (*room)(void *opaque);
    void *opaque;
};

struct uart16550 *uart16550_new(const char *name, struct timer_queue *timers,
                                struct irq_line irq, const struct uart16550_sink *sink,
                                struct error *err);
struct device *uart16550_device(struct uart16550 *uart);
/* Eight ports. */
struct region uart16550_region(struct uart16550 *uart, uint64_t base);

/* Bytes from outside; returns how many were taken, so that none is ever lost. Any thread,
 * the lock not held. */
unsigned uart16550_input(struct uart16550 *uart, const uint8_t *data, unsigned size);
/* The sink takes bytes again, or the port was loaded with unsent ones. Any thread, the
 * lock not held. */
void uart16550_ready(struct uart16550 *uart);
