#pragma once
/* Port and MMIO buses: which device answers an address, with its lock held. Regions are
 * added before the VM runs. */

#include "device/device.h"

struct bus {
    const char *name; /* "port" or "memory", for messages */
    unsigned count;
    struct region region[128]; /* sorted by base, disjoint */
    uint64_t lookups_missed;
};

void bus_init(struct bus *bus, const char *name);
/* Fails if the range overlaps another device's, naming both. */
int bus_add(struct bus *bus, const struct region *region, struct error *err);
/* One access of 1 to 64 bytes. Bytes that no region answers read as ones; writes to them
 * are dropped and logged. */
void bus_access(struct bus *bus, uint64_t address, unsigned size, bool is_write,
                uint8_t *data);
