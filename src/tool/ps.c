/* doppel ps: the user's running machines. */

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/size.h"
#include "control/client.h"
#include "control/runtime.h"
#include "tool/command.h"
#include "tool/remote.h"

/* One machine that hangs does not hold up the list for long. */
#define PATIENCE_MS 2000

struct ps_options {
    bool json;
};

static const struct option_spec ps_options[] = {
    {"json", NULL, "write the list as JSON", OPTION_FLAG,
     offsetof(struct ps_options, json)},
    {NULL},
};

/* What the list tells of a machine. */
static json_t *entry_new(const char *name, int process, const json_t *inspection)
{
    static const char *const keys[] = {"pid",  "state",  "engine",
                                       "cpus", "memory", "started"};
    json_t *entry = json_pack("{s:s}", "name", name);
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        json_t *value = json_object_get(inspection, keys[i]);
        json_object_set_new(entry, keys[i], value ? json_incref(value) : json_null());
    }
    if (!inspection) {
        json_object_set_new(entry, "state", json_string("unreachable"));
    }
    if (!inspection && process > 0) {
        json_object_set_new(entry, "pid", json_integer(process));
    }
    return entry;
}

static void found(void *opaque, const char *name, int fd)
{
    json_t *list = opaque, *inspection = NULL;
    const struct operation *operation = operation_find("inspect");
    struct client_reply reply;
    if (client_call(fd, operation->method, operation->path, NULL, PATIENCE_MS, &reply,
                    NULL) >= 0) {
        inspection = client_json(&reply, NULL);
        client_reply_free(&reply);
    }
    json_array_append_new(list, entry_new(name, client_process(fd), inspection));
    json_decref(inspection);
    close(fd);
}

/* "3d 4h", "5m 12s". */
static void format_age(int64_t seconds, char text[32])
{
    if (seconds < 0) {
        seconds = 0;
    }
    unsigned long long s = (unsigned long long)seconds;
    if (s >= 86400) {
        snprintf(text, 32, "%llud %lluh", s / 86400, s / 3600 % 24);
    } else if (s >= 3600) {
        snprintf(text, 32, "%lluh %llum", s / 3600, s / 60 % 60);
    } else {
        snprintf(text, 32, "%llum %llus", s / 60, s % 60);
    }
}

static const char *text_of(const json_t *entry, const char *key)
{
    const char *text = json_string_value(json_object_get(entry, key));
    return text ? text : "-";
}

static void format_number(const json_t *entry, const char *key, char text[24])
{
    const json_t *value = json_object_get(entry, key);
    if (json_is_integer(value)) {
        snprintf(text, 24, "%lld", (long long)json_integer_value(value));
    } else {
        strcpy(text, "-");
    }
}

static void print_entry(const json_t *entry)
{
    char size[SIZE_TEXT] = "-", age[32] = "-", pid[24], cpus[24];
    const json_t *memory = json_object_get(entry, "memory");
    const json_t *started = json_object_get(entry, "started");
    if (json_is_integer(memory)) {
        size_format((uint64_t)json_integer_value(memory), size);
    }
    if (json_is_integer(started)) {
        format_age(time(NULL) - json_integer_value(started), age);
    }
    format_number(entry, "pid", pid);
    format_number(entry, "cpus", cpus);
    printf("%-20s %7s %-11s %-11s %4s %8s  %s\n", text_of(entry, "name"), pid,
           text_of(entry, "state"), text_of(entry, "engine"), cpus, size, age);
}

static int ps_run(const struct command *command, int argc, char **argv)
{
    struct ps_options options = {0};
    struct error err;
    int status;
    if (command_parse(command, argc, argv, &options, &status) < 0) {
        return status;
    }
    json_t *list = json_array(), *entry;
    size_t index;
    if (runtime_list(found, list, &err) < 0) {
        json_decref(list);
        return remote_error(&err);
    }
    if (options.json) {
        return remote_print(list);
    }
    printf("%-20s %7s %-11s %-11s %4s %8s  %s\n", "NAME", "PID", "STATE", "ENGINE",
           "CPUS", "MEMORY", "AGE");
    json_array_foreach(list, index, entry)
    {
        print_entry(entry);
    }
    json_decref(list);
    return STATUS_OK;
}

static const struct command_example ps_examples[] = {
    {"ps", "Lists your machines."},
    {"ps --json", "The same for programs."},
    {NULL},
};

const struct command ps_command = {
    .name = "ps",
    .operands = "",
    .summary = "List your running machines",
    .description =
        "Each machine has a control socket in the runtime directory, which is\n"
        "$XDG_RUNTIME_DIR/doppel, else /run/user/UID/doppel, else "
        "/tmp/doppel-UID.\nSockets that dead processes left there are removed. A machine "
        "whose process\nis stopped or hangs is \"unreachable\".",
    .examples = ps_examples,
    .options = ps_options,
    .run = ps_run,
};
