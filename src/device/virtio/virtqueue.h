#pragma once
/*
 * Split virtqueues, the device's side (virtio 1.2 section 2.7): indirect descriptors and
 * event index. The rings are the guest's, who may change them at any time: each field is
 * read once into a local copy, checked, and only then acted on. Called with the device's
 * lock held.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "allocator/memory.h"

#define VIRTQUEUE_SIZE_MAX 256

struct virtqueue {
    struct memory *memory;
    bool has_indirect, has_event_index; /* as negotiated */

    /* Saved. */
    uint64_t descriptors, driver,
        device; /* guest-physical addresses of the three areas */
    uint16_t size;
    uint8_t is_ready;      /* 0 or 1 */
    uint8_t has_signalled; /* signalled_used is valid */
    uint16_t next_avail, next_used;
    uint16_t signalled_used; /* next_used when an interrupt was last considered */
};

/* For the tables of devices with queues. */
#define VIRTQUEUE_FIELDS(type, queue)                                                \
    DEVICE_FIELD(type, queue.descriptors), DEVICE_FIELD(type, queue.driver),         \
        DEVICE_FIELD(type, queue.device), DEVICE_FIELD(type, queue.size),            \
        DEVICE_FIELD(type, queue.is_ready), DEVICE_FIELD(type, queue.has_signalled), \
        DEVICE_FIELD(type, queue.next_avail), DEVICE_FIELD(type, queue.next_used),   \
        DEVICE_FIELD(type, queue.signalled_used)

/* A chain of buffers, as host memory: first what the device reads, then what it writes.
 */
struct virtqueue_chain {
    uint16_t head;
    unsigned readable, writable; /* elements of iov */
    uint64_t readable_size, writable_size;
    struct iovec *iov; /* the caller's, with room for iov_max; not changed while in use */
    unsigned iov_max;
};

/* The state after a reset: not ready, without addresses. */
void virtqueue_reset(struct virtqueue *queue);
/* Are size and addresses such that the queue can be used? Else why not. */
const char *virtqueue_problem(const struct virtqueue *queue);

/*
 * Takes the next chain that the driver offers. Returns 1; 0 if there is none, having
 * asked for a notification; or -EPROTO if the ring is not what the specification allows,
 * with the reason in *problem. Nothing has been taken then, and the queue stays unusable.
 */
int virtqueue_pop(struct virtqueue *queue, struct virtqueue_chain *chain,
                  const char **problem);
/*
 * Gives a chain back whose first length writable bytes are valid. What was written to its
 * memory, anywhere, is seen by the guest from here on. False if the ring is not in RAM.
 */
bool virtqueue_push(struct virtqueue *queue, const struct virtqueue_chain *chain,
                    uint64_t length);
/* Lets go of the memory of a chain that is not given back. */
void virtqueue_drop(struct virtqueue *queue, const struct virtqueue_chain *chain);
/* After pushes: does the driver want an interrupt for them? */
bool virtqueue_wants_interrupt(struct virtqueue *queue);
