#pragma once
/* Each test has the jail in a child, since there is no way out of one. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "base/scope.h"
#include "jail/jail.h"

#include <cmocka.h>

#define STOPPED 125 /* by a filter */
#define FAILED  9   /* CHECK */

/* In the child, where cmocka's assertions would end nothing. */
#define CHECK(condition)                                                             \
    do {                                                                             \
        if (!(condition)) {                                                          \
            dprintf(STDERR_FILENO, "line %d: %s (errno %d)\n", __LINE__, #condition, \
                    errno);                                                          \
            _exit(FAILED);                                                           \
        }                                                                            \
    } while (0)

extern char said[4096]; /* by the child on stderr */
/* Its exit status, or 128 and the signal that ended it. */
int in_child(void (*action)(void *), void *opaque);
/* The same; it has to end with 0. */
void works(void (*action)(void *), void *opaque);

/* In the child: the jail's first step, and a thread's of that role (JAIL_LOOP: the last,
 * which closes it). */
void prepare(bool makes_files);
void enter(enum jail_role role);
/* What no role may do. */
void call_socket(void);
