#pragma once
/*
 * One connection of a server: what has arrived of a request, what is still to be sent of
 * an answer, and how long either may take. In the server's loop's thread.
 */

#include "base/loop.h"
#include "control/passed.h"
#include "control/server.h"

/* What a server's connections share. */
struct service {
    server_fn answer;
    void *opaque;
    struct loop *loop; /* NULL: served by none */
};

struct connection {
    struct connection *next; /* of the server's */
    struct server *server;
    const struct service *service;
    int fd;
    uint32_t events; /* asked of the loop */
    uint64_t active_ns;
    uint64_t deadline_ns; /* for what is under way; NEVER: idle */

    char *in;
    size_t in_size, in_room;
    struct passed passed;  /* with the request that is arriving */
    bool has_ended;        /* the peer sends nothing more */
    bool told_to_continue; /* for the request that is arriving */

    char *out;
    size_t out_start, out_size;
    bool closes;     /* after the answer */
    bool is_closing; /* the answer is out: drops input until the peer closes */
    void (*upgraded)(void *opaque, int fd, const void *data, size_t size);
    void *upgraded_opaque;
};

/* Idle, and not yet in the loop: it asks for `events`. NULL: no memory; the caller keeps
 * the descriptor. */
struct connection *connection_new(struct server *server, const struct service *service,
                                  int fd);
/* Closes the descriptor, which is in no loop any more. */
void connection_free(struct connection *connection);

/* For what the loop saw. False: close it. */
bool connection_handle(struct connection *connection, uint32_t events);
/* Its deadline has passed. False: close it. */
bool connection_time_out(struct connection *connection);
/* Is nothing under way? */
bool connection_is_idle(const struct connection *connection);
