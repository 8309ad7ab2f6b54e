#pragma once
/*
 * The host file behind a disk image: a regular file or a block device, locked as long as
 * it is open, read and written at offsets. Every format stands on it. All calls but open
 * and close are thread-safe; they return 0 or a negative errno.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/error.h"

struct disk_file {
    int fd;
    bool is_readonly;
    uint64_t size; /* bytes, when it was opened */
    /* What the file system turned out not to have; not asked for again. */
    _Atomic bool lacks_punch, lacks_zero;
};

/*
 * Opens and locks it: one writer, or any number of readers, over all processes. The
 * message of a failure names the file and what to do.
 */
int disk_file_open(struct disk_file *file, const char *path, bool is_readonly,
                   struct error *err);
/* Accepts one whose opening failed, or all zero with fd -1. */
void disk_file_close(struct disk_file *file);

/* All of the bytes or an error; -EIO if the file ends before them. iov is changed. */
int disk_file_read(struct disk_file *file, struct iovec *iov, unsigned count,
                   uint64_t offset);
int disk_file_write(struct disk_file *file, struct iovec *iov, unsigned count,
                    uint64_t offset);
/* What was written before the call is on stable storage when it returns 0. */
int disk_file_flush(struct disk_file *file);
/* The range may lose its contents, and its room on the host. Never an error where the
 * host cannot do it. */
int disk_file_discard(struct disk_file *file, uint64_t offset, uint64_t size);
/* The range reads as zeros; may_unmap: it may lose its room, too. */
int disk_file_zero(struct disk_file *file, uint64_t offset, uint64_t size,
                   bool may_unmap);
