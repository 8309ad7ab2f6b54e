#pragma once
/*
 * By which a guest's kernel reports that it has panicked: QEMU's docs/specs/pvpanic, one
 * port. Reading it tells which events can be reported, writing it reports some.
 */

#include "device/device.h"

#define PVPANIC_PANICKED     1u /* the guest has come to its end */
#define PVPANIC_CRASH_LOADED 2u /* it has panicked and starts its crash kernel */

struct pvpanic;

struct pvpanic_action {
    /* Each event once for each write, the device's lock held. */
    void (*report)(void *opaque, unsigned event);
    void *opaque;
};

struct pvpanic *pvpanic_new(const char *name, const struct pvpanic_action *action,
                            struct error *err);
struct device *pvpanic_device(struct pvpanic *pvpanic);
struct region pvpanic_region(struct pvpanic *pvpanic, uint64_t base);
