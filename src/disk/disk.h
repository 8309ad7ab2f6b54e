#pragma once
/*
 * Disks as devices see them: a number of sectors behind requests that complete later, in
 * a worker's thread, so that neither vCPUs nor the event loop wait for the host's
 * storage.
 *
 * To add a format: one file with a struct disk_format, one row in disk.c's table.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/worker.h"
#include "disk/file.h"

#define DISK_SECTOR 512u

enum disk_operation {
    DISK_READ,
    DISK_WRITE,
    DISK_FLUSH,
    DISK_DISCARD,
    DISK_WRITE_ZEROES,
};

struct disk_range {
    uint64_t offset, size; /* bytes */
    bool may_unmap;        /* DISK_WRITE_ZEROES: need not keep its room on the host */
};

#define DISK_RANGES_MAX 16

struct disk;

/*
 * A request, embedded in the device's own record. The disk has it, and the memory behind
 * iov, from disk_submit until it calls done, which happens once, in a worker's thread.
 */
struct disk_request {
    enum disk_operation operation;
    /* READ, WRITE: where, and the buffers (changed underway). */
    uint64_t offset;
    struct iovec *iov;
    unsigned iov_count;
    /* DISCARD, WRITE_ZEROES: what. */
    unsigned range_count;
    struct disk_range range[DISK_RANGES_MAX];
    /* result is 0 or a negative errno. */
    void (*done)(struct disk_request *request, int result);

    struct disk *disk; /* the disk's own */
    struct worker_job job;
};

/* An open image; each format's own record begins with it. */
struct disk {
    const struct disk_format *format;
    struct worker_pool *pool;
    char *path;
    uint64_t size; /* of the disk the guest sees; a multiple of DISK_SECTOR, not 0 */
    bool is_readonly;
};

/*
 * A format. Ranges lie within the disk and are multiples of sectors; the functions that
 * take them are called in several threads at once, may block, and return 0 or a negative
 * errno. Nothing but read is called for a read-only disk.
 */
struct disk_format {
    const char *name;
    /* Are these, the first bytes of the file, the beginning of such an image? NULL: any
     * file may be one. */
    bool (*probe)(const uint8_t *head, uint32_t size);
    /* Makes the record, sets its size, and moves *file into it. */
    struct disk *(*open)(struct disk_file *file, const char *path, struct error *err);
    int (*read)(struct disk *disk, struct iovec *iov, unsigned count, uint64_t offset);
    int (*write)(struct disk *disk, struct iovec *iov, unsigned count, uint64_t offset);
    int (*flush)(struct disk *disk);
    int (*discard)(struct disk *disk, const struct disk_range *range);
    int (*write_zeroes)(struct disk *disk, const struct disk_range *range);
    void (*close)(struct disk *disk); /* frees the record */
};

extern const struct disk_format *const disk_format_table[]; /* NULL-terminated */
const struct disk_format *disk_format_find(const char *name);

struct disk_options {
    const char *format; /* NULL: find out; refused where that would be a guess */
    bool is_readonly;
};

/* The pool is borrowed. NULL, with a message that names the file, on failure. */
struct disk *disk_open(const char *path, const struct disk_options *options,
                       struct worker_pool *pool, struct error *err);
/* Every request has been answered before. Accepts NULL. */
void disk_close(struct disk *disk);
/* Never blocks. The range was checked by the caller; a write to a read-only disk is
 * answered with -EROFS. Failures of the host are logged, rate-limited. */
void disk_submit(struct disk *disk, struct disk_request *request);
