#include "control/fields.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/nearest.h"
#include "base/scope.h"

#define FILE_MAX (1u << 20)

const char *fields_type(const struct option_spec *spec)
{
    switch (spec->kind) {
    case OPTION_FLAG:
        return "true or false";
    case OPTION_COUNT:
    case OPTION_UNSIGNED:
        return "a whole number";
    case OPTION_SIZE:
        return "a number of bytes or a string such as \"512M\"";
    default:
        return "a string";
    }
}

static int fail_unknown(const struct option_spec *table, const char *key,
                        struct error *err)
{
    struct nearest nearest;
    nearest_init(&nearest, key);
    for (const struct option_spec *spec = table; spec->name; spec++) {
        if (spec->kind != OPTION_LATER) {
            nearest_offer(&nearest, spec->name);
        }
    }
    if (nearest.best) {
        return fail_plain(err, EINVAL, "unknown key '%.64s'; did you mean '%s'?", key,
                          nearest.best);
    }
    return fail_plain(err, EINVAL, "unknown key '%.64s'", key);
}

/* The value as a command line would have it; NULL if it has the wrong type. */
static const char *value_text(const struct option_spec *spec, const json_t *value,
                              char number[24])
{
    bool takes_number = spec->kind == OPTION_UNSIGNED || spec->kind == OPTION_COUNT ||
                        spec->kind == OPTION_SIZE;
    if (spec->kind == OPTION_FLAG) {
        return json_is_boolean(value) ? (json_is_true(value) ? "true" : "false") : NULL;
    }
    if (takes_number && json_is_integer(value)) {
        snprintf(number, 24, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        return number;
    }
    if (spec->kind == OPTION_UNSIGNED || spec->kind == OPTION_COUNT) {
        return NULL;
    }
    return json_string_value(value);
}

/* The table's messages are about options; here the same name is a key. */
static void drop_dashes(struct error *err, const char *name)
{
    char option[72];
    snprintf(option, sizeof(option), "--%s", name);
    char *at = strstr(err->message, option);
    if (at) {
        memmove(at, at + 2, strlen(at + 2) + 1);
    }
}

static int store(const struct option_spec *spec, const json_t *value, void *target,
                 struct error *err)
{
    char number[24];
    struct error local;
    if (spec->kind == OPTION_LATER) {
        return fail_plain(err, EINVAL, "%s is not available in this version", spec->name);
    }
    const char *text = value_text(spec, value, number);
    if (!text) {
        return fail_plain(err, EINVAL, "%s must be %s", spec->name, fields_type(spec));
    }
    int result = option_store(spec, text, target, &local);
    if (result < 0) {
        drop_dashes(&local, spec->name);
        return fail_plain(err, -result, "%s", local.message);
    }
    return 0;
}

int fields_parse(const struct option_spec *table, const json_t *object, void *target,
                 struct error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        const struct option_spec *spec = option_find(table, key);
        int result = 0;
        if (!spec) {
            return fail_unknown(table, key, err);
        }
        if (json_is_null(value)) {
            continue;
        }
        if (spec->kind == OPTION_CUSTOM && json_is_array(value)) {
            for (size_t i = 0; result >= 0 && i < json_array_size(value); i++) {
                result = store(spec, json_array_get(value, i), target, err);
            }
        } else {
            result = store(spec, value, target, err);
        }
        if (result < 0) {
            return result;
        }
    }
    return 0;
}

/* The whole file; the caller frees it. */
static char *read_file(const char *path, size_t *size, struct error *err)
{
    SCOPE_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    SCOPE_FREE char *text = malloc(FILE_MAX + 1);
    if (fd < 0 || !text) {
        fail(err, text ? errno : ENOMEM, "cannot read %s", path);
        return NULL;
    }
    *size = 0;
    for (;;) {
        ssize_t done = read(fd, text + *size, FILE_MAX + 1 - *size);
        if (done < 0 && errno != EINTR) {
            fail(err, errno, "cannot read %s", path);
            return NULL;
        }
        if (done == 0) {
            return steal(text);
        }
        *size += done > 0 ? (size_t)done : 0;
        if (*size > FILE_MAX) {
            fail_plain(err, EFBIG, "%s: larger than 1M; is it a configuration?", path);
            return NULL;
        }
    }
}

json_t *fields_load(const char *path, struct error *err)
{
    size_t size;
    SCOPE_FREE char *text = read_file(path, &size, err);
    if (!text) {
        return NULL;
    }
    json_error_t where;
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &where);
    if (!root) {
        fail_plain(err, EINVAL, "%s:%d:%d: not JSON: %s", path, where.line, where.column,
                   where.text);
        return NULL;
    }
    if (!json_is_object(root)) {
        json_decref(root);
        fail_plain(err, EINVAL, "%s: must be a JSON object: {\"kernel\": ...}", path);
        return NULL;
    }
    return root;
}

static json_t *format_one(const struct option_spec *spec, const void *field)
{
    switch (spec->kind) {
    case OPTION_FLAG:
        return json_boolean(*(const bool *)field);
    case OPTION_COUNT:
    case OPTION_UNSIGNED:
        return json_integer(*(const unsigned *)field);
    case OPTION_SIZE:
        return json_integer((json_int_t) * (const uint64_t *)field);
    default:
        return *(const char *const *)field ? json_string(*(const char *const *)field)
                                           : json_null();
    }
}

json_t *fields_format(const struct option_spec *table, const void *target)
{
    json_t *object = json_object();
    for (const struct option_spec *spec = table; object && spec->name; spec++) {
        json_t *value = format_one(spec, (const char *)target + spec->offset);
        if (!value || json_object_set_new(object, spec->name, value) < 0) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}
