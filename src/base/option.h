#pragma once
/*
 * Command line options from a table. The same rows parse, explain (help, documents) and
 * complete (shells).
 *
 * To add an option: one row in its command's table, one field in the struct it fills.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum option_kind {
    OPTION_FLAG,     /* bool; takes no value */
    OPTION_COUNT,    /* unsigned; how often it was given; takes no value */
    OPTION_STRING,   /* const char *, borrowed from argv */
    OPTION_FILE,     /* the same; shells complete file names */
    OPTION_UNSIGNED, /* unsigned, from min to max */
    OPTION_SIZE,     /* uint64_t bytes, from min to max; as size.h reads them */
    OPTION_CHOICE,   /* const char *, one of the choices */
    OPTION_CUSTOM,   /* parse stores it; choices serve help and completion */
    OPTION_LATER,    /* known, but this version does not have it; hidden */
};

struct option_spec {
    const char *name;     /* without the dashes; NULL ends a table */
    const char *argument; /* placeholder in help, "SIZE"; NULL if it takes none */
    const char *help;     /* one line; no full stop */
    enum option_kind kind;
    size_t offset;     /* of the field in the command's struct */
    uint64_t min, max; /* UNSIGNED, SIZE; max 0: no upper bound */
    /* CHOICE, CUSTOM: the index-th possible value, NULL after the last. */
    const char *(*choice)(unsigned index);
    /* CHOICE: values, separated by blanks, that a later version will know. */
    const char *later;
    int (*parse)(const struct option_spec *spec, const char *value, void *target,
                 struct error *err);
};

struct option_result {
    unsigned operands; /* arguments that are no options, moved to the front of argv */
    bool wants_help;   /* --help or -h was given */
};

/*
 * Parses argv[0..argc) into target by the table. Takes --name=value and --name value;
 * "--" ends the options; a later option overrides an earlier one. Stops at --help.
 * Returns 0, or a negative errno with a message that names the option and what to write
 * instead.
 */
int option_parse(const struct option_spec *table, int argc, char **argv, void *target,
                 struct option_result *result, struct error *err);

/* The row of that name, or NULL. */
const struct option_spec *option_find(const struct option_spec *table, const char *name);
/* Stores one value that has been given as text, as the row's kind reads it; a flag's is
 * "true" or "false", a count's a number. For other sources than a command line. */
int option_store(const struct option_spec *spec, const char *value, void *target,
                 struct error *err);
