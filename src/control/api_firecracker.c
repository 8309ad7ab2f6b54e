/*
 * The operations of Firecracker's API (its public OpenAPI description, version 1.14) that
 * exist here: paths, bodies and statuses are theirs.
 */

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/scope.h"
#include "control/control_internal.h"
#include "machine/machine.h"

/* Its names for the states. */
static const char *state_name(const struct control *control)
{
    if (!control->vm) {
        return "Not started";
    }
    return vm_get_status(control->vm) == VM_PAUSED ? "Paused" : "Running";
}

/* Strings of the body go into the machine's configuration: it lives until a later one
 * takes its place there. */
static void keep_body(struct control *control, const struct call *call)
{
    json_object_set(control->bodies, call->operation->name, (json_t *)call->object);
}

static int missing(const char *field, struct error *err)
{
    return fail_plain(err, EINVAL, "the field '%s' is missing", field);
}

static int handle_instance(struct control *control, const struct call *call,
                           struct answer *answer, struct error *err)
{
    answer->json = json_pack("{s:s, s:s, s:s, s:s}", "id", control->name, "state",
                             state_name(control), "vmm_version", DOPPEL_VERSION,
                             "app_name", "Doppel");
    return 0;
}

static int handle_version(struct control *control, const struct call *call,
                          struct answer *answer, struct error *err)
{
    answer->json = json_pack("{s:s}", "firecracker_version", DOPPEL_VERSION);
    return 0;
}

/* --- /machine-config --- */

#define MIB            (1ull << 20)
#define MEMORY_MAX_MIB (64ull << 20)

/* The only value of what cannot be changed here. */
static const char *none_choice(unsigned index)
{
    return index == 0 ? "None" : NULL;
}

struct machine_fields {
    unsigned vcpu_count, mem_size_mib; /* 0: not given */
    bool smt, track_dirty_pages;
    const char *cpu_template, *huge_pages;
};

#define MACHINE(name) offsetof(struct machine_fields, name)

static const struct option_spec machine_fields[] = {
    {"vcpu_count", NULL, "virtual processors", OPTION_UNSIGNED, MACHINE(vcpu_count), 1,
     VM_CPUS_MAX},
    {"mem_size_mib", NULL, "memory in MiB", OPTION_UNSIGNED, MACHINE(mem_size_mib),
     CONFIG_MEMORY_MIN / MIB, MEMORY_MAX_MIB},
    {"smt", NULL, "must be false: processors are cores here", OPTION_FLAG, MACHINE(smt)},
    {"track_dirty_pages", NULL, "accepted; pages are always tracked", OPTION_FLAG,
     MACHINE(track_dirty_pages)},
    {"cpu_template", NULL, "the processor is chosen with --cpu", OPTION_CHOICE,
     MACHINE(cpu_template), .choice = none_choice},
    {"huge_pages", NULL, "the host's policy decides", OPTION_CHOICE, MACHINE(huge_pages),
     .choice = none_choice},
    {NULL},
};

static json_t *machine_json(const struct control *control)
{
    const struct machine_config *machine = control->config.machine;
    return json_pack("{s:i, s:I, s:b, s:b, s:s}", "vcpu_count", (int)machine->cpus,
                     "mem_size_mib", (json_int_t)(machine->memory / MIB), "smt", 0,
                     "track_dirty_pages", control->tracks_dirty_pages, "huge_pages",
                     "None");
}

static int handle_get_machine(struct control *control, const struct call *call,
                              struct answer *answer, struct error *err)
{
    answer->json = machine_json(control);
    return 0;
}

static int handle_patch_machine(struct control *control, const struct call *call,
                                struct answer *answer, struct error *err)
{
    const struct machine_fields *fields = call->fields;
    struct machine_config *machine = control->config.machine;
    if (!call->object || json_object_size(call->object) == 0) {
        return fail_plain(err, EINVAL, "the body must give at least one field");
    }
    if (fields->smt) {
        return fail_plain(err, EINVAL,
                          "smt must be false: virtual processors are cores here");
    }
    machine->cpus = fields->vcpu_count ? fields->vcpu_count : machine->cpus;
    if (json_is_boolean(json_object_get(call->object, "track_dirty_pages"))) {
        control->tracks_dirty_pages = fields->track_dirty_pages;
    }
    if (fields->mem_size_mib) {
        machine->memory = fields->mem_size_mib * MIB;
    }
    return 0;
}

static int handle_put_machine(struct control *control, const struct call *call,
                              struct answer *answer, struct error *err)
{
    const struct machine_fields *fields = call->fields;
    if (!fields->vcpu_count) {
        return missing("vcpu_count", err);
    }
    if (!fields->mem_size_mib) {
        return missing("mem_size_mib", err);
    }
    int result = handle_patch_machine(control, call, answer, err);
    if (result >= 0) {
        control->tracks_dirty_pages = fields->track_dirty_pages;
    }
    return result;
}

/* --- /boot-source --- */

struct boot_fields {
    const char *kernel_image_path, *initrd_path, *boot_args;
};

#define BOOT(name) offsetof(struct boot_fields, name)

static const struct option_spec boot_fields[] = {
    {"kernel_image_path", NULL, "kernel to boot; must be given", OPTION_FILE,
     BOOT(kernel_image_path)},
    {"initrd_path", NULL, "initial RAM disk", OPTION_FILE, BOOT(initrd_path)},
    {"boot_args", NULL, "kernel command line", OPTION_STRING, BOOT(boot_args)},
    {NULL},
};

static int check_readable(const char *field, const char *path, struct error *err)
{
    if (path && access(path, R_OK) < 0) {
        return fail(err, errno, "%s: cannot read %s", field, path);
    }
    return 0;
}

static int handle_boot_source(struct control *control, const struct call *call,
                              struct answer *answer, struct error *err)
{
    const struct boot_fields *fields = call->fields;
    struct machine_config *machine = control->config.machine;
    if (!fields->kernel_image_path) {
        return missing("kernel_image_path", err);
    }
    int result = check_readable("kernel_image_path", fields->kernel_image_path, err);
    if (result >= 0) {
        result = check_readable("initrd_path", fields->initrd_path, err);
    }
    if (result < 0) {
        return result;
    }
    keep_body(control, call);
    machine->kernel = fields->kernel_image_path;
    machine->initrd = fields->initrd_path;
    machine->append = fields->boot_args;
    return 0;
}

/* --- /actions, /vm --- */

static const char *action_choice(unsigned index)
{
    static const char *const names[] = {"InstanceStart", "FlushMetrics", "SendCtrlAltDel",
                                        NULL};
    return names[index];
}

struct action_fields {
    const char *action_type;
};

static const struct option_spec action_fields[] = {
    {"action_type", NULL,
     "what to do; SendCtrlAltDel presses the power button, which Linux takes for the "
     "same",
     OPTION_CHOICE, offsetof(struct action_fields, action_type), .choice = action_choice},
    {NULL},
};

static int start(struct control *control, struct error *err)
{
    if (control->vm) {
        return fail_plain(err, EBUSY, "the machine has been started already");
    }
    if (!control->config.machine->kernel) {
        return fail_plain(err, EINVAL,
                          "there is nothing to boot; name a kernel by PUT /boot-source");
    }
    /* What drives add is taken back if it fails: they are added anew the next time. */
    struct machine_config before = *control->config.machine;
    int result = drives_apply(control, err);
    if (result >= 0) {
        result = control->config.start(control->config.opaque, err);
    }
    if (result < 0) {
        *control->config.machine = before;
        free(control->disks);
        control->disks = NULL;
    }
    return result;
}

/* A line of JSON. What a full pipe does not take is dropped: its reader is asleep. */
static int flush_metrics(struct control *control, struct error *err)
{
    if (control->metrics_fd < 0) {
        return fail_plain(
            err, EINVAL,
            "there is nowhere to write metrics; name a file by PUT /metrics");
    }
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    json_t *object = json_pack("{s:I, s:o}", "utc_timestamp_ms",
                               (json_int_t)now.tv_sec * 1000 + now.tv_nsec / 1000000,
                               "stats", stats_json(control));
    SCOPE_FREE char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    if (!text) {
        return fail(err, ENOMEM, "cannot format the metrics");
    }
    size_t length = strlen(text);
    text[length++] = '\n'; /* in place of the terminator */
    ssize_t written = write(control->metrics_fd, text, length);
    if (written < 0 && errno != EAGAIN) {
        return fail(err, errno, "cannot write the metrics");
    }
    return 0;
}

static int handle_action(struct control *control, const struct call *call,
                         struct answer *answer, struct error *err)
{
    const struct action_fields *fields = call->fields;
    const char *action = fields->action_type;
    if (!action) {
        return missing("action_type", err);
    }
    if (strcmp(action, "InstanceStart") == 0) {
        return start(control, err);
    }
    if (!control->vm) {
        return fail_plain(err, EBUSY, "%s: the machine has not been started", action);
    }
    if (strcmp(action, "FlushMetrics") == 0) {
        return flush_metrics(control, err);
    }
    return machine_power_button(control->vm, err);
}

static const char *vm_state_choice(unsigned index)
{
    static const char *const names[] = {"Paused", "Resumed", NULL};
    return names[index];
}

struct vm_fields {
    const char *state;
};

static const struct option_spec vm_fields[] = {
    {"state", NULL, "what the machine shall be", OPTION_CHOICE,
     offsetof(struct vm_fields, state), .choice = vm_state_choice},
    {NULL},
};

static int handle_vm(struct control *control, const struct call *call,
                     struct answer *answer, struct error *err)
{
    const struct vm_fields *fields = call->fields;
    if (!fields->state) {
        return missing("state", err);
    }
    if (strcmp(fields->state, "Paused") == 0) {
        vm_pause(control->vm);
    } else {
        vm_resume(control->vm);
    }
    return 0;
}

static int handle_config(struct control *control, const struct call *call,
                         struct answer *answer, struct error *err)
{
    const struct machine_config *machine = control->config.machine;
    json_t *boot =
        json_pack("{s:s*, s:s*, s:s*}", "kernel_image_path", machine->kernel,
                  "initrd_path", machine->initrd, "boot_args", machine->append);
    answer->json = json_pack("{s:o, s:o, s:o, s:[]}", "boot-source", boot,
                             "machine-config", machine_json(control), "drives",
                             drives_json(control), "network-interfaces");
    return 0;
}

/* --- /metrics --- */

struct metrics_fields {
    const char *metrics_path;
};

static const struct option_spec metrics_fields[] = {
    {"metrics_path", NULL, "file or named pipe that FlushMetrics appends a line to",
     OPTION_FILE, offsetof(struct metrics_fields, metrics_path)},
    {NULL},
};

static int handle_metrics_path(struct control *control, const struct call *call,
                               struct answer *answer, struct error *err)
{
    const struct metrics_fields *fields = call->fields;
    if (!fields->metrics_path) {
        return missing("metrics_path", err);
    }
    if (control->metrics_fd >= 0) {
        return fail_plain(err, EBUSY, "metrics are being written elsewhere already");
    }
    /* For both directions, so that a pipe needs no reader to be opened. */
    int fd = open(fields->metrics_path,
                  O_RDWR | O_CREAT | O_APPEND | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0600);
    if (fd < 0) {
        return fail(err, errno, "metrics_path: cannot write %s", fields->metrics_path);
    }
    control->metrics_fd = fd;
    return 0;
}

const struct operation firecracker_operations[] = {
    {
        .name = "instance",
        .method = HTTP_GET,
        .path = "/",
        .when = OPERATION_ANY,
        .summary = "Tell the machine's name and state",
        .description = "States are \"Not started\", \"Running\" and \"Paused\".",
        .response = "`{\"id\": \"web\", \"state\": \"Running\", \"vmm_version\": "
                    "\"" DOPPEL_VERSION "\", \"app_name\": \"Doppel\"}`",
        .success = 200,
        .handle = handle_instance,
    },
    {
        .name = "version",
        .method = HTTP_GET,
        .path = "/version",
        .when = OPERATION_ANY,
        .summary = "Tell Doppel's version, in the field that clients look for",
        .description = "",
        .response = "`{\"firecracker_version\": \"" DOPPEL_VERSION "\"}`",
        .success = 200,
        .handle = handle_version,
    },
    {
        .name = "get-machine-config",
        .method = HTTP_GET,
        .path = "/machine-config",
        .when = OPERATION_ANY,
        .summary = "Tell the machine's size",
        .description = "",
        .response = "`{\"vcpu_count\": 1, \"mem_size_mib\": 512, \"smt\": false, "
                    "\"track_dirty_pages\": false, \"huge_pages\": \"None\"}`",
        .success = 200,
        .handle = handle_get_machine,
    },
    {
        .name = "put-machine-config",
        .method = HTTP_PUT,
        .path = "/machine-config",
        .when = OPERATION_BEFORE,
        .summary = "Set the machine's size",
        .description = "vcpu_count and mem_size_mib must be given.",
        .fields = machine_fields,
        .request = "{\"vcpu_count\": 2, \"mem_size_mib\": 1024}",
        .success = 204,
        .handle = handle_put_machine,
    },
    {
        .name = "patch-machine-config",
        .method = HTTP_PATCH,
        .path = "/machine-config",
        .when = OPERATION_BEFORE,
        .summary = "Change part of the machine's size",
        .description = "",
        .fields = machine_fields,
        .request = "{\"vcpu_count\": 4}",
        .success = 204,
        .handle = handle_patch_machine,
    },
    {
        .name = "boot-source",
        .method = HTTP_PUT,
        .path = "/boot-source",
        .when = OPERATION_BEFORE,
        .summary = "Name what to boot",
        .description = "",
        .fields = boot_fields,
        .request = "{\"kernel_image_path\": \"/boot/vmlinuz\", \"boot_args\": "
                   "\"console=ttyS0\"}",
        .success = 204,
        .handle = handle_boot_source,
    },
    {
        .name = "drives",
        .method = HTTP_PUT,
        .path = "/drives/{drive_id}",
        .when = OPERATION_BEFORE,
        .summary = "Give the machine a disk, or another in its place",
        .description = "",
        .fields = drive_fields,
        .request = "{\"drive_id\": \"rootfs\", \"path_on_host\": \"/srv/rootfs.img\", "
                   "\"is_root_device\": true, \"is_read_only\": false}",
        .success = 204,
        .handle = drives_put,
    },
    {
        .name = "actions",
        .method = HTTP_PUT,
        .path = "/actions",
        .when = OPERATION_ANY,
        .summary = "Start the machine, press its power button, write its metrics",
        .description = "",
        .fields = action_fields,
        .request = "{\"action_type\": \"InstanceStart\"}",
        .success = 204,
        .handle = handle_action,
    },
    {
        .name = "vm",
        .method = HTTP_PATCH,
        .path = "/vm",
        .when = OPERATION_AFTER,
        .summary = "Pause and resume",
        .description = "",
        .fields = vm_fields,
        .request = "{\"state\": \"Paused\"}",
        .success = 204,
        .handle = handle_vm,
    },
    {
        .name = "vm-config",
        .method = HTTP_GET,
        .path = "/vm/config",
        .when = OPERATION_ANY,
        .summary = "Tell the whole configuration",
        .description = "",
        .response = "`{\"boot-source\": {...}, \"machine-config\": {...}, \"drives\": "
                    "[...], \"network-interfaces\": []}`",
        .success = 200,
        .handle = handle_config,
    },
    {
        .name = "put-metrics",
        .method = HTTP_PUT,
        .path = "/metrics",
        .when = OPERATION_BEFORE,
        .summary = "Say where metrics are written",
        .description = "Each FlushMetrics appends a line of JSON: the time, and the body "
                       "of /doppel/stats. A pipe that is full misses it.",
        .fields = metrics_fields,
        .request = "{\"metrics_path\": \"/tmp/metrics\"}",
        .success = 204,
        .handle = handle_metrics_path,
    },
    {NULL},
};
