#include "machine/disk_config.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/nearest.h"
#include "base/scope.h"
#include "disk/disk.h"

static const char *const bus_names[] = {[DISK_BUS_VIRTIO] = "virtio"};

const char *disk_bus_name(enum disk_bus bus)
{
    return bus_names[bus];
}

/* A list of names in words, and the nearest to the one that was given. */
struct choices {
    struct nearest nearest;
    char text[128];
};

static void choices_offer(struct choices *choices, const char *name)
{
    size_t used = strlen(choices->text);
    snprintf(choices->text + used, sizeof(choices->text) - used, "%s%s", used ? ", " : "",
             name);
    nearest_offer(&choices->nearest, name);
}

static int refuse(struct choices *choices, const char *what, const char *given,
                  struct error *err)
{
    if (choices->nearest.best) {
        return fail_plain(err, EINVAL,
                          "unknown %s '%.64s'; did you mean %s? (choose from: %s)", what,
                          given, choices->nearest.best, choices->text);
    }
    return fail_plain(err, EINVAL, "unknown %s '%.64s'; choose from: %s", what, given,
                      choices->text);
}

static int parse_format(struct disk_config *disk, const char *value, struct error *err)
{
    struct choices choices = {.text = ""};
    const struct disk_format *format = disk_format_find(value);
    if (format) {
        disk->format = format->name;
        return 0;
    }
    nearest_init(&choices.nearest, value);
    for (unsigned i = 0; disk_format_table[i]; i++) {
        choices_offer(&choices, disk_format_table[i]->name);
    }
    return refuse(&choices, "format", value, err);
}

static int parse_bus(struct disk_config *disk, const char *value, struct error *err)
{
    struct choices choices = {.text = ""};
    nearest_init(&choices.nearest, value);
    for (unsigned i = 0; i < array_size(bus_names); i++) {
        if (strcmp(bus_names[i], value) == 0) {
            disk->bus = (enum disk_bus)i;
            return 0;
        }
        choices_offer(&choices, bus_names[i]);
    }
    return refuse(&choices, "bus", value, err);
}

static int parse_readonly(struct disk_config *disk, const char *value, struct error *err)
{
    disk->is_readonly = true;
    return 0;
}

static int refuse_snapshot(struct disk_config *disk, const char *value, struct error *err)
{
    return fail_plain(err, EINVAL,
                      "snapshot is not available in this version; give a copy of the "
                      "image instead (cp --reflink=auto --sparse=always)");
}

/* To add an option of a disk: one row. */
static const struct {
    const char *name;
    bool has_value;
    int (*parse)(struct disk_config *disk, const char *value, struct error *err);
} disk_options[] = {
    {"format", true, parse_format},
    {"readonly", false, parse_readonly},
    {"bus", true, parse_bus},
    {"snapshot", false, refuse_snapshot},
};

/* One option, "name" or "name=value"; text may be changed. */
static int parse_option(struct disk_config *disk, char *text, struct error *err)
{
    char *value = strchr(text, '=');
    if (value) {
        *value++ = '\0';
    }
    struct choices choices = {.text = ""};
    nearest_init(&choices.nearest, text);
    for (unsigned i = 0; i < array_size(disk_options); i++) {
        if (strcmp(disk_options[i].name, text) != 0) {
            choices_offer(&choices, disk_options[i].name);
            continue;
        }
        if (!disk_options[i].has_value != !value) {
            return fail_plain(err, EINVAL, "%s takes %s value", text, value ? "no" : "a");
        }
        return disk_options[i].parse(disk, value, err);
    }
    return refuse(&choices, "option", text, err);
}

/* Copies the file's name and moves *text behind the comma that ends it, or to NULL if
 * nothing follows. False if the name is longer than any file's. */
static bool parse_path(const char **text, char *path, size_t size)
{
    const char *next = *text;
    size_t length = 0;
    *text = NULL;
    while (*next && length + 1 < size) {
        char byte = *next++;
        if (byte == ',' && *next++ != ',') {
            *text = next - 1;
            break;
        }
        path[length++] = byte;
    }
    path[length] = '\0';
    return *text || !*next;
}

int disk_config_parse(const char *text, struct disk_config *disk, struct error *err)
{
    *disk = (struct disk_config){.bus = DISK_BUS_VIRTIO};
    const char *options = text;
    if (!parse_path(&options, disk->path, sizeof(disk->path))) {
        return fail_plain(err, ENAMETOOLONG, "the name of the file is too long");
    }
    if (!disk->path[0]) {
        return fail_plain(err, EINVAL, "the name of a file is missing");
    }
    SCOPE_FREE char *copy = options ? strdup(options) : NULL;
    if (options && !copy) {
        return fail(err, ENOMEM, "cannot read the option");
    }
    char *rest = copy, *option;
    while ((option = strsep(&rest, ","))) {
        int result = parse_option(disk, option, err);
        if (result < 0) {
            return result;
        }
    }
    return 0;
}
