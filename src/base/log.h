#pragma once
/* Doppel's own messages: to stderr, one line each, never mixed into guest output. */

#include <stdbool.h>
#include <stdint.h>

enum log_level {
    LOG_ERROR,
    LOG_WARNING,
    LOG_INFO,  /* shown with --verbose */
    LOG_DEBUG, /* shown with --verbose --verbose */
};

void log_set_level(enum log_level level);
bool log_enabled(enum log_level level);

/*
 * "doppel: message\n"; thread-safe, one write(2) per line. Control characters become
 * spaces and what exceeds about 1000 bytes is cut. Keeps errno.
 */
void log_message(enum log_level level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#define log_error(...)   log_message(LOG_ERROR, __VA_ARGS__)
#define log_warning(...) log_message(LOG_WARNING, __VA_ARGS__)
#define log_info(...)    log_message(LOG_INFO, __VA_ARGS__)
#define log_debug(...)   log_message(LOG_DEBUG, __VA_ARGS__)

/*
 * A guest misbehaved: names what it did (LOG_INFO). Rate-limited to 10 lines a second
 * over all threads, with a count of those suppressed, so that a hostile guest cannot fill
 * a disk or slow the VMM.
 */
void log_guest(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The token bucket behind log_guest. One token comes back every interval, up to limit. */
struct log_bucket {
    unsigned tokens, limit;
    uint64_t interval_ns;
    uint64_t filled_ns; /* when the last token came back */
    uint64_t suppressed;
};

/* Takes a token; *suppressed then tells how often none was left since the last success.
 * The caller serialises. */
bool log_bucket_take(struct log_bucket *bucket, uint64_t now_ns, uint64_t *suppressed);
