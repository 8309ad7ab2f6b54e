/* Making a VM from a directory. Everything is read and checked before anything of it is
 * applied. */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/log.h"
#include "state/config.h"
#include "state/memory_file.h"
#include "state/part.h"
#include "state/processor.h"
#include "state/snapshot.h"
#include "state/snapshot_format.h"

/* Far beyond what the largest guest needs: 12 bytes per page at worst. */
#define STATE_SIZE_MAX (1ull << 30)

struct snapshot {
    char *dir;
    int dir_fd;
    uint8_t *data; /* of the state file */
    size_t size;
    struct stream stream;
    json_t *json; /* the configuration, from which config borrows */
    struct machine_config config;
    struct disk_config disk[CONFIG_DISKS_MAX];
    struct cpuid_policy cpuid;
    char *kernel, *initrd; /* paths */
};

/* --- Reading --- */

/* A regular file of the snapshot, and its size. */
static int open_file(const struct snapshot *snapshot, const char *name, uint64_t *size,
                     struct error *err)
{
    struct stat status;
    SCOPE_FD int fd =
        openat(snapshot->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || fstat(fd, &status) < 0) {
        return fail(err, errno, "file %s cannot be opened", name);
    }
    if (!S_ISREG(status.st_mode)) {
        return fail_plain(err, EINVAL, "file %s is not a regular file", name);
    }
    *size = (uint64_t)status.st_size;
    return steal_fd(&fd);
}

/* Exactly size bytes; a file that is shorter now is truncated. */
static int read_all(int fd, uint8_t *buffer, size_t size, const char *name,
                    struct error *err)
{
    while (size > 0) {
        ssize_t got = read(fd, buffer, size);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return fail(err, got < 0 ? errno : EIO, "file %s cannot be read", name);
        }
        buffer += got;
        size -= (size_t)got;
    }
    return 0;
}

static int read_state(struct snapshot *snapshot, struct error *err)
{
    uint64_t size;
    SCOPE_FD int fd = open_file(snapshot, SNAPSHOT_STATE, &size, err);
    if (fd < 0) {
        return fd;
    }
    if (size > STATE_SIZE_MAX) {
        return fail_plain(err, EFBIG, "file %s has %" PRIu64 " bytes", SNAPSHOT_STATE,
                          size);
    }
    snapshot->size = size;
    snapshot->data = malloc(size + 1);
    if (!snapshot->data) {
        return fail(err, ENOMEM, "file %s cannot be read", SNAPSHOT_STATE);
    }
    int result = read_all(fd, snapshot->data, size, SNAPSHOT_STATE, err);
    if (result >= 0) {
        result = stream_parse(&snapshot->stream, snapshot->data, size, err);
        if (result < 0) {
            fail_within(err, "file %s", SNAPSHOT_STATE);
        }
    }
    return result;
}

static int hash_file(int fd, uint64_t size, const char *name, uint64_t *checksum,
                     struct error *err)
{
    const size_t part_max = 1u << 18;
    SCOPE_FREE uint8_t *buffer = malloc(part_max);
    XXH3_state_t *hash = XXH3_createState();
    int result = buffer && hash ? 0 : fail(err, ENOMEM, "file %s cannot be read", name);
    if (result >= 0) {
        XXH3_64bits_reset(hash);
    }
    while (result >= 0 && size > 0) {
        size_t part = size < part_max ? (size_t)size : part_max;
        result = read_all(fd, buffer, part, name, err);
        if (result >= 0) {
            XXH3_64bits_update(hash, buffer, part);
            size -= part;
        }
    }
    if (result >= 0) {
        *checksum = XXH3_64bits_digest(hash);
    }
    XXH3_freeState(hash);
    return result;
}

/* A file that the stream tells the size and the checksum of. */
static int check_file(struct snapshot *snapshot, const char *name, struct error *err)
{
    uint64_t size, expected_size, checksum, expected;
    const struct stream_section *section =
        stream_need(&snapshot->stream, SECTION_FILE, name, FILE_VERSION, err);
    int result = section ? section_u64(section, "size", &expected_size, err) : -err->code;
    if (result >= 0) {
        result = section_u64(section, "checksum", &expected, err);
    }
    if (result < 0) {
        return result;
    }
    SCOPE_FD int fd = open_file(snapshot, name, &size, err);
    if (fd < 0) {
        return fd;
    }
    if (size != expected_size) {
        return fail_plain(
            err, EINVAL, "file %s %s: it has %" PRIu64 " bytes instead of %" PRIu64, name,
            size < expected_size ? "is truncated" : "is damaged", size, expected_size);
    }
    result = hash_file(fd, size, name, &checksum, err);
    if (result >= 0 && checksum != expected) {
        return fail_plain(err, EINVAL, "file %s is damaged: its checksum is wrong", name);
    }
    return result;
}

/* A boot file, if there is one; *path is then its name for the machine. */
static int find_image(struct snapshot *snapshot, const char *name, char **path,
                      struct error *err)
{
    if (!stream_find(&snapshot->stream, SECTION_FILE, name)) {
        return 0;
    }
    if (asprintf(path, "%s/%s", snapshot->dir, name) < 0) {
        *path = NULL;
        return fail(err, ENOMEM, "cannot name the file %s", name);
    }
    return check_file(snapshot, name, err);
}

static int read_config(struct snapshot *snapshot, struct error *err)
{
    SCOPE_FREE char *text = NULL;
    const struct stream_section *section =
        stream_need(&snapshot->stream, SECTION_MACHINE, "", MACHINE_VERSION, err);
    int result = section ? section_text(section, "config", &text, err) : -err->code;
    if (result < 0) {
        return result;
    }
    json_error_t error;
    snapshot->json = json_loads(text, JSON_REJECT_DUPLICATES, &error);
    if (!snapshot->json) {
        return fail_plain(err, EINVAL, "the configuration is no JSON: %s", error.text);
    }
    result = config_from_json(snapshot->json, &snapshot->config, snapshot->disk, err);
    if (result < 0) {
        return result;
    }
    return cpu_model_get(&snapshot->stream, &snapshot->cpuid, err);
}

static int read_files(struct snapshot *snapshot, struct error *err)
{
    int result = find_image(snapshot, SNAPSHOT_KERNEL, &snapshot->kernel, err);
    if (result >= 0) {
        result = find_image(snapshot, SNAPSHOT_INITRD, &snapshot->initrd, err);
    }
    if (result >= 0) {
        result = check_file(snapshot, SNAPSHOT_MANIFEST, err);
    }
    return result;
}

static int snapshot_read(struct snapshot *snapshot, struct error *err)
{
    snapshot->dir_fd = open(snapshot->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (snapshot->dir_fd < 0) {
        return fail(err, errno, "the directory cannot be opened");
    }
    int result = read_state(snapshot, err);
    if (result >= 0) {
        result = read_config(snapshot, err);
    }
    return result >= 0 ? read_files(snapshot, err) : result;
}

struct snapshot *snapshot_open(const char *dir, struct error *err)
{
    struct snapshot *snapshot = calloc(1, sizeof(*snapshot));
    if (!snapshot) {
        fail(err, ENOMEM, "cannot restore %.200s", dir);
        return NULL;
    }
    snapshot->dir_fd = -1;
    snapshot->dir = strdup(dir);
    int result = snapshot->dir ? snapshot_read(snapshot, err)
                               : fail(err, ENOMEM, "it cannot be read");
    if (result < 0) {
        fail_within(err, "cannot restore %.200s", dir);
        snapshot_close(snapshot);
        return NULL;
    }
    return snapshot;
}

void snapshot_close(struct snapshot *snapshot)
{
    if (!snapshot) {
        return;
    }
    if (snapshot->dir_fd >= 0) {
        close(snapshot->dir_fd);
    }
    json_decref(snapshot->json);
    stream_free(&snapshot->stream);
    free(snapshot->data);
    free(snapshot->kernel);
    free(snapshot->initrd);
    free(snapshot->dir);
    free(snapshot);
}

struct machine_config snapshot_config(const struct snapshot *snapshot)
{
    struct machine_config config = snapshot->config;
    config.engine = "auto";
    if (config.firmware) {
        config.firmware = snapshot->kernel;
    } else {
        config.kernel = snapshot->kernel;
    }
    config.initrd = snapshot->initrd;
    return config;
}

/* --- Applying --- */

static int find_memory(struct snapshot *snapshot, const struct vm *vm,
                       struct memory_source *source, struct error *err)
{
    uint64_t size;
    int result = memory_file_get(&snapshot->stream, vm->memory, source, err);
    if (result < 0) {
        return result;
    }
    source->fd = open_file(snapshot, SNAPSHOT_MEMORY, &size, err);
    result = source->fd < 0 ? source->fd : memory_source_verify(source, err);
    if (result < 0) {
        memory_source_fini(source);
    }
    return result;
}

static void memory_failed(void *opaque, const char *message)
{
    vm_request_end(opaque, VM_END_ERROR, 0, message);
}

static int apply(struct snapshot *snapshot, struct vm *vm,
                 const struct state_image *image, struct error *err)
{
    struct memory_source source;
    int result = find_memory(snapshot, vm, &source, err);
    if (result >= 0 && stream_check_known(&snapshot->stream, err) < 0) {
        memory_source_fini(&source);
        result = -err->code;
    }
    if (result < 0) {
        return result;
    }
    const struct memory_load load = {
        .mode = MEMORY_LOAD_LAZY_IN_KERNEL,
        .failed = memory_failed,
        .opaque = vm,
    };
    result = memory_load(vm->memory, &source, &load, err);
    if (result < 0) {
        return result;
    }
    log_info("guest memory is brought in %s",
             result > 0 ? "as it is touched" : "at once");
    state_apply(vm, image);
    vm->is_restored = true;
    return 0;
}

struct vm *vm_restore(struct snapshot *snapshot, const struct machine_config *config,
                      const struct console_port *console, struct error *err)
{
    struct machine_config own = *config;
    own.cpuid = &snapshot->cpuid;
    struct vm *vm = machine_new(&own, console, err);
    struct state_image *image = calloc(1, sizeof(*image));
    int result = vm ? 0 : -err->code;
    if (result >= 0 && !image) {
        result = fail(err, ENOMEM, "it cannot be read");
    }
    if (result >= 0) {
        result = state_check(vm, &snapshot->stream, image, err);
    }
    if (result >= 0) {
        result = apply(snapshot, vm, image, err);
    }
    if (image) {
        state_image_fini(image);
        free(image);
    }
    if (result < 0) {
        fail_within(err, "cannot restore %.200s", snapshot->dir);
        vm_free(vm);
        return NULL;
    }
    return vm;
}
