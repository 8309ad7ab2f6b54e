#pragma once
/*
 * Listening Unix sockets that have a name in a folder: made for their owner alone,
 * recognised as stale when nobody listens any more, removed by who made them.
 */

#include <stdbool.h>
#include <sys/types.h>

#include "base/error.h"

struct socket_name {
    char path[108]; /* "": none */
    int directory;  /* that holds it: the jail leaves no other way to it */
    dev_t device;   /* of the file made, so that another's is never removed */
    ino_t inode;
};

/*
 * A listening, non-blocking socket at that path, mode 0600; the caller closes it. One
 * that a dead process left behind is replaced. -EADDRINUSE: somebody listens there, or
 * something that is no socket has that name.
 */
int socket_listen(const char *path, struct socket_name *name, struct error *err);
/* Removes the name if it still is the file that was made. Accepts all zero. */
void socket_remove(struct socket_name *name);
/* Removes a socket that nobody listens on; another file stays. */
void socket_remove_stale(const char *path);
/* Connects, blocking. -ECONNREFUSED: nobody listens there any more. */
int socket_connect(const char *path, struct error *err);
