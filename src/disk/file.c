#include "disk/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/fs.h>

#include "base/log.h"

#define ZERO_CHUNK 65536u

static int check_kind(const struct stat *status, const char *path, struct error *err)
{
    if (S_ISDIR(status->st_mode)) {
        return fail_plain(err, EISDIR, "disk %.200s is a directory; give an image file",
                          path);
    }
    if (!S_ISREG(status->st_mode) && !S_ISBLK(status->st_mode)) {
        return fail_plain(err, EINVAL,
                          "disk %.200s is neither a regular file nor a block device",
                          path);
    }
    return 0;
}

static int open_path(const char *path, bool is_readonly, bool is_block, struct error *err)
{
    int flags = (is_readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    /* For a block device: not while it is mounted (open(2)). */
    int fd = open(path, flags | (is_block && !is_readonly ? O_EXCL : 0));
    if (fd < 0 && errno == EBUSY) {
        return fail_plain(
            err, EBUSY, "disk %.200s is in use by the host; unmount it, or say readonly",
            path);
    }
    if (fd < 0 && !is_readonly && (errno == EACCES || errno == EROFS)) {
        return fail(err, errno, "cannot write disk %.200s (readonly would only read it)",
                    path);
    }
    return fd < 0 ? fail(err, errno, "cannot open disk %.200s", path) : fd;
}

/*
 * Locks of the open file description: they belong to this VM, not to the process, so that
 * one VM given an image twice is noticed, too; and they end with it, however it ends.
 */
static int lock_file(const struct disk_file *file, const char *path, struct error *err)
{
    struct flock lock = {.l_type = file->is_readonly ? F_RDLCK : F_WRLCK,
                         .l_whence = SEEK_SET};
    if (fcntl(file->fd, F_OFD_SETLK, &lock) == 0) {
        return 0;
    }
    if (errno == EAGAIN || errno == EACCES) {
        return fail_plain(
            err, EBUSY,
            "disk %.200s is in use by another virtual machine, or twice by this "
            "one%s",
            path,
            file->is_readonly ? ", for writing"
                              : "; sharing it needs readonly everywhere");
    }
    log_warning(
        "disk %.200s cannot be locked here: take care that nothing else writes it", path);
    return 0;
}

static int find_size(struct disk_file *file, const struct stat *status, const char *path,
                     struct error *err)
{
    file->size = (uint64_t)status->st_size;
    if (S_ISBLK(status->st_mode) && ioctl(file->fd, BLKGETSIZE64, &file->size) < 0) {
        return fail(err, errno, "cannot tell the size of disk %.200s", path);
    }
    return 0;
}

int disk_file_open(struct disk_file *file, const char *path, bool is_readonly,
                   struct error *err)
{
    struct stat status;
    *file = (struct disk_file){.fd = -1, .is_readonly = is_readonly};
    if (stat(path, &status) < 0) {
        return fail(err, errno, "cannot open disk %.200s", path);
    }
    int result = check_kind(&status, path, err);
    if (result < 0) {
        return result;
    }
    file->fd = open_path(path, is_readonly, S_ISBLK(status.st_mode), err);
    if (file->fd < 0) {
        return file->fd;
    }
    /* Once more: the name may have got another meaning since. */
    if (fstat(file->fd, &status) < 0) {
        result = fail(err, errno, "cannot look at disk %.200s", path);
    } else {
        result = check_kind(&status, path, err);
    }
    if (result >= 0) {
        result = lock_file(file, path, err);
    }
    if (result >= 0) {
        result = find_size(file, &status, path, err);
    }
    if (result < 0) {
        disk_file_close(file);
    }
    return result;
}

void disk_file_close(struct disk_file *file)
{
    if (file->fd >= 0) {
        close(file->fd);
        file->fd = -1;
    }
}

/* Drops the first done bytes from the list. */
static void iov_advance(struct iovec **iov, unsigned *count, size_t done)
{
    while (*count > 0 && done >= (*iov)->iov_len) {
        done -= (*iov)->iov_len;
        ++*iov;
        --*count;
    }
    if (*count > 0) {
        (*iov)->iov_base = (char *)(*iov)->iov_base + done;
        (*iov)->iov_len -= done;
    }
}

typedef ssize_t (*transfer_fn)(int fd, const struct iovec *iov, int count, off_t offset);

static int transfer(struct disk_file *file, struct iovec *iov, unsigned count,
                    uint64_t offset, transfer_fn fn)
{
    iov_advance(&iov, &count, 0);
    while (count > 0) {
        int part = count < IOV_MAX ? (int)count : IOV_MAX;
        ssize_t done = fn(file->fd, iov, part, (off_t)offset);
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            return done < 0 ? -errno : -EIO;
        }
        offset += (uint64_t)done;
        iov_advance(&iov, &count, (size_t)done);
    }
    return 0;
}

int disk_file_read(struct disk_file *file, struct iovec *iov, unsigned count,
                   uint64_t offset)
{
    return transfer(file, iov, count, offset, preadv);
}

int disk_file_write(struct disk_file *file, struct iovec *iov, unsigned count,
                    uint64_t offset)
{
    return transfer(file, iov, count, offset, pwritev);
}

int disk_file_flush(struct disk_file *file)
{
    return fdatasync(file->fd) < 0 ? -errno : 0;
}

/* Does the error mean that the file system (or the kernel) does not know the operation?
 */
static bool is_unsupported(int error)
{
    return error == EOPNOTSUPP || error == ENOSYS || error == ENOTTY || error == EINVAL ||
           error == ENODEV;
}

/* -EOPNOTSUPP where the host does not have the operation, which is noted in *lacks. */
static int allocate(struct disk_file *file, int mode, _Atomic bool *lacks,
                    uint64_t offset, uint64_t size)
{
    if (*lacks) {
        return -EOPNOTSUPP;
    }
    while (fallocate(file->fd, mode, (off_t)offset, (off_t)size) < 0) {
        if (is_unsupported(errno)) {
            *lacks = true;
            return -EOPNOTSUPP;
        }
        if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

static int punch(struct disk_file *file, uint64_t offset, uint64_t size)
{
    return allocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, &file->lacks_punch,
                    offset, size);
}

int disk_file_discard(struct disk_file *file, uint64_t offset, uint64_t size)
{
    int result = size ? punch(file, offset, size) : 0;
    return result == -EOPNOTSUPP ? 0 : result;
}

static int write_zeros(struct disk_file *file, uint64_t offset, uint64_t size)
{
    static const uint8_t zeros[ZERO_CHUNK];
    int result = 0;
    while (result == 0 && size > 0) {
        uint64_t part = size < ZERO_CHUNK ? size : ZERO_CHUNK;
        struct iovec iov = {(void *)zeros, part};
        result = disk_file_write(file, &iov, 1, offset);
        offset += part;
        size -= part;
    }
    return result;
}

int disk_file_zero(struct disk_file *file, uint64_t offset, uint64_t size, bool may_unmap)
{
    int result = -EOPNOTSUPP;
    if (size == 0) {
        return 0;
    }
    if (may_unmap) {
        result = punch(file, offset, size);
    }
    if (result == -EOPNOTSUPP) {
        result = allocate(file, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                          &file->lacks_zero, offset, size);
    }
    return result == -EOPNOTSUPP ? write_zeros(file, offset, size) : result;
}
