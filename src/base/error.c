#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static int record(struct error *err, int code, const char *suffix, const char *format,
                  va_list args)
{
    if (code == 0) {
        code = EIO;
    }
    if (err) {
        err->code = code;
        vsnprintf(err->message, sizeof(err->message), format, args);
        size_t used = strlen(err->message);
        if (suffix) {
            snprintf(err->message + used, sizeof(err->message) - used, ": %s", suffix);
        }
    }
    return -code;
}

int fail(struct error *err, int code, const char *format, ...)
{
    char text[128];
    va_list args;
    va_start(args, format);
    int result = record(err, code, strerror_r(code ? code : EIO, text, sizeof(text)),
                        format, args);
    va_end(args);
    return result;
}

int fail_plain(struct error *err, int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int result = record(err, code, NULL, format, args);
    va_end(args);
    return result;
}

int fail_within(struct error *err, const char *format, ...)
{
    if (!err) {
        return -EIO;
    }
    char rest[sizeof(err->message)];
    memcpy(rest, err->message, sizeof(rest));
    va_list args;
    va_start(args, format);
    int result = record(err, err->code, rest, format, args);
    va_end(args);
    return result;
}
