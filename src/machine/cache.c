#include "machine/cache.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/log.h"
#include "base/scope.h"
#include "jail/jail.h"

#define CACHE_MAGIC    0x656863614370706full
#define CACHE_VERSION  2u
#define CACHE_NAME_MAX 80

/* At the start of each file; the content's checksums follow (struct image), then the
 * content. */
struct cache_header {
    uint64_t magic;
    uint32_t version, header_size;
    struct cache_key key;
    uint64_t size;     /* of the content */
    uint64_t checksum; /* XXH3-64 of the checksums */
};

/* Bytes of checksums that a content of size bytes has. */
static uint64_t sums_size(uint64_t size)
{
    return (size / IMAGE_CHUNK + (size % IMAGE_CHUNK != 0)) * sizeof(uint64_t);
}

/* Chunk by chunk, while each is warm: tens of megabytes need not be in memory at once. */
static int hash_image(const struct image *image, uint64_t offset, uint64_t size,
                      XXH128_hash_t *hash, struct error *err)
{
    SCOPE_FREE uint8_t *chunk = malloc(IMAGE_CHUNK);
    XXH3_state_t *state = XXH3_createState();
    int result = 0;
    if (!chunk || !state) {
        result = fail(err, ENOMEM, "cannot read its payload");
    } else {
        XXH3_128bits_reset(state);
    }
    while (result == 0 && size > 0) {
        uint64_t part = size < IMAGE_CHUNK ? size : IMAGE_CHUNK;
        result = image_read(image, offset, chunk, part, "the payload", err);
        if (result == 0) {
            XXH3_128bits_update(state, chunk, part);
        }
        offset += part;
        size -= part;
    }
    if (result == 0) {
        *hash = XXH3_128bits_digest(state);
    }
    XXH3_freeState(state);
    return result;
}

int cache_key_make(struct cache_key *key, const struct image *image, uint64_t offset,
                   uint64_t size, struct error *err)
{
    XXH128_hash_t hash;
    int result = hash_image(image, offset, size, &hash, err);
    if (result == 0) {
        *key = (struct cache_key){hash.low64, hash.high64, size};
    }
    return result;
}

static void entry_name(char name[CACHE_NAME_MAX], const struct cache_key *key)
{
    snprintf(name, CACHE_NAME_MAX, "%016" PRIx64 "%016" PRIx64 "-%" PRIu64 ".kernel",
             key->high, key->low, key->size);
}

/* The user's cache directory for us; makes the one that holds it. False: there is none.
 */
static bool user_directory(char *path, size_t size)
{
    const char *base = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    int length;
    if (base && base[0] == '/') { /* relative ones are to be ignored */
        mkdir(base, 0700);
        length = snprintf(path, size, "%s/doppel", base);
    } else if (home && home[0] == '/') {
        length = snprintf(path, size, "%s/.cache", home);
        if (length < 0 || (size_t)length >= size) {
            return false;
        }
        mkdir(path, 0700);
        length = snprintf(path, size, "%s/.cache/doppel", home);
    } else {
        return false;
    }
    return length > 0 && (size_t)length < size;
}

int cache_open(const char *path)
{
    char own[PATH_MAX];
    struct stat status;
    if (!path) {
        if (!user_directory(own, sizeof(own))) {
            log_info("no kernel cache: neither XDG_CACHE_HOME nor HOME is set");
            return -1;
        }
        path = own;
    }
    /* Under the jail, when the guest is reset, nothing is made any more. */
    bool is_made = mkdir(path, 0700) == 0 || errno == EEXIST || jail_is_closed();
    if (!is_made) {
        log_info("no kernel cache: cannot make %s: %s", path, strerror(errno));
        return -1;
    }
    SCOPE_FD int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) < 0) {
        log_info("no kernel cache: cannot open %s: %s", path, strerror(errno));
        return -1;
    }
    /* The checksum is against accidents; against other users there is the owner. */
    if (status.st_uid != geteuid() || (status.st_mode & (S_IWGRP | S_IWOTH))) {
        log_info("no kernel cache: others can write to %s", path);
        return -1;
    }
    if (jail_allow(fd, JAIL_READ, NULL) < 0) {
        return -1;
    }
    return steal_fd(&fd);
}

/* The checksums of an entry's content, and whether its beginning has them. */
static bool open_content(struct image *file, const struct cache_header *header)
{
    uint64_t sums = sums_size(header->size);
    uint8_t first;
    uint64_t *checksum = malloc(sums);
    if (!checksum ||
        image_read(file, sizeof(*header), checksum, sums, "the checksums", NULL) < 0 ||
        XXH3_64bits(checksum, sums) != header->checksum) {
        free(checksum);
        return false;
    }
    file->start = sizeof(*header) + sums;
    file->size = header->size;
    file->checksum = checksum;
    return image_read(file, 0, &first, 1, "the content", NULL) == 0;
}

static bool check_header(const struct cache_header *header, const struct cache_key *key,
                         uint64_t file_size)
{
    return header->magic == CACHE_MAGIC && header->version == CACHE_VERSION &&
           header->header_size == sizeof(*header) &&
           memcmp(&header->key, key, sizeof(*key)) == 0 && header->size > 0 &&
           header->size <= file_size &&
           header->size + sums_size(header->size) == file_size - sizeof(*header);
}

bool cache_find(int cache, const struct cache_key *key, struct image *image)
{
    char name[CACHE_NAME_MAX];
    struct stat status;
    entry_name(name, key);
    SCOPE_FD int fd = openat(cache, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &status) < 0 || !S_ISREG(status.st_mode)) {
        return false;
    }
    struct image file = {.fd = fd, .size = (uint64_t)status.st_size};
    struct cache_header header;
    if (image_read(&file, 0, &header, sizeof(header), "the header", NULL) < 0 ||
        !check_header(&header, key, file.size)) {
        log_info("kernel cache: %s is not usable and will be replaced", name);
        return false;
    }
    if (!open_content(&file, &header)) {
        log_info("kernel cache: %s is damaged and will be replaced", name);
        free(file.checksum);
        return false;
    }
    /* The time of last use, by which the oldest are found. */
    futimens(fd, NULL);
    file.fd = steal_fd(&fd);
    *image = file;
    return true;
}

static int write_fully(int fd, const void *data, uint64_t size)
{
    const uint8_t *next = data;
    while (size > 0) {
        ssize_t done = write(fd, next, size);
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            return done < 0 ? -errno : -EIO;
        }
        next += done;
        size -= (uint64_t)done;
    }
    return 0;
}

static int write_entry(int cache, const char *name, const struct cache_header *header,
                       const uint64_t *sums, const void *data)
{
    SCOPE_FD int fd =
        openat(cache, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return -errno;
    }
    int result = write_fully(fd, header, sizeof(*header));
    if (result == 0) {
        result = write_fully(fd, sums, sums_size(header->size));
    }
    return result < 0 ? result : write_fully(fd, data, header->size);
}

static void sum_up(uint64_t *sums, const uint8_t *data, uint64_t size)
{
    for (uint64_t i = 0; i < size; i += IMAGE_CHUNK) {
        uint64_t left = size - i;
        *sums++ = XXH3_64bits(data + i, left < IMAGE_CHUNK ? left : IMAGE_CHUNK);
    }
}

void cache_store(int cache, const struct cache_key *key, const void *data, uint64_t size)
{
    char name[CACHE_NAME_MAX], temporary[CACHE_NAME_MAX];
    SCOPE_FREE uint64_t *sums = malloc(sums_size(size));
    if (!sums) {
        return;
    }
    sum_up(sums, data, size);
    struct cache_header header = {
        .magic = CACHE_MAGIC,
        .version = CACHE_VERSION,
        .header_size = sizeof(header),
        .key = *key,
        .size = size,
        .checksum = XXH3_64bits(sums, sums_size(size)),
    };
    entry_name(name, key);
    snprintf(temporary, sizeof(temporary), "%d-%" PRIx64 ".new", getpid(), key->low);
    cache_trim(cache, size + sums_size(size) + sizeof(header), CACHE_SIZE_MAX);
    unlinkat(cache, temporary, 0); /* a dead process's, that had our number */
    int result = write_entry(cache, temporary, &header, sums, data);
    if (result == 0 && renameat(cache, temporary, cache, name) < 0) {
        result = -errno;
    }
    if (result < 0) {
        unlinkat(cache, temporary, 0);
        log_info("kernel cache: cannot write %s: %s", name, strerror(-result));
    }
}

struct entry {
    char name[NAME_MAX + 1];
    uint64_t size;
    struct timespec used;
};

static bool is_older(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec != b->tv_sec ? a->tv_sec < b->tv_sec : a->tv_nsec < b->tv_nsec;
}

/* The sum of all regular files' sizes, and the oldest one. */
static uint64_t survey(int cache, struct entry *oldest)
{
    uint64_t total = 0;
    oldest->name[0] = 0;
    /* A descriptor of its own: a duplicate would share the reading position. */
    int fd = openat(cache, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *directory = fd < 0 ? NULL : fdopendir(fd);
    if (!directory) {
        if (fd >= 0) {
            close(fd);
        }
        return 0;
    }
    struct dirent *item;
    while ((item = readdir(directory))) {
        struct stat status;
        if (fstatat(fd, item->d_name, &status, AT_SYMLINK_NOFOLLOW) < 0 ||
            !S_ISREG(status.st_mode)) {
            continue;
        }
        total += (uint64_t)status.st_size;
        if (!oldest->name[0] || is_older(&status.st_mtim, &oldest->used)) {
            snprintf(oldest->name, sizeof(oldest->name), "%s", item->d_name);
            oldest->size = (uint64_t)status.st_size;
            oldest->used = status.st_mtim;
        }
    }
    closedir(directory);
    return total;
}

void cache_trim(int cache, uint64_t room, uint64_t max)
{
    struct entry oldest;
    while (survey(cache, &oldest) + room > max && oldest.name[0]) {
        if (unlinkat(cache, oldest.name, 0) < 0) {
            break;
        }
        log_info("kernel cache: removed %s", oldest.name);
    }
}
