#include "machine/image.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/scope.h"

static const char *irregular_name(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFDIR:
        return "is a directory";
    case S_IFIFO:
        return "is a FIFO; a regular file is needed";
    case S_IFSOCK:
        return "is a socket; a regular file is needed";
    case S_IFCHR:
    case S_IFBLK:
        return "is a device; a regular file is needed";
    default:
        return NULL;
    }
}

int image_open(struct image *image, const char *path, struct error *err)
{
    struct stat status;
    *image = (struct image)IMAGE_NONE;
    if (stat(path, &status) < 0) {
        return fail(err, errno, "cannot be opened");
    }
    if (irregular_name(status.st_mode)) {
        return fail_plain(err, EINVAL, "%s", irregular_name(status.st_mode));
    }
    /* What the name stands for may have changed since: O_NONBLOCK keeps a FIFO from
     * blocking, and the descriptor itself is looked at again. */
    SCOPE_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || fstat(fd, &status) < 0) {
        return fail(err, errno, "cannot be opened");
    }
    if (!S_ISREG(status.st_mode)) {
        return fail_plain(err, EINVAL, "is not a regular file");
    }
    image->fd = steal_fd(&fd);
    image->size = (uint64_t)status.st_size;
    return 0;
}

void image_init_memory(struct image *image, const void *data, uint64_t size)
{
    *image = (struct image){.fd = -1, .data = data, .size = size};
}

void image_take_memory(struct image *image, void *data, uint64_t size)
{
    *image = (struct image){.fd = -1, .data = data, .size = size, .owns_data = true};
}

void image_close(struct image *image)
{
    if (image->fd >= 0) {
        close(image->fd);
    }
    if (image->owns_data) {
        free((void *)image->data);
    }
    free(image->checksum);
    *image = (struct image)IMAGE_NONE;
}

static int read_fully(int fd, uint64_t offset, uint8_t *buffer, uint64_t size)
{
    while (size > 0) {
        ssize_t got = pread(fd, buffer, size, (off_t)offset);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return got < 0 ? -errno : -ENODATA;
        }
        buffer += got;
        offset += (uint64_t)got;
        size -= (uint64_t)got;
    }
    return 0;
}

/* The chunk of a checked image that has the byte at offset: as many as there are. */
static int read_chunk(const struct image *image, uint64_t offset, uint8_t *chunk,
                      struct error *err)
{
    uint64_t number = offset / IMAGE_CHUNK, first = number * IMAGE_CHUNK;
    uint64_t left = image->size - first, size = left < IMAGE_CHUNK ? left : IMAGE_CHUNK;
    if (read_fully(image->fd, image->start + first, chunk, size) < 0 ||
        XXH3_64bits(chunk, size) != image->checksum[number]) {
        return fail_plain(err, EUCLEAN, "damaged at byte %" PRIu64, first);
    }
    return 0;
}

static int read_checked(const struct image *image, uint64_t offset, uint8_t *buffer,
                        uint64_t size, struct error *err)
{
    SCOPE_FREE uint8_t *chunk = malloc(IMAGE_CHUNK);
    if (!chunk) {
        return fail(err, ENOMEM, "cannot be read");
    }
    while (size > 0) {
        uint64_t at = offset % IMAGE_CHUNK, left = IMAGE_CHUNK - at;
        uint64_t part = size < left ? size : left;
        int result = read_chunk(image, offset, chunk, err);
        if (result < 0) {
            return result;
        }
        memcpy(buffer, chunk + at, part);
        buffer += part;
        offset += part;
        size -= part;
    }
    return 0;
}

int image_read(const struct image *image, uint64_t offset, void *buffer, uint64_t size,
               const char *what, struct error *err)
{
    if (!image_contains(image, offset, size)) {
        return fail_plain(err, ENOEXEC,
                          "truncated in %s: it has %" PRIu64 " bytes, and %" PRIu64
                          " more are needed at offset %" PRIu64,
                          what, image->size, size, offset);
    }
    if (size == 0) {
        return 0;
    }
    if (image->fd < 0) {
        memcpy(buffer, image->data + offset, size);
        return 0;
    }
    if (image->checksum) {
        return read_checked(image, offset, buffer, size, err);
    }
    int result = read_fully(image->fd, image->start + offset, buffer, size);
    if (result == -ENODATA) {
        return fail_plain(err, ENODATA, "became shorter while %s was read", what);
    }
    if (result < 0) {
        return fail(err, -result, "cannot read %s", what);
    }
    return 0;
}

static int load_file(const struct image *image, uint64_t offset, uint64_t size,
                     struct memory *memory, gpa_t gpa, const char *what,
                     struct error *err)
{
    SCOPE_FREE uint8_t *chunk = malloc(IMAGE_CHUNK);
    if (!chunk) {
        return fail(err, ENOMEM, "cannot load %s", what);
    }
    int result = 0;
    while (result == 0 && size > 0) {
        /* A checked image's chunks are read as a whole. */
        uint64_t at = image->checksum ? offset % IMAGE_CHUNK : 0;
        uint64_t left = IMAGE_CHUNK - at, part = size < left ? size : left;
        if (!image->checksum || !image_contains(image, offset, part)) {
            result = image_read(image, offset, chunk, part, what, err);
        } else {
            result = read_chunk(image, offset, chunk, err);
        }
        if (result == 0) {
            ram_fill(memory, gpa, chunk + at, part);
        }
        offset += part;
        gpa += part;
        size -= part;
    }
    return result;
}

int image_load(const struct image *image, uint64_t offset, uint64_t size,
               struct memory *memory, gpa_t gpa, const char *what, struct error *err)
{
    if (size == 0) {
        return 0;
    }
    if (!ram_map(memory, gpa, size, true)) {
        return fail_plain(err, ENOMEM,
                          "no guest memory for %s at 0x%" PRIx64 "-0x%" PRIx64, what, gpa,
                          gpa + size);
    }
    if (image->fd >= 0) {
        return load_file(image, offset, size, memory, gpa, what, err);
    }
    if (!image_contains(image, offset, size)) {
        return image_read(image, offset, NULL, size, what,
                          err); /* says what is missing */
    }
    ram_fill(memory, gpa, image->data + offset, size);
    return 0;
}
