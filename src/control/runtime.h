#pragma once
/*
 * The runtime directory: one control socket for each of the user's virtual machines,
 * NAME.sock. It is the only register there is; no daemon keeps it.
 *
 * It is $XDG_RUNTIME_DIR/doppel, else /run/user/UID/doppel, else /tmp/doppel-UID; ours
 * alone, or refused.
 */

#include "control/socket.h"

#define RUNTIME_NAME_MAX 64

/* Letters, digits and . _ - in 1 to 64 characters, of which the first is no dot or dash.
 */
int runtime_check_name(const char *name, struct error *err);
/* Path of the directory, made if it is not there. */
int runtime_directory(char path[108], struct error *err);
/* Path of a machine's socket. */
int runtime_socket(const char *name, char path[108], struct error *err);
/*
 * Listens as the machine of that name. -EADDRINUSE when one of that name runs. Returns a
 * descriptor.
 */
int runtime_listen(const char *name, struct socket_name *socket, struct error *err);

/*
 * Calls found for each machine, in the order of names, with a connection to it, which
 * found takes. Sockets that dead processes have left behind are removed.
 */
int runtime_list(void (*found)(void *opaque, const char *name, int fd), void *opaque,
                 struct error *err);
