#pragma once
/* The exit port of test programs (port f4h, 4 bytes wide): a value written ends the VM.
 */

#include "device/device.h"

struct debug_exit;

struct debug_exit_action {
    /* Called with the device's lock held. */
    void (*exit)(void *opaque, uint32_t value);
    void *opaque;
};

struct debug_exit *debug_exit_new(const char *name,
                                  const struct debug_exit_action *action,
                                  struct error *err);
struct device *debug_exit_device(struct debug_exit *port);
struct region debug_exit_region(struct debug_exit *port, uint64_t base);
