#pragma once
/*
 * A virtio block device in front of a disk in memory, and a guest driver that goes by the
 * specification unless told otherwise: for tests and the fuzzer. RAM is at 0 (two slots
 * that meet at RIG_SEAM) and ROM behind it.
 */

#include <pthread.h>

#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>

#include "device/virtio/virtio_blk.h"
#include "device/virtio/virtio_mmio.h"

#define RIG_SEAM       0x80000u
#define RIG_RAM        0x100000u
#define RIG_ROM        RIG_RAM /* and this long: */
#define RIG_ROM_SIZE   0x1000u

#define RIG_QUEUE_SIZE 16u
#define RIG_QUEUES     2u
#define RIG_RINGS      0x10000u /* of queue n: at RIG_RINGS + n * RIG_RINGS_SIZE */
#define RIG_RINGS_SIZE 0x3000u  /* descriptors, driver and device area, a page each */
#define RIG_INDIRECT   0x20000u

#define RIG_SECTORS    64u

/* The disk's contents are here; its operations stop at the gate while it is closed. */
struct rig_disk {
    struct disk disk;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool is_closed;   /* the gate */
    unsigned waiting; /* at the gate */
    int error;        /* what operations return, 0 for success */
    unsigned reads, writes, flushes, discards, zeroes;
    uint8_t data[RIG_SECTORS * DISK_SECTOR];
};

struct rig {
    struct memory *memory;
    struct worker_pool *pool;
    struct rig_disk *disk;
    struct virtio_blk *blk;
    struct virtio *virtio;
    struct region mmio;
    _Atomic int irq_level;
    _Atomic unsigned irq_edges;
    uint16_t next[RIG_QUEUES];        /* chains offered */
    uint16_t descriptors[RIG_QUEUES]; /* descriptors used, of the table */
};

void rig_init(struct rig *rig, bool is_readonly);
void rig_fini(struct rig *rig);

uint32_t rig_read(struct rig *rig, uint64_t offset);
void rig_write(struct rig *rig, uint64_t offset, uint32_t value);
uint8_t *rig_ram(struct rig *rig, gpa_t gpa);
void rig_gate(struct rig *rig, bool is_closed);
/* Waits until so many operations wait at the gate. */
void rig_await_waiting(struct rig *rig, unsigned count);

/* Brings the device up to DRIVER_OK with these features, of those offered. */
void rig_start(struct rig *rig, uint64_t features);
void rig_setup_queue(struct rig *rig, unsigned queue);

struct vring_desc *rig_descriptor(struct rig *rig, unsigned queue, unsigned index);
uint16_t *rig_avail(struct rig *rig, unsigned queue); /* flags, index, ring, used_event */
uint16_t *rig_used(struct rig *rig, unsigned queue);  /* flags, index, ... */
struct vring_used_elem rig_used_element(struct rig *rig, unsigned queue, unsigned index);

/* Offers the chain that begins with a descriptor; kick tells the device. */
void rig_offer(struct rig *rig, unsigned queue, uint16_t head);
void rig_kick(struct rig *rig, unsigned queue);
/* A request: header at gpa, data of size bytes at data (0: none), status at gpa + 16.
 * Uses the next descriptors; returns the head. */
uint16_t rig_request(struct rig *rig, unsigned queue, gpa_t gpa, uint32_t type,
                     uint64_t sector, gpa_t data, uint32_t size);
/* Waits until the used index is count. */
void rig_await(struct rig *rig, unsigned queue, uint16_t count);
/* A whole request with kick and wait; returns the status byte. */
uint8_t rig_do(struct rig *rig, uint32_t type, uint64_t sector, gpa_t data,
               uint32_t size);
