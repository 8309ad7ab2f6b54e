#include "control/server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/scope.h"
#include "control/passed.h"
#include "jail/jail.h"

#define LISTENERS_MAX    4
#define ACCEPTS_PER_TURN 16
#define INPUT_MIN        4096u
#define NEVER            UINT64_MAX
/* After a refusal: how long what the peer still sends is read and dropped. Closing at
 * once would take the answer from a peer that is still writing. */
#define LINGER_SECONDS 2

struct connection {
    struct connection *next;
    struct server *server;
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

struct server {
    server_fn answer;
    void *opaque;
    struct loop *loop;
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
    server->answer = answer;
    server->opaque = opaque;
    server->tick_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (server->tick_fd < 0) {
        fail(err, errno, "cannot make the control server");
        server_free(server);
        return NULL;
    }
    return server;
}

/* --- Connections --- */

static void connection_free(struct connection *connection)
{
    passed_close(&connection->passed);
    if (connection->fd >= 0) {
        close(connection->fd);
    }
    free(connection->in);
    free(connection->out);
    free(connection);
}

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
        loop_remove(server->loop, connection->fd);
    }
    connection_free(connection);
    if (!server->connections) {
        tick_set(server);
    }
}

static uint64_t seconds_from_now(unsigned seconds)
{
    return clock_host_ns() + seconds * NS_PER_SECOND;
}

static bool has_output(const struct connection *connection)
{
    return connection->out_start < connection->out_size;
}

/* Sends what can be sent now. False if the peer is gone. */
static bool connection_send(struct connection *connection)
{
    if (!has_output(connection)) {
        return true;
    }
    while (has_output(connection)) {
        ssize_t sent = send(connection->fd, connection->out + connection->out_start,
                            connection->out_size - connection->out_start,
                            MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0) {
            return errno == EAGAIN || errno == EINTR;
        }
        connection->out_start += (size_t)sent;
        connection->deadline_ns = seconds_from_now(SERVER_PATIENCE_SECONDS);
    }
    free(connection->out);
    connection->out = NULL;
    connection->out_start = connection->out_size = 0;
    connection->deadline_ns = NEVER;
    return true;
}

/* Puts the answer where it is sent from; the reply's body is used up. */
static bool connection_answer(struct connection *connection, struct http_reply *reply)
{
    size_t room = HTTP_RESPONSE_HEAD_MAX + reply->length;
    char *out = malloc(room);
    if (out) {
        size_t size = http_format_head(out, reply->status, reply->type, reply->length,
                                       !connection->closes);
        if (reply->length) {
            memcpy(out + size, reply->body, reply->length);
        }
        connection->out = out;
        connection->out_size = size + reply->length;
        connection->upgraded = reply->status == 101 ? reply->upgraded : NULL;
        connection->upgraded_opaque = reply->upgraded_opaque;
        connection->deadline_ns = seconds_from_now(SERVER_PATIENCE_SECONDS);
    }
    free(reply->body);
    return out;
}

/* A refusal by the parser, in the form of every other error. */
static bool connection_refuse(struct connection *connection, int status,
                              const char *reason)
{
    static const char format_start[] = "{\"fault_message\":\"", format_end[] = "\"}\n";
    size_t length = sizeof(format_start) - 1 + strlen(reason) + sizeof(format_end) - 1;
    char *body = malloc(length + 1);
    if (!body) {
        return false;
    }
    strcpy(body, format_start);
    strcat(body, reason);
    strcat(body, format_end);
    struct http_reply reply = {
        .status = status, .type = "application/json", .body = body, .length = length};
    connection->closes = true;
    return connection_answer(connection, &reply);
}

static void connection_consume(struct connection *connection, size_t size)
{
    connection->in_size -= size;
    memmove(connection->in, connection->in + size, connection->in_size);
    connection->told_to_continue = false;
}

/* Looks at the first request in the input. False if the connection is of no more use. */
static bool connection_serve(struct connection *connection)
{
    struct http_request request;
    const char *reason = "";
    if (!connection->in_size) {
        connection->deadline_ns = NEVER;
        return true;
    }
    int used = http_parse(connection->in, connection->in_size, &request, &reason);
    if (used < 0) {
        return connection_refuse(connection, -used, reason);
    }
    if (used == 0) {
        if (connection->deadline_ns == NEVER) {
            connection->deadline_ns = seconds_from_now(SERVER_PATIENCE_SECONDS);
        }
        if (request.head_length && request.expects_continue &&
            !connection->told_to_continue) {
            connection->told_to_continue = true;
            struct http_reply reply = {.status = 100};
            return connection_answer(connection, &reply);
        }
        return true;
    }
    struct http_reply reply = {.status = 500, .type = "application/json"};
    request.passed = &connection->passed;
    connection->server->answer(connection->server->opaque, &request, &reply);
    passed_close(&connection->passed);
    connection->closes = !request.is_persistent;
    connection->active_ns = clock_host_ns();
    connection_consume(connection, (size_t)used);
    return connection_answer(connection, &reply);
}

/* Makes room for input and reads once. False if the peer is gone or memory is short. */
static bool connection_read(struct connection *connection)
{
    if (connection->in_size == connection->in_room) {
        size_t room = connection->in_room ? connection->in_room * 2 : INPUT_MIN;
        char *in = realloc(connection->in, room);
        if (!in) {
            return false;
        }
        connection->in = in;
        connection->in_room = room;
    }
    ssize_t size =
        passed_receive(connection->fd, connection->in + connection->in_size,
                       connection->in_room - connection->in_size, &connection->passed);
    if (size < 0) {
        return errno == EAGAIN || errno == EINTR;
    }
    connection->in_size += (size_t)size;
    connection->has_ended |= size == 0;
    return true;
}

/* Hands the descriptor on. */
static void connection_upgrade(struct connection *connection)
{
    loop_remove(connection->server->loop, connection->fd);
    connection->upgraded(connection->upgraded_opaque, steal_fd(&connection->fd),
                         connection->in, connection->in_size);
}

/* Reads and drops. False when the peer has closed. */
static bool connection_drop_input(struct connection *connection)
{
    char dropped[4096];
    ssize_t size = recv(connection->fd, dropped, sizeof(dropped), MSG_DONTWAIT);
    return size > 0 || (size < 0 && (errno == EAGAIN || errno == EINTR));
}

static bool connection_begin_closing(struct connection *connection)
{
    connection->is_closing = true;
    connection->deadline_ns = seconds_from_now(LINGER_SECONDS);
    return shutdown(connection->fd, SHUT_WR) == 0;
}

/* Asks the loop for what the connection now waits for. */
static void connection_watch(struct connection *connection, bool has_more)
{
    bool is_readable =
        connection->is_closing || (!has_output(connection) && !connection->has_ended &&
                                   connection->in_size < HTTP_REQUEST_MAX);
    /* A request that is already here is served in the loop's next turn, so that a peer
     * which sends thousands at once holds up nobody: its socket is writable. */
    uint32_t events =
        (is_readable ? EPOLLIN : 0) | (has_output(connection) || has_more ? EPOLLOUT : 0);
    if (events != connection->events) {
        connection->events = events;
        loop_modify(connection->server->loop, connection->fd, events);
    }
}

/* One turn. False: close it. */
static bool connection_turn(struct connection *connection, uint32_t events)
{
    if (connection->is_closing) {
        return connection_drop_input(connection);
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR) && !has_output(connection) &&
        connection->in_size < HTTP_REQUEST_MAX && !connection_read(connection)) {
        return false;
    }
    if (!connection_send(connection)) {
        return false;
    }
    bool was_served = false;
    if (!has_output(connection)) {
        size_t before = connection->in_size;
        if (!connection_serve(connection) || !connection_send(connection)) {
            return false;
        }
        was_served = connection->in_size != before;
    }
    if (!has_output(connection)) {
        if (connection->upgraded) {
            connection_upgrade(connection);
            return false;
        }
        if (connection->closes) {
            return connection_begin_closing(connection);
        }
        if (connection->has_ended && !(was_served && connection->in_size)) {
            return false;
        }
    } else if (connection->upgraded || events & (EPOLLHUP | EPOLLERR)) {
        return false;
    }
    connection_watch(connection, was_served && connection->in_size);
    return true;
}

static void on_connection(void *opaque, int fd, uint32_t events)
{
    struct connection *connection = opaque;
    if (!connection_turn(connection, events)) {
        connection_close(connection);
    } else if (connection->is_closing) {
        connection_watch(connection, false);
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
        bool is_idle = at->deadline_ns == NEVER;
        bool victim_is_idle = victim->deadline_ns == NEVER;
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
    struct connection *connection = calloc(1, sizeof(*connection));
    if (!connection) {
        close(fd);
        return;
    }
    connection->server = server;
    connection->fd = fd;
    connection->active_ns = clock_host_ns();
    connection->deadline_ns = NEVER;
    connection->events = EPOLLIN;
    if (loop_add(server->loop, fd, EPOLLIN, on_connection, connection, &err) < 0) {
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
        loop_modify(server->loop, server->listener[i], accepts ? EPOLLIN : 0);
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
        /* Something half sent gets an answer; one not taken, or lingering, does not. */
        bool is_told = !at->is_closing && !has_output(at) &&
                       connection_refuse(at, 408, "the request did not arrive in time") &&
                       connection_send(at) && !has_output(at) &&
                       connection_begin_closing(at);
        if (is_told) {
            connection_watch(at, false);
        } else {
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
    if (server->loop) {
        int result = loop_add(server->loop, fd, EPOLLIN, on_accept, server, err);
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
    if (!server->loop) {
        return;
    }
    loop_remove(server->loop, server->tick_fd);
    for (unsigned i = 0; i < server->listener_count; i++) {
        loop_remove(server->loop, server->listener[i]);
    }
    for (struct connection *at = server->connections; at; at = at->next) {
        loop_remove(server->loop, at->fd);
    }
    server->loop = NULL;
}

static int server_enter_loop(struct server *server, struct error *err)
{
    int result = loop_add(server->loop, server->tick_fd, EPOLLIN, on_tick, server, err);
    for (unsigned i = 0; result >= 0 && i < server->listener_count; i++) {
        result = loop_add(server->loop, server->listener[i],
                          server->is_full ? 0 : EPOLLIN, on_accept, server, err);
    }
    for (struct connection *at = server->connections; result >= 0 && at; at = at->next) {
        result = loop_add(server->loop, at->fd, at->events, on_connection, at, err);
    }
    return result;
}

int server_attach(struct server *server, struct loop *loop, struct error *err)
{
    server_detach(server);
    server->loop = loop;
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
