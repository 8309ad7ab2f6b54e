#pragma once
/*
 * Serves HTTP requests on listening sockets, in an event loop's thread. Requests of one
 * connection are answered in order, one at a time: the next is looked at when the answer
 * before has been taken by the peer. So whatever a peer sends or does not read costs one
 * request and one answer of memory, and the loop never waits for it.
 */

#include "base/loop.h"
#include "control/http.h"

/* Connections at a time; one more takes the place of the one longest without a request.
 */
#define SERVER_CONNECTIONS_MAX 64
/* For a request to arrive once begun, and for an answer to be taken. */
#define SERVER_PATIENCE_SECONDS 10

struct server;

struct http_reply {
    int status;
    const char *type; /* of the body */
    char *body;       /* taken by the server, which frees it; NULL: none */
    size_t length;
    /* With status 101: takes the descriptor, and what the peer has already sent. */
    void (*upgraded)(void *opaque, int fd, const void *data, size_t size);
    void *upgraded_opaque;
};

/* Answers a request, at once. */
typedef void (*server_fn)(void *opaque, const struct http_request *request,
                          struct http_reply *reply);

struct server *server_new(server_fn answer, void *opaque, struct error *err);
/* Takes a listening, non-blocking socket, also on failure. At most 4. */
int server_listen(struct server *server, int fd, struct error *err);
/* Serves in this loop from now on; moves everything if it served in another. In the
 * loop's thread, or while it does not run. */
int server_attach(struct server *server, struct loop *loop, struct error *err);
/* Serves nobody until attached again. */
void server_detach(struct server *server);
/* Closes every connection and socket. Accepts NULL. */
void server_free(struct server *server);

/* How many connections are open. */
unsigned server_connections(const struct server *server);
