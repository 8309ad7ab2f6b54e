#include "options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static bool find_mnemonic(const char *name, ZydisMnemonic *mnemonic)
{
    for (unsigned i = 1; i <= ZYDIS_MNEMONIC_MAX_VALUE; i++) {
        if (strcasecmp(name, ZydisMnemonicGetString((ZydisMnemonic)i)) == 0) {
            *mnemonic = (ZydisMnemonic)i;
            return true;
        }
    }
    return false;
}

static bool parse_number(const char *text, uint64_t *number)
{
    char *end;

    *number = strtoull(text, &end, 0);
    return *text && !*end;
}

static bool parse_value(struct options *options, const char *name, const char *value)
{
    uint64_t number = 0;

    if (strcmp(name, "--engine") == 0) {
        options->engine = value;
        return true;
    }
    if (strcmp(name, "--coverage") == 0) {
        options->coverage = value;
        return true;
    }
    if (strcmp(name, "--row") == 0) {
        return find_mnemonic(value, &options->row);
    }
    if (!parse_number(value, &number)) {
        return false;
    }
    if (strcmp(name, "--seed") == 0) {
        options->seed = number;
    } else if (strcmp(name, "--first") == 0) {
        options->first = number;
    } else if (strcmp(name, "--cases") == 0) {
        options->cases = number;
    } else if (strcmp(name, "--failures") == 0) {
        options->failures_max = (unsigned)number;
    } else {
        return false;
    }
    return true;
}

static bool parse(int argc, char **argv, struct options *options)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--forever") == 0) {
            options->is_endless = true;
        } else if (strcmp(argv[i], "--complete") == 0) {
            options->must_be_complete = true;
        } else if (strcmp(argv[i], "--deterministic") == 0) {
            options->is_deterministic = true;
        } else if (strcmp(argv[i], "--undefined") == 0) {
            options->wants_undefined = true;
        } else if (i + 1 == argc || !parse_value(options, argv[i], argv[i + 1])) {
            return false;
        } else {
            i++;
        }
    }
    return true;
}

bool options_parse(struct options *options, int argc, char **argv)
{
    if (parse(argc, argv, options)) {
        return true;
    }
    fprintf(stderr,
            "usage: %s [--engine NAME] [--seed N] [--first N] [--cases N | --forever] "
            "[--row MNEMONIC] [--failures N] [--coverage FILE] [--complete] "
            "[--undefined] [--deterministic]\n",
            argv[0]);
    return false;
}
