#include "state/directory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/scope.h"

/* The next entry that is not the directory or its parent. */
static struct dirent *next_entry(DIR *stream)
{
    struct dirent *entry;
    do {
        entry = readdir(stream);
    } while (entry &&
             (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0));
    return entry;
}

/* Early, so that nobody waits for what cannot be kept; rename looks again. */
static int check_free(const char *path, struct error *err)
{
    struct stat status;
    if (lstat(path, &status) < 0) {
        return errno == ENOENT ? 0 : fail(err, errno, "cannot write to %s", path);
    }
    DIR *stream = S_ISDIR(status.st_mode) ? opendir(path) : NULL;
    bool is_empty = stream && !next_entry(stream);
    if (stream) {
        closedir(stream);
    }
    return is_empty
               ? 0
               : fail_plain(err, EEXIST,
                            "%s exists already; remove it or take another name", path);
}

int directory_begin(struct directory *directory, const char *path, struct error *err)
{
    *directory = (struct directory){.fd = -1};
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') {
        length--;
    }
    directory->path = strndup(path, length);
    char *filled = NULL;
    if (!directory->path || asprintf(&filled, "%s.XXXXXX", directory->path) < 0) {
        return fail(err, ENOMEM, "cannot write to %s", path);
    }
    SCOPE_FREE char *name = filled;
    int result = check_free(directory->path, err);
    if (result < 0) {
        return result;
    }
    if (!mkdtemp(name)) {
        return fail(err, errno, "cannot make a directory beside %s", directory->path);
    }
    directory->filled = steal(name);
    directory->fd = open(directory->filled, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory->fd < 0) {
        return fail(err, errno, "cannot open %s", directory->filled);
    }
    return 0;
}

int directory_create(struct directory *directory, const char *name, struct error *err)
{
    int fd = openat(directory->fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    return fd >= 0 ? fd : fail(err, errno, "cannot make %s/%s", directory->filled, name);
}

/* Growing a file past RLIMIT_FSIZE would raise SIGXFSZ rather than fail. */
static int check_limit(uint64_t size, struct error *err)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < size) {
        return fail(err, EFBIG, "cannot write (see 'ulimit -f')");
    }
    return 0;
}

#define WRITE_MAX (1u << 20)

int file_write(int fd, const void *data, uint64_t size, struct error *err)
{
    const uint8_t *bytes = data;
    off_t at = lseek(fd, 0, SEEK_CUR);
    int result = check_limit((uint64_t)(at > 0 ? at : 0) + size, err);
    if (result < 0) {
        return result;
    }
    while (size > 0) {
        ssize_t done = write(fd, bytes, size < WRITE_MAX ? size : WRITE_MAX);
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            return fail(err, done < 0 ? errno : EIO, "cannot write");
        }
        bytes += done;
        size -= (uint64_t)done;
    }
    return 0;
}

static int flush_files(struct directory *directory, struct error *err)
{
    DIR *stream = opendir(directory->filled);
    if (!stream) {
        return fail(err, errno, "cannot read %s", directory->filled);
    }
    int result = 0;
    for (struct dirent *entry = next_entry(stream); result >= 0 && entry;
         entry = next_entry(stream)) {
        SCOPE_FD int fd = openat(directory->fd, entry->d_name, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || fsync(fd) < 0) {
            result =
                fail(err, errno, "cannot flush %s/%s", directory->filled, entry->d_name);
        }
    }
    closedir(stream);
    return result;
}

static int flush_parent(const char *path, struct error *err)
{
    const char *slash = strrchr(path, '/');
    size_t length = slash ? (size_t)(slash - path) : 0;
    SCOPE_FREE char *parent = slash ? strndup(path, length ? length : 1) : strdup(".");
    SCOPE_FD int fd = parent ? open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd < 0 || fsync(fd) < 0) {
        return fail(err, errno, "cannot flush the directory of %s", path);
    }
    return 0;
}

/* What may not outlive a crash does not appear. If even this fails, a whole snapshot is
 * left, which harms nobody. */
static void take_back(struct directory *directory)
{
    if (rename(directory->path, directory->filled) < 0) {
        log_warning("cannot take back %s: %s", directory->path, strerror(errno));
    }
}

int directory_commit(struct directory *directory, struct error *err)
{
    int result = flush_files(directory, err);
    if (result < 0) {
        return result;
    }
    if (fsync(directory->fd) < 0) {
        return fail(err, errno, "cannot flush %s", directory->filled);
    }
    if (rename(directory->filled, directory->path) < 0) {
        return fail(err, errno, "cannot rename %s to %s", directory->filled,
                    directory->path);
    }
    result = flush_parent(directory->path, err);
    if (result < 0) {
        take_back(directory);
        return result;
    }
    free(directory->filled);
    directory->filled = NULL;
    return 0;
}

static void remove_filled(struct directory *directory)
{
    DIR *stream = opendir(directory->filled);
    for (struct dirent *entry = stream ? next_entry(stream) : NULL; entry;
         entry = next_entry(stream)) {
        unlinkat(dirfd(stream), entry->d_name, 0);
    }
    if (stream) {
        closedir(stream);
    }
    rmdir(directory->filled);
}

void directory_fini(struct directory *directory)
{
    if (directory->filled) {
        remove_filled(directory);
    }
    if (directory->path && directory->fd >= 0) {
        close(directory->fd);
    }
    free(directory->filled);
    free(directory->path);
    *directory = (struct directory){.fd = -1};
}
