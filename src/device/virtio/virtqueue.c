#include "device/virtio/virtqueue.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include <linux/virtio_ring.h>

/* The areas of a queue (2.7): descriptor table, driver (available) and device (used)
 * ring. */
#define DESCRIPTOR_SIZE      16u
#define DRIVER_FLAGS         0u
#define DRIVER_INDEX         2u
#define DRIVER_RING          4u
#define DRIVER_ENTRY_SIZE    2u
#define DEVICE_INDEX         2u
#define DEVICE_RING          4u
#define DEVICE_ENTRY_SIZE    8u

#define DESCRIPTOR_ALIGNMENT 16u
#define DRIVER_ALIGNMENT     2u
#define DEVICE_ALIGNMENT     4u

static uint64_t descriptors_size(const struct virtqueue *queue)
{
    return (uint64_t)queue->size * DESCRIPTOR_SIZE;
}

/* With the event index behind each ring. */
static uint64_t driver_size(const struct virtqueue *queue)
{
    return DRIVER_RING + (uint64_t)queue->size * DRIVER_ENTRY_SIZE + 2;
}

static uint64_t device_size(const struct virtqueue *queue)
{
    return DEVICE_RING + (uint64_t)queue->size * DEVICE_ENTRY_SIZE + 2;
}

static gpa_t used_event(const struct virtqueue *queue)
{
    return queue->driver + DRIVER_RING + (uint64_t)queue->size * DRIVER_ENTRY_SIZE;
}

static gpa_t avail_event(const struct virtqueue *queue)
{
    return queue->device + DEVICE_RING + (uint64_t)queue->size * DEVICE_ENTRY_SIZE;
}

void virtqueue_reset(struct virtqueue *queue)
{
    *queue = (struct virtqueue){.memory = queue->memory};
}

static bool is_ram(const struct virtqueue *queue, gpa_t gpa, uint64_t size, bool is_write)
{
    void *host = ram_map(queue->memory, gpa, size, is_write);
    if (host) {
        ram_unmap(queue->memory, host, 0);
    }
    return host;
}

const char *virtqueue_problem(const struct virtqueue *queue)
{
    if (queue->size == 0 || queue->size > VIRTQUEUE_SIZE_MAX ||
        (queue->size & (queue->size - 1)) != 0) {
        return "its size is not a power of two, or too large";
    }
    if (queue->descriptors % DESCRIPTOR_ALIGNMENT || queue->driver % DRIVER_ALIGNMENT ||
        queue->device % DEVICE_ALIGNMENT) {
        return "an area is misaligned";
    }
    if (!is_ram(queue, queue->descriptors, descriptors_size(queue), false) ||
        !is_ram(queue, queue->driver, driver_size(queue), false) ||
        !is_ram(queue, queue->device, device_size(queue), true)) {
        return "an area is not in RAM";
    }
    return NULL;
}

/* --- The rings' fields. They are aligned, and so is guest RAM in the host. --- */

static bool load16(const struct virtqueue *queue, gpa_t gpa, uint16_t *value)
{
    void *host = ram_map(queue->memory, gpa, sizeof(*value), false);
    if (!host) {
        return false;
    }
    *value = atomic_load_explicit((_Atomic uint16_t *)host, memory_order_acquire);
    ram_unmap(queue->memory, host, 0);
    return true;
}

static bool store16(const struct virtqueue *queue, gpa_t gpa, uint16_t value)
{
    void *host = ram_map(queue->memory, gpa, sizeof(value), true);
    if (!host) {
        return false;
    }
    atomic_store_explicit((_Atomic uint16_t *)host, value, memory_order_release);
    ram_unmap(queue->memory, host, sizeof(value));
    return true;
}

/* --- Taking chains --- */

/* Of the descriptors of one chain: the table they are in, how many there were. */
struct walk {
    gpa_t table;
    unsigned table_size;
    unsigned index;
    unsigned length; /* descriptors met, those of an indirect table included */
    bool is_indirect;
    const char *problem;
};

static int walk_fail(struct walk *walk, const char *problem)
{
    walk->problem = problem;
    return -EPROTO;
}

/* Adds a buffer to the chain, in as many pieces as there are slots behind it. */
static int add_buffer(struct virtqueue *queue, struct virtqueue_chain *chain,
                      const struct vring_desc *descriptor, struct walk *walk)
{
    bool is_write = descriptor->flags & VRING_DESC_F_WRITE;
    gpa_t gpa = descriptor->addr;
    uint64_t left = descriptor->len;
    if (!is_write && chain->writable > 0) {
        return walk_fail(walk, "a readable buffer follows a writable one");
    }
    while (left > 0) {
        unsigned used = chain->readable + chain->writable;
        const struct slot *slot = memory_find(queue->memory, gpa);
        uint64_t part = slot ? slot->size - (gpa - slot->gpa) : 0;
        part = part < left ? part : left;
        void *host = part ? ram_map(queue->memory, gpa, part, is_write) : NULL;
        if (!host) {
            return walk_fail(walk, "a buffer is not in RAM");
        }
        if (used == chain->iov_max) {
            ram_unmap(queue->memory, host, 0);
            return walk_fail(walk, "a chain has too many buffers");
        }
        chain->iov[used] = (struct iovec){host, part};
        if (is_write) {
            chain->writable++;
            chain->writable_size += part;
        } else {
            chain->readable++;
            chain->readable_size += part;
        }
        gpa += part;
        left -= part;
    }
    return 0;
}

/* Goes on in the table that the descriptor names (2.7.5.3). */
static int enter_indirect(struct virtqueue *queue, const struct vring_desc *descriptor,
                          struct walk *walk)
{
    unsigned count = descriptor->len / DESCRIPTOR_SIZE;
    if (!queue->has_indirect || walk->is_indirect) {
        return walk_fail(walk, "an indirect descriptor where none may be");
    }
    if (descriptor->flags & VRING_DESC_F_NEXT) {
        return walk_fail(walk, "an indirect descriptor has a successor");
    }
    if (count == 0 || descriptor->len % DESCRIPTOR_SIZE || count > queue->size) {
        return walk_fail(walk, "an indirect table has a wrong size");
    }
    walk->table = descriptor->addr;
    walk->table_size = count;
    walk->index = 0;
    walk->is_indirect = true;
    return 1;
}

/* One descriptor. Returns 1 if another follows, 0 at the end. */
static int walk_step(struct virtqueue *queue, struct virtqueue_chain *chain,
                     struct walk *walk)
{
    struct vring_desc descriptor;
    /* A chain is at most as long as the queue (2.7.4.1), which ends loops; an indirect
     * table's own descriptor does not count. */
    if (walk->length++ > queue->size) {
        return walk_fail(walk, "a chain is longer than the queue, or a loop");
    }
    if (walk->index >= walk->table_size) {
        return walk_fail(walk, "a descriptor's number is out of range");
    }
    if (!ram_read(queue->memory, walk->table + (uint64_t)walk->index * DESCRIPTOR_SIZE,
                  &descriptor, sizeof(descriptor))) {
        return walk_fail(walk, "a descriptor is not in RAM");
    }
    if (descriptor.flags & VRING_DESC_F_INDIRECT) {
        return enter_indirect(queue, &descriptor, walk);
    }
    int result = add_buffer(queue, chain, &descriptor, walk);
    if (result < 0) {
        return result;
    }
    walk->index = descriptor.next;
    return (descriptor.flags & VRING_DESC_F_NEXT) != 0;
}

/* How many chains are offered that were not taken. */
static int count_offered(const struct virtqueue *queue, uint16_t *count,
                         const char **problem)
{
    uint16_t index;
    if (!load16(queue, queue->driver + DRIVER_INDEX, &index)) {
        *problem = "a ring is not in RAM";
        return -EPROTO;
    }
    *count = (uint16_t)(index - queue->next_avail);
    if (*count > queue->size) {
        *problem = "the driver offers more chains than the queue has";
        return -EPROTO;
    }
    return 0;
}

/* The same; where there are none, a notification is asked for. */
static int find_offered(const struct virtqueue *queue, uint16_t *count,
                        const char **problem)
{
    int result = count_offered(queue, count, problem);
    if (result < 0 || *count > 0 || !queue->has_event_index) {
        return result;
    }
    if (!store16(queue, avail_event(queue), queue->next_avail)) {
        *problem = "a ring is not in RAM";
        return -EPROTO;
    }
    /* The driver stores its index and then looks at ours (2.7.10); we the reverse. */
    atomic_thread_fence(memory_order_seq_cst);
    return count_offered(queue, count, problem);
}

int virtqueue_pop(struct virtqueue *queue, struct virtqueue_chain *chain,
                  const char **problem)
{
    uint16_t count;
    int result = find_offered(queue, &count, problem);
    if (result < 0 || count == 0) {
        return result;
    }
    gpa_t entry = queue->driver + DRIVER_RING +
                  (uint64_t)(queue->next_avail & (queue->size - 1)) * DRIVER_ENTRY_SIZE;
    if (!load16(queue, entry, &chain->head)) {
        *problem = "a ring is not in RAM";
        return -EPROTO;
    }
    chain->readable = chain->writable = 0;
    chain->readable_size = chain->writable_size = 0;
    struct walk walk = {
        .table = queue->descriptors, .table_size = queue->size, .index = chain->head};
    do {
        result = walk_step(queue, chain, &walk);
    } while (result > 0);
    if (result < 0) {
        virtqueue_drop(queue, chain);
        *problem = walk.problem;
        return result;
    }
    queue->next_avail++;
    return 1;
}

/* --- Giving them back --- */

/* What is writable counts as written: who looks for changes must not miss any. */
void virtqueue_drop(struct virtqueue *queue, const struct virtqueue_chain *chain)
{
    for (unsigned i = 0; i < chain->readable + chain->writable; i++) {
        const struct iovec *piece = &chain->iov[i];
        ram_unmap(queue->memory, piece->iov_base,
                  i < chain->readable ? 0 : piece->iov_len);
    }
}

bool virtqueue_push(struct virtqueue *queue, const struct virtqueue_chain *chain,
                    uint64_t length)
{
    virtqueue_drop(queue, chain);
    struct vring_used_elem element = {chain->head, length < UINT32_MAX ? (uint32_t)length
                                                                       : UINT32_MAX};
    gpa_t entry = queue->device + DEVICE_RING +
                  (uint64_t)(queue->next_used & (queue->size - 1)) * DEVICE_ENTRY_SIZE;
    /* The element, and the data before it, first: store16 releases them. */
    return ram_write(queue->memory, entry, &element, sizeof(element)) &&
           store16(queue, queue->device + DEVICE_INDEX, ++queue->next_used);
}

bool virtqueue_wants_interrupt(struct virtqueue *queue)
{
    uint16_t value;
    bool is_first = !queue->has_signalled;
    uint16_t before = queue->signalled_used;
    queue->signalled_used = queue->next_used;
    queue->has_signalled = 1;
    /* We store our index and then look at the driver's wish; it does the reverse. */
    atomic_thread_fence(memory_order_seq_cst);
    if (!queue->has_event_index) {
        return load16(queue, queue->driver + DRIVER_FLAGS, &value) &&
               !(value & VRING_AVAIL_F_NO_INTERRUPT);
    }
    /* Has the index passed the one that the driver waits for? (2.7.7.1) */
    return load16(queue, used_event(queue), &value) &&
           (is_first || (uint16_t)(queue->next_used - value - 1) <
                            (uint16_t)(queue->next_used - before));
}
