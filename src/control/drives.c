/* The disks that are named over the control socket before the machine starts. */

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/control_internal.h"

static const char *cache_choice(unsigned index)
{
    static const char *const names[] = {"Unsafe", "Writeback", NULL};
    return names[index];
}

static const char *io_engine_choice(unsigned index)
{
    static const char *const names[] = {"Sync", "Async", NULL};
    return names[index];
}

struct drive_fields {
    const char *drive_id, *path_on_host, *partuuid, *cache_type, *io_engine;
    bool is_root_device, is_read_only;
};

#define DRIVE(name) offsetof(struct drive_fields, name)

const struct option_spec drive_fields[] = {
    {"drive_id", NULL, "must be given, as in the path", OPTION_STRING, DRIVE(drive_id)},
    {"path_on_host", NULL, "disk image or block device; must be given", OPTION_FILE,
     DRIVE(path_on_host)},
    {"is_root_device", NULL,
     "the first disk; the kernel gets root=/dev/vda, or PARTUUID, with ro or rw",
     OPTION_FLAG, DRIVE(is_root_device)},
    {"is_read_only", NULL, "the guest cannot write to it", OPTION_FLAG,
     DRIVE(is_read_only)},
    {"partuuid", NULL, "the root partition on the root device", OPTION_STRING,
     DRIVE(partuuid)},
    {"cache_type", NULL, "accepted; a flush is always durable", OPTION_CHOICE,
     DRIVE(cache_type), .choice = cache_choice},
    {"io_engine", NULL, "accepted; worker threads do it", OPTION_CHOICE, DRIVE(io_engine),
     .choice = io_engine_choice},
    {"rate_limiter", .kind = OPTION_LATER},
    {"socket", .kind = OPTION_LATER}, /* of a vhost-user back end */
    {NULL},
};

/* The drive of that name, or the count. */
static unsigned find(const struct control *control, const char *id)
{
    unsigned index = 0;
    while (index < control->drive_count && strcmp(control->drive[index].id, id) != 0) {
        index++;
    }
    return index;
}

static bool is_other_root(const struct control *control, unsigned index)
{
    for (unsigned i = 0; i < control->drive_count; i++) {
        if (i != index && control->drive[i].is_root) {
            return true;
        }
    }
    return false;
}

static int check(const struct control *control, const struct call *call,
                 const struct drive_fields *fields, unsigned index, struct error *err)
{
    if (!fields->drive_id || !fields->path_on_host) {
        return fail_plain(err, EINVAL, "the field '%s' is missing",
                          fields->drive_id ? "path_on_host" : "drive_id");
    }
    if (strcmp(fields->drive_id, call->id) != 0) {
        return fail_plain(err, EINVAL, "drive_id '%.64s' is not '%s' as in the path",
                          fields->drive_id, call->id);
    }
    if (control->config.machine->disk_count + control->drive_count >= CONFIG_DISKS_MAX &&
        index == control->drive_count) {
        return fail_plain(err, ENOSPC, "a machine has at most %d disks",
                          CONFIG_DISKS_MAX);
    }
    if (fields->is_root_device && is_other_root(control, index)) {
        return fail_plain(err, EINVAL, "another drive is the root device already");
    }
    if (strlen(fields->path_on_host) >= CONFIG_DISK_PATH_MAX ||
        (fields->partuuid && strlen(fields->partuuid) >= DRIVE_PARTUUID_SIZE)) {
        return fail_plain(err, ENAMETOOLONG, "path_on_host or partuuid is too long");
    }
    if (access(fields->path_on_host, fields->is_read_only ? R_OK : R_OK | W_OK) < 0) {
        return fail(err, errno, "path_on_host: cannot open %s", fields->path_on_host);
    }
    return 0;
}

int drives_put(struct control *control, const struct call *call, struct answer *answer,
               struct error *err)
{
    const struct drive_fields *fields = call->fields;
    unsigned index = find(control, call->id);
    int result = check(control, call, fields, index, err);
    if (result < 0) {
        return result;
    }
    struct drive *drive = &control->drive[index];
    *drive = (struct drive){
        .disk = {.is_readonly = fields->is_read_only},
        .is_root = fields->is_root_device,
    };
    strcpy(drive->id, call->id);
    strcpy(drive->disk.path, fields->path_on_host);
    strcpy(drive->partuuid, fields->partuuid ? fields->partuuid : "");
    if (index == control->drive_count) {
        control->drive_count++;
    }
    return 0;
}

struct json_t *drives_json(const struct control *control)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < control->drive_count; i++) {
        const struct drive *drive = &control->drive[i];
        json_array_append_new(list, json_pack("{s:s, s:s, s:b, s:b}", "drive_id",
                                              drive->id, "path_on_host", drive->disk.path,
                                              "is_root_device", drive->is_root,
                                              "is_read_only", drive->disk.is_readonly));
    }
    return list;
}

/* The command line with the root device's name; the control owns it. */
static int add_root(struct control *control, const struct drive *root, struct error *err)
{
    struct machine_config *machine = control->config.machine;
    char *append;
    if (asprintf(&append, "%s root=%s%s %s",
                 machine->append ? machine->append : "console=ttyS0",
                 *root->partuuid ? "PARTUUID=" : "/dev/vda", root->partuuid,
                 root->disk.is_readonly ? "ro" : "rw") < 0) {
        return fail(err, ENOMEM, "cannot make the kernel's command line");
    }
    free(control->append);
    control->append = append;
    machine->append = append;
    return 0;
}

int drives_apply(struct control *control, struct error *err)
{
    struct machine_config *machine = control->config.machine;
    unsigned count = 0;
    if (!control->drive_count) {
        return 0;
    }
    struct disk_config *disks = calloc(CONFIG_DISKS_MAX, sizeof(*disks));
    if (!disks) {
        return fail(err, ENOMEM, "cannot make the list of disks");
    }
    const struct drive *root = NULL;
    for (unsigned pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < control->drive_count; i++) {
            const struct drive *drive = &control->drive[i];
            if (drive->is_root == (pass == 0)) {
                disks[count++] = drive->disk;
                root = drive->is_root ? drive : root;
            }
        }
    }
    /* Those of the command line come after them. */
    for (unsigned i = 0; i < machine->disk_count; i++) {
        disks[count++] = machine->disk[i];
    }
    control->disks = disks;
    machine->disk = disks;
    machine->disk_count = count;
    return root ? add_root(control, root, err) : 0;
}
