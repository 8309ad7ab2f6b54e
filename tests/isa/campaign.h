#pragma once
/*
 * The cases of a seed: number n depends on the seed and n alone. First every form of
 * every instruction in turn, a few times; then forms, sequences and undefined bytes at
 * random.
 */

#include "case.h"

#define CAMPAIGN_NO_FORM UINT32_MAX

struct campaign {
    uint64_t seed;
    bool has_compat, has_16; /* 32-bit code, and 16-bit code */
    unsigned row;            /* ZydisMnemonic; 0: all */
};

struct campaign_case {
    uint64_t number;
    unsigned form; /* of form_table, if it is a single instruction */
    bool is_sequence;
};

/* Makes case number n. False if there is none of that number. */
bool campaign_make(const struct campaign *campaign, uint64_t number,
                   struct isa_case *test, struct campaign_case *made);
/* How many cases it takes until each form had its turns. */
uint64_t campaign_sweep(const struct campaign *campaign);
