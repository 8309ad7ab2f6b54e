#pragma once
/* What a console can be connected to apart from stdin and stdout: a pseudoterminal that
 * others open, a socket that one client at a time connects to. */

#include <stdbool.h>

#include "control/socket.h"

struct endpoint {
    int fd;                    /* the pseudoterminal, or the client; -1: none */
    int listen_fd;             /* the socket; -1: none */
    char name[64];             /* of the pseudoterminal */
    struct socket_name socket; /* of the socket, open to its owner alone */
};

void endpoint_init(struct endpoint *endpoint);
/* Removes the socket's name. */
void endpoint_fini(struct endpoint *endpoint);
int endpoint_open_pty(struct endpoint *endpoint, struct error *err);
/* A socket that a dead process left behind is replaced; one in use is an error. */
int endpoint_open_socket(struct endpoint *endpoint, const char *path, struct error *err);
/* The descriptor of a new client; a second one is turned away while the first is there.
 * -1 if there is none. */
int endpoint_accept(struct endpoint *endpoint);
/* Parts from the client. */
void endpoint_hang_up(struct endpoint *endpoint);
