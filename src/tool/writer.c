#include "tool/writer.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "jail/jail.h"

#define RING_SIZE 65536u
/* Gathers a guest's single bytes: a wake-up and a write(2) a millisecond at most. */
#define GATHER_NS 1000000
/* Ends a write(2) that nobody reads. pthread_cancel would have to load a library for
 * that, which fails where descriptors or memory have run out, and aborts the process. */
#define INTERRUPT_SIGNAL SIGUSR2
#define INTERRUPT_MS     5

struct writer {
    struct writer_events events;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work;    /* bytes came, or the end */
    pthread_cond_t changed; /* bytes went, or the thread let go of the descriptor */
    int fd;
    bool drops_unread;
    bool has_thread;
    bool is_waiting; /* the thread, for work */
    bool is_writing; /* the thread, to fd, without the lock */
    _Atomic bool is_ending;
    bool has_ended;
    bool was_full;
    uint64_t put, taken; /* bytes since the start; put - taken are in the ring */
    uint8_t ring[RING_SIZE];
};

static void interrupted(int number)
{
}

/* One write(2), after waiting as long as it takes. Returns the bytes written, -errno, or
 * 0 at the end and when nobody is at the other end of a pseudoterminal. */
static ssize_t write_some(const struct writer *writer, int fd, const uint8_t *data,
                          size_t size)
{
    while (!writer->is_ending) {
        struct pollfd poll_fd = {.fd = fd, .events = POLLOUT};
        if (poll(&poll_fd, 1, -1) < 0) {
            continue;
        }
        if (writer->drops_unread && (poll_fd.revents & POLLHUP)) {
            return 0;
        }
        ssize_t result = write(fd, data, size);
        if (result >= 0 || (errno != EINTR && errno != EAGAIN)) {
            return result < 0 ? -errno : result;
        }
    }
    return 0;
}

/* Waits for bytes, then a little for more of them. False at the end. */
static bool writer_wait_locked(struct writer *writer)
{
    if (writer->put == writer->taken && !writer->is_ending) {
        while (writer->put == writer->taken && !writer->is_ending) {
            writer->is_waiting = true;
            pthread_cond_wait(&writer->work, &writer->lock);
            writer->is_waiting = false;
        }
        pthread_mutex_unlock(&writer->lock);
        nanosleep(&(struct timespec){.tv_nsec = GATHER_NS}, NULL);
        pthread_mutex_lock(&writer->lock);
    }
    return !writer->is_ending;
}

static void writer_step_locked(struct writer *writer)
{
    unsigned start = writer->taken % RING_SIZE;
    uint64_t size = writer->put - writer->taken;
    if (size > RING_SIZE - start) {
        size = RING_SIZE - start;
    }
    int fd = writer->fd;
    ssize_t written = 0;
    if (fd >= 0) {
        writer->is_writing = true;
        pthread_mutex_unlock(&writer->lock);
        written = write_some(writer, fd, writer->ring + start, size);
        pthread_mutex_lock(&writer->lock);
        writer->is_writing = false;
    }
    if (writer->is_ending) {
        return;
    }
    bool has_failed = written < 0 && writer->fd == fd;
    if (has_failed) {
        writer->fd = -1;
    }
    writer->taken += written > 0 ? (uint64_t)written : size;
    pthread_cond_broadcast(&writer->changed);
    bool has_room = writer->was_full && writer->put - writer->taken <= RING_SIZE / 2;
    if (has_room) {
        writer->was_full = false;
    }
    pthread_mutex_unlock(&writer->lock);
    if (has_failed) {
        writer->events.failed(writer->events.opaque, (int)-written);
    }
    if (has_room) {
        writer->events.room(writer->events.opaque);
    }
    pthread_mutex_lock(&writer->lock);
}

static void *writer_main(void *opaque)
{
    struct writer *writer = opaque;
    pthread_setname_np(pthread_self(), "console");
    jail_enter(JAIL_CONSOLE);
    pthread_mutex_lock(&writer->lock);
    while (writer_wait_locked(writer)) {
        writer_step_locked(writer);
    }
    writer->has_ended = true;
    pthread_cond_broadcast(&writer->changed);
    pthread_mutex_unlock(&writer->lock);
    return NULL;
}

struct writer *writer_new(int fd, bool drops_unread, const struct writer_events *events,
                          struct error *err)
{
    struct writer *writer = calloc(1, sizeof(*writer));
    if (!writer) {
        fail(err, ENOMEM, "cannot make the console's buffer");
        return NULL;
    }
    writer->fd = fd;
    writer->drops_unread = drops_unread;
    writer->events = *events;
    pthread_mutex_init(&writer->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&writer->work, NULL);
    pthread_cond_init(&writer->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    /* Without SA_RESTART. */
    const struct sigaction action = {.sa_handler = interrupted};
    sigaction(INTERRUPT_SIGNAL, &action, NULL);
    int code = jail_thread_create(&writer->thread, writer_main, writer);
    if (code) {
        writer_free(writer);
        fail(err, code, "cannot start the console's thread");
        return NULL;
    }
    writer->has_thread = true;
    return writer;
}

static struct timespec deadline_after(int ms)
{
    struct timespec when;
    clock_gettime(CLOCK_MONOTONIC, &when);
    when.tv_sec += ms / 1000;
    when.tv_nsec += (long)(ms % 1000) * 1000000;
    if (when.tv_nsec >= 1000000000) {
        when.tv_sec++;
        when.tv_nsec -= 1000000000;
    }
    return when;
}

void writer_free(struct writer *writer)
{
    if (!writer) {
        return;
    }
    if (writer->has_thread) {
        pthread_mutex_lock(&writer->lock);
        writer->is_ending = true;
        pthread_cond_signal(&writer->work);
        /* Again and again: the first may come just before the thread blocks. */
        while (!writer->has_ended) {
            pthread_kill(writer->thread, INTERRUPT_SIGNAL);
            struct timespec when = deadline_after(INTERRUPT_MS);
            pthread_cond_timedwait(&writer->changed, &writer->lock, &when);
        }
        pthread_mutex_unlock(&writer->lock);
        pthread_join(writer->thread, NULL);
    }
    pthread_cond_destroy(&writer->changed);
    pthread_cond_destroy(&writer->work);
    pthread_mutex_destroy(&writer->lock);
    free(writer);
}

unsigned writer_put(struct writer *writer, const void *data, unsigned size)
{
    pthread_mutex_lock(&writer->lock);
    unsigned room = RING_SIZE - (unsigned)(writer->put - writer->taken);
    unsigned count = size < room ? size : room;
    unsigned start = writer->put % RING_SIZE;
    unsigned first = count < RING_SIZE - start ? count : RING_SIZE - start;
    memcpy(writer->ring + start, data, first);
    memcpy(writer->ring, (const uint8_t *)data + first, count - first);
    writer->put += count;
    writer->was_full |= count < size;
    if (writer->is_waiting) {
        pthread_cond_signal(&writer->work);
    }
    pthread_mutex_unlock(&writer->lock);
    return count;
}

void writer_set_fd(struct writer *writer, int fd)
{
    pthread_mutex_lock(&writer->lock);
    writer->fd = fd;
    while (writer->is_writing) {
        pthread_cond_wait(&writer->changed, &writer->lock);
    }
    pthread_mutex_unlock(&writer->lock);
}

bool writer_flush(struct writer *writer, int patience_ms)
{
    pthread_mutex_lock(&writer->lock);
    int result = 0;
    while (writer->put != writer->taken && result != ETIMEDOUT) {
        if (patience_ms < 0) {
            pthread_cond_wait(&writer->changed, &writer->lock);
        } else {
            uint64_t before = writer->taken;
            struct timespec when = deadline_after(patience_ms);
            do {
                result = pthread_cond_timedwait(&writer->changed, &writer->lock, &when);
            } while (result == 0 && writer->taken == before);
        }
    }
    bool is_empty = writer->put == writer->taken;
    pthread_mutex_unlock(&writer->lock);
    return is_empty;
}
