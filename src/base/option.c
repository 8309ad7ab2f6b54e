#include "base/option.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/nearest.h"
#include "base/size.h"

/* Decimal digits only: strtoull alone would take blanks, signs and overflow in silence.
 */
static int parse_number(const char *text, uint64_t *number, const char **end)
{
    if (!isdigit((unsigned char)*text)) {
        return -EINVAL;
    }
    errno = 0;
    char *rest;
    *number = strtoull(text, &rest, 10);
    *end = rest;
    return errno ? -errno : 0;
}

static bool is_word_of(const char *word, const char *list)
{
    size_t length = strlen(word);
    for (const char *at = list; at && *at; at += strspn(at, " ")) {
        size_t span = strcspn(at, " ");
        if (span == length && memcmp(at, word, length) == 0) {
            return true;
        }
        at += span;
    }
    return false;
}

static void list_choices(const struct option_spec *spec, char *text, size_t size)
{
    const char *name;
    text[0] = '\0';
    for (unsigned i = 0; (name = spec->choice(i)); i++) {
        size_t used = strlen(text);
        snprintf(text + used, size - used, "%s%s", i ? ", " : "", name);
    }
}

static int parse_choice(const struct option_spec *spec, const char *value, void *target,
                        struct error *err)
{
    struct nearest nearest;
    const char *name;
    nearest_init(&nearest, value);
    for (unsigned i = 0; (name = spec->choice(i)); i++) {
        if (strcmp(name, value) == 0) {
            *(const char **)target = name;
            return 0;
        }
        nearest_offer(&nearest, name);
    }
    char choices[256];
    list_choices(spec, choices, sizeof(choices));
    if (is_word_of(value, spec->later)) {
        return fail_plain(err, EINVAL,
                          "--%s %s is not available in this version; choose from: %s",
                          spec->name, value, choices);
    }
    if (nearest.best) {
        return fail_plain(
            err, EINVAL, "unknown value '%s' of --%s; did you mean %s? (choose from: %s)",
            value, spec->name, nearest.best, choices);
    }
    return fail_plain(err, EINVAL, "unknown value '%s' of --%s; choose from: %s", value,
                      spec->name, choices);
}

static int fail_range(const struct option_spec *spec, const char *value, const char *low,
                      const char *high, struct error *err)
{
    if (high) {
        return fail_plain(err, EINVAL, "--%s %s is out of range; give %s to %s",
                          spec->name, value, low, high);
    }
    return fail_plain(err, EINVAL, "--%s %s is out of range; give at least %s",
                      spec->name, value, low);
}

static int parse_unsigned(const struct option_spec *spec, const char *value, void *target,
                          struct error *err)
{
    uint64_t number, max = spec->max ? spec->max : UINT_MAX;
    const char *end;
    int result = parse_number(value, &number, &end);
    if (result == -EINVAL || *end) {
        return fail_plain(err, EINVAL, "--%s takes a whole number, not '%s'", spec->name,
                          value);
    }
    if (result < 0 || number < spec->min || number > max) {
        char low[24], high[24];
        snprintf(low, sizeof(low), "%llu", (unsigned long long)spec->min);
        snprintf(high, sizeof(high), "%llu", (unsigned long long)max);
        return fail_range(spec, value, low, high, err);
    }
    *(unsigned *)target = (unsigned)number;
    return 0;
}

static int parse_size(const struct option_spec *spec, const char *value, void *target,
                      struct error *err)
{
    uint64_t size;
    int result = size_parse(value, &size, err);
    if (result < 0) {
        return fail_within(err, "--%s", spec->name);
    }
    if (size < spec->min || (spec->max && size > spec->max)) {
        char low[SIZE_TEXT], high[SIZE_TEXT];
        return fail_range(spec, value, size_format(spec->min, low),
                          spec->max ? size_format(spec->max, high) : NULL, err);
    }
    *(uint64_t *)target = size;
    return 0;
}

static int parse_string(const struct option_spec *spec, const char *value, void *target,
                        struct error *err)
{
    if (spec->kind == OPTION_FILE && !*value) {
        return fail_plain(err, EINVAL, "--%s needs the name of a file", spec->name);
    }
    *(const char **)target = value;
    return 0;
}

static int store_value(const struct option_spec *spec, const char *value, void *base,
                       struct error *err)
{
    void *target = (char *)base + spec->offset;
    switch (spec->kind) {
    case OPTION_UNSIGNED:
        return parse_unsigned(spec, value, target, err);
    case OPTION_SIZE:
        return parse_size(spec, value, target, err);
    case OPTION_CHOICE:
        return parse_choice(spec, value, target, err);
    case OPTION_CUSTOM:
        return spec->parse(spec, value, target, err);
    default:
        return parse_string(spec, value, target, err);
    }
}

static int store_flag(const struct option_spec *spec, void *base)
{
    void *target = (char *)base + spec->offset;
    if (spec->kind == OPTION_COUNT) {
        ++*(unsigned *)target;
    } else {
        *(bool *)target = true;
    }
    return 0;
}

static const struct option_spec *spec_find(const struct option_spec *table,
                                           const char *name, size_t length)
{
    for (const struct option_spec *spec = table; spec->name; spec++) {
        if (strlen(spec->name) == length && memcmp(spec->name, name, length) == 0) {
            return spec;
        }
    }
    return NULL;
}

static int fail_unknown(const struct option_spec *table, const char *given, size_t length,
                        struct error *err)
{
    char name[64];
    snprintf(name, sizeof(name), "%.*s", (int)length, given);
    const char *bare = name + strspn(name, "-");
    struct nearest nearest;
    nearest_init(&nearest, bare);
    nearest_offer(&nearest, "help");
    for (const struct option_spec *spec = table; spec->name; spec++) {
        if (spec->kind != OPTION_LATER) {
            nearest_offer(&nearest, spec->name);
        }
    }
    if (nearest.best) {
        return fail_plain(err, EINVAL, "unknown option %s; did you mean --%s?", name,
                          nearest.best);
    }
    return fail_plain(err, EINVAL, "unknown option %s; --help lists what there is", name);
}

/* One argument that begins with a dash; *index moves on when it takes the next as its
 * value. */
static int parse_option(const struct option_spec *table, int argc, char **argv,
                        int *index, void *target, struct error *err)
{
    const char *given = argv[*index];
    size_t length = strcspn(given, "=");
    const char *value = given[length] ? given + length + 1 : NULL;
    const struct option_spec *spec = NULL;
    if (given[1] == '-') {
        spec = spec_find(table, given + 2, length - 2);
    }
    if (!spec) {
        return fail_unknown(table, given, length, err);
    }
    if (spec->kind == OPTION_LATER) {
        return fail_plain(err, EINVAL,
                          "unknown option --%s: it is not available in this version",
                          spec->name);
    }
    if (spec->kind == OPTION_FLAG || spec->kind == OPTION_COUNT) {
        if (value) {
            return fail_plain(err, EINVAL, "--%s takes no value; leave out '=%s'",
                              spec->name, value);
        }
        return store_flag(spec, target);
    }
    if (!value) {
        if (*index + 1 >= argc) {
            return fail_plain(err, EINVAL, "--%s needs a value: --%s %s", spec->name,
                              spec->name, spec->argument);
        }
        value = argv[++*index];
    }
    return store_value(spec, value, target, err);
}

int option_parse(const struct option_spec *table, int argc, char **argv, void *target,
                 struct option_result *result, struct error *err)
{
    bool options_ended = false;
    *result = (struct option_result){0};
    for (int i = 0; i < argc; i++) {
        const char *given = argv[i];
        if (options_ended || given[0] != '-' || !given[1]) {
            argv[result->operands++] = argv[i];
        } else if (strcmp(given, "--") == 0) {
            options_ended = true;
        } else if (strcmp(given, "--help") == 0 || strcmp(given, "-h") == 0) {
            result->wants_help = true;
            return 0;
        } else {
            int status = parse_option(table, argc, argv, &i, target, err);
            if (status < 0) {
                return status;
            }
        }
    }
    return 0;
}

const struct option_spec *option_find(const struct option_spec *table, const char *name)
{
    return spec_find(table, name, strlen(name));
}

int option_store(const struct option_spec *spec, const char *value, void *target,
                 struct error *err)
{
    switch (spec->kind) {
    case OPTION_LATER:
        return fail_plain(err, EINVAL, "--%s is not available in this version",
                          spec->name);
    case OPTION_FLAG:
        *(bool *)((char *)target + spec->offset) = strcmp(value, "true") == 0;
        return 0;
    case OPTION_COUNT:
        return parse_unsigned(spec, value, (char *)target + spec->offset, err);
    default:
        return store_value(spec, value, target, err);
    }
}
