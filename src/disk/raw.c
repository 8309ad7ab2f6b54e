#include "disk/raw.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/scope.h"

struct raw {
    struct disk disk;
    struct disk_file file;
};

static struct raw *raw_of(struct disk *disk)
{
    return container_of(disk, struct raw, disk);
}

static struct disk *raw_open(struct disk_file *file, const char *path, struct error *err)
{
    uint64_t rest = file->size % DISK_SECTOR;
    if (file->size == 0) {
        fail_plain(err, EINVAL,
                   "disk %.200s is empty; give it a size: truncate -s 1G FILE", path);
        return NULL;
    }
    if (rest) {
        fail_plain(err, EINVAL,
                   "disk %.200s has %" PRIu64
                   " bytes, which is not a multiple of %u; if that "
                   "is really a raw image, pad it: truncate -s %" PRIu64 " FILE",
                   path, file->size, DISK_SECTOR, file->size - rest + DISK_SECTOR);
        return NULL;
    }
    struct raw *raw = calloc(1, sizeof(*raw));
    if (!raw) {
        fail(err, ENOMEM, "cannot open disk %.200s", path);
        return NULL;
    }
    raw->file = *file;
    file->fd = -1;
    raw->disk.size = raw->file.size;
    return &raw->disk;
}

static int raw_read(struct disk *disk, struct iovec *iov, unsigned count, uint64_t offset)
{
    return disk_file_read(&raw_of(disk)->file, iov, count, offset);
}

static int raw_write(struct disk *disk, struct iovec *iov, unsigned count,
                     uint64_t offset)
{
    return disk_file_write(&raw_of(disk)->file, iov, count, offset);
}

static int raw_flush(struct disk *disk)
{
    return disk_file_flush(&raw_of(disk)->file);
}

static int raw_discard(struct disk *disk, const struct disk_range *range)
{
    return disk_file_discard(&raw_of(disk)->file, range->offset, range->size);
}

static int raw_write_zeroes(struct disk *disk, const struct disk_range *range)
{
    return disk_file_zero(&raw_of(disk)->file, range->offset, range->size,
                          range->may_unmap);
}

static void raw_close(struct disk *disk)
{
    struct raw *raw = raw_of(disk);
    disk_file_close(&raw->file);
    free(raw);
}

const struct disk_format disk_raw = {
    .name = "raw",
    .open = raw_open,
    .read = raw_read,
    .write = raw_write,
    .flush = raw_flush,
    .discard = raw_discard,
    .write_zeroes = raw_write_zeroes,
    .close = raw_close,
};
