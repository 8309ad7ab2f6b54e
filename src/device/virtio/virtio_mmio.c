#include "device/virtio/virtio_mmio.h"

#include <inttypes.h>

#include <linux/virtio_mmio.h>

#include "base/log.h"

#define MAGIC   0x74726976u /* "virt" */
#define VERSION 2u
#define VENDOR  0x4c505044u /* "DPPL" */

/* Registers have 32 bits (4.2.2.2); the configuration space any width. */
static bool is_register(struct virtio *virtio, uint64_t offset, unsigned size)
{
    if (size == 4) {
        return true;
    }
    log_guest("%s: an access of %u bytes to the register at %#" PRIx64,
              virtio->device.name, size, offset);
    return false;
}

static uint32_t read_register(struct virtio *virtio, uint64_t offset)
{
    const struct virtqueue *queue = virtio_selected_queue(virtio);
    switch (offset) {
    case VIRTIO_MMIO_MAGIC_VALUE:
        return MAGIC;
    case VIRTIO_MMIO_VERSION:
        return VERSION;
    case VIRTIO_MMIO_DEVICE_ID:
        return virtio->type->id;
    case VIRTIO_MMIO_VENDOR_ID:
        return VENDOR;
    case VIRTIO_MMIO_DEVICE_FEATURES:
        return virtio_read_features(virtio);
    case VIRTIO_MMIO_QUEUE_NUM_MAX:
        return queue ? VIRTQUEUE_SIZE_MAX : 0;
    case VIRTIO_MMIO_QUEUE_READY:
        return queue ? queue->is_ready : 0;
    case VIRTIO_MMIO_INTERRUPT_STATUS:
        return virtio->interrupts;
    case VIRTIO_MMIO_STATUS:
        return virtio->status;
    case VIRTIO_MMIO_SHM_LEN_LOW: /* no shared memory: all ones (4.2.2) */
    case VIRTIO_MMIO_SHM_LEN_HIGH:
    case VIRTIO_MMIO_SHM_BASE_LOW:
    case VIRTIO_MMIO_SHM_BASE_HIGH:
        return UINT32_MAX;
    case VIRTIO_MMIO_CONFIG_GENERATION:
        return virtio->generation;
    default: /* write-only, or none */
        return 0;
    }
}

static uint64_t mmio_read(struct device *device, uint64_t offset, unsigned size)
{
    struct virtio *virtio = container_of(device, struct virtio, device);
    if (offset >= VIRTIO_MMIO_CONFIG) {
        return virtio_read_config(virtio, offset - VIRTIO_MMIO_CONFIG, size);
    }
    return is_register(virtio, offset, size) ? read_register(virtio, offset) : 0;
}

static void set_half(uint64_t *address, bool is_high, uint32_t value)
{
    unsigned shift = is_high ? 32 : 0;
    *address = (*address & ~(0xffffffffull << shift)) | (uint64_t)value << shift;
}

/* Where the selected queue is; not to be moved while it is used (4.2.2.2). */
static void write_queue_register(struct virtio *virtio, uint64_t offset, uint32_t value)
{
    struct virtqueue *queue = virtio_selected_queue(virtio);
    if (!queue || queue->is_ready) {
        return;
    }
    switch (offset) {
    case VIRTIO_MMIO_QUEUE_NUM:
        queue->size = value <= UINT16_MAX ? (uint16_t)value : 0;
        break;
    case VIRTIO_MMIO_QUEUE_DESC_LOW:
    case VIRTIO_MMIO_QUEUE_DESC_HIGH:
        set_half(&queue->descriptors, offset == VIRTIO_MMIO_QUEUE_DESC_HIGH, value);
        break;
    case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
    case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
        set_half(&queue->driver, offset == VIRTIO_MMIO_QUEUE_AVAIL_HIGH, value);
        break;
    case VIRTIO_MMIO_QUEUE_USED_LOW:
    case VIRTIO_MMIO_QUEUE_USED_HIGH:
        set_half(&queue->device, offset == VIRTIO_MMIO_QUEUE_USED_HIGH, value);
        break;
    default:
        break;
    }
}

static void write_register(struct virtio *virtio, uint64_t offset, uint32_t value)
{
    switch (offset) {
    case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
        virtio->device_select = value;
        break;
    case VIRTIO_MMIO_DRIVER_FEATURES:
        virtio_write_features(virtio, value);
        break;
    case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
        virtio->driver_select = value;
        break;
    case VIRTIO_MMIO_QUEUE_SEL:
        virtio->queue_select = value;
        break;
    case VIRTIO_MMIO_QUEUE_READY:
        virtio_enable_queue(virtio, value & 1);
        break;
    case VIRTIO_MMIO_QUEUE_NOTIFY:
        virtio_notify(virtio, value);
        break;
    case VIRTIO_MMIO_INTERRUPT_ACK:
        virtio_acknowledge(virtio, value);
        break;
    case VIRTIO_MMIO_STATUS:
        virtio_write_status(virtio, (uint8_t)value);
        break;
    default:
        write_queue_register(virtio, offset, value);
        break;
    }
}

static void mmio_write(struct device *device, uint64_t offset, unsigned size,
                       uint64_t value)
{
    struct virtio *virtio = container_of(device, struct virtio, device);
    if (virtio->is_draining) {
        return; /* another vCPU resets the device or stops a queue: until it is done */
    }
    if (offset >= VIRTIO_MMIO_CONFIG) {
        log_guest("%s: a write to the read-only configuration", device->name);
        return;
    }
    if (is_register(virtio, offset, size)) {
        write_register(virtio, offset, (uint32_t)value);
    }
}

struct region virtio_mmio_region(struct virtio *virtio, uint64_t base)
{
    return (struct region){.device = &virtio->device,
                           .base = base,
                           .size = VIRTIO_MMIO_SIZE,
                           .min_size = 1,
                           .max_size = 8,
                           .read = mmio_read,
                           .write = mmio_write};
}
