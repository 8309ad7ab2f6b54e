#include "base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

/* The guest may cause this many lines a second. */
#define GUEST_LINES_PER_SECOND 10

static _Atomic int threshold = LOG_WARNING;

static pthread_mutex_t guest_lock = PTHREAD_MUTEX_INITIALIZER;
static struct log_bucket guest_bucket = {
    .tokens = GUEST_LINES_PER_SECOND,
    .limit = GUEST_LINES_PER_SECOND,
    .interval_ns = NS_PER_SECOND / GUEST_LINES_PER_SECOND,
};

void log_set_level(enum log_level level)
{
    threshold = (int)level;
}

bool log_enabled(enum log_level level)
{
    return (int)level <= threshold;
}

static void write_all(const char *text, size_t size)
{
    while (size > 0) {
        ssize_t written = write(STDERR_FILENO, text, size);
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written <= 0) {
            return; /* stderr is closed or full: there is nobody to tell */
        }
        text += written;
        size -= (size_t)written;
    }
}

/* A message may quote a guest or a file: it must not move the user's cursor or forge a
 * second line. */
static void neutralise(char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        unsigned char byte = (unsigned char)text[i];
        if ((byte < 0x20 && byte != '\t') || byte == 0x7f) {
            text[i] = ' ';
        }
    }
}

static void write_line(const char *format, va_list args)
{
    static const char prefix[] = "doppel: ";
    static const char ellipsis[] = "...";
    const size_t start = sizeof(prefix) - 1;
    char line[1024];
    int saved_errno = errno;

    memcpy(line, prefix, start);
    size_t room = sizeof(line) - start - 1; /* the newline needs a place, too */
    int length = vsnprintf(line + start, room, format, args);
    size_t end = start;
    if (length >= (int)room) {
        end += room - 1;
        memcpy(line + end - (sizeof(ellipsis) - 1), ellipsis, sizeof(ellipsis) - 1);
    } else if (length > 0) {
        end += (size_t)length;
    }
    neutralise(line + start, end - start);
    line[end++] = '\n';
    write_all(line, end);
    errno = saved_errno;
}

void log_message(enum log_level level, const char *format, ...)
{
    if (!log_enabled(level)) {
        return;
    }
    va_list args;
    va_start(args, format);
    write_line(format, args);
    va_end(args);
}

bool log_bucket_take(struct log_bucket *bucket, uint64_t now_ns, uint64_t *suppressed)
{
    uint64_t refill = now_ns > bucket->filled_ns
                          ? (now_ns - bucket->filled_ns) / bucket->interval_ns
                          : 0;
    if (refill >= bucket->limit - bucket->tokens) {
        bucket->tokens = bucket->limit;
        bucket->filled_ns = now_ns > bucket->filled_ns ? now_ns : bucket->filled_ns;
    } else {
        bucket->tokens += (unsigned)refill;
        bucket->filled_ns += refill * bucket->interval_ns;
    }
    if (bucket->tokens == 0) {
        bucket->suppressed++;
        return false;
    }
    bucket->tokens--;
    *suppressed = bucket->suppressed;
    bucket->suppressed = 0;
    return true;
}

void log_guest(const char *format, ...)
{
    if (!log_enabled(LOG_INFO)) {
        return;
    }
    uint64_t suppressed = 0;
    pthread_mutex_lock(&guest_lock);
    bool admitted = log_bucket_take(&guest_bucket, clock_host_ns(), &suppressed);
    pthread_mutex_unlock(&guest_lock);
    if (!admitted) {
        return;
    }
    if (suppressed > 0) {
        log_message(LOG_INFO, "guest: %llu more messages suppressed",
                    (unsigned long long)suppressed);
    }
    va_list args;
    va_start(args, format);
    write_line(format, args);
    va_end(args);
}
