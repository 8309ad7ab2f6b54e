#include "disk/disk.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/scope.h"
#include "disk/raw.h"

#define HEAD_SIZE 512u

const struct disk_format *const disk_format_table[] = {
    &disk_raw,
    NULL,
};

const struct disk_format *disk_format_find(const char *name)
{
    for (unsigned i = 0; disk_format_table[i]; i++) {
        if (strcmp(disk_format_table[i]->name, name) == 0) {
            return disk_format_table[i];
        }
    }
    return NULL;
}

/* What other programs' images begin with. */
static const struct {
    const char *name;
    const char *magic;
    uint32_t size;
} signatures[] = {
    {"qcow2", "QFI\xfb", 4}, {"vmdk", "KDMV", 4}, {"vhd", "conectix", 8},
    {"vhdx", "vhdxfile", 8}, {"qed", "QED\0", 4}, {"vmdk", "# Disk DescriptorFile", 21},
};

static const char *foreign_name(const uint8_t *head, uint32_t size)
{
    for (unsigned i = 0; i < array_size(signatures); i++) {
        if (signatures[i].size <= size &&
            memcmp(head, signatures[i].magic, signatures[i].size) == 0) {
            return signatures[i].name;
        }
    }
    return NULL;
}

/*
 * The format of a file of which the user did not say it. What a guest can write to a raw
 * disk must not make it another format at the next start, whose header might name other
 * files of the host; so a file that looks like two formats is refused.
 */
static const struct disk_format *detect(struct disk_file *file, const char *path,
                                        struct error *err)
{
    uint8_t head[HEAD_SIZE];
    uint32_t size = file->size < HEAD_SIZE ? (uint32_t)file->size : HEAD_SIZE;
    struct iovec iov = {head, size};
    int result = disk_file_read(file, &iov, 1, 0);
    if (result < 0) {
        fail(err, -result, "cannot read disk %.200s", path);
        return NULL;
    }
    const struct disk_format *any = NULL;
    for (unsigned i = 0; disk_format_table[i]; i++) {
        const struct disk_format *format = disk_format_table[i];
        if (!format->probe) {
            any = format;
        } else if (format->probe(head, size)) {
            return format;
        }
    }
    const char *foreign = foreign_name(head, size);
    if (foreign) {
        fail_plain(err, EINVAL,
                   "disk %.200s looks like a %s image, which this version does not read; "
                   "convert it to raw, or say format=raw if it is one",
                   path, foreign);
        return NULL;
    }
    return any;
}

static const struct disk_format *choose_format(struct disk_file *file, const char *path,
                                               const char *name, struct error *err)
{
    if (!name) {
        return detect(file, path, err);
    }
    const struct disk_format *format = disk_format_find(name);
    if (!format) {
        fail_plain(err, EINVAL, "disk %.200s: there is no format %s", path, name);
    }
    return format;
}

struct disk *disk_open(const char *path, const struct disk_options *options,
                       struct worker_pool *pool, struct error *err)
{
    struct disk_file file;
    struct disk *disk = NULL;
    SCOPE_FREE char *name = strdup(path);
    if (!name) {
        fail(err, ENOMEM, "cannot open disk %.200s", path);
        return NULL;
    }
    if (disk_file_open(&file, path, options->is_readonly, err) < 0) {
        return NULL;
    }
    const struct disk_format *format = choose_format(&file, path, options->format, err);
    if (format) {
        disk = format->open(&file, path, err);
    }
    disk_file_close(&file);
    if (disk) {
        assert(disk->size > 0 && disk->size % DISK_SECTOR == 0);
        disk->format = format;
        disk->pool = pool;
        disk->path = steal(name);
        disk->is_readonly = options->is_readonly;
    }
    return disk;
}

void disk_close(struct disk *disk)
{
    if (disk) {
        free(disk->path);
        disk->format->close(disk);
    }
}

/* --- Requests, in the workers' threads --- */

static const char *const operation_name[] = {
    [DISK_READ] = "read",
    [DISK_WRITE] = "write",
    [DISK_FLUSH] = "flush",
    [DISK_DISCARD] = "discard",
    [DISK_WRITE_ZEROES] = "write of zeros",
};

/* One line a second over all disks: a full file system fails thousands of writes. */
static void log_failure(const struct disk_request *request, int result)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static struct log_bucket bucket = {
        .tokens = 3, .limit = 3, .interval_ns = NS_PER_SECOND};
    uint64_t suppressed;
    pthread_mutex_lock(&lock);
    bool is_allowed = log_bucket_take(&bucket, clock_host_ns(), &suppressed);
    pthread_mutex_unlock(&lock);
    if (!is_allowed) {
        return;
    }
    struct error err;
    char place[32] = "", more[64] = "";
    uint64_t offset = request->range_count ? request->range[0].offset : request->offset;
    if (request->operation != DISK_FLUSH) {
        snprintf(place, sizeof(place), " at byte %" PRIu64, offset);
    }
    if (suppressed) {
        snprintf(more, sizeof(more), " (%" PRIu64 " more errors before)", suppressed);
    }
    fail(&err, -result, "%s%s failed", operation_name[request->operation], place);
    log_warning("disk %.200s: %s; the guest gets an I/O error%s", request->disk->path,
                err.message, more);
}

static int each_range(struct disk_request *request,
                      int (*fn)(struct disk *disk, const struct disk_range *range))
{
    int result = 0;
    for (unsigned i = 0; result == 0 && i < request->range_count; i++) {
        result = fn(request->disk, &request->range[i]);
    }
    return result;
}

static int perform(struct disk_request *request)
{
    struct disk *disk = request->disk;
    const struct disk_format *format = disk->format;
    if (disk->is_readonly && request->operation != DISK_READ) {
        /* There is nothing to flush, and so nothing to fail. */
        return request->operation == DISK_FLUSH ? 0 : -EROFS;
    }
    switch (request->operation) {
    case DISK_READ:
        return format->read(disk, request->iov, request->iov_count, request->offset);
    case DISK_WRITE:
        return format->write(disk, request->iov, request->iov_count, request->offset);
    case DISK_FLUSH:
        return format->flush(disk);
    case DISK_DISCARD:
        return each_range(request, format->discard);
    case DISK_WRITE_ZEROES:
        return each_range(request, format->write_zeroes);
    }
    return -EINVAL;
}

static void run_request(struct worker_job *job)
{
    struct disk_request *request = container_of(job, struct disk_request, job);
    int result = perform(request);
    if (result < 0 && result != -EROFS) {
        log_failure(request, result);
    }
    request->done(request, result);
}

void disk_submit(struct disk *disk, struct disk_request *request)
{
    request->disk = disk;
    request->job.run = run_request;
    worker_post(disk->pool, &request->job);
}
