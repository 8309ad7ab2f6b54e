/* Commands that ask a running machine over its control socket. */

#include "tool/remote.h"

#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/scope.h"
#include "base/size.h"
#include "control/client.h"
#include "control/fields.h"
#include "control/passed.h"
#include "state/directory.h"
#include "state/snapshot.h"
#include "tool/command.h"

/* Beyond the guest's time to stop, for the process's own end. */
#define END_PATIENCE_SECONDS 15
/* Writing all of a large guest's memory to a slow disk. */
#define SNAPSHOT_PATIENCE_MS (3600 * 1000)

int remote_error(const struct error *err)
{
    log_error("%s", err->message);
    return STATUS_HOST_ERROR;
}

static int ask(int fd, const char *name, const json_t *body, int patience_ms,
               json_t **result, struct error *err)
{
    const struct operation *operation = operation_find(name);
    struct client_reply reply;
    int status = client_call(fd, operation->method, operation->path, body, patience_ms,
                             &reply, err);
    if (status >= 0 && result) {
        *result = client_json(&reply, err);
        status = *result ? 0 : -err->code;
    }
    client_reply_free(&reply);
    return status;
}

int remote_ask(const char *machine, const char *operation, const struct json_t *body,
               int patience_ms, struct json_t **result, struct error *err)
{
    SCOPE_FD int fd = client_open(machine, err);
    return fd < 0 ? fd : ask(fd, operation, body, patience_ms, result, err);
}

const char *remote_parse(const struct command *command, int argc, char **argv,
                         void *target, int *status)
{
    int operands = command_parse(command, argc, argv, target, status);
    if (operands < 0) {
        return NULL;
    }
    if (operands == 0) {
        *status = usage_error("which machine? doppel ps lists those that run; usage: "
                              "doppel %s %s",
                              command->name, command->operands);
        return NULL;
    }
    return argv[0];
}

int remote_print(struct json_t *object)
{
    SCOPE_FREE char *text = json_dumps(object, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
    json_decref(object);
    if (!text) {
        log_error("out of memory");
        return STATUS_HOST_ERROR;
    }
    puts(text);
    return STATUS_OK;
}

/* --- pause, resume, stop, kill --- */

static int act_run(const struct command *command, int argc, char **argv)
{
    struct error err;
    int status;
    const char *machine = remote_parse(command, argc, argv, NULL, &status);
    if (!machine) {
        return status;
    }
    return remote_ask(machine, command->name, NULL, CLIENT_PATIENCE_MS, NULL, &err) < 0
               ? remote_error(&err)
               : STATUS_OK;
}

/* The machine closes the connection when it has ended. */
static int wait_for_end(int fd, unsigned seconds, struct error *err)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    char byte;
    int ready = poll(&poll_fd, 1, (int)seconds * 1000);
    if (ready > 0 && recv(fd, &byte, 1, 0) <= 0) {
        return 0;
    }
    return fail_plain(err, ETIMEDOUT, "the machine has not ended after %u seconds",
                      seconds);
}

static int end_machine(const char *machine, const char *operation, const json_t *body,
                       unsigned seconds)
{
    struct error err;
    SCOPE_FD int fd = client_open(machine, &err);
    if (fd < 0 || ask(fd, operation, body, CLIENT_PATIENCE_MS, NULL, &err) < 0 ||
        wait_for_end(fd, seconds + END_PATIENCE_SECONDS, &err) < 0) {
        return remote_error(&err);
    }
    return STATUS_OK;
}

static int stop_run(const struct command *command, int argc, char **argv)
{
    struct stop_fields fields = stop_defaults;
    int status;
    const char *machine = remote_parse(command, argc, argv, &fields, &status);
    if (!machine) {
        return status;
    }
    json_t *body = fields_format(stop_options, &fields);
    status = end_machine(machine, "stop", body, fields.timeout);
    json_decref(body);
    return status;
}

static int kill_run(const struct command *command, int argc, char **argv)
{
    int status;
    const char *machine = remote_parse(command, argc, argv, NULL, &status);
    return machine ? end_machine(machine, "kill", NULL, 0) : status;
}

/* --- snapshot --- */

/* The machine's process may be in another directory than we. */
static int absolute_path(const char *path, char absolute[PATH_MAX], struct error *err)
{
    char current[PATH_MAX] = "";
    if (*path != '/' && !getcwd(current, sizeof(current))) {
        return fail(err, errno, "cannot tell the current directory");
    }
    int length =
        snprintf(absolute, PATH_MAX, "%s%s%s", current, *current ? "/" : "", path);
    return length < PATH_MAX ? 0 : fail(err, ENAMETOOLONG, "%.200s", path);
}

/* The machine may make no files, so they are made here and passed to it. */
static int create_files(struct directory *directory, struct passed *files,
                        struct error *err)
{
    while (files->count < SNAPSHOT_FILES) {
        int fd = directory_create(directory, snapshot_file_name[files->count], err);
        if (fd < 0) {
            return fd;
        }
        files->descriptor[files->count++] = fd;
    }
    return 0;
}

/* A boot file that stayed empty is not part of it. */
static int remove_empty(struct directory *directory, const struct passed *files,
                        struct error *err)
{
    for (unsigned i = 0; i < files->count; i++) {
        struct stat status;
        const char *name = snapshot_file_name[i];
        bool is_boot_file =
            strcmp(name, SNAPSHOT_KERNEL) == 0 || strcmp(name, SNAPSHOT_INITRD) == 0;
        if (fstat(files->descriptor[i], &status) < 0 ||
            (is_boot_file && status.st_size == 0 &&
             unlinkat(directory->fd, name, 0) < 0)) {
            return fail(err, errno, "cannot finish %s", directory->path);
        }
    }
    return 0;
}

/* The connection under way, for a signal to end; what was made is removed then. */
static volatile sig_atomic_t interrupted_by, interruptible = -1;

static void interrupt(int number)
{
    interrupted_by = number;
    shutdown(interruptible, SHUT_RDWR);
}

static void catch_signals(int connection)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    const struct sigaction action = {.sa_handler = interrupt, .sa_flags = SA_RESTART};
    interruptible = connection;
    for (unsigned i = 0; i < array_size(numbers); i++) {
        struct sigaction before;
        if (sigaction(numbers[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN) {
            sigaction(numbers[i], &action, NULL);
        }
    }
}

static int save_into(int connection, struct directory *directory, const json_t *body,
                     struct error *err)
{
    const struct operation *operation = operation_find("snapshot");
    struct passed files = {0};
    struct client_reply reply = {0};
    int result = create_files(directory, &files, err);
    if (result >= 0) {
        result = client_call_passing(connection, operation->method, operation->path, body,
                                     &files, SNAPSHOT_PATIENCE_MS, &reply, err);
        client_reply_free(&reply);
    }
    if (result >= 0) {
        result = remove_empty(directory, &files, err);
    }
    passed_close(&files);
    if (interrupted_by) {
        return fail_plain(err, EINTR, "interrupted; nothing is kept of the snapshot");
    }
    return result >= 0 ? directory_commit(directory, err) : result;
}

static int snapshot_run(const struct command *command, int argc, char **argv)
{
    char directory[PATH_MAX];
    struct snapshot_fields fields = {.directory = directory};
    struct error err;
    int status;
    int operands = command_parse(command, argc, argv, NULL, &status);
    if (operands < 0) {
        return status;
    }
    if (operands < 2) {
        return usage_error("which machine, and into which directory? usage: doppel "
                           "snapshot NAME DIR");
    }
    if (absolute_path(argv[1], directory, &err) < 0) {
        return remote_error(&err);
    }
    json_t *body = fields_format(snapshot_options, &fields);
    if (!body) {
        return usage_error("the directory's name is not valid UTF-8");
    }
    struct directory made = DIRECTORY_NONE;
    SCOPE_FD int connection = client_open(argv[0], &err);
    int result = connection < 0 ? connection : 0;
    if (result >= 0) {
        catch_signals(connection);
        result = directory_begin(&made, directory, &err);
    }
    if (result >= 0) {
        result = save_into(connection, &made, body, &err);
    }
    directory_fini(&made);
    json_decref(body);
    if (result < 0) {
        status = remote_error(&err);
        return interrupted_by ? STATUS_SIGNAL + interrupted_by : status;
    }
    return STATUS_OK;
}

/* --- inspect --- */

struct inspect_options {
    bool json;
};

static const struct option_spec inspect_options[] = {
    {"json", NULL, "write all of it as JSON", OPTION_FLAG,
     offsetof(struct inspect_options, json)},
    {NULL},
};

static void print_row(const char *name, const json_t *value)
{
    if (json_is_string(value) && *json_string_value(value)) {
        printf("%-10s %s\n", name, json_string_value(value));
    } else if (json_is_integer(value)) {
        printf("%-10s %" JSON_INTEGER_FORMAT "\n", name, json_integer_value(value));
    }
}

static void print_devices(const json_t *devices)
{
    size_t index;
    json_t *device;
    json_array_foreach((json_t *)devices, index, device)
    {
        printf("%-10s %-14s %s\n", index ? "" : "devices",
               json_string_value(json_object_get(device, "name")),
               json_string_value(json_object_get(device, "model")));
    }
}

/* One line if all is well, and one for each mechanism that could not be had. */
static void print_jail(json_t *jail)
{
    const char *name;
    json_t *finding;
    printf("%-10s %s\n", "jail",
           json_is_true(json_object_get(jail, "closed")) ? "closed" : "off");
    json_object_foreach(jail, name, finding)
    {
        const char *state = json_string_value(json_object_get(finding, "state"));
        if (state && strcmp(state, "refused") == 0) {
            printf("%-10s without %s: %s\n", "", name,
                   json_string_value(json_object_get(finding, "note")));
        }
    }
}

static void print_inspection(const json_t *object)
{
    static const char *const rows[] = {"name", "pid", "state", "engine", "cpus"};
    static const char *const boot_rows[] = {"kernel", "protocol", "initrd", "append"};
    char size[SIZE_TEXT];
    for (unsigned i = 0; i < array_size(rows); i++) {
        print_row(rows[i], json_object_get(object, rows[i]));
    }
    printf("%-10s %s\n", "memory",
           size_format((uint64_t)json_integer_value(json_object_get(object, "memory")),
                       size));
    const json_t *machine = json_object_get(object, "machine");
    print_row("machine", json_object_get(machine, "machine"));
    print_row("cpu", json_object_get(machine, "cpu"));
    for (unsigned i = 0; i < array_size(boot_rows); i++) {
        print_row(boot_rows[i],
                  json_object_get(json_object_get(machine, "boot"), boot_rows[i]));
    }
    print_row("console", json_object_get(machine, "console"));
    print_jail(json_object_get(object, "jail"));
    print_devices(json_object_get(machine, "devices"));
}

static int inspect_run(const struct command *command, int argc, char **argv)
{
    struct inspect_options options = {0};
    struct error err;
    json_t *object;
    int status;
    const char *machine = remote_parse(command, argc, argv, &options, &status);
    if (!machine) {
        return status;
    }
    if (remote_ask(machine, "inspect", NULL, CLIENT_PATIENCE_MS, &object, &err) < 0) {
        return remote_error(&err);
    }
    if (options.json) {
        return remote_print(object);
    }
    print_inspection(object);
    json_decref(object);
    return STATUS_OK;
}

static const struct option_spec no_options[] = {{NULL}};

static const struct command_example inspect_examples[] = {
    {"inspect web", "Shows the machine's parts and its state."},
    {"inspect web --json", "The same, and more, for programs."},
    {NULL},
};

const struct command inspect_command = {
    .name = "inspect",
    .operands = "NAME",
    .operands_max = 1,
    .description = "NAME is what run --name said, or the path of a control socket.",
    .examples = inspect_examples,
    .options = inspect_options,
    .run = inspect_run,
};

static const struct command_example pause_examples[] = {
    {"pause web", "Stops it where it is; doppel resume web lets it go on."},
    {NULL},
};

const struct command pause_command = {
    .name = "pause",
    .operands = "NAME",
    .operands_max = 1,
    .description = "",
    .examples = pause_examples,
    .options = no_options,
    .run = act_run,
};

static const struct command_example resume_examples[] = {
    {"resume web", "Goes on where pause stopped it."},
    {NULL},
};

const struct command resume_command = {
    .name = "resume",
    .operands = "NAME",
    .operands_max = 1,
    .description = "",
    .examples = resume_examples,
    .options = no_options,
    .run = act_run,
};

static const struct command_example stop_examples[] = {
    {"stop web", "Presses the power button; after 30 seconds pulls the plug."},
    {"stop web --timeout 300", "Gives the guest five minutes."},
    {NULL},
};

const struct command stop_command = {
    .name = "stop",
    .operands = "NAME",
    .operands_max = 1,
    .description = "Waits for the end. A guest that does not listen to its power button "
                   "is ended by force when\nits time is over; with --timeout 0 at once.",
    .examples = stop_examples,
    .options = stop_options,
    .run = stop_run,
};

static const struct command_example kill_examples[] = {
    {"kill web", "Ends it without asking the guest."},
    {NULL},
};

const struct command kill_command = {
    .name = "kill",
    .operands = "NAME",
    .operands_max = 1,
    .description = "The guest has no chance to save anything. doppel run exits with 137.",
    .examples = kill_examples,
    .options = no_options,
    .run = kill_run,
};

static const struct command_example snapshot_examples[] = {
    {"snapshot web saved", "Saves it; doppel restore saved goes on from there."},
    {NULL},
};

const struct command snapshot_command = {
    .name = "snapshot",
    .operands = "NAME DIR",
    .operands_max = 2,
    .description = "The machine stands still while it is saved, and goes on afterwards.",
    .examples = snapshot_examples,
    .options = no_options,
    .run = snapshot_run,
};
