#include "control/client.h"

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/scope.h"
#include "control/passed.h"
#include "control/runtime.h"

#define BODY_MAX (16u << 20)

int client_open(const char *machine, struct error *err)
{
    char path[108];
    if (strchr(machine, '/')) {
        int fd = socket_connect(machine, err);
        return fd == -ECONNREFUSED
                   ? fail_plain(err, ECONNREFUSED, "%s: its machine is gone", machine)
                   : fd;
    }
    int result = runtime_socket(machine, path, err);
    if (result < 0) {
        return result;
    }
    int fd = socket_connect(path, err);
    if (fd == -ENOENT || fd == -ECONNREFUSED) {
        return fail_plain(err, ENOENT,
                          "no virtual machine named '%s' is running; doppel ps lists "
                          "those that are",
                          machine);
    }
    return fd;
}

/* unix(7): SO_PEERCRED is who called listen. */
int client_process(int fd)
{
    struct ucred peer = {0};
    socklen_t size = sizeof(peer);
    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size);
    return peer.pid;
}

static int fail_silent(int fd, struct error *err)
{
    int process = client_process(fd);
    return process > 0 ? fail_plain(err, ETIMEDOUT,
                                    "the machine does not answer: its process is stopped "
                                    "or hangs; kill -9 %d would end it",
                                    process)
                       : fail_plain(err, ETIMEDOUT, "the machine does not answer");
}

/* The descriptors go with the first byte. */
static int send_all(int fd, const char *data, size_t size, struct passed passed,
                    struct error *err)
{
    while (size) {
        ssize_t sent = passed_send(fd, data, size, &passed);
        if (sent < 0 && errno == EINTR) {
            continue;
        }
        if (sent < 0) {
            return fail(err, errno, "cannot ask the machine");
        }
        data += sent;
        size -= (size_t)sent;
        passed.count = 0;
    }
    return 0;
}

static int send_request(int fd, enum http_method method, const char *path,
                        const char *headers, const char *body, struct passed passed,
                        struct error *err)
{
    char head[512];
    int length =
        snprintf(head, sizeof(head),
                 "%s %s HTTP/1.1\r\nHost: localhost\r\n%s"
                 "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                 http_method_name(method), path, headers, body ? strlen(body) : 0);
    int result = send_all(fd, head, (size_t)length, passed, err);
    if (result >= 0 && body) {
        result = send_all(fd, body, strlen(body), (struct passed){0}, err);
    }
    return result;
}

/* Reads up to size bytes before the deadline; 0 is the end. */
static ssize_t receive(int fd, char *data, size_t size, uint64_t deadline_ns,
                       struct error *err)
{
    for (;;) {
        uint64_t now_ns = clock_host_ns();
        struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
        int wait_ms =
            now_ns < deadline_ns ? (int)((deadline_ns - now_ns) / 1000000) + 1 : 0;
        int ready = poll(&poll_fd, 1, wait_ms);
        if (ready == 0) {
            return fail_silent(fd, err);
        }
        ssize_t got = ready > 0 ? recv(fd, data, size, MSG_DONTWAIT) : -1;
        if (got >= 0) {
            return got;
        }
        if (errno != EINTR && errno != EAGAIN) {
            return fail(err, errno, "cannot read the machine's answer");
        }
    }
}

static int fail_short(struct error *err)
{
    return fail_plain(err, ECONNRESET, "the machine has ended");
}

/* The head, byte by byte, so that nothing behind it is taken. */
static int receive_head(int fd, uint64_t deadline_ns, int *status, size_t *length,
                        struct error *err)
{
    char head[HTTP_HEAD_MAX];
    size_t size = 0;
    int used = 0;
    while (used == 0 && size < sizeof(head)) {
        ssize_t got = receive(fd, head + size, 1, deadline_ns, err);
        if (got <= 0) {
            return got < 0 ? (int)got : fail_short(err);
        }
        size += (size_t)got;
        if (head[size - 1] == '\n') {
            used = http_parse_response(head, size, status, length);
        }
    }
    if (used <= 0) {
        return fail_plain(err, EPROTO, "what answers is no control socket");
    }
    return 0;
}

static int receive_body(int fd, uint64_t deadline_ns, size_t length,
                        struct client_reply *reply, struct error *err)
{
    if (length > BODY_MAX) {
        return fail_plain(err, EPROTO, "the machine's answer is too long");
    }
    reply->body = malloc(length + 1);
    if (!reply->body) {
        return fail(err, ENOMEM, "cannot read the machine's answer");
    }
    while (reply->length < length) {
        ssize_t got = receive(fd, reply->body + reply->length, length - reply->length,
                              deadline_ns, err);
        if (got <= 0) {
            return got < 0 ? (int)got : fail_short(err);
        }
        reply->length += (size_t)got;
    }
    reply->body[length] = '\0';
    return 0;
}

static int fail_status(const struct client_reply *reply, struct error *err)
{
    json_t *object = reply->body ? json_loads(reply->body, 0, NULL) : NULL;
    const char *message = json_string_value(json_object_get(object, "fault_message"));
    int result = fail_plain(err, EREMOTEIO, "%s",
                            message ? message : http_status_text(reply->status));
    json_decref(object);
    return result;
}

static int exchange(int fd, enum http_method method, const char *path,
                    const char *headers, const char *body, struct passed passed,
                    int patience_ms, struct client_reply *reply, struct error *err)
{
    *reply = (struct client_reply){0};
    size_t length;
    uint64_t deadline_ns = clock_host_ns() + (uint64_t)patience_ms * 1000000;
    int result = send_request(fd, method, path, headers, body, passed, err);
    if (result >= 0) {
        result = receive_head(fd, deadline_ns, &reply->status, &length, err);
    }
    if (result >= 0 && length != SIZE_MAX) {
        result = receive_body(fd, deadline_ns, length, reply, err);
    }
    if (result >= 0 && reply->status >= 400) {
        result = fail_status(reply, err);
    }
    if (result < 0) {
        client_reply_free(reply);
    }
    return result;
}

int client_call_passing(int fd, enum http_method method, const char *path,
                        const struct json_t *body, const struct passed *passed,
                        int patience_ms, struct client_reply *reply, struct error *err)
{
    SCOPE_FREE char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    if (body && !text) {
        return fail_plain(err, EINVAL, "an argument is not valid UTF-8");
    }
    return exchange(fd, method, path, "", text, *passed, patience_ms, reply, err);
}

int client_call(int fd, enum http_method method, const char *path,
                const struct json_t *body, int patience_ms, struct client_reply *reply,
                struct error *err)
{
    const struct passed nothing = {0};
    return client_call_passing(fd, method, path, body, &nothing, patience_ms, reply, err);
}

void client_reply_free(struct client_reply *reply)
{
    free(reply->body);
    reply->body = NULL;
    reply->length = 0;
}

struct json_t *client_json(const struct client_reply *reply, struct error *err)
{
    json_t *root = reply->body ? json_loadb(reply->body, reply->length, 0, NULL) : NULL;
    if (!root) {
        fail_plain(err, EPROTO, "the machine's answer is not JSON");
    }
    return root;
}

int client_attach(int fd, struct error *err)
{
    struct client_reply reply;
    int result = exchange(fd, HTTP_GET, "/doppel/console",
                          "Connection: Upgrade\r\nUpgrade: doppel-console\r\n", NULL,
                          (struct passed){0}, CLIENT_PATIENCE_MS, &reply, err);
    if (result >= 0 && reply.status != 101) {
        result = fail_plain(err, EPROTO, "the machine does not offer its console");
    }
    client_reply_free(&reply);
    return result;
}
