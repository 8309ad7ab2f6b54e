#pragma once
/*
 * Every device type there is, wired together on a virtual clock: for tests and fuzzers
 * that walk all of them. To add a device: one row in rig.c.
 */

#include "base/timer.h"
#include "device/device.h"
#include "device/pc/ioapic.h"
#include "device/pc/pic8259.h"
#include "device/pc/uart16550.h"

#define RIG_DEVICES_MAX 24
#define RIG_REGIONS_MAX 48

struct rig {
    struct clock clock;
    struct timer_queue *timers;
    struct pic8259 *pic;
    struct ioapic *ioapic;
    struct uart16550 *uart;
    struct pci_host *pci;
    unsigned device_count, region_count;
    struct device *device[RIG_DEVICES_MAX];
    struct region region[RIG_REGIONS_MAX];
    uint64_t actions; /* calls that left the devices: output, messages, resets */
};

void rig_init(struct rig *rig);
void rig_fini(struct rig *rig);
/* What firmware does first: PCI functions get addresses and decode them. */
void rig_assign(struct rig *rig);

/* Accesses with the device's lock held, as a bus does. size is brought into the region's
 * range and offset into its size. */
uint64_t rig_read(struct rig *rig, unsigned region, uint64_t offset, unsigned size);
void rig_write(struct rig *rig, unsigned region, uint64_t offset, unsigned size,
               uint64_t value);

/* Lets guest time pass in one step and runs what is due as often as asked for by devices.
 * Returns the number of timer calls. */
unsigned rig_advance(struct rig *rig, uint64_t ns);
