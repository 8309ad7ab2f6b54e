#pragma once
/* A block device (virtio 1.2 section 5.2) in front of a disk. */

#include "device/virtio/virtio.h"
#include "disk/disk.h"

struct virtio_blk;

/* Takes the disk, also on failure. queues: 1 to VIRTIO_QUEUES_MAX. */
struct virtio_blk *virtio_blk_new(const char *name, struct disk *disk,
                                  struct memory *memory, struct irq_line irq,
                                  unsigned queues, struct error *err);
struct device *virtio_blk_device(struct virtio_blk *blk);
struct virtio *virtio_blk_virtio(struct virtio_blk *blk);
