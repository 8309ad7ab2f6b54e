#include "control/hub.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

#define INPUT_SIZE 4096u
#define SEND_MAX   16384u
#define LAST_NS    NS_PER_SECOND

struct client {
    struct client *next;
    struct hub *hub;
    int fd;
    uint32_t events;
    uint64_t position; /* of the next byte to send, counted from the guest's first */
    char notice[80];   /* what is told before that */
    unsigned notice_start, notice_size;
    unsigned in_start, in_end; /* input[in_start..in_end) waits for the guest */
    uint8_t input[INPUT_SIZE];
};

struct hub {
    struct console_port inner;
    struct loop *loop;
    unsigned (*input)(void *opaque, const uint8_t *data, unsigned size);
    void *opaque;
    int event_fd; /* output came */
    int room_fd;  /* the guest takes input again */
    unsigned client_count;
    struct client *clients;

    pthread_mutex_t lock; /* what follows; the innermost */
    uint64_t total;       /* bytes the guest has written */
    bool has_clients;
    bool is_told; /* event_fd is set */
    uint8_t kept[HUB_KEPT];
};

struct hub *hub_new(const struct console_port *inner, struct error *err)
{
    struct hub *hub = calloc(1, sizeof(*hub));
    if (!hub) {
        fail(err, ENOMEM, "cannot make the console's memory");
        return NULL;
    }
    hub->inner = *inner;
    pthread_mutex_init(&hub->lock, NULL);
    hub->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    hub->room_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (hub->event_fd < 0 || hub->room_fd < 0) {
        fail(err, errno, "cannot make the console's memory");
        hub_free(hub);
        return NULL;
    }
    return hub;
}

/* --- Output: on a vCPU's thread, with the serial port's lock --- */

static void tell(int fd)
{
    const uint64_t one = 1;
    (void)!write(fd, &one, sizeof(one));
}

static void keep_locked(struct hub *hub, const uint8_t *data, unsigned size)
{
    unsigned skipped = size > HUB_KEPT ? size - HUB_KEPT : 0;
    hub->total += skipped;
    unsigned start = hub->total % HUB_KEPT, rest = size - skipped;
    unsigned first = rest < HUB_KEPT - start ? rest : HUB_KEPT - start;
    memcpy(hub->kept + start, data + skipped, first);
    memcpy(hub->kept, data + skipped + first, rest - first);
    hub->total += rest;
}

static unsigned port_write(void *opaque, const uint8_t *data, unsigned size)
{
    struct hub *hub = opaque;
    unsigned taken = hub->inner.write(hub->inner.opaque, data, size);
    pthread_mutex_lock(&hub->lock);
    keep_locked(hub, data, taken);
    bool tells = taken && hub->has_clients && !hub->is_told;
    hub->is_told |= tells;
    pthread_mutex_unlock(&hub->lock);
    if (tells) {
        tell(hub->event_fd);
    }
    return taken;
}

static void port_room(void *opaque)
{
    struct hub *hub = opaque;
    if (hub->inner.room) {
        hub->inner.room(hub->inner.opaque);
    }
    tell(hub->room_fd);
}

struct console_port hub_port(struct hub *hub)
{
    return (struct console_port){port_write, port_room, hub};
}

/* Copies up to size bytes from *position on, which moves to the oldest that is kept if it
 * is older; *missed tells how far. */
static unsigned hub_read(struct hub *hub, uint64_t *position, uint8_t *data,
                         unsigned size, uint64_t *missed)
{
    pthread_mutex_lock(&hub->lock);
    uint64_t oldest = hub->total > HUB_KEPT ? hub->total - HUB_KEPT : 0;
    *missed = *position < oldest ? oldest - *position : 0;
    *position += *missed;
    uint64_t left = hub->total - *position;
    unsigned count = left < size ? (unsigned)left : size;
    unsigned start = *position % HUB_KEPT;
    unsigned first = count < HUB_KEPT - start ? count : HUB_KEPT - start;
    memcpy(data, hub->kept + start, first);
    memcpy(data + first, hub->kept, count - first);
    pthread_mutex_unlock(&hub->lock);
    return count;
}

char *hub_copy(struct hub *hub, size_t *size)
{
    uint64_t position = 0, missed;
    char *data = malloc(HUB_KEPT);
    *size = data ? hub_read(hub, &position, (uint8_t *)data, HUB_KEPT, &missed) : 0;
    return data;
}

/* --- Clients: on the loop's thread --- */

static void client_close(struct client *client)
{
    struct hub *hub = client->hub;
    struct client **link = &hub->clients;
    while (*link != client) {
        link = &(*link)->next;
    }
    *link = client->next;
    hub->client_count--;
    pthread_mutex_lock(&hub->lock);
    hub->has_clients = hub->clients;
    pthread_mutex_unlock(&hub->lock);
    if (hub->loop) {
        loop_remove(hub->loop, client->fd);
    }
    close(client->fd);
    free(client);
}

/* Returns the bytes sent, 0 if the socket is full, negative if the client is gone. */
static ssize_t client_send(struct client *client, const void *data, size_t size)
{
    ssize_t sent = send(client->fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    return sent < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : sent;
}

static void client_notify(struct client *client, uint64_t missed)
{
    client->notice_start = 0;
    client->notice_size = (unsigned)snprintf(
        client->notice, sizeof(client->notice),
        "\r\n[doppel: %llu bytes of output missed]\r\n", (unsigned long long)missed);
}

enum progress {
    PROGRESS_DONE, /* the client has everything */
    PROGRESS_FULL, /* it must read first */
    PROGRESS_MORE, /* others get their turn */
    PROGRESS_GONE,
};

static enum progress client_step(struct client *client)
{
    uint8_t data[SEND_MAX];
    if (client->notice_size) {
        ssize_t sent = client_send(client, client->notice + client->notice_start,
                                   client->notice_size);
        if (sent <= 0) {
            return sent < 0 ? PROGRESS_GONE : PROGRESS_FULL;
        }
        client->notice_start += (unsigned)sent;
        client->notice_size -= (unsigned)sent;
        return PROGRESS_MORE;
    }
    uint64_t missed;
    unsigned size = hub_read(client->hub, &client->position, data, sizeof(data), &missed);
    if (missed) {
        client_notify(client, missed);
        return PROGRESS_MORE;
    }
    if (!size) {
        return PROGRESS_DONE;
    }
    ssize_t sent = client_send(client, data, size);
    if (sent <= 0) {
        return sent < 0 ? PROGRESS_GONE : PROGRESS_FULL;
    }
    client->position += (uint64_t)sent;
    return PROGRESS_MORE;
}

static void client_watch(struct client *client, bool wants_output)
{
    uint32_t events = (client->in_start == client->in_end ? EPOLLIN : 0) |
                      (wants_output ? EPOLLOUT : 0);
    if (events != client->events) {
        client->events = events;
        loop_modify(client->hub->loop, client->fd, events);
    }
}

/* Sends one piece; the loop calls again for more. False: the client has been closed. */
static bool client_output(struct client *client)
{
    enum progress progress = client_step(client);
    if (progress == PROGRESS_GONE) {
        client_close(client);
        return false;
    }
    client_watch(client, progress != PROGRESS_DONE);
    return true;
}

/* What the guest has no room for waits until it says that it has (port_room). */
static void client_deliver(struct client *client)
{
    struct hub *hub = client->hub;
    if (client->in_start == client->in_end) {
        return;
    }
    client->in_start += hub->input(hub->opaque, client->input + client->in_start,
                                   client->in_end - client->in_start);
    if (client->in_start == client->in_end) {
        client->in_start = client->in_end = 0;
    }
}

/* False: the client is gone. */
static bool client_input(struct client *client)
{
    ssize_t size = recv(client->fd, client->input, sizeof(client->input), MSG_DONTWAIT);
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) {
        return true;
    }
    if (size <= 0) {
        client_close(client);
        return false;
    }
    client->in_end = (unsigned)size;
    client_deliver(client);
    return true;
}

static void on_client(void *opaque, int fd, uint32_t events)
{
    struct client *client = opaque;
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR) && client->in_start == client->in_end) {
        if (!client_input(client)) {
            return;
        }
    } else if (events & (EPOLLHUP | EPOLLERR)) {
        client_close(client);
        return;
    }
    client_output(client);
}

static void on_output(void *opaque, int fd, uint32_t events)
{
    struct hub *hub = opaque;
    uint64_t value;
    (void)!read(fd, &value, sizeof(value));
    pthread_mutex_lock(&hub->lock);
    hub->is_told = false;
    pthread_mutex_unlock(&hub->lock);
    struct client *next;
    for (struct client *client = hub->clients; client; client = next) {
        next = client->next;
        client_output(client);
    }
}

static void on_room(void *opaque, int fd, uint32_t events)
{
    struct hub *hub = opaque;
    uint64_t count;
    (void)!read(fd, &count, sizeof(count));
    for (struct client *client = hub->clients; client; client = client->next) {
        client_deliver(client);
        client_watch(client, client->events & EPOLLOUT);
    }
}

void hub_attach(struct hub *hub, int fd, const void *data, size_t size)
{
    struct error err;
    struct client *client =
        hub->client_count < HUB_CLIENTS_MAX ? calloc(1, sizeof(*client)) : NULL;
    if (!client) {
        close(fd);
        return;
    }
    client->hub = hub;
    client->fd = fd;
    client->events = EPOLLIN | EPOLLOUT;
    client->in_end = size < INPUT_SIZE ? (unsigned)size : INPUT_SIZE;
    memcpy(client->input, data, client->in_end);
    pthread_mutex_lock(&hub->lock);
    client->position = hub->total > HUB_KEPT ? hub->total - HUB_KEPT : 0;
    hub->has_clients = true;
    pthread_mutex_unlock(&hub->lock);
    client->next = hub->clients;
    hub->clients = client;
    hub->client_count++;
    if (loop_add(hub->loop, fd, client->events, on_client, client, &err) < 0) {
        log_warning("console: %s", err.message);
        client_close(client);
        return;
    }
    client_deliver(client);
}

unsigned hub_clients(const struct hub *hub)
{
    return hub->client_count;
}

/* --- Start and end --- */

int hub_start(struct hub *hub, struct loop *loop,
              unsigned (*input)(void *opaque, const uint8_t *data, unsigned size),
              void *opaque, struct error *err)
{
    hub->input = input;
    hub->opaque = opaque;
    int result = loop_add(loop, hub->event_fd, EPOLLIN, on_output, hub, err);
    if (result < 0) {
        return result;
    }
    result = loop_add(loop, hub->room_fd, EPOLLIN, on_room, hub, err);
    if (result < 0) {
        loop_remove(loop, hub->event_fd);
        return result;
    }
    hub->loop = loop;
    return 0;
}

/* All that is left, as far as the client takes it in time. */
static void client_finish(struct client *client, uint64_t deadline_ns)
{
    for (;;) {
        enum progress progress = client_step(client);
        uint64_t now_ns = clock_host_ns();
        if (progress == PROGRESS_MORE) {
            continue;
        }
        if (progress != PROGRESS_FULL || now_ns >= deadline_ns) {
            return;
        }
        struct pollfd poll_fd = {.fd = client->fd, .events = POLLOUT};
        poll(&poll_fd, 1, (int)((deadline_ns - now_ns) / 1000000) + 1);
    }
}

void hub_stop(struct hub *hub)
{
    if (!hub->loop) {
        return;
    }
    loop_remove(hub->loop, hub->event_fd);
    loop_remove(hub->loop, hub->room_fd);
    uint64_t deadline_ns = clock_host_ns() + LAST_NS;
    while (hub->clients) {
        client_finish(hub->clients, deadline_ns);
        client_close(hub->clients);
    }
    hub->loop = NULL;
}

void hub_free(struct hub *hub)
{
    if (!hub) {
        return;
    }
    hub_stop(hub);
    if (hub->event_fd >= 0) {
        close(hub->event_fd);
    }
    if (hub->room_fd >= 0) {
        close(hub->room_fd);
    }
    pthread_mutex_destroy(&hub->lock);
    free(hub);
}
