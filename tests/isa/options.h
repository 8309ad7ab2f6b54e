#pragma once
/* The command line of isa_differential. */

#include <stdbool.h>
#include <stdint.h>

#include <Zydis/Zydis.h>

struct options {
    const char *engine, *coverage;
    uint64_t seed, first, cases;
    bool is_endless, must_be_complete, wants_undefined, is_deterministic;
    ZydisMnemonic row; /* or ZYDIS_MNEMONIC_INVALID for all */
    unsigned failures_max;
};

/* False if there is something wrong with it, which has been said. */
bool options_parse(struct options *options, int argc, char **argv);
