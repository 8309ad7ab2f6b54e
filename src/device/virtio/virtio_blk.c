#include "device/virtio/virtio_blk.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>

#include "base/log.h"

#define FEATURE(bit) (1ull << (bit))

/* Limits that the driver is told. Together they bound a request's data. */
#define SEGMENTS_MAX     126u
#define SEGMENT_SIZE_MAX (1u << 20)
#define DATA_MAX         ((uint64_t)SEGMENTS_MAX * SEGMENT_SIZE_MAX)
#define DISCARD_MAX      (1u << 22) /* sectors of a range: 2G */

/* Pieces of a chain: as long as it may be, and some that cross from slot to slot. */
#define PIECES_MAX (VIRTQUEUE_SIZE_MAX + 8)
/* Requests in flight, over all queues. */
#define REQUESTS_MAX 128

struct request {
    struct virtio_blk *blk;
    struct request *next; /* of those that are free */
    unsigned queue;
    uint32_t epoch;
    struct virtqueue_chain chain;
    uint8_t status; /* of a request that needs no disk */
    uint8_t *status_byte;
    struct disk_request io;
    struct iovec piece[PIECES_MAX]; /* the chain's */
    struct iovec data[PIECES_MAX];  /* of these, header and status taken off */
};

struct virtio_blk {
    struct virtio virtio;
    struct disk *disk;
    struct request *free;
    unsigned request_count; /* made */
    uint64_t sectors;       /* saved */
};

static struct virtio_blk *blk_of(struct virtio *virtio)
{
    return container_of(virtio, struct virtio_blk, virtio);
}

/* --- Requests --- */

static struct request *request_take(struct virtio_blk *blk)
{
    struct request *request = blk->free;
    if (request) {
        blk->free = request->next;
        return request;
    }
    if (blk->request_count == REQUESTS_MAX) {
        return NULL;
    }
    request = malloc(sizeof(*request));
    if (request) {
        request->blk = blk;
        blk->request_count++;
    }
    return request;
}

static void request_put(struct request *request)
{
    request->next = request->blk->free;
    request->blk->free = request;
}

/* Copies from the readable part of the chain, from its first byte. */
static void copy_readable(const struct request *request, uint64_t skip, void *to,
                          size_t size)
{
    uint8_t *next = to;
    for (unsigned i = 0; i < request->chain.readable && size > 0; i++) {
        const struct iovec *piece = &request->piece[i];
        if (skip >= piece->iov_len) {
            skip -= piece->iov_len;
            continue;
        }
        size_t part = piece->iov_len - skip < size ? piece->iov_len - skip : size;
        memcpy(next, (uint8_t *)piece->iov_base + skip, part);
        next += part;
        size -= part;
        skip = 0;
    }
}

/* Sets data to bytes [skip, skip + size) of the count pieces from first on. Returns the
 * number of pieces. */
static unsigned cut(struct request *request, unsigned first, unsigned count,
                    uint64_t skip, uint64_t size)
{
    unsigned used = 0;
    for (unsigned i = first; i < first + count && size > 0; i++) {
        struct iovec piece = request->piece[i];
        if (skip >= piece.iov_len) {
            skip -= piece.iov_len;
            continue;
        }
        piece.iov_base = (uint8_t *)piece.iov_base + skip;
        piece.iov_len -= skip;
        piece.iov_len = piece.iov_len < size ? piece.iov_len : size;
        request->data[used++] = piece;
        size -= piece.iov_len;
        skip = 0;
    }
    return used;
}

static bool is_within_disk(const struct virtio_blk *blk, uint64_t sector, uint64_t count)
{
    return sector <= blk->sectors && count <= blk->sectors - sector;
}

/* The preparations: each checks a request and fills request->io, or says with what status
 * it is answered at once. */
#define READY UINT8_MAX

static uint8_t refuse(const struct request *request, const char *problem)
{
    log_guest("%s: %s", request->blk->virtio.device.name, problem);
    return VIRTIO_BLK_S_IOERR;
}

static uint8_t prepare_transfer(struct request *request, uint64_t sector, uint64_t size)
{
    struct virtio_blk *blk = request->blk;
    if (size % DISK_SECTOR || size > DATA_MAX) {
        return refuse(request, "a transfer of no whole sectors, or of too many");
    }
    if (!is_within_disk(blk, sector, size / DISK_SECTOR)) {
        return refuse(request, "a transfer beyond the end of the disk");
    }
    request->io.offset = sector * DISK_SECTOR;
    request->io.iov = request->data;
    return READY;
}

static uint8_t prepare_read(struct request *request,
                            const struct virtio_blk_outhdr *header)
{
    const struct virtqueue_chain *chain = &request->chain;
    uint64_t size = chain->writable_size - 1;
    request->io.operation = DISK_READ;
    request->io.iov_count = cut(request, chain->readable, chain->writable, 0, size);
    return prepare_transfer(request, header->sector, size);
}

static uint8_t prepare_write(struct request *request,
                             const struct virtio_blk_outhdr *header)
{
    const struct virtqueue_chain *chain = &request->chain;
    uint64_t size = chain->readable_size - sizeof(*header);
    request->io.operation = DISK_WRITE;
    request->io.iov_count = cut(request, 0, chain->readable, sizeof(*header), size);
    if (request->blk->disk->is_readonly) {
        return VIRTIO_BLK_S_IOERR; /* 5.2.6.2 */
    }
    return prepare_transfer(request, header->sector, size);
}

static uint8_t prepare_flush(struct request *request,
                             const struct virtio_blk_outhdr *header)
{
    request->io.operation = DISK_FLUSH;
    return READY;
}

static uint8_t prepare_identity(struct request *request,
                                const struct virtio_blk_outhdr *header)
{
    /* Padded with zeros, not terminated where it is as long as the field. */
    char identity[VIRTIO_BLK_ID_BYTES + 1] = {0};
    const struct virtqueue_chain *chain = &request->chain;
    if (chain->writable_size - 1 != VIRTIO_BLK_ID_BYTES) {
        return refuse(request, "a buffer for the name has a wrong size");
    }
    snprintf(identity, sizeof(identity), "%s", request->blk->virtio.device.name);
    unsigned count =
        cut(request, chain->readable, chain->writable, 0, VIRTIO_BLK_ID_BYTES);
    for (unsigned i = 0, done = 0; i < count; i++) {
        memcpy(request->data[i].iov_base, identity + done, request->data[i].iov_len);
        done += request->data[i].iov_len;
    }
    return VIRTIO_BLK_S_OK;
}

static uint8_t prepare_range(struct request *request,
                             const struct virtio_blk_discard_write_zeroes *wanted,
                             bool is_discard)
{
    /* 5.2.6.2: reserved bits, and unmap in a discard, are not supported. */
    uint32_t known = is_discard ? 0 : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
    if (wanted->flags & ~known) {
        return VIRTIO_BLK_S_UNSUPP;
    }
    if (wanted->num_sectors > DISCARD_MAX ||
        !is_within_disk(request->blk, wanted->sector, wanted->num_sectors)) {
        return refuse(request, "a range beyond the end of the disk, or too large");
    }
    request->io.range[request->io.range_count++] = (struct disk_range){
        .offset = wanted->sector * DISK_SECTOR,
        .size = (uint64_t)wanted->num_sectors * DISK_SECTOR,
        .may_unmap = wanted->flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
    };
    return READY;
}

static uint8_t prepare_ranges(struct request *request, bool is_discard)
{
    struct virtio_blk_discard_write_zeroes range[DISK_RANGES_MAX];
    uint64_t size = request->chain.readable_size - sizeof(struct virtio_blk_outhdr);
    if (request->blk->disk->is_readonly) {
        return VIRTIO_BLK_S_IOERR;
    }
    if (size == 0 || size % sizeof(range[0]) || size > sizeof(range)) {
        return refuse(request, "a list of ranges has a wrong size");
    }
    copy_readable(request, sizeof(struct virtio_blk_outhdr), range, size);
    uint8_t status = READY;
    for (unsigned i = 0; status == READY && i < size / sizeof(range[0]); i++) {
        status = prepare_range(request, &range[i], is_discard);
    }
    return status;
}

static uint8_t prepare_discard(struct request *request,
                               const struct virtio_blk_outhdr *header)
{
    request->io.operation = DISK_DISCARD;
    return prepare_ranges(request, true);
}

static uint8_t prepare_zeroes(struct request *request,
                              const struct virtio_blk_outhdr *header)
{
    request->io.operation = DISK_WRITE_ZEROES;
    return prepare_ranges(request, false);
}

static const struct {
    uint32_t type;
    uint8_t (*prepare)(struct request *request, const struct virtio_blk_outhdr *header);
} request_types[] = {
    {VIRTIO_BLK_T_IN, prepare_read},         {VIRTIO_BLK_T_OUT, prepare_write},
    {VIRTIO_BLK_T_FLUSH, prepare_flush},     {VIRTIO_BLK_T_GET_ID, prepare_identity},
    {VIRTIO_BLK_T_DISCARD, prepare_discard}, {VIRTIO_BLK_T_WRITE_ZEROES, prepare_zeroes},
};

static uint8_t prepare(struct request *request)
{
    struct virtio_blk_outhdr header;
    copy_readable(request, 0, &header, sizeof(header));
    for (unsigned i = 0; i < array_size(request_types); i++) {
        if (request_types[i].type == header.type) {
            return request_types[i].prepare(request, &header);
        }
    }
    return VIRTIO_BLK_S_UNSUPP;
}

/* --- Answers, in a worker's thread --- */

static void take_chains(struct virtio_blk *blk, unsigned queue);

static void answer_locked(struct request *request, uint8_t status)
{
    struct virtio *virtio = &request->blk->virtio;
    struct virtqueue *queue = &virtio->queue[request->queue];
    if (request->epoch != virtio->epoch) {
        virtqueue_drop(queue, &request->chain);
        return;
    }
    *request->status_byte = status;
    /* The length counts from the first byte on: with data missing, none are valid. */
    uint64_t length = status == VIRTIO_BLK_S_OK ? request->chain.writable_size : 0;
    if (virtqueue_push(queue, &request->chain, length)) {
        virtio_interrupt_queue(virtio, request->queue);
    } else {
        virtio_fail(virtio, request->queue, "a ring is not in RAM");
    }
}

static void answer(struct request *request, uint8_t status)
{
    struct virtio_blk *blk = request->blk;
    struct virtio *virtio = &blk->virtio;
    unsigned first = request->queue;
    pthread_mutex_lock(&virtio->device.lock);
    answer_locked(request, status);
    request_put(request);
    /* Chains that waited for a request's record, of any queue. */
    for (unsigned i = 1; i <= virtio->queue_count; i++) {
        take_chains(blk, (first + i) % virtio->queue_count);
    }
    virtio_end(virtio);
    pthread_mutex_unlock(&virtio->device.lock);
}

static void io_done(struct disk_request *io, int result)
{
    answer(container_of(io, struct request, io),
           result < 0 ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK);
}

static void answer_prepared(struct worker_job *job)
{
    struct request *request = container_of(job, struct request, io.job);
    answer(request, request->status);
}

/* --- From the driver --- */

/* Takes one chain. Requests that need no disk are answered by a worker, too: so what a
 * vCPU does here is bounded by the records there are. */
static int take_chain(struct virtio_blk *blk, struct request *request, unsigned queue,
                      const char **problem)
{
    struct virtio *virtio = &blk->virtio;
    request->queue = queue;
    request->epoch = virtio->epoch;
    request->chain =
        (struct virtqueue_chain){.iov = request->piece, .iov_max = PIECES_MAX};
    int result = virtqueue_pop(&virtio->queue[queue], &request->chain, problem);
    if (result <= 0) {
        return result;
    }
    const struct virtqueue_chain *chain = &request->chain;
    if (chain->readable_size < sizeof(struct virtio_blk_outhdr) ||
        chain->writable_size < 1) {
        virtqueue_drop(&virtio->queue[queue], chain);
        *problem = "a request without header or status";
        return -EPROTO;
    }
    const struct iovec *last = &chain->iov[chain->readable + chain->writable - 1];
    request->status_byte = (uint8_t *)last->iov_base + last->iov_len - 1;
    request->io = (struct disk_request){.done = io_done};
    virtio_begin(virtio);
    request->status = prepare(request);
    if (request->status == READY) {
        disk_submit(blk->disk, &request->io);
    } else {
        request->io.job.run = answer_prepared;
        worker_post(blk->disk->pool, &request->io.job);
    }
    return result;
}

static void take_chains(struct virtio_blk *blk, unsigned queue)
{
    struct request *request;
    while (virtio_queue_is_live(&blk->virtio, queue) && (request = request_take(blk))) {
        const char *problem;
        int result = take_chain(blk, request, queue, &problem);
        if (result > 0) {
            continue;
        }
        request_put(request);
        if (result < 0) {
            virtio_fail(&blk->virtio, queue, problem);
        }
        return;
    }
}

static void blk_notify(struct virtio *virtio, unsigned queue)
{
    take_chains(blk_of(virtio), queue);
}

static const struct virtio_type blk_virtio_type = {
    .id = VIRTIO_ID_BLOCK,
    .notify = blk_notify,
};

/* --- The device --- */

static struct virtio_blk_config blk_config(const struct virtio_blk *blk, unsigned queues)
{
    return (struct virtio_blk_config){
        .capacity = blk->sectors,
        .size_max = SEGMENT_SIZE_MAX,
        .seg_max = SEGMENTS_MAX,
        .blk_size = DISK_SECTOR,
        .physical_block_exp = 3, /* 4K: the pages of the host's file */
        .min_io_size = 8,
        .num_queues = (uint16_t)queues,
        .max_discard_sectors = DISCARD_MAX,
        .max_discard_seg = DISK_RANGES_MAX,
        .discard_sector_alignment = 8,
        .max_write_zeroes_sectors = DISCARD_MAX,
        .max_write_zeroes_seg = DISK_RANGES_MAX,
        .write_zeroes_may_unmap = 1,
    };
}

/* What is behind it may have changed its size while nobody looked. */
static void blk_loaded(struct device *device)
{
    struct virtio_blk *blk = blk_of(container_of(device, struct virtio, device));
    virtio_loaded(device);
    if (blk->sectors != blk->disk->size / DISK_SECTOR) {
        blk->sectors = blk->disk->size / DISK_SECTOR;
        virtio_config_changed(&blk->virtio);
    }
}

static void blk_free(struct device *device)
{
    struct virtio_blk *blk = blk_of(container_of(device, struct virtio, device));
    virtio_fini(&blk->virtio);
    disk_close(blk->disk);
    while (blk->free) {
        struct request *request = blk->free;
        blk->free = request->next;
        free(request);
    }
    free(blk);
}

static const struct device_field blk_fields[] = {
    VIRTIO_FIELDS(struct virtio_blk, virtio),
    DEVICE_FIELD(struct virtio_blk, sectors),
    DEVICE_FIELD_END,
};

static const struct device_type blk_type = {
    .name = "virtio_blk",
    .fields = blk_fields,
    .reset = virtio_reset,
    .drain = virtio_drain,
    .loaded = blk_loaded,
    .free = blk_free,
};

static uint64_t blk_features(const struct disk *disk, unsigned queues)
{
    uint64_t features = FEATURE(VIRTIO_BLK_F_SIZE_MAX) | FEATURE(VIRTIO_BLK_F_SEG_MAX) |
                        FEATURE(VIRTIO_BLK_F_BLK_SIZE) | FEATURE(VIRTIO_BLK_F_TOPOLOGY) |
                        FEATURE(VIRTIO_BLK_F_FLUSH);
    if (disk->is_readonly) {
        features |= FEATURE(VIRTIO_BLK_F_RO);
    } else {
        features |= FEATURE(VIRTIO_BLK_F_DISCARD) | FEATURE(VIRTIO_BLK_F_WRITE_ZEROES);
    }
    return queues > 1 ? features | FEATURE(VIRTIO_BLK_F_MQ) : features;
}

struct virtio_blk *virtio_blk_new(const char *name, struct disk *disk,
                                  struct memory *memory, struct irq_line irq,
                                  unsigned queues, struct error *err)
{
    struct virtio_blk *blk = calloc(1, sizeof(*blk));
    if (!blk) {
        disk_close(disk);
        fail(err, ENOMEM, "cannot make %s", name);
        return NULL;
    }
    blk->disk = disk;
    blk->sectors = disk->size / DISK_SECTOR;
    struct virtio_blk_config config = blk_config(blk, queues);
    const struct virtio_setup setup = {
        .device_type = &blk_type,
        .type = &blk_virtio_type,
        .name = name,
        .memory = memory,
        .irq = irq,
        .features = blk_features(disk, queues),
        .queue_count = queues,
        .config = &config,
        .config_size = offsetof(struct virtio_blk_config, max_secure_erase_sectors),
    };
    virtio_init(&blk->virtio, &setup);
    return blk;
}

struct device *virtio_blk_device(struct virtio_blk *blk)
{
    return &blk->virtio.device;
}

struct virtio *virtio_blk_virtio(struct virtio_blk *blk)
{
    return &blk->virtio;
}
