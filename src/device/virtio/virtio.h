#pragma once
/*
 * What all virtio devices share (virtio 1.2 chapters 2 and 3): status, features, queues,
 * configuration, reset, interrupts. A transport (virtio_mmio.h) shows it to the guest; a
 * device (virtio_blk.h) gives it a meaning.
 *
 * To add a device: one file with a struct virtio_type and a table of fields that begins
 * with VIRTIO_FIELDS.
 */

#include <pthread.h>

#include "device/device.h"
#include "device/irq.h"
#include "device/virtio/virtqueue.h"

#define VIRTIO_QUEUES_MAX 16
#define VIRTIO_CONFIG_MAX 64

struct virtio;

struct virtio_type {
    uint32_t id; /* chapter 5 */
    /* There may be chains in the queue. Takes a bounded number; lock held. */
    void (*notify)(struct virtio *virtio, unsigned queue);
};

/* The beginning of every virtio device's record. */
struct virtio {
    struct device device;
    const struct virtio_type *type;
    struct memory *memory;
    struct irq_line irq; /* level-triggered: high while interrupts is not 0 */
    uint64_t features;   /* offered */
    unsigned queue_count;
    uint8_t config[VIRTIO_CONFIG_MAX]; /* the device's configuration space */
    unsigned config_size;

    /* Requests taken and not yet answered. Those of an earlier epoch are not answered:
     * the device has been reset since. */
    unsigned in_flight;
    uint32_t epoch;
    bool is_draining;    /* by a vCPU: nothing new is begun until all is answered */
    pthread_cond_t idle; /* in_flight has become 0 */

    /* Saved. */
    uint64_t driver_features; /* accepted by the driver */
    uint32_t device_select, driver_select, queue_select;
    uint32_t generation; /* of the configuration space */
    uint8_t status, interrupts;
    struct virtqueue queue[VIRTIO_QUEUES_MAX];
};

#define VIRTIO_QUEUE_FIELDS_4(type, queue, first)                                       \
    VIRTQUEUE_FIELDS(type, queue[(first)]), VIRTQUEUE_FIELDS(type, queue[(first) + 1]), \
        VIRTQUEUE_FIELDS(type, queue[(first) + 2]),                                     \
        VIRTQUEUE_FIELDS(type, queue[(first) + 3])

/* Rows for the device's table; member is its struct virtio. */
#define VIRTIO_FIELDS(type, member)                                                     \
    DEVICE_FIELD(type, member.driver_features),                                         \
        DEVICE_FIELD(type, member.device_select),                                       \
        DEVICE_FIELD(type, member.driver_select),                                       \
        DEVICE_FIELD(type, member.queue_select), DEVICE_FIELD(type, member.generation), \
        DEVICE_FIELD(type, member.status), DEVICE_FIELD(type, member.interrupts),       \
        VIRTIO_QUEUE_FIELDS_4(type, member.queue, 0),                                   \
        VIRTIO_QUEUE_FIELDS_4(type, member.queue, 4),                                   \
        VIRTIO_QUEUE_FIELDS_4(type, member.queue, 8),                                   \
        VIRTIO_QUEUE_FIELDS_4(type, member.queue, 12)

/* What a device is made of. features: its own; those of the queues and of the transport
 * are added. */
struct virtio_setup {
    const struct device_type *device_type;
    const struct virtio_type *type;
    const char *name;
    struct memory *memory;
    struct irq_line irq;
    uint64_t features;
    unsigned queue_count; /* at most VIRTIO_QUEUES_MAX */
    const void *config;
    unsigned config_size;
};

void virtio_init(struct virtio *virtio, const struct virtio_setup *setup);
/* Waits for what is in flight. No lock held. */
void virtio_fini(struct virtio *virtio);

/* The rest is called with the device's lock held. */

/* For device_type's reset, drain and loaded. Reset and drain wait for what is in flight,
 * giving up the lock meanwhile. */
void virtio_reset(struct device *device);
void virtio_drain(struct device *device);
void virtio_loaded(struct device *device);

/* May chains be taken from it? */
bool virtio_queue_is_live(const struct virtio *virtio, unsigned queue);
/* A request begins and ends. */
void virtio_begin(struct virtio *virtio);
void virtio_end(struct virtio *virtio);
/* The driver broke the rules: the device says so and does nothing until it is reset
 * (2.1.1). */
void virtio_fail(struct virtio *virtio, unsigned queue, const char *problem);
/* After pushes to the queue. */
void virtio_interrupt_queue(struct virtio *virtio, unsigned queue);
/* After a change of the configuration space. */
void virtio_config_changed(struct virtio *virtio);

/* What transports do for the driver. */
uint32_t virtio_read_features(const struct virtio *virtio);
void virtio_write_features(struct virtio *virtio, uint32_t value);
void virtio_write_status(struct virtio *virtio, uint8_t value);
/* The selected queue, or NULL. */
struct virtqueue *virtio_selected_queue(struct virtio *virtio);
/* Has the selected queue used or, waiting for what is in flight, not any more. */
void virtio_enable_queue(struct virtio *virtio, bool is_ready);
void virtio_notify(struct virtio *virtio, uint32_t queue);
void virtio_acknowledge(struct virtio *virtio, uint32_t interrupts);
/* Bytes beyond the configuration space read as 0. */
uint64_t virtio_read_config(const struct virtio *virtio, uint64_t offset, unsigned size);
