#pragma once
/*
 * The memory-mapped transport, version 2 (virtio 1.2 section 4.2): the registers through
 * which a guest drives a virtio device. All its state is in struct virtio.
 */

#include "device/virtio/virtio.h"

#define VIRTIO_MMIO_SIZE   0x1000u
#define VIRTIO_MMIO_NOTIFY 0x50u /* the number of a queue is written to it */

struct region virtio_mmio_region(struct virtio *virtio, uint64_t base);
