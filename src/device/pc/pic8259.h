#pragma once
/*
 * The PC's pair of 8259A interrupt controllers with the edge/level control registers of
 * the chip sets (Intel 8259A data sheet 231468; ELCR: 82371AB 4.2.2). Inputs 0-7 are the
 * master's, 8-15 the slave's, whose output is the master's input 2.
 */

#include "device/device.h"
#include "device/irq.h"

struct pic8259;

enum pic8259_block {
    PIC8259_MASTER, /* ports 20h, 21h */
    PIC8259_SLAVE,  /* ports a0h, a1h */
    PIC8259_ELCR,   /* ports 4d0h, 4d1h */
};

/* output is the INTR pin, driven with the controller's lock held. */
struct pic8259 *pic8259_new(const char *name, struct irq_line output, struct error *err);
struct device *pic8259_device(struct pic8259 *pic);
struct region pic8259_region(struct pic8259 *pic, enum pic8259_block block,
                             uint64_t base);

/* Input n, 0 to 15; driving input 2, the cascade, does nothing. The line takes the
 * controller's lock itself, since its drivers hold only their own. */
struct irq_line pic8259_input(struct pic8259 *pic, unsigned n);

/* The processor's interrupt-acknowledge cycle: the vector, a spurious one if the request
 * has gone. Takes the lock; any thread. */
int pic8259_acknowledge(struct pic8259 *pic);
