#pragma once
/* A role's policy as a program for seccomp, made once and loaded by each of its threads.
 */

#include <stdbool.h>

#include "jail/jail.h"

struct sock_filter;

struct filter {
    struct sock_filter *code; /* NULL: not made */
    unsigned short length;
};

int filter_make(struct filter *filter, enum jail_role role, bool makes_files,
                struct error *err);
/* For the calling thread, for good. Needs no_new_privs. Returns 0 or -errno. */
int filter_load(const struct filter *filter);
void filter_fini(struct filter *filter);
/* Does the kernel have what the filters use? 0 or -errno. */
int filter_probe(void);
