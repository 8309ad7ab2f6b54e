#pragma once
/*
 * Devices. Device code is written as if single-threaded: the bus (and the timer queue)
 * holds the device's lock around every call. A device sees only offset and size; the core
 * has checked both.
 *
 * To add a device: one file with a struct device_type and an x_new, one row in the
 * machine's table.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/scope.h"

struct device;

/*
 * One field of a device's saved state. Integers of 1, 2, 4, 8 bytes, or arrays of them;
 * not bool, since any byte may be loaded into a field. What loaded() must hold to be true
 * of them (indices in range, counts at most a FIFO's size) it checks itself.
 */
struct device_field {
    const char *name;
    uint32_t offset; /* in the device's own struct */
    uint8_t size;    /* of one element: 1, 2, 4, 8 */
    uint32_t count;  /* elements */
};

#define DEVICE_FIELD(type, member)                                      \
    {                                                                   \
#member, offsetof(type, member), sizeof(((type *)0)->member), 1 \
    }
#define DEVICE_FIELD_ARRAY(type, member)                                 \
    {                                                                    \
#member, offsetof(type, member), sizeof(((type *)0)->member[0]), \
            sizeof(((type *)0)->member) / sizeof(((type *)0)->member[0]) \
    }
#define DEVICE_FIELD_END \
    {                    \
        0                \
    }

struct device_type {
    const char *name;
    const struct device_field
        *fields; /* ends with DEVICE_FIELD_END; every guest-visible state */
    void (*reset)(struct device *device); /* hardware reset; lock held */
    /* Returns when nothing is under way outside of the device (requests to a disk); the
     * lock is held, and may be given up meanwhile; may be NULL. */
    void (*drain)(struct device *device);
    void (*loaded)(struct device *device); /* after a load: re-arm timers, drive lines;
                                              may be NULL; lock held */
    void (*free)(struct device *device);
};

/* First member of every device's struct. */
struct device {
    const struct device_type *type;
    const char *name; /* instance: "serial0" */
    pthread_mutex_t lock;
};

void device_init(struct device *device, const struct device_type *type, const char *name);
void device_fini(struct device *device);

/* Hardware reset, under the device's lock. */
void device_reset(struct device *device);

/*
 * Waits until nothing is under way outside of the device: what is, is no part of its
 * saved state, and its end changes memory and the states of other devices. So all devices
 * are drained, with the vCPUs stopped, before any state or memory is saved.
 */
void device_drain(struct device *device);

/*
 * Flat form of the saved fields: elements in the order of the table, little-endian,
 * without padding. Both take the device's lock. The guest clock must have its saved
 * reading before a device is loaded, because deadlines are derived from it; lines may be
 * driven by loaded(), in any order of devices, since each side saves the level it saw.
 */
size_t device_state_size(const struct device_type *type);
void device_save(struct device *device, uint8_t *buffer);
/* Fails with nothing changed if size is not device_state_size. */
int device_load(struct device *device, const uint8_t *buffer, size_t size,
                struct error *err);

/*
 * A range of ports or of guest-physical memory that a device answers. The bus splits
 * accesses outside [min_size, max_size] and misaligned ones into such that fit; bytes
 * nothing answers read as ones.
 */
struct region {
    struct device *device;
    uint64_t base, size;
    uint8_t min_size, max_size; /* powers of two, at most 8 */
    uint64_t (*read)(struct device *device, uint64_t offset, unsigned size);
    void (*write)(struct device *device, uint64_t offset, unsigned size, uint64_t value);
};
