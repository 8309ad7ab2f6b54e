#pragma once
/*
 * What a host offers: one row for each thing that decides whether and how a VM runs.
 *
 * To add a check: one function, one row in check.c's table.
 */

#include <stdbool.h>

enum check_state {
    CHECK_OK,
    CHECK_WARNING, /* a VM runs, with less */
    CHECK_MISSING, /* not there; needed only if the row says so */
};

struct finding {
    enum check_state state;
    char value[160];  /* what was found */
    char remedy[200]; /* what to do; "" if nothing is to be done */
};

struct check {
    const char *name;
    const char *meaning; /* what it is for */
    bool is_required;    /* without it no VM runs */
    void (*probe)(struct finding *finding);
};

extern const struct check check_table[]; /* name NULL ends it */

/* "ok", "warning", "missing". */
const char *check_state_name(enum check_state state);
