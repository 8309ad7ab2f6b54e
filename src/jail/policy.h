#pragma once
/* The system calls that each role of a thread needs: the one table of them. */

#include <seccomp.h>
#include <stdbool.h>
#include <stdint.h>

#include "jail/jail.h"

#define POLICY_ARGS_MAX 2

enum policy_answer {
    POLICY_ALLOW,
    POLICY_DENY, /* with EACCES: what a library tries and can do without */
};

struct policy_rule {
    int call;
    enum policy_answer answer;
    bool is_own;    /* the first argument must be the process's own number */
    uint8_t checks; /* of argument */
    struct scmp_arg_cmp argument[POLICY_ARGS_MAX];
};

/* Calls each for every rule of the role. Rules of one call add up. Stops at, and returns,
 * the first negative result. */
int policy_each(enum jail_role role, bool makes_files,
                int (*each)(void *opaque, const struct policy_rule *rule), void *opaque);
