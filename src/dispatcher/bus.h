#pragma once
/*
 * Port and MMIO buses: which device answers an address, with its lock held. Regions are
 * added before the VM runs; from then on the table does not change and is looked up
 * without a lock.
 */

#include "device/device.h"
#include "engine/engine.h"

#define BUS_REGIONS_MAX 128

struct bus {
    const char *name; /* "port" or "memory", for messages */
    unsigned count;
    struct region region[BUS_REGIONS_MAX]; /* sorted by base, disjoint */
    _Atomic uint64_t lookups_missed;       /* accesses of which some byte had no region */
};

void bus_init(struct bus *bus, const char *name);
/* Fails if the range overlaps another device's, naming both. */
int bus_add(struct bus *bus, const struct region *region, struct error *err);
/*
 * One access of 1 to 64 bytes. It is split where it crosses regions, and within a region
 * into naturally aligned parts of at most max_size. A part narrower than min_size is cut
 * out of a read of min_size bytes; such a write is dropped, since the device has no byte
 * enables. Bytes that no region answers read as ones; writes to them are dropped and
 * logged.
 */
void bus_access(struct bus *bus, uint64_t address, unsigned size, bool is_write,
                uint8_t *data);
/* A string move: count accesses to the same address, data packed, under one hold of the
 * device's lock where one region answers them all. */
void bus_repeat(struct bus *bus, uint64_t address, unsigned size, uint32_t count,
                bool is_write, uint8_t *data);

/* EXIT_IO and EXIT_MMIO carried to these two buses: a vcpu_sink for tests of devices
 * without a VM, with a struct bus_pair as opaque. Other exits are ignored. */
struct bus_pair {
    struct bus *ports, *mmio;
};
void bus_pair_exit(void *opaque, struct vcpu_exit *exit);
