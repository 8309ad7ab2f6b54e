#include "base/size.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const char suffixes[] = "KMGT";

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* 0 for "", 10 for "K", 20 for "M" ...; -1 for anything else. */
static int suffix_shift(const char *text)
{
    if (text[0] == '\0') {
        return 0;
    }
    const char *found = strchr(suffixes, text[0] & ~0x20);
    if (!found || *found == '\0' || text[1] != '\0') {
        return -1;
    }
    return 10 * (int)(found - suffixes + 1);
}

int size_parse(const char *text, uint64_t *bytes, struct error *err)
{
    if (!is_digit(text[0])) {
        return fail_plain(err, EINVAL,
                          "'%s' is not a size: expected a number with an optional suffix "
                          "K, M, G or T, for example 512M",
                          text);
    }
    uint64_t value = 0;
    bool overflow = false;
    const char *rest = text;
    for (; is_digit(*rest); rest++) {
        overflow |= __builtin_mul_overflow(value, 10u, &value);
        overflow |= __builtin_add_overflow(value, (uint64_t)(*rest - '0'), &value);
    }
    int shift = suffix_shift(rest);
    if (shift < 0) {
        return fail_plain(err, EINVAL,
                          "'%s' is not a size: expected K, M, G or T (powers of 1024) or "
                          "nothing after the number, not '%s'",
                          text, rest);
    }
    if (overflow || value > UINT64_MAX >> shift) {
        return fail_plain(err, ERANGE, "the size '%s' is too large: it exceeds 64 bits",
                          text);
    }
    *bytes = value << shift;
    return 0;
}

const char *size_format(uint64_t bytes, char buffer[SIZE_TEXT])
{
    unsigned unit = 0;
    while (bytes != 0 && bytes % 1024 == 0 && unit < sizeof(suffixes) - 1) {
        bytes /= 1024;
        unit++;
    }
    if (unit == 0) {
        snprintf(buffer, SIZE_TEXT, "%" PRIu64, bytes);
    } else {
        snprintf(buffer, SIZE_TEXT, "%" PRIu64 "%c", bytes, suffixes[unit - 1]);
    }
    return buffer;
}
