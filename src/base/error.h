#pragma once
/* Errors that name their cause: a caller-owned, fixed-size record, nothing to free. */

#include <stddef.h>

struct error {
    int code; /* positive errno value, 0 when nothing failed */
    char message[512];
};

/*
 * Fills *err (which may be NULL) with the formatted message and, when code is a known
 * errno, ": " and its text, and returns -code, so that a failing function is one line:
 *
 *     return fail(err, errno, "cannot open disk %s", path);
 *
 * A code of 0 is recorded as EIO: a failure is never mistaken for success.
 */
int fail(struct error *err, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The same, without the errno's text: for messages that already say everything. */
int fail_plain(struct error *err, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before the message of an error that is passed on; returns -err->code.
 */
int fail_within(struct error *err, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
