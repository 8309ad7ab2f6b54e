#include "state/config.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "base/scope.h"
#include "disk/disk.h"

enum kind { TEXT, FLAG, UNSIGNED, SIZE };

static const struct row {
    const char *name;
    size_t offset;
    enum kind kind;
} rows[] = {
    {"name", offsetof(struct machine_config, name), TEXT},
    {"machine", offsetof(struct machine_config, machine), TEXT},
    {"engine", offsetof(struct machine_config, engine), TEXT},
    {"cpus", offsetof(struct machine_config, cpus), UNSIGNED},
    {"memory", offsetof(struct machine_config, memory), SIZE},
    {"cpu", offsetof(struct machine_config, cpu_model), TEXT},
    {"paravirt", offsetof(struct machine_config, paravirt), TEXT},
    {"firmware", offsetof(struct machine_config, firmware), TEXT},
    {"kernel", offsetof(struct machine_config, kernel), TEXT},
    {"initrd", offsetof(struct machine_config, initrd), TEXT},
    {"append", offsetof(struct machine_config, append), TEXT},
    {"debug-exit", offsetof(struct machine_config, debug_exit), FLAG},
    {"no-reboot", offsetof(struct machine_config, no_reboot), FLAG},
    {"deterministic", offsetof(struct machine_config, deterministic), FLAG},
};

static json_t *row_get(const struct row *row, const struct machine_config *config)
{
    const void *field = (const uint8_t *)config + row->offset;
    switch (row->kind) {
    case TEXT:
        return json_string(*(const char *const *)field);
    case FLAG:
        return json_boolean(*(const bool *)field);
    case UNSIGNED:
        return json_integer(*(const unsigned *)field);
    default:
        return json_integer((json_int_t) * (const uint64_t *)field);
    }
}

static bool is_absent(const struct row *row, const struct machine_config *config)
{
    return row->kind == TEXT &&
           !*(const char *const *)((const uint8_t *)config + row->offset);
}

/* Files are named by where they are: another directory may be current then. */
static json_t *disk_to_json(const struct disk_config *disk)
{
    SCOPE_FREE char *path = realpath(disk->path, NULL);
    return json_pack("{s:s, s:s?, s:s, s:b}", "path", path ? path : disk->path, "format",
                     disk->format, "bus", disk_bus_name(disk->bus), "readonly",
                     disk->is_readonly);
}

static json_t *disks_to_json(const struct machine_config *config)
{
    json_t *list = json_array();
    for (unsigned i = 0; list && i < config->disk_count; i++) {
        if (json_array_append_new(list, disk_to_json(&config->disk[i])) < 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

json_t *config_to_json(const struct machine_config *config)
{
    json_t *object = json_object();
    for (unsigned i = 0; object && i < array_size(rows); i++) {
        if (is_absent(&rows[i], config)) {
            continue;
        }
        if (json_object_set_new(object, rows[i].name, row_get(&rows[i], config)) < 0) {
            json_decref(object);
            return NULL;
        }
    }
    if (object && json_object_set_new(object, "disk", disks_to_json(config)) < 0) {
        json_decref(object);
        return NULL;
    }
    return object;
}

/* False: the value is not of the row's type, or out of its range. */
static bool row_set(const struct row *row, struct machine_config *config,
                    const json_t *value)
{
    void *field = (uint8_t *)config + row->offset;
    json_int_t number = json_integer_value(value);
    switch (row->kind) {
    case TEXT:
        *(const char **)field = json_string_value(value);
        return json_is_string(value) &&
               strlen(json_string_value(value)) == json_string_length(value);
    case FLAG:
        *(bool *)field = json_is_true(value);
        return json_is_boolean(value);
    case UNSIGNED:
        *(unsigned *)field = (unsigned)number;
        return json_is_integer(value) && number >= 0 && number <= UINT_MAX;
    default:
        *(uint64_t *)field = (uint64_t)number;
        return json_is_integer(value) && number >= 0;
    }
}

static const struct row *row_find(const char *name)
{
    for (unsigned i = 0; i < array_size(rows); i++) {
        if (strcmp(rows[i].name, name) == 0) {
            return &rows[i];
        }
    }
    return NULL;
}

static int disk_from_json(const json_t *object, struct disk_config *disk,
                          struct error *err)
{
    const char *path, *format = NULL, *bus;
    int is_readonly;
    if (json_unpack((json_t *)object, "{s:s, s:s?, s:s, s:b !}", "path", &path, "format",
                    &format, "bus", &bus, "readonly", &is_readonly) < 0 ||
        strlen(path) >= sizeof(disk->path)) {
        return fail_plain(err, EINVAL, "the configuration's disk is malformed");
    }
    *disk = (struct disk_config){.is_readonly = is_readonly};
    memcpy(disk->path, path, strlen(path) + 1);
    if (strcmp(bus, disk_bus_name(DISK_BUS_VIRTIO)) != 0) {
        return fail_plain(err, ENOTSUP, "the configuration's disk is on a bus %.32s",
                          bus);
    }
    const struct disk_format *found = format ? disk_format_find(format) : NULL;
    if (format && !found) {
        return fail_plain(err, ENOTSUP, "the configuration's disk has the format %.32s",
                          format);
    }
    disk->format = found ? found->name : NULL;
    return 0;
}

static int disks_from_json(const json_t *list, struct machine_config *config,
                           struct disk_config disks[CONFIG_DISKS_MAX], struct error *err)
{
    if (!json_is_array(list) || json_array_size(list) > CONFIG_DISKS_MAX) {
        return fail_plain(err, EINVAL, "the configuration's disks are malformed");
    }
    config->disk = disks;
    config->disk_count = (unsigned)json_array_size(list);
    int result = 0;
    for (unsigned i = 0; result >= 0 && i < config->disk_count; i++) {
        result = disk_from_json(json_array_get(list, i), &disks[i], err);
    }
    return result;
}

int config_from_json(const json_t *object, struct machine_config *config,
                     struct disk_config disks[CONFIG_DISKS_MAX], struct error *err)
{
    const char *name;
    json_t *value;
    if (!json_is_object(object)) {
        return fail_plain(err, EINVAL, "the configuration is no JSON object");
    }
    json_object_foreach((json_t *)object, name, value)
    {
        const struct row *row = row_find(name);
        if (strcmp(name, "disk") == 0) {
            int result = disks_from_json(value, config, disks, err);
            if (result < 0) {
                return result;
            }
            continue;
        }
        if (!row) {
            return fail_plain(err, ENOTSUP,
                              "the configuration has '%.32s', which Doppel %s does not "
                              "know",
                              name, DOPPEL_VERSION);
        }
        if (!row_set(row, config, value)) {
            return fail_plain(err, EINVAL, "the configuration's '%s' has a wrong value",
                              name);
        }
    }
    return 0;
}
