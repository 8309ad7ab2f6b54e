/* Doppel's own operations, under /doppel/. */

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/scope.h"
#include "control/control_internal.h"
#include "control/passed.h"
#include "jail/jail.h"
#include "machine/machine.h"
#include "state/snapshot.h"

/* {"closed": true, "seccomp": {"state": "on", "note": ""}, ...} */
static json_t *jail_json(void)
{
    json_t *object = json_pack("{s:b}", "closed", jail_is_closed());
    for (unsigned i = 0; i < JAIL_MECHANISMS; i++) {
        struct jail_finding finding = jail_finding(i);
        json_object_set_new(object, jail_mechanism_name(i),
                            json_pack("{s:s, s:s}", "state",
                                      jail_state_name(finding.state), "note",
                                      finding.note));
    }
    return object;
}

struct json_t *control_inspect(struct control *control)
{
    const struct machine_config *machine = control->config.machine;
    json_t *object =
        json_pack("{s:s, s:i, s:s, s:s, s:i, s:I, s:i}", "name", control->name, "pid",
                  (int)getpid(), "state", control_state(control), "engine",
                  control->vm ? control->vm->engine_ops->name : machine->engine, "cpus",
                  (int)machine->cpus, "memory", (json_int_t)machine->memory,
                  "console_clients", (int)hub_clients(control->hub));
    if (!object) {
        return NULL;
    }
    if (control->vm) {
        json_object_set_new(object, "started", json_integer(control->started_s));
        json_object_set_new(object, "guest_ns",
                            json_integer((json_int_t)clock_now(&control->vm->clock)));
    }
    json_object_set_new(object, "jail", jail_json());
    json_object_set_new(object, "machine",
                        control->machine ? json_incref(control->machine) : json_null());
    return object;
}

static int handle_inspect(struct control *control, const struct call *call,
                          struct answer *answer, struct error *err)
{
    answer->json = control_inspect(control);
    return 0;
}

static int handle_stats(struct control *control, const struct call *call,
                        struct answer *answer, struct error *err)
{
    answer->json = stats_json(control);
    return 0;
}

static int handle_metrics(struct control *control, const struct call *call,
                          struct answer *answer, struct error *err)
{
    answer->text = metrics_text(control, &answer->length);
    answer->type = "text/plain; version=0.0.4";
    return 0;
}

static int handle_console(struct control *control, const struct call *call,
                          struct answer *answer, struct error *err)
{
    if (!call->request->upgrades_to_console) {
        answer->text = hub_copy(control->hub, &answer->length);
        answer->type = "application/octet-stream";
        return 0;
    }
    if (hub_clients(control->hub) >= HUB_CLIENTS_MAX) {
        answer->status = 503;
        return fail_plain(err, EBUSY, "%d clients are attached to this console already",
                          HUB_CLIENTS_MAX);
    }
    answer->upgrades = true;
    return 0;
}

static int handle_pause(struct control *control, const struct call *call,
                        struct answer *answer, struct error *err)
{
    vm_pause(control->vm);
    return 0;
}

static int handle_resume(struct control *control, const struct call *call,
                         struct answer *answer, struct error *err)
{
    vm_resume(control->vm);
    return 0;
}

const struct stop_fields stop_defaults = {.timeout = 30};

const struct option_spec stop_options[] = {
    {"timeout", "SECONDS",
     "how long the guest may take before it is ended by force; 30 if not given",
     OPTION_UNSIGNED, offsetof(struct stop_fields, timeout), 0, 86400},
    {NULL},
};

static int handle_stop(struct control *control, const struct call *call,
                       struct answer *answer, struct error *err)
{
    const struct stop_fields *fields = call->fields;
    if (!control->vm || fields->timeout == 0) {
        control->config.end(control->config.opaque, control->vm ? SIGKILL : 0);
        return 0;
    }
    int result = machine_power_button(control->vm, err);
    if (result >= 0) {
        struct itimerspec when = {.it_value.tv_sec = (time_t)fields->timeout};
        timerfd_settime(control->stop_fd, 0, &when, NULL);
        vm_resume(control->vm);
    }
    return result;
}

static int handle_kill(struct control *control, const struct call *call,
                       struct answer *answer, struct error *err)
{
    control->config.end(control->config.opaque, SIGKILL);
    return 0;
}

const struct option_spec snapshot_options[] = {
    {"directory", NULL,
     "where to put it: an absolute path, in the directory that --snapshot-dir named; "
     "must "
     "be given if no files are passed",
     OPTION_FILE, offsetof(struct snapshot_fields, directory)},
    {NULL},
};

/* Files that a client made: no pipe or device that could hold the machine up. */
static int check_files(const struct passed *passed, struct error *err)
{
    struct stat status;
    if (passed->count != SNAPSHOT_FILES) {
        return fail_plain(err, EINVAL, "a snapshot takes %d descriptors, not %u",
                          SNAPSHOT_FILES, passed->count);
    }
    for (unsigned i = 0; i < SNAPSHOT_FILES; i++) {
        int fd = passed->descriptor[i];
        int flags = fcntl(fd, F_GETFL);
        bool is_good = flags >= 0 && (flags & O_ACCMODE) != O_RDONLY &&
                       fstat(fd, &status) == 0 && S_ISREG(status.st_mode) &&
                       status.st_size == 0;
        if (!is_good) {
            return fail_plain(err, EINVAL,
                              "descriptor %u, for %s, is not an empty file to write to",
                              i, snapshot_file_name[i]);
        }
    }
    return 0;
}

/* Is it the directory's parent that --snapshot-dir let in? */
static bool is_within(int snapshot_dir, const char *directory)
{
    struct stat allowed, parent;
    SCOPE_FREE char *path = strdup(directory);
    size_t length = path ? strlen(path) : 0;
    while (length > 1 && path[length - 1] == '/') {
        path[--length] = '\0';
    }
    char *slash = length ? strrchr(path, '/') : NULL;
    if (!slash || snapshot_dir < 0) {
        return false;
    }
    slash[slash == path] = '\0';
    return fstat(snapshot_dir, &allowed) == 0 && stat(path, &parent) == 0 &&
           allowed.st_dev == parent.st_dev && allowed.st_ino == parent.st_ino;
}

static int handle_snapshot(struct control *control, const struct call *call,
                           struct answer *answer, struct error *err)
{
    const struct snapshot_fields *fields = call->fields;
    if (call->request->passed->count) {
        int result = check_files(call->request->passed, err);
        return result < 0 ? result
                          : vm_snapshot_files(control->vm,
                                              call->request->passed->descriptor, err);
    }
    if (!fields->directory || *fields->directory != '/') {
        return fail_plain(err, EINVAL, "directory must be given, as an absolute path");
    }
    if (is_within(control->config.snapshot_dir, fields->directory)) {
        return vm_snapshot_at(control->vm, control->config.snapshot_dir,
                              fields->directory, err);
    }
    if (jail_is_closed()) {
        return fail_plain(err, EACCES,
                          "the machine's jail lets it make no directory %s; use doppel "
                          "snapshot, pass files (docs/api.md), or start it with "
                          "--snapshot-dir",
                          fields->directory);
    }
    return vm_snapshot(control->vm, fields->directory, err);
}

const struct operation machine_operations[] = {
    {
        .name = "inspect",
        .method = HTTP_GET,
        .path = "/doppel/inspect",
        .when = OPERATION_ANY,
        .summary = "Tell what a machine is made of and how it is",
        .description = "\"state\" is \"waiting\" (to be configured and started), "
                       "\"running\" or \"paused\"; \"guest_ns\" is guest time, "
                       "\"machine\" what `doppel run --dry-run` prints.",
        .response = "`{\"name\": \"web\", \"pid\": 4711, \"state\": \"running\", "
                    "\"engine\": \"interpreter\", \"cpus\": 1, \"memory\": 536870912, "
                    "...}`",
        .success = 200,
        .handle = handle_inspect,
    },
    {
        .name = "stats",
        .method = HTTP_GET,
        .path = "/doppel/stats",
        .when = OPERATION_AFTER,
        .summary = "Count a machine's exits, memory and processor time",
        .description =
            "\"exits\" is what `--exit-stats` writes: for every virtual processor and "
            "in total, each reason with its count and the nanoseconds its handling "
            "took; \"inside\" is what the engine counts of its own "
            "([translator.md](translator.md) explains the translator's). \"timer\" is "
            "how "
            "late the APIC timer's interrupts were, \"device_timers\" the other timers: "
            "how many came, how many merged with one before (\"missed\"), the worst, and "
            "how many came within each time (null: later; [time.md](time.md)). Memory is "
            "in bytes, the time of threads in nanoseconds.",
        .response = "`{\"exits\": {\"version\": 1, \"engine\": \"translator\", "
                    "\"wall_ns\": 2000000000, \"vcpus\": [{\"index\": 0, \"retired\": "
                    "null, \"exits\": {\"io\": {\"count\": 12, \"ns\": 3400}, ...}, "
                    "\"timer\": {\"count\": 250, \"missed\": 0, \"worst_ns\": 83000, "
                    "\"late\": [{\"within_ns\": 10000, \"count\": 201}, ..., "
                    "{\"within_ns\": null, \"count\": 0}]}, \"inside\": {...}}, ...], "
                    "\"totals\": {...}, \"device_timers\": {...}}, \"memory\": "
                    "{\"configured\": 536870912, "
                    "\"resident\": 73400320, \"process\": 81788928}, \"threads\": "
                    "[{\"name\": \"cpu0\", \"ns\": 1200000000}, ...]}`",
        .success = 200,
        .handle = handle_stats,
    },
    {
        .name = "metrics",
        .method = HTTP_GET,
        .path = "/doppel/metrics",
        .when = OPERATION_AFTER,
        .summary = "The same for Prometheus, as text",
        .description = "",
        .response =
            "lines such as `doppel_exits_total{vcpu=\"0\",reason=\"io\"} 1234`; timers "
            "are the histogram `doppel_timer_late_seconds` and "
            "`doppel_timer_missed_total`, each with `timer=\"apic\",vcpu=\"0\"` and "
            "`timer=\"device\"`",
        .success = 200,
        .handle = handle_metrics,
    },
    {
        .name = "console",
        .method = HTTP_GET,
        .path = "/doppel/console",
        .when = OPERATION_ANY,
        .summary = "Attach this terminal to a machine's console",
        .description =
            "With the headers `Connection: Upgrade` and `Upgrade: doppel-console` the "
            "answer is 101, and from then on the connection carries the bytes of the "
            "first serial port in both directions, beginning with the last 256 KiB of "
            "output. Up to 16 may be attached; all see the same, all may type. One that "
            "does not read misses output and is told how much. Without these headers the "
            "answer is the kept output.",
        .response = "the bytes",
        .success = 200,
        .handle = handle_console,
    },
    {
        .name = "pause",
        .method = HTTP_PUT,
        .path = "/doppel/pause",
        .when = OPERATION_AFTER,
        .summary = "Stop a machine's processors and its time",
        .description = "One that is paused stays so.",
        .success = 204,
        .handle = handle_pause,
    },
    {
        .name = "resume",
        .method = HTTP_PUT,
        .path = "/doppel/resume",
        .when = OPERATION_AFTER,
        .summary = "Let a paused machine go on",
        .description = "One that runs goes on.",
        .success = 204,
        .handle = handle_resume,
    },
    {
        .name = "stop",
        .method = HTTP_PUT,
        .path = "/doppel/stop",
        .when = OPERATION_ANY,
        .summary = "Ask a machine's guest to power off; end it if it does not",
        .description =
            "Presses the ACPI power button, having resumed a machine that was paused; if "
            "it still runs after the timeout it is ended as by kill. Pressed again the "
            "timeout begins anew. The connection is closed when the machine has ended.",
        .fields = stop_options,
        .defaults = &stop_defaults,
        .fields_size = sizeof(stop_defaults),
        .request = "{\"timeout\": 60}",
        .success = 202,
        .handle = handle_stop,
    },
    {
        .name = "kill",
        .method = HTTP_PUT,
        .path = "/doppel/kill",
        .when = OPERATION_ANY,
        .summary = "End a machine at once, as if its power was cut",
        .description =
            "`doppel run` then exits with status 137. The connection is closed "
            "when the machine has ended.",
        .success = 202,
        .handle = handle_kill,
    },
    {
        .name = "snapshot",
        .method = HTTP_PUT,
        .path = "/doppel/snapshot",
        .when = OPERATION_AFTER,
        .summary = "Save a machine's whole state into a directory",
        .description = "`doppel restore` goes on from there. The machine stands still "
                       "meanwhile, and then goes on if it was running; nothing else is "
                       "answered before it is saved. Either by path, or by "
                       "descriptors that come with the request (SCM_RIGHTS on its first "
                       "byte): five empty files to write to, for `state`, `memory`, "
                       "`kernel`, `initrd` and `manifest.json`, which the client flushes "
                       "and puts together; one that stays empty is not part of the "
                       "snapshot. `doppel snapshot` does so, and needs no permission of "
                       "the machine's jail.",
        .fields = snapshot_options,
        .fields_size = sizeof(struct snapshot_fields),
        .request = "{\"directory\": \"/var/tmp/saved\"}",
        .success = 204,
        .handle = handle_snapshot,
    },
    {NULL},
};
