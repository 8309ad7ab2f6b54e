#include "dispatcher/bus.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

#include "base/log.h"

void bus_init(struct bus *bus, const char *name)
{
    memset(bus, 0, sizeof(*bus));
    bus->name = name;
}

/* The first region that ends behind address; bus->count if there is none. */
static unsigned bus_find(const struct bus *bus, uint64_t address)
{
    unsigned low = 0;
    unsigned high = bus->count;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        const struct region *region = &bus->region[middle];
        if (address - region->base < region->size || address < region->base) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

static bool is_access_size(unsigned size)
{
    return size >= 1 && size <= 8 && (size & (size - 1)) == 0;
}

int bus_add(struct bus *bus, const struct region *region, struct error *err)
{
    const char *name = region->device->name;
    uint64_t last = region->base + region->size - 1;
    if (region->size == 0 || last < region->base) {
        return fail_plain(err, EINVAL, "%s: empty or wrapping %s range at %#" PRIx64,
                          name, bus->name, region->base);
    }
    if (!is_access_size(region->min_size) || !is_access_size(region->max_size) ||
        region->min_size > region->max_size) {
        return fail_plain(err, EINVAL, "%s: %s range at %#" PRIx64 " has no access size",
                          name, bus->name, region->base);
    }
    unsigned place = bus_find(bus, region->base);
    if (place < bus->count && bus->region[place].base <= last) {
        return fail_plain(
            err, EEXIST, "%s: %s range %#" PRIx64 "-%#" PRIx64 " overlaps that of %s",
            name, bus->name, region->base, last, bus->region[place].device->name);
    }
    if (bus->count == BUS_REGIONS_MAX) {
        return fail_plain(err, ENOSPC, "%s: more than %d %s ranges", name,
                          BUS_REGIONS_MAX, bus->name);
    }
    memmove(&bus->region[place + 1], &bus->region[place],
            (bus->count - place) * sizeof(bus->region[0]));
    bus->region[place] = *region;
    bus->count++;
    return 0;
}

/* The largest naturally aligned part at offset, at most left and max bytes. */
static unsigned part_size(uint64_t offset, unsigned left, unsigned max)
{
    unsigned size = max;
    while (size > left || (offset & (size - 1)) != 0) {
        size /= 2;
    }
    return size;
}

static void region_read(const struct region *region, uint64_t offset, unsigned size,
                        uint8_t *data)
{
    uint64_t start = offset;
    unsigned width = size;
    if (width < region->min_size) {
        width = region->min_size;
        start &= ~(uint64_t)(width - 1);
    }
    uint64_t value = UINT64_MAX;
    if (region->read && start + width <= region->size) {
        value = region->read(region->device, start, width);
    }
    value >>= (offset - start) * 8;
    memcpy(data, &value, size);
}

static void region_write(const struct region *region, uint64_t offset, unsigned size,
                         const uint8_t *data)
{
    if (size < region->min_size || !region->write) {
        log_guest("%s: dropped a write of %u bytes at offset %#" PRIx64,
                  region->device->name, size, offset);
        return;
    }
    uint64_t value = 0;
    memcpy(&value, data, size);
    region->write(region->device, offset, size, value);
}

/* An access that lies within the region; the device's lock is held. */
static void region_access_locked(const struct region *region, uint64_t offset,
                                 unsigned size, bool is_write, uint8_t *data)
{
    while (size > 0) {
        unsigned part = part_size(offset, size, region->max_size);
        if (is_write) {
            region_write(region, offset, part, data);
        } else {
            region_read(region, offset, part, data);
        }
        offset += part;
        data += part;
        size -= part;
    }
}

void bus_access(struct bus *bus, uint64_t address, unsigned size, bool is_write,
                uint8_t *data)
{
    uint64_t first = address;
    unsigned whole = size;
    bool missed = false;
    unsigned index = bus_find(bus, address);
    while (size > 0) {
        const struct region *region = index < bus->count ? &bus->region[index] : NULL;
        uint64_t part = size;
        if (region && region->base <= address) {
            uint64_t offset = address - region->base;
            part = region->size - offset < part ? region->size - offset : part;
            pthread_mutex_lock(&region->device->lock);
            region_access_locked(region, offset, (unsigned)part, is_write, data);
            pthread_mutex_unlock(&region->device->lock);
            index++;
        } else {
            if (region && region->base - address < part) {
                part = region->base - address;
            }
            if (!is_write) {
                memset(data, 0xff, part);
            }
            missed = true;
        }
        address += part;
        data += part;
        size -= (unsigned)part;
    }
    if (missed) {
        atomic_fetch_add_explicit(&bus->lookups_missed, 1, memory_order_relaxed);
        log_guest("no device at %s address %#" PRIx64 " (%u-byte %s)", bus->name, first,
                  whole, is_write ? "write" : "read");
    }
}

void bus_repeat(struct bus *bus, uint64_t address, unsigned size, uint32_t count,
                bool is_write, uint8_t *data)
{
    unsigned index = bus_find(bus, address);
    const struct region *region = index < bus->count ? &bus->region[index] : NULL;
    if (count > 1 && region && region->base <= address &&
        region->size - (address - region->base) >= size) {
        pthread_mutex_lock(&region->device->lock);
        for (uint32_t i = 0; i < count; i++) {
            region_access_locked(region, address - region->base, size, is_write,
                                 data + (size_t)i * size);
        }
        pthread_mutex_unlock(&region->device->lock);
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        bus_access(bus, address, size, is_write, data + (size_t)i * size);
    }
}

void bus_pair_exit(void *opaque, struct vcpu_exit *exit)
{
    const struct bus_pair *pair = opaque;
    if (exit->reason == EXIT_IO) {
        bus_repeat(pair->ports, exit->io.port, exit->io.size, exit->io.count,
                   exit->io.is_write, exit->io.data);
    } else if (exit->reason == EXIT_MMIO) {
        bus_access(pair->mmio, exit->mmio.gpa, exit->mmio.size, exit->mmio.is_write,
                   exit->mmio.data);
    }
}
