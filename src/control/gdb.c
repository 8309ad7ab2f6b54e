#include "control/gdb.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/scope.h"
#include "control/gdb_session.h"
#include "control/socket.h"

/* Replies that the debugger has not fetched. It asks before it gets the next, so a few
 * suffice; one that asks without reading is cut off. */
#define OUTPUT_MAX (8 * GDB_PACKET_MAX)

struct gdb {
    struct vm *vm;
    int listener, client; /* -1: none */
    char address[128];
    struct socket_name name; /* of a Unix socket */
    struct gdb_reader reader;
    struct gdb_session session;
    char output[OUTPUT_MAX];
    size_t sent, filled; /* of output */
    char last[2 * GDB_PACKET_MAX + 4];
    size_t last_size; /* for a repetition */
};

static void disconnect(struct gdb *gdb)
{
    if (gdb->client < 0) {
        return;
    }
    loop_remove(gdb->vm->loop, gdb->client);
    close(gdb->client);
    gdb->client = -1;
    gdb_session_end(&gdb->session);
    log_info("the debugger has gone");
}

/* Sends what the socket takes; false if the connection is gone. */
static bool flush(struct gdb *gdb)
{
    while (gdb->sent < gdb->filled) {
        ssize_t size = send(gdb->client, gdb->output + gdb->sent, gdb->filled - gdb->sent,
                            MSG_NOSIGNAL | MSG_DONTWAIT);
        if (size < 0 && errno == EAGAIN) {
            break;
        }
        if (size <= 0) {
            return false;
        }
        gdb->sent += (size_t)size;
    }
    if (gdb->sent == gdb->filled) {
        gdb->sent = gdb->filled = 0;
    }
    uint32_t events = EPOLLIN | (gdb->filled ? EPOLLOUT : 0u);
    loop_modify(gdb->vm->loop, gdb->client, events);
    return true;
}

static void put(struct gdb *gdb, const char *bytes, size_t size)
{
    if (size > OUTPUT_MAX - gdb->filled) {
        log_warning("the debugger does not read its replies");
        shutdown(gdb->client, SHUT_RDWR);
        return;
    }
    memcpy(gdb->output + gdb->filled, bytes, size);
    gdb->filled += size;
}

static void send_packet(void *opaque, const char *data, size_t size)
{
    struct gdb *gdb = opaque;
    gdb->last_size = gdb_frame(gdb->last, data, size);
    put(gdb, gdb->last, gdb->last_size);
    flush(gdb);
}

static void take(struct gdb *gdb, uint8_t byte)
{
    struct gdb_session *session = &gdb->session;
    switch (gdb_read(&gdb->reader, byte)) {
    case GDB_PACKET:
        if (!session->without_ack) {
            put(gdb, "+", 1);
        }
        gdb_session_command(session, gdb->reader.data, gdb->reader.size);
        break;
    case GDB_DAMAGED:
    case GDB_TOO_LONG:
        put(gdb, "-", 1);
        break;
    case GDB_INTERRUPT:
        gdb_session_interrupt(session);
        break;
    case GDB_NACK:
        put(gdb, gdb->last, gdb->last_size);
        break;
    case GDB_NOTHING:
        break;
    }
}

static void client_ready(void *opaque, int fd, uint32_t events)
{
    struct gdb *gdb = opaque;
    uint8_t bytes[4096];
    ssize_t size = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    bool is_gone = size == 0 || (size < 0 && errno != EAGAIN && errno != EINTR);
    for (ssize_t i = 0; i < size && !gdb->session.wants_detach; i++) {
        take(gdb, bytes[i]);
    }
    if (is_gone || !flush(gdb) || gdb->session.wants_detach) {
        disconnect(gdb);
    }
}

static void listener_ready(void *opaque, int fd, uint32_t events)
{
    struct gdb *gdb = opaque;
    SCOPE_FD int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (client < 0 || gdb->client >= 0) {
        return; /* one debugger at a time: the other's connection closes */
    }
    int on = 1;
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    gdb->reader.state = GDB_IDLE;
    gdb->sent = gdb->filled = gdb->last_size = 0;
    struct error err;
    if (loop_add(gdb->vm->loop, client, EPOLLIN, client_ready, gdb, &err) < 0) {
        log_error("debugger: %s", err.message);
        return;
    }
    gdb->client = steal_fd(&client);
    log_info("a debugger has connected");
    gdb_session_begin(&gdb->session, gdb->vm, send_packet, gdb);
}

static int listen_unix(struct gdb *gdb, const char *path, struct error *err)
{
    gdb->listener = socket_listen(path, &gdb->name, err);
    if (gdb->listener < 0) {
        return fail_within(err, "--gdb");
    }
    snprintf(gdb->address, sizeof(gdb->address), "%s", path);
    return 0;
}

static int bind_one(struct gdb *gdb, const struct addrinfo *info)
{
    int on = 1;
    gdb->listener =
        socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (gdb->listener < 0) {
        return -errno;
    }
    setsockopt(gdb->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    return bind(gdb->listener, info->ai_addr, info->ai_addrlen) < 0 ? -errno : 0;
}

/* Port 0 takes a free one: what it became is told to people. */
static void name_address(struct gdb *gdb, const char *host)
{
    struct sockaddr_storage bound;
    socklen_t length = sizeof(bound);
    char port[16] = "?";
    if (getsockname(gdb->listener, (struct sockaddr *)&bound, &length) == 0) {
        getnameinfo((struct sockaddr *)&bound, length, NULL, 0, port, sizeof(port),
                    NI_NUMERICSERV);
    }
    snprintf(gdb->address, sizeof(gdb->address), "%.64s:%s", host, port);
}

static int listen_tcp(struct gdb *gdb, const char *address, struct error *err)
{
    SCOPE_FREE char *host = strdup(address);
    if (!host) {
        return fail(err, ENOMEM, "--gdb");
    }
    char *colon = strrchr(host, ':');
    const char *port = colon ? colon + 1 : host;
    if (colon) {
        *colon = '\0';
    }
    const char *name = colon && *host ? host : "127.0.0.1";
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_NUMERICSERV | AI_PASSIVE};
    struct addrinfo *found;
    int code = getaddrinfo(name, port, &hints, &found);
    if (code != 0) {
        return fail_plain(
            err, EINVAL,
            "--gdb %s: %s; give PORT, HOST:PORT or a socket's path with a slash", address,
            gai_strerror(code));
    }
    int result = bind_one(gdb, found);
    freeaddrinfo(found);
    if (result < 0) {
        return fail(err, -result, "--gdb %s: cannot listen", address);
    }
    name_address(gdb, name);
    return 0;
}

static int start_listening(struct gdb *gdb, const char *address, struct error *err)
{
    int result = strchr(address, '/') ? listen_unix(gdb, address, err)
                                      : listen_tcp(gdb, address, err);
    if (result < 0) {
        return result;
    }
    if (listen(gdb->listener, 1) < 0) {
        return fail(err, errno, "--gdb %s: cannot listen", address);
    }
    return loop_add(gdb->vm->loop, gdb->listener, EPOLLIN, listener_ready, gdb, err);
}

static bool cut_wait(char *address)
{
    char *comma = strrchr(address, ',');
    bool waits = comma && !strcmp(comma, ",wait");
    if (waits) {
        *comma = '\0';
    }
    return waits;
}

struct gdb *gdb_open(struct vm *vm, const char *where, struct error *err)
{
    if (!vm->engine_ops->debug) {
        fail_plain(err, ENOTSUP, "--gdb: the engine %s cannot debug",
                   vm->engine_ops->name);
        return NULL;
    }
    struct gdb *gdb = calloc(1, sizeof(*gdb));
    if (!gdb) {
        fail(err, ENOMEM, "--gdb");
        return NULL;
    }
    gdb->vm = vm;
    gdb->listener = gdb->client = -1;
    SCOPE_FREE char *address = strdup(where);
    bool waits = address && cut_wait(address);
    if (!address || start_listening(gdb, address, err) < 0) {
        gdb_close(gdb, 0);
        return NULL;
    }
    for (unsigned i = 0; waits && i < vm->cpu_count; i++) {
        vm_hold(vm, i, true);
    }
    return gdb;
}

const char *gdb_address(const struct gdb *gdb)
{
    return gdb->address;
}

void gdb_close(struct gdb *gdb, int status)
{
    if (!gdb) {
        return;
    }
    if (gdb->client >= 0) {
        char text[8];
        snprintf(text, sizeof(text), "W%02x", (unsigned)status & 0xff);
        send_packet(gdb, text, strlen(text));
        disconnect(gdb);
    }
    if (gdb->listener >= 0) {
        loop_remove(gdb->vm->loop, gdb->listener);
        close(gdb->listener);
    }
    socket_remove(&gdb->name);
    free(gdb);
}
