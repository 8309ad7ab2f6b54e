#include "control/server.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "control/connection.h"
#include "jail/jail.h"

#define LISTENERS_MAX    4
#define ACCEPTS_PER_TURN 16

struct server {
    struct service service;
    int tick_fd; /* each second while there is somebody to be timed */
    unsigned listener_count;
    int listener[LISTENERS_MAX];
    bool is_full; /* no descriptors left: accepting waits for a tick */
    unsigned connection_count;
    struct connection *connections;
};

static void on_connection(void *opaque, int fd, uint32_t events);
static void on_tick(void *opaque, int fd, uint32_t events);
static void on_accept(void *opaque, int fd, uint32_t events);

static void tick_set(struct server *server)
{
    bool is_needed = server->connections || server->is_full;
    struct itimerspec when = {
        .it_interval.tv_sec = is_needed,
        .it_value.tv_sec = is_needed,
    };
    timerfd_settime(server->tick_fd, 0, &when, NULL);
}

struct server *server_new(server_fn answer, void *opaque, struct error *err)
{
    struct server *server = calloc(1, sizeof(*server));
    if (!server) {
        fail(err, ENOMEM, "cannot make the control server");
        return NULL;
    }
    server->service = (struct service){.answer = answer, .opaque = opaque};
    server->tick_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (server->tick_fd < 0) {
        fail(err, errno, "cannot make the control server");
        server_free(server);
        return NULL;
    }
    return server;
}

/* --- Connections --- */

static void connection_close(struct connection *connection)
{
    struct server *server = connection->server;
    struct connection **link = &server->connections;
    while (*link != connection) {
        link = &(*link)->next;
    }
    *link = connection->next;
    server->connection_count--;
    if (connection->fd >= 0) {
        loop_remove(server->service.loop, connection->fd);
    }
    connection_free(connection);
    if (!server->connections) {
        tick_set(server);
    }
}

static void on_connection(void *opaque, int fd, uint32_t events)
{
    struct connection *connection = opaque;
    if (!connection_handle(connection, events)) {
        connection_close(connection);
    }
}

/* --- Accepting --- */

/* What a user namespace calls users that it has no number for (user_namespaces(7)). */
#define UID_OVERFLOW 65534

/* The socket's mode has kept everybody out but the owner and root; this is the second
 * lock. In a user namespace root is one without a number, and the second lock is open to
 * all of those. */
static bool is_peer_trusted(int fd)
{
    struct ucred peer;
    socklen_t size = sizeof(peer);
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
           (peer.uid == geteuid() || peer.uid == 0 ||
            (peer.uid == UID_OVERFLOW && jail_has_user_namespace()));
}

/* The connection that is missed least: idle for longest, or else oldest. */
static void evict(struct server *server)
{
    struct connection *victim = server->connections;
    for (struct connection *at = victim->next; at; at = at->next) {
        bool is_idle = connection_is_idle(at);
        bool victim_is_idle = connection_is_idle(victim);
        if (is_idle != victim_is_idle ? is_idle : at->active_ns < victim->active_ns) {
            victim = at;
        }
    }
    connection_close(victim);
}

static void connection_open(struct server *server, int fd)
{
    struct error err;
    if (server->connection_count >= SERVER_CONNECTIONS_MAX) {
        evict(server);
    }
    struct connection *connection = connection_new(server, &server->service, fd);
    if (!connection) {
        close(fd);
        return;
    }
    if (loop_add(server->service.loop, fd, connection->events, on_connection, connection,
                 &err) < 0) {
        connection_free(connection);
        return;
    }
    connection->next = server->connections;
    server->connections = connection;
    if (server->connection_count++ == 0) {
        tick_set(server);
    }
}

static void set_accepting(struct server *server, bool accepts)
{
    server->is_full = !accepts;
    for (unsigned i = 0; i < server->listener_count; i++) {
        loop_modify(server->service.loop, server->listener[i], accepts ? EPOLLIN : 0);
    }
    tick_set(server);
}

static void on_accept(void *opaque, int listener, uint32_t events)
{
    struct server *server = opaque;
    for (unsigned i = 0; i < ACCEPTS_PER_TURN; i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOMEM ||
                errno == ENOBUFS) {
                set_accepting(server, false);
            }
            return;
        }
        if (!is_peer_trusted(fd)) {
            log_info("control socket: turned away a connection of another user");
            close(fd);
            continue;
        }
        connection_open(server, fd);
    }
}

/* --- Time --- */

static void on_tick(void *opaque, int fd, uint32_t events)
{
    struct server *server = opaque;
    uint64_t expirations;
    (void)!read(fd, &expirations, sizeof(expirations));
    uint64_t now_ns = clock_host_ns();
    struct connection *next;
    for (struct connection *at = server->connections; at; at = next) {
        next = at->next;
        if (at->deadline_ns > now_ns) {
            continue;
        }
        if (!connection_time_out(at)) {
            connection_close(at);
        }
    }
    if (server->is_full) {
        set_accepting(server, true);
    }
}

/* --- Loops --- */

int server_listen(struct server *server, int fd, struct error *err)
{
    if (server->listener_count == LISTENERS_MAX) {
        close(fd);
        return fail_plain(err, ENOSPC, "too many control sockets");
    }
    if (server->service.loop) {
        int result = loop_add(server->service.loop, fd, EPOLLIN, on_accept, server, err);
        if (result < 0) {
            close(fd);
            return result;
        }
    }
    server->listener[server->listener_count++] = fd;
    return 0;
}

void server_detach(struct server *server)
{
    if (!server->service.loop) {
        return;
    }
    loop_remove(server->service.loop, server->tick_fd);
    for (unsigned i = 0; i < server->listener_count; i++) {
        loop_remove(server->service.loop, server->listener[i]);
    }
    for (struct connection *at = server->connections; at; at = at->next) {
        loop_remove(server->service.loop, at->fd);
    }
    server->service.loop = NULL;
}

static int server_enter_loop(struct server *server, struct error *err)
{
    int result =
        loop_add(server->service.loop, server->tick_fd, EPOLLIN, on_tick, server, err);
    for (unsigned i = 0; result >= 0 && i < server->listener_count; i++) {
        result = loop_add(server->service.loop, server->listener[i],
                          server->is_full ? 0 : EPOLLIN, on_accept, server, err);
    }
    for (struct connection *at = server->connections; result >= 0 && at; at = at->next) {
        result =
            loop_add(server->service.loop, at->fd, at->events, on_connection, at, err);
    }
    return result;
}

int server_attach(struct server *server, struct loop *loop, struct error *err)
{
    server_detach(server);
    server->service.loop = loop;
    int result = server_enter_loop(server, err);
    if (result < 0) {
        server_detach(server);
    }
    return result;
}

void server_free(struct server *server)
{
    if (!server) {
        return;
    }
    server_detach(server);
    while (server->connections) {
        struct connection *connection = server->connections;
        server->connections = connection->next;
        connection_free(connection);
    }
    for (unsigned i = 0; i < server->listener_count; i++) {
        close(server->listener[i]);
    }
    if (server->tick_fd >= 0) {
        close(server->tick_fd);
    }
    free(server);
}

unsigned server_connections(const struct server *server)
{
    return server->connection_count;
}
