#pragma once
/* Namespaces: what of the host a process can name at all. */

#include "jail/jail.h"

/*
 * A user namespace in which the process keeps its numbers, and so gets the right to leave
 * the others without being root. One thread only. 0, or -errno, after which the process
 * may be without numbers: see namespace_try.
 */
int namespace_enter_user(void);
/* Leaves the host's network (CLONE_NEWNET) or IPC (CLONE_NEWIPC). 0 or -errno. */
int namespace_leave(int kind);
/* Would these be granted? Tries in a child. 0 or -errno. */
int namespace_try(bool is_user, int kind);
