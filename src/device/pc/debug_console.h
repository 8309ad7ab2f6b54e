#pragma once
/* The debug console of emulators (port e9h): a byte written goes to a sink, a read gives
 * e9h, by which software finds it. */

#include "device/device.h"

struct debug_console;

struct debug_console_sink {
    /* Must not block; called with the device's lock held. */
    void (*write)(void *opaque, uint8_t byte);
    void *opaque;
};

struct debug_console *debug_console_new(const char *name,
                                        const struct debug_console_sink *sink,
                                        struct error *err);
struct device *debug_console_device(struct debug_console *console);
struct region debug_console_region(struct debug_console *console, uint64_t base);
