#include "device/virtio/virtio.h"

#include <assert.h>
#include <string.h>

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>

#include "base/log.h"

#define STATUS_DRIVER                                                                   \
    (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK | \
     VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_FAILED)

#define FEATURE(bit) (1ull << (bit))
#define FEATURES_OF_QUEUES                                                     \
    (FEATURE(VIRTIO_RING_F_INDIRECT_DESC) | FEATURE(VIRTIO_RING_F_EVENT_IDX) | \
     FEATURE(VIRTIO_F_VERSION_1))

static struct virtio *virtio_of(struct device *device)
{
    return container_of(device, struct virtio, device);
}

void virtio_init(struct virtio *virtio, const struct virtio_setup *setup)
{
    assert(setup->queue_count >= 1 && setup->queue_count <= VIRTIO_QUEUES_MAX);
    assert(setup->config_size <= VIRTIO_CONFIG_MAX);
    device_init(&virtio->device, setup->device_type, setup->name);
    virtio->type = setup->type;
    virtio->memory = setup->memory;
    virtio->irq = setup->irq;
    virtio->features = setup->features | FEATURES_OF_QUEUES;
    virtio->queue_count = setup->queue_count;
    memcpy(virtio->config, setup->config, setup->config_size);
    virtio->config_size = setup->config_size;
    pthread_cond_init(&virtio->idle, NULL);
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++) {
        virtio->queue[i].memory = setup->memory;
    }
}

void virtio_fini(struct virtio *virtio)
{
    device_reset(&virtio->device);
    pthread_cond_destroy(&virtio->idle);
    device_fini(&virtio->device);
}

/* --- Requests in flight --- */

void virtio_begin(struct virtio *virtio)
{
    virtio->in_flight++;
}

void virtio_end(struct virtio *virtio)
{
    assert(virtio->in_flight > 0);
    if (--virtio->in_flight == 0) {
        pthread_cond_broadcast(&virtio->idle);
    }
}

void virtio_drain(struct device *device)
{
    struct virtio *virtio = virtio_of(device);
    while (virtio->in_flight > 0) {
        pthread_cond_wait(&virtio->idle, &virtio->device.lock);
    }
}

/* For a vCPU: what the others do to the device meanwhile cannot prolong it. */
static void drain_closed(struct virtio *virtio)
{
    virtio->is_draining = true;
    virtio_drain(&virtio->device);
    virtio->is_draining = false;
}

bool virtio_queue_is_live(const struct virtio *virtio, unsigned queue)
{
    return queue < virtio->queue_count && virtio->queue[queue].is_ready &&
           !virtio->is_draining && (virtio->status & VIRTIO_CONFIG_S_DRIVER_OK) &&
           !(virtio->status & VIRTIO_CONFIG_S_NEEDS_RESET);
}

void virtio_notify(struct virtio *virtio, uint32_t queue)
{
    if (virtio_queue_is_live(virtio, queue)) {
        virtio->type->notify(virtio, queue);
    }
}

static void notify_all(struct virtio *virtio)
{
    for (unsigned i = 0; i < virtio->queue_count; i++) {
        virtio_notify(virtio, i);
    }
}

/* --- Interrupts --- */

static void set_interrupts(struct virtio *virtio, uint8_t interrupts)
{
    virtio->interrupts = interrupts;
    irq_set(&virtio->irq, interrupts != 0);
}

void virtio_interrupt_queue(struct virtio *virtio, unsigned queue)
{
    if (virtqueue_wants_interrupt(&virtio->queue[queue])) {
        set_interrupts(virtio, virtio->interrupts | VIRTIO_MMIO_INT_VRING);
    }
}

void virtio_config_changed(struct virtio *virtio)
{
    virtio->generation++;
    if (virtio->status & VIRTIO_CONFIG_S_DRIVER_OK) {
        set_interrupts(virtio, virtio->interrupts | VIRTIO_MMIO_INT_CONFIG);
    }
}

void virtio_acknowledge(struct virtio *virtio, uint32_t interrupts)
{
    set_interrupts(virtio, (uint8_t)(virtio->interrupts & ~interrupts));
}

void virtio_fail(struct virtio *virtio, unsigned queue, const char *problem)
{
    log_guest("%s: queue %u: %s; the device waits for a reset", virtio->device.name,
              queue, problem);
    virtio->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
    virtio_config_changed(virtio);
}

/* --- Status and features --- */

void virtio_reset(struct device *device)
{
    struct virtio *virtio = virtio_of(device);
    virtio->epoch++;
    virtio->status = 0;
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++) {
        virtqueue_reset(&virtio->queue[i]);
    }
    /* The driver may reuse its memory when the reset is done (2.1.2, 2.4). */
    drain_closed(virtio);
    virtio->driver_features = 0;
    virtio->device_select = virtio->driver_select = virtio->queue_select = 0;
    virtio->generation = 0;
    set_interrupts(virtio, 0);
}

static bool has_feature(const struct virtio *virtio, unsigned bit)
{
    return virtio->driver_features & FEATURE(bit);
}

static void use_features(struct virtio *virtio)
{
    for (unsigned i = 0; i < virtio->queue_count; i++) {
        virtio->queue[i].has_indirect = has_feature(virtio, VIRTIO_RING_F_INDIRECT_DESC);
        virtio->queue[i].has_event_index = has_feature(virtio, VIRTIO_RING_F_EVENT_IDX);
    }
}

/* 3.1.1: the driver reads the status back to see whether its choice was accepted. */
static bool accept_features(struct virtio *virtio)
{
    if (virtio->driver_features & ~virtio->features) {
        log_guest("%s: the driver wants features that are not offered",
                  virtio->device.name);
        return false;
    }
    if (!has_feature(virtio, VIRTIO_F_VERSION_1)) {
        log_guest("%s: the driver does not know virtio 1.0", virtio->device.name);
        return false;
    }
    use_features(virtio);
    return true;
}

void virtio_write_status(struct virtio *virtio, uint8_t value)
{
    if (value == 0) {
        virtio_reset(&virtio->device);
        return;
    }
    /* Bits are only ever added (2.1.1). */
    uint8_t added = value & STATUS_DRIVER & ~virtio->status;
    if ((added & VIRTIO_CONFIG_S_FEATURES_OK) && !accept_features(virtio)) {
        added &= ~VIRTIO_CONFIG_S_FEATURES_OK;
    }
    virtio->status |= added & ~VIRTIO_CONFIG_S_DRIVER_OK;
    if ((added & VIRTIO_CONFIG_S_DRIVER_OK) &&
        (virtio->status & VIRTIO_CONFIG_S_FEATURES_OK)) {
        virtio->status |= VIRTIO_CONFIG_S_DRIVER_OK;
        notify_all(virtio);
    }
}

uint32_t virtio_read_features(const struct virtio *virtio)
{
    switch (virtio->device_select) {
    case 0:
        return (uint32_t)virtio->features;
    case 1:
        return (uint32_t)(virtio->features >> 32);
    default:
        return 0;
    }
}

void virtio_write_features(struct virtio *virtio, uint32_t value)
{
    if (virtio->driver_select > 1 || (virtio->status & VIRTIO_CONFIG_S_FEATURES_OK)) {
        return; /* too late, or bits that nobody has defined */
    }
    unsigned shift = virtio->driver_select * 32;
    virtio->driver_features &= ~(0xffffffffull << shift);
    virtio->driver_features |= (uint64_t)value << shift;
}

/* --- Queues --- */

struct virtqueue *virtio_selected_queue(struct virtio *virtio)
{
    return virtio->queue_select < virtio->queue_count
               ? &virtio->queue[virtio->queue_select]
               : NULL;
}

static void stop_queue(struct virtio *virtio, struct virtqueue *queue)
{
    queue->is_ready = 0;
    drain_closed(virtio);
    queue->next_avail = queue->next_used = queue->signalled_used = 0;
    queue->has_signalled = 0;
    notify_all(virtio);
}

void virtio_enable_queue(struct virtio *virtio, bool is_ready)
{
    struct virtqueue *queue = virtio_selected_queue(virtio);
    if (!queue || queue->is_ready == is_ready) {
        return;
    }
    if (!is_ready) {
        stop_queue(virtio, queue);
        return;
    }
    const char *problem = virtqueue_problem(queue);
    if (problem) {
        log_guest("%s: queue %u is refused: %s", virtio->device.name,
                  virtio->queue_select, problem);
        return;
    }
    queue->is_ready = 1;
}

/* --- Configuration space --- */

uint64_t virtio_read_config(const struct virtio *virtio, uint64_t offset, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++) {
        if (offset + i < virtio->config_size) {
            value |= (uint64_t)virtio->config[offset + i] << (8 * i);
        }
    }
    return value;
}

/* --- Saved state --- */

/* It may come from anywhere: what cannot be is brought to what the driver then sees as a
 * device that needs a reset. */
void virtio_loaded(struct device *device)
{
    struct virtio *virtio = virtio_of(device);
    const char *problem = NULL;
    virtio->interrupts &= VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG;
    virtio->status &= STATUS_DRIVER | VIRTIO_CONFIG_S_NEEDS_RESET;
    if (!(virtio->status & VIRTIO_CONFIG_S_FEATURES_OK)) {
        virtio->status &= ~VIRTIO_CONFIG_S_DRIVER_OK;
    } else if (virtio->driver_features & ~virtio->features) {
        problem = "the saved driver uses features that this device does not have";
    }
    use_features(virtio);
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++) {
        struct virtqueue *queue = &virtio->queue[i];
        queue->is_ready = queue->is_ready && i < virtio->queue_count;
        if (queue->is_ready && virtqueue_problem(queue)) {
            queue->is_ready = 0;
            problem = "a saved queue cannot be used";
        }
    }
    if (problem) {
        virtio_fail(virtio, 0, problem);
    }
    irq_set(&virtio->irq, virtio->interrupts != 0);
}
