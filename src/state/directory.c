#include "state/directory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
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

/* A stream of its own, for a reading position of its own. */
static DIR *open_stream(int parent, const char *name)
{
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *stream = fd < 0 ? NULL : fdopendir(fd);
    if (!stream && fd >= 0) {
        close(fd);
    }
    return stream;
}

/* Early, so that nobody waits for what cannot be kept; rename looks again. */
static int check_free(const struct directory *directory, struct error *err)
{
    struct stat status;
    if (!*directory->name) {
        return fail_plain(err, EEXIST, "%s exists already", directory->path);
    }
    if (fstatat(directory->parent, directory->name, &status, AT_SYMLINK_NOFOLLOW) < 0) {
        return errno == ENOENT ? 0
                               : fail(err, errno, "cannot write to %s", directory->path);
    }
    DIR *stream = open_stream(directory->parent, directory->name);
    bool is_empty = stream && !next_entry(stream);
    if (stream) {
        closedir(stream);
    }
    return is_empty ? 0
                    : fail_plain(err, EEXIST,
                                 "%s exists already; remove it or take another name",
                                 directory->path);
}

/* A name beside it that nobody has. */
static int make_filled(struct directory *directory, struct error *err)
{
    const unsigned tries_max = 100;
    int result = -1;
    for (unsigned i = 0; result < 0 && i < tries_max && (i == 0 || errno == EEXIST);
         i++) {
        uint32_t random;
        free(directory->filled);
        directory->filled = NULL;
        if (getrandom(&random, sizeof(random), 0) < 0 ||
            asprintf(&directory->filled, "%s.%06x", directory->name, random & 0xffffff) <
                0) {
            directory->filled = NULL;
            return fail(err, ENOMEM, "cannot write to %s", directory->path);
        }
        result = mkdirat(directory->parent, directory->filled, 0700);
    }
    if (result < 0) {
        result = fail(err, errno, "cannot make a directory beside %s", directory->path);
        free(directory->filled);
        directory->filled = NULL;
    }
    return result;
}

/* Without the slashes at its end. */
static char *trim(const char *path)
{
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') {
        length--;
    }
    return strndup(path, length);
}

int directory_begin_at(struct directory *directory, int parent, const char *path,
                       struct error *err)
{
    *directory = (struct directory)DIRECTORY_NONE;
    directory->path = trim(path);
    directory->parent = fcntl(parent, F_DUPFD_CLOEXEC, 0);
    if (!directory->path || directory->parent < 0) {
        return fail(err, errno, "cannot write to %s", path);
    }
    const char *slash = strrchr(directory->path, '/');
    directory->name = slash ? slash + 1 : directory->path;
    int result = check_free(directory, err);
    if (result >= 0) {
        result = make_filled(directory, err);
    }
    if (result < 0) {
        return result;
    }
    directory->fd =
        openat(directory->parent, directory->filled, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return directory->fd < 0 ? fail(err, errno, "cannot open %s", directory->filled) : 0;
}

int directory_begin(struct directory *directory, const char *path, struct error *err)
{
    *directory = (struct directory)DIRECTORY_NONE;
    SCOPE_FREE char *parent = trim(path);
    if (!parent) {
        return fail(err, ENOMEM, "cannot write to %s", path);
    }
    char *slash = strrchr(parent, '/');
    if (slash) {
        slash[slash == parent] = '\0';
    }
    SCOPE_FD int fd = open(slash ? parent : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return fail(err, errno, "cannot make a directory beside %s", path);
    }
    return directory_begin_at(directory, fd, path, err);
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
    DIR *stream = open_stream(directory->fd, ".");
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

/* What may not outlive a crash does not appear. If even this fails, a whole snapshot is
 * left, which harms nobody. */
static void take_back(struct directory *directory)
{
    if (renameat(directory->parent, directory->name, directory->parent,
                 directory->filled) < 0) {
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
    if (renameat(directory->parent, directory->filled, directory->parent,
                 directory->name) < 0) {
        return fail(err, errno, "cannot rename %s to %s", directory->filled,
                    directory->path);
    }
    if (fsync(directory->parent) < 0) {
        result = fail(err, errno, "cannot flush the directory of %s", directory->path);
        take_back(directory);
        return result;
    }
    free(directory->filled);
    directory->filled = NULL;
    return 0;
}

static void remove_filled(struct directory *directory)
{
    DIR *stream = open_stream(directory->parent, directory->filled);
    for (struct dirent *entry = stream ? next_entry(stream) : NULL; entry;
         entry = next_entry(stream)) {
        unlinkat(dirfd(stream), entry->d_name, 0);
    }
    if (stream) {
        closedir(stream);
    }
    unlinkat(directory->parent, directory->filled, AT_REMOVEDIR);
}

void directory_fini(struct directory *directory)
{
    if (directory->filled) {
        remove_filled(directory);
    }
    if (directory->fd >= 0) {
        close(directory->fd);
    }
    if (directory->parent >= 0) {
        close(directory->parent);
    }
    free(directory->filled);
    free(directory->path);
    *directory = (struct directory)DIRECTORY_NONE;
}
