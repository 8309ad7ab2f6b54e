#pragma once
/*
 * The 8042 keyboard controller of a PC without keyboard and mouse (IBM AT Technical
 * Reference, "Keyboard Controller"): self test, command byte, output port with the A20
 * gate, and the pulse that resets the processor. What is sent to the keyboard times out
 * as on a real board: status bit 6 and the byte FEh.
 */

#include "device/device.h"
#include "device/irq.h"

struct i8042;

/* Called with the device's lock held. */
struct i8042_actions {
    void (*reset)(void *opaque);
    void (*set_a20)(void *opaque, bool is_enabled); /* may be NULL */
    void *opaque;
};

struct i8042 *i8042_new(const char *name, struct irq_line irq,
                        const struct i8042_actions *actions, struct error *err);
struct device *i8042_device(struct i8042 *i8042);
/* Port 60h: data. */
struct region i8042_data_region(struct i8042 *i8042, uint64_t base);
/* Port 64h: status and command. */
struct region i8042_command_region(struct i8042 *i8042, uint64_t base);
/* Port 92h, system control port A: the fast way to A20 and reset. */
struct region i8042_port_a_region(struct i8042 *i8042, uint64_t base);
