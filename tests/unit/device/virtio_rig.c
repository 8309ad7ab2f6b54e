#include "virtio_rig.h"

#include <assert.h>
#include <sched.h>
#include <string.h>
#include <time.h>

#define WAIT_SECONDS 20

/* --- The disk --- */

static struct rig_disk *rig_disk_of(struct disk *disk)
{
    return container_of(disk, struct rig_disk, disk);
}

/* Waits for the gate; then *count counts, and the operation ends with the result. */
static int pass_gate(struct rig_disk *disk, unsigned *count)
{
    pthread_mutex_lock(&disk->lock);
    disk->waiting++;
    pthread_cond_broadcast(&disk->changed);
    while (disk->is_closed) {
        pthread_cond_wait(&disk->changed, &disk->lock);
    }
    disk->waiting--;
    ++*count;
    int error = disk->error;
    pthread_mutex_unlock(&disk->lock);
    return error;
}

static int memory_transfer(struct rig_disk *disk, struct iovec *iov, unsigned count,
                           uint64_t offset, bool is_write)
{
    for (unsigned i = 0; i < count; i++) {
        assert(offset + iov[i].iov_len <= sizeof(disk->data));
        memcpy(is_write ? disk->data + offset : iov[i].iov_base,
               is_write ? iov[i].iov_base : disk->data + offset, iov[i].iov_len);
        offset += iov[i].iov_len;
    }
    return 0;
}

static int memory_read(struct disk *disk, struct iovec *iov, unsigned count,
                       uint64_t offset)
{
    struct rig_disk *own = rig_disk_of(disk);
    int error = pass_gate(own, &own->reads);
    return error ? error : memory_transfer(own, iov, count, offset, false);
}

static int memory_write(struct disk *disk, struct iovec *iov, unsigned count,
                        uint64_t offset)
{
    struct rig_disk *own = rig_disk_of(disk);
    int error = pass_gate(own, &own->writes);
    return error ? error : memory_transfer(own, iov, count, offset, true);
}

static int memory_flush(struct disk *disk)
{
    struct rig_disk *own = rig_disk_of(disk);
    return pass_gate(own, &own->flushes);
}

static int memory_clear(struct rig_disk *disk, const struct disk_range *range, int value)
{
    assert(range->offset + range->size <= sizeof(disk->data));
    memset(disk->data + range->offset, value, range->size);
    return 0;
}

static int memory_discard(struct disk *disk, const struct disk_range *range)
{
    struct rig_disk *own = rig_disk_of(disk);
    int error = pass_gate(own, &own->discards);
    return error ? error : memory_clear(own, range, 0xdd);
}

static int memory_zeroes(struct disk *disk, const struct disk_range *range)
{
    struct rig_disk *own = rig_disk_of(disk);
    int error = pass_gate(own, &own->zeroes);
    return error ? error : memory_clear(own, range, 0);
}

static void memory_close(struct disk *disk)
{
    struct rig_disk *own = rig_disk_of(disk);
    pthread_cond_destroy(&own->changed);
    pthread_mutex_destroy(&own->lock);
    free(own);
}

static const struct disk_format memory_format = {
    .name = "memory",
    .read = memory_read,
    .write = memory_write,
    .flush = memory_flush,
    .discard = memory_discard,
    .write_zeroes = memory_zeroes,
    .close = memory_close,
};

static struct rig_disk *rig_disk_new(struct worker_pool *pool, bool is_readonly)
{
    struct rig_disk *disk = calloc(1, sizeof(*disk));
    assert(disk);
    pthread_mutex_init(&disk->lock, NULL);
    pthread_cond_init(&disk->changed, NULL);
    disk->disk = (struct disk){.format = &memory_format,
                               .pool = pool,
                               .path = strdup("memory"),
                               .size = sizeof(disk->data),
                               .is_readonly = is_readonly};
    for (unsigned i = 0; i < sizeof(disk->data); i++) {
        disk->data[i] = (uint8_t)(i / DISK_SECTOR + i);
    }
    return disk;
}

/* --- The machine --- */

static void set_irq(void *opaque, unsigned number, int level)
{
    struct rig *rig = opaque;
    if (level && !rig->irq_level) {
        rig->irq_edges++;
    }
    rig->irq_level = level;
}

static void add_slot(struct rig *rig, gpa_t gpa, uint64_t size, enum slot_kind kind)
{
    int64_t frame = memory_add_frames(rig->memory, size, NULL);
    int result =
        frame < 0 ? -1 : memory_map(rig->memory, gpa, size, (frame_t)frame, kind, NULL);
    assert(result == 0);
}

void rig_init(struct rig *rig, bool is_readonly)
{
    struct error err;
    *rig = (struct rig){.memory = memory_new(2 * RIG_RAM, &err)};
    assert(rig->memory);
    add_slot(rig, 0, RIG_SEAM, SLOT_RAM);
    add_slot(rig, RIG_ROM, RIG_ROM_SIZE, SLOT_ROM); /* parts the halves in the host */
    add_slot(rig, RIG_SEAM, RIG_RAM - RIG_SEAM, SLOT_RAM);
    rig->pool = worker_pool_open(&(struct worker_config){"rig", 2}, &err);
    assert(rig->pool);
    rig->disk = rig_disk_new(rig->pool, is_readonly);
    rig->blk = virtio_blk_new("disk0", &rig->disk->disk, rig->memory,
                              (struct irq_line){set_irq, rig, 0}, RIG_QUEUES, &err);
    assert(rig->blk);
    rig->virtio = virtio_blk_virtio(rig->blk);
    rig->mmio = virtio_mmio_region(rig->virtio, 0);
}

void rig_fini(struct rig *rig)
{
    struct device *device = virtio_blk_device(rig->blk);
    rig_gate(rig, false);
    device->type->free(device);
    worker_pool_close(rig->pool);
    memory_free(rig->memory);
}

uint32_t rig_read(struct rig *rig, uint64_t offset)
{
    pthread_mutex_lock(&rig->mmio.device->lock);
    uint64_t value = rig->mmio.read(rig->mmio.device, offset, 4);
    pthread_mutex_unlock(&rig->mmio.device->lock);
    return (uint32_t)value;
}

void rig_write(struct rig *rig, uint64_t offset, uint32_t value)
{
    pthread_mutex_lock(&rig->mmio.device->lock);
    rig->mmio.write(rig->mmio.device, offset, 4, value);
    pthread_mutex_unlock(&rig->mmio.device->lock);
}

uint8_t *rig_ram(struct rig *rig, gpa_t gpa)
{
    const struct slot *slot = memory_find(rig->memory, gpa);
    assert(slot);
    return memory_host(rig->memory, slot->frame) + (gpa - slot->gpa);
}

void rig_gate(struct rig *rig, bool is_closed)
{
    pthread_mutex_lock(&rig->disk->lock);
    rig->disk->is_closed = is_closed;
    pthread_cond_broadcast(&rig->disk->changed);
    pthread_mutex_unlock(&rig->disk->lock);
}

void rig_await_waiting(struct rig *rig, unsigned count)
{
    pthread_mutex_lock(&rig->disk->lock);
    while (rig->disk->waiting < count) {
        pthread_cond_wait(&rig->disk->changed, &rig->disk->lock);
    }
    pthread_mutex_unlock(&rig->disk->lock);
}

/* --- The driver (virtio 1.2 section 3.1.1) --- */

void rig_setup_queue(struct rig *rig, unsigned queue)
{
    gpa_t rings = RIG_RINGS + queue * RIG_RINGS_SIZE;
    rig_write(rig, VIRTIO_MMIO_QUEUE_SEL, queue);
    rig_write(rig, VIRTIO_MMIO_QUEUE_NUM, RIG_QUEUE_SIZE);
    rig_write(rig, VIRTIO_MMIO_QUEUE_DESC_LOW, (uint32_t)rings);
    rig_write(rig, VIRTIO_MMIO_QUEUE_AVAIL_LOW, (uint32_t)rings + 0x1000);
    rig_write(rig, VIRTIO_MMIO_QUEUE_USED_LOW, (uint32_t)rings + 0x2000);
    rig_write(rig, VIRTIO_MMIO_QUEUE_READY, 1);
    rig->next[queue] = rig->descriptors[queue] = 0;
}

void rig_start(struct rig *rig, uint64_t features)
{
    uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
    rig_write(rig, VIRTIO_MMIO_STATUS, 0);
    rig_write(rig, VIRTIO_MMIO_STATUS, status);
    features |= 1ull << VIRTIO_F_VERSION_1;
    for (unsigned i = 0; i < 2; i++) {
        rig_write(rig, VIRTIO_MMIO_DRIVER_FEATURES_SEL, i);
        rig_write(rig, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(features >> (32 * i)));
    }
    status |= VIRTIO_CONFIG_S_FEATURES_OK;
    rig_write(rig, VIRTIO_MMIO_STATUS, status);
    for (unsigned i = 0; i < RIG_QUEUES; i++) {
        memset(rig_ram(rig, RIG_RINGS + i * RIG_RINGS_SIZE), 0, RIG_RINGS_SIZE);
        rig_setup_queue(rig, i);
    }
    rig_write(rig, VIRTIO_MMIO_STATUS, status | VIRTIO_CONFIG_S_DRIVER_OK);
}

struct vring_desc *rig_descriptor(struct rig *rig, unsigned queue, unsigned index)
{
    return (struct vring_desc *)rig_ram(rig, RIG_RINGS + queue * RIG_RINGS_SIZE) +
           index % RIG_QUEUE_SIZE;
}

uint16_t *rig_avail(struct rig *rig, unsigned queue)
{
    return (uint16_t *)rig_ram(rig, RIG_RINGS + queue * RIG_RINGS_SIZE + 0x1000);
}

uint16_t *rig_used(struct rig *rig, unsigned queue)
{
    return (uint16_t *)rig_ram(rig, RIG_RINGS + queue * RIG_RINGS_SIZE + 0x2000);
}

struct vring_used_elem rig_used_element(struct rig *rig, unsigned queue, unsigned index)
{
    struct vring_used_elem element;
    memcpy(&element,
           (uint8_t *)rig_used(rig, queue) + 4 +
               (index % RIG_QUEUE_SIZE) * sizeof(element),
           sizeof(element));
    return element;
}

void rig_offer(struct rig *rig, unsigned queue, uint16_t head)
{
    uint16_t *avail = rig_avail(rig, queue);
    avail[2 + rig->next[queue]++ % RIG_QUEUE_SIZE] = head;
    __atomic_store_n(&avail[1], rig->next[queue], __ATOMIC_SEQ_CST);
}

void rig_kick(struct rig *rig, unsigned queue)
{
    rig_write(rig, VIRTIO_MMIO_QUEUE_NOTIFY, queue);
}

uint16_t rig_request(struct rig *rig, unsigned queue, gpa_t gpa, uint32_t type,
                     uint64_t sector, gpa_t data, uint32_t size)
{
    struct virtio_blk_outhdr header = {.type = type, .sector = sector};
    uint16_t first = rig->descriptors[queue], count = 0;
    memcpy(rig_ram(rig, gpa), &header, sizeof(header));
    *rig_ram(rig, gpa + sizeof(header)) = 0xee;
    struct vring_desc chain[3];
    chain[count++] = (struct vring_desc){gpa, sizeof(header), VRING_DESC_F_NEXT, 0};
    if (size) {
        bool is_in = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
        chain[count++] = (struct vring_desc){
            data, size, VRING_DESC_F_NEXT | (is_in ? VRING_DESC_F_WRITE : 0), 0};
    }
    chain[count++] = (struct vring_desc){gpa + sizeof(header), 1, VRING_DESC_F_WRITE, 0};
    for (unsigned i = 0; i < count; i++) {
        chain[i].next = (uint16_t)((first + i + 1) % RIG_QUEUE_SIZE);
        *rig_descriptor(rig, queue, first + i) = chain[i];
    }
    rig->descriptors[queue] += count;
    return first % RIG_QUEUE_SIZE;
}

void rig_await(struct rig *rig, unsigned queue, uint16_t count)
{
    time_t start = time(NULL);
    while (__atomic_load_n(&rig_used(rig, queue)[1], __ATOMIC_ACQUIRE) != count) {
        assert(time(NULL) - start < WAIT_SECONDS);
        sched_yield();
    }
}

uint8_t rig_do(struct rig *rig, uint32_t type, uint64_t sector, gpa_t data, uint32_t size)
{
    const gpa_t place = 0x8000;
    uint16_t used = rig_used(rig, 0)[1];
    rig_offer(rig, 0, rig_request(rig, 0, place, type, sector, data, size));
    rig_kick(rig, 0);
    rig_await(rig, 0, (uint16_t)(used + 1));
    return *rig_ram(rig, place + sizeof(struct virtio_blk_outhdr));
}
