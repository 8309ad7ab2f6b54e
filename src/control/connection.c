#include "control/connection.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/scope.h"

#define INPUT_MIN 4096u
#define NEVER     UINT64_MAX
/* After a refusal: how long what the peer still sends is read and dropped. Closing at
 * once would take the answer from a peer that is still writing. */
#define LINGER_SECONDS 2

struct connection *connection_new(struct server *server, const struct service *service,
                                  int fd)
{
    struct connection *connection = calloc(1, sizeof(*connection));
    if (connection) {
        connection->server = server;
        connection->service = service;
        connection->fd = fd;
        connection->active_ns = clock_host_ns();
        connection->deadline_ns = NEVER;
        connection->events = EPOLLIN;
    }
    return connection;
}

void connection_free(struct connection *connection)
{
    passed_close(&connection->passed);
    if (connection->fd >= 0) {
        close(connection->fd);
    }
    free(connection->in);
    free(connection->out);
    free(connection);
}

bool connection_is_idle(const struct connection *connection)
{
    return connection->deadline_ns == NEVER;
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
    const struct service *service = connection->service;
    struct http_reply reply = {.status = 500, .type = "application/json"};
    request.passed = &connection->passed;
    service->answer(service->opaque, &request, &reply);
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
    loop_remove(connection->service->loop, connection->fd);
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
        loop_modify(connection->service->loop, connection->fd, events);
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

bool connection_handle(struct connection *connection, uint32_t events)
{
    bool is_open = connection_turn(connection, events);
    if (is_open && connection->is_closing) {
        connection_watch(connection, false);
    }
    return is_open;
}

/* Something half sent gets an answer; one not taken, or lingering, does not. */
bool connection_time_out(struct connection *connection)
{
    bool is_told =
        !connection->is_closing && !has_output(connection) &&
        connection_refuse(connection, 408, "the request did not arrive in time") &&
        connection_send(connection) && !has_output(connection) &&
        connection_begin_closing(connection);
    if (is_told) {
        connection_watch(connection, false);
    }
    return is_told;
}
