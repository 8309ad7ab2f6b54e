/* Saving a VM into a directory. */

#include "state/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>
#include <xxhash.h>

#include "dispatcher/doorbell.h"
#include "machine/board.h"
#include "state/config.h"
#include "state/directory.h"
#include "state/memory_file.h"
#include "state/part.h"
#include "state/processor.h"
#include "state/snapshot_format.h"

/* What is taken while the guest stands still, and what is written of it. */
struct saving {
    struct vm *vm;
    struct directory directory;
    const int *files; /* in its place, in the order of snapshot_file_name; or NULL */
    struct stream_writer writer;
    struct memory_source memory; /* without a descriptor */
    uint64_t clock_ns;
};

static void saving_fini(struct saving *saving)
{
    memory_source_fini(&saving->memory);
    stream_fini(&saving->writer);
    directory_fini(&saving->directory);
}

const char *const snapshot_file_name[SNAPSHOT_FILES] = {
    SNAPSHOT_STATE, SNAPSHOT_MEMORY, SNAPSHOT_KERNEL, SNAPSHOT_INITRD, SNAPSHOT_MANIFEST,
};

/* A file of the snapshot to write to; the caller closes the descriptor. */
static int create(struct saving *saving, const char *name, struct error *err)
{
    if (!saving->files) {
        return directory_create(&saving->directory, name, err);
    }
    unsigned index = 0;
    while (strcmp(snapshot_file_name[index], name) != 0) {
        index++;
    }
    int fd = fcntl(saving->files[index], F_DUPFD_CLOEXEC, 0);
    return fd >= 0 ? fd : fail(err, errno, "cannot write %s", name);
}

/* --- While the guest stands still --- */

/*
 * Output may still leave the serial port in the console's thread, and lower its interrupt
 * line, between the saving of one device and the next. Two passes that agree have seen no
 * such change.
 */
static int save_parts(struct saving *saving, struct error *err)
{
    const unsigned passes_max = 1000;
    struct stream_writer before;
    stream_init(&before);
    for (unsigned pass = 0; pass < passes_max; pass++) {
        struct stream_writer *now = &saving->writer;
        stream_fini(now);
        state_save(saving->vm, now);
        bool is_equal = pass > 0 && now->size == before.size &&
                        memcmp(now->data, before.data, now->size) == 0;
        if (is_equal || now->is_short_of_memory) {
            stream_fini(&before);
            return now->is_short_of_memory ? fail(err, ENOMEM, "cannot save the state")
                                           : 0;
        }
        struct stream_writer swap = before;
        before = *now;
        *now = swap;
    }
    stream_fini(&before);
    return fail_plain(err, EBUSY, "the devices do not come to rest");
}

static int save_memory(struct saving *saving, struct error *err)
{
    SCOPE_FD int fd = create(saving, SNAPSHOT_MEMORY, err);
    if (fd < 0) {
        return fd;
    }
    if (memory_file_write(saving->vm->memory, fd, &saving->memory, err) < 0) {
        return fail_within(err, SNAPSHOT_MEMORY);
    }
    memory_file_put(&saving->writer, saving->vm->memory, &saving->memory);
    return 0;
}

static int save_still(struct saving *saving, struct error *err)
{
    /* What was asked of the event loop and not done yet would be lost. */
    if (saving->vm->request_pending) {
        return fail_plain(err, EBUSY, "the guest is just being reset or ended");
    }
    vm_hear_doorbells(saving->vm);
    for (unsigned i = 0; i < saving->vm->device_count; i++) {
        device_drain(saving->vm->device[i]);
    }
    saving->clock_ns = clock_now(&saving->vm->clock);
    int result = save_parts(saving, err);
    return result < 0 ? result : save_memory(saving, err);
}

/* --- Afterwards --- */

static void put_file(struct saving *saving, const char *name, uint64_t size,
                     uint64_t checksum)
{
    stream_begin(&saving->writer, SECTION_FILE, name, FILE_VERSION, STREAM_REQUIRED);
    stream_put_u64(&saving->writer, "size", size);
    stream_put_u64(&saving->writer, "checksum", checksum);
    stream_end(&saving->writer);
}

static int save_image(struct saving *saving, const char *name, const struct image *image,
                      struct error *err)
{
    const uint64_t part_max = 1u << 20;
    if (!image || image->size == 0) {
        return 0; /* an empty one is none */
    }
    SCOPE_FREE uint8_t *buffer = malloc(part_max);
    SCOPE_FD int fd = create(saving, name, err);
    XXH3_state_t *hash = XXH3_createState();
    int result = fd < 0 ? fd : 0;
    if (result >= 0 && (!buffer || !hash)) {
        result = fail(err, ENOMEM, "cannot copy the %s", name);
    }
    if (result >= 0) {
        XXH3_64bits_reset(hash);
    }
    for (uint64_t at = 0; result >= 0 && at < image->size; at += part_max) {
        uint64_t part = image->size - at < part_max ? image->size - at : part_max;
        result = image_read(image, at, buffer, part, name, err);
        if (result >= 0) {
            XXH3_64bits_update(hash, buffer, part);
            result = file_write(fd, buffer, part, err);
        }
    }
    if (result >= 0) {
        put_file(saving, name, image->size, XXH3_64bits_digest(hash));
    } else {
        fail_within(err, "%s", name);
    }
    XXH3_freeState(hash);
    return result;
}

static int put_config(struct saving *saving, json_t *config, struct error *err)
{
    SCOPE_FREE char *text = json_dumps(config, JSON_COMPACT | JSON_SORT_KEYS);
    if (!text) {
        return fail(err, ENOMEM, "cannot save the configuration");
    }
    stream_begin(&saving->writer, SECTION_MACHINE, "", MACHINE_VERSION, STREAM_REQUIRED);
    stream_put_text(&saving->writer, "config", text);
    stream_end(&saving->writer);
    return 0;
}

static char *make_manifest(const struct saving *saving, json_t *config)
{
    char created[32] = "";
    time_t now = time(NULL);
    struct tm calendar;
    strftime(created, sizeof(created), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &calendar));
    json_t *manifest =
        json_pack("{s:i, s:s, s:s, s:O, s:I, s:I}", "format", (int)STREAM_FORMAT,
                  "doppel", DOPPEL_VERSION, "created", created, "machine", config,
                  "guest_time_ns", (json_int_t)saving->clock_ns, "memory_bytes",
                  (json_int_t)(saving->memory.page_count * FRAME_SIZE));
    char *text =
        manifest ? json_dumps(manifest, JSON_INDENT(2) | JSON_PRESERVE_ORDER) : NULL;
    json_decref(manifest);
    return text;
}

static int save_text(struct saving *saving, const char *name, const void *data,
                     size_t size, struct error *err)
{
    SCOPE_FD int fd = create(saving, name, err);
    if (fd < 0) {
        return fd;
    }
    return file_write(fd, data, size, err) < 0 ? fail_within(err, "%s", name) : 0;
}

static int save_description(struct saving *saving, struct error *err)
{
    struct machine_config config = board_config(board_find(saving->vm));
    json_t *json = config_to_json(&config);
    SCOPE_FREE char *manifest = json ? make_manifest(saving, json) : NULL;
    int result = manifest ? put_config(saving, json, err)
                          : fail_plain(err, EINVAL,
                                       "a name or the command line is not valid UTF-8");
    json_decref(json);
    if (result < 0) {
        return result;
    }
    cpu_model_put(&saving->writer, &saving->vm->config.cpuid);
    put_file(saving, SNAPSHOT_MANIFEST, strlen(manifest),
             XXH3_64bits(manifest, strlen(manifest)));
    return save_text(saving, SNAPSHOT_MANIFEST, manifest, strlen(manifest), err);
}

/* What restoring would refuse is not saved: there are hosts whose KVM lets a guest use
 * registers that no model of ours has. */
static int check_saved(const struct saving *saving, struct error *err)
{
    struct stream stream;
    SCOPE_FREE struct state_image *image = calloc(1, sizeof(*image));
    if (!image) {
        return fail(err, ENOMEM, "cannot check what is saved");
    }
    int result = stream_parse(&stream, saving->writer.data, saving->writer.size, err);
    if (result >= 0) {
        result = state_check(saving->vm, &stream, image, err);
        state_image_fini(image);
        stream_free(&stream);
    }
    return result < 0 ? fail_within(err, "its state cannot be restored") : 0;
}

static int save_rest(struct saving *saving, struct error *err)
{
    const struct board *board = board_find(saving->vm);
    const struct image *firmware = board_firmware(board);
    int result = save_image(saving, SNAPSHOT_KERNEL,
                            firmware ? firmware : board_kernel(board), err);
    if (result >= 0) {
        result = save_image(saving, SNAPSHOT_INITRD, board_initrd(board), err);
    }
    if (result >= 0) {
        result = save_description(saving, err);
    }
    if (result >= 0) {
        result = stream_finish(&saving->writer, err);
    }
    if (result >= 0) {
        result = check_saved(saving, err);
    }
    if (result >= 0) {
        result = save_text(saving, SNAPSHOT_STATE, saving->writer.data,
                           saving->writer.size, err);
    }
    return result >= 0 && !saving->files ? directory_commit(&saving->directory, err)
                                         : result;
}

static int pause_alive(struct vm *vm, struct error *err)
{
    vm_pause(vm);
    if (vm_get_status(vm) != VM_PAUSED) {
        return fail_plain(err, EINVAL, "it does not run");
    }
    return 0;
}

static int save(struct saving *saving, struct error *err)
{
    struct vm *vm = saving->vm;
    bool was_running = vm_get_status(vm) == VM_RUNNING;
    int result = pause_alive(vm, err);
    if (result >= 0) {
        result = save_still(saving, err);
        if (was_running) {
            vm_resume(vm);
        }
    }
    return result >= 0 ? save_rest(saving, err) : result;
}

static int finish(struct saving *saving, int result, struct error *err)
{
    if (result >= 0) {
        result = save(saving, err);
    }
    saving_fini(saving);
    return result < 0 ? fail_within(err, "cannot save the virtual machine") : 0;
}

#define SAVING(machine)                                                            \
    {                                                                              \
        .vm = (machine), .directory = DIRECTORY_NONE, .memory = MEMORY_SOURCE_NONE \
    }

int vm_snapshot(struct vm *vm, const char *dir, struct error *err)
{
    struct saving saving = SAVING(vm);
    return finish(&saving, directory_begin(&saving.directory, dir, err), err);
}

int vm_snapshot_at(struct vm *vm, int parent, const char *dir, struct error *err)
{
    struct saving saving = SAVING(vm);
    return finish(&saving, directory_begin_at(&saving.directory, parent, dir, err), err);
}

int vm_snapshot_files(struct vm *vm, const int fd[SNAPSHOT_FILES], struct error *err)
{
    struct saving saving = SAVING(vm);
    saving.files = fd;
    return finish(&saving, 0, err);
}
