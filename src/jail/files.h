#pragma once
/* Which files a thread can reach: Landlock. */

#include "jail/jail.h"

/* The version of the kernel's interface, 0 if there is none. */
int files_version(void);
/* A set of rules that allows nothing yet, as a descriptor; -errno. */
int files_open(void);
/* Returns 0 or -errno. */
int files_allow(int rules, int directory, enum jail_right right);
/* The calling thread, for good. Returns 0 or -errno. */
int files_enter(int rules);
