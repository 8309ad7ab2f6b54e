/*
 * Requests and responses as a hostile peer sends them: whatever the bytes are, the parser
 * takes a request that lies within them, asks for more, or refuses; it asks for no more
 * than the limits allow, and it decides the same however the bytes arrive.
 */

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "control/http.h"
#include "input.h"

static void check_request(const char *data, size_t size,
                          const struct http_request *request, int used)
{
    const char *end = data + used;
    assert((size_t)used <= size);
    assert(request->method < HTTP_METHOD_COUNT);
    assert(request->path_length > 0 && *request->path == '/');
    assert(request->path >= data && request->path + request->path_length < end);
    assert(request->body_length <= HTTP_BODY_MAX);
    assert(request->body >= data && request->body + request->body_length == end);
}

/* A copy without anything behind it, so that a sanitizer sees what reads too far. */
static int parse_copy(const char *data, size_t size)
{
    struct http_request request;
    const char *reason = NULL;
    char *copy = malloc(size ? size : 1);
    assert(copy);
    memcpy(copy, data, size);
    int used = http_parse(copy, size, &request, &reason);
    if (used > 0) {
        check_request(copy, size, &request, used);
    } else if (used < 0) {
        assert(used <= -400 && used > -600 && reason && *reason);
        assert(strcmp(http_status_text(-used), "Unknown") != 0);
    } else {
        assert(size < HTTP_REQUEST_MAX);
    }
    free(copy);
    return used;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    const char *data = (const char *)bytes;
    int used = parse_copy(data, size);
    if (used > 0) {
        /* What follows a request does not matter, and less of it is not enough. */
        assert(parse_copy(data, (size_t)used) == used);
        assert(parse_copy(data, (size_t)used - 1) == 0);
    } else if (used == 0 && size) {
        assert(parse_copy(data, size / 2) == 0);
    }
    int status = 0;
    size_t length;
    char *copy = malloc(size ? size : 1);
    assert(copy);
    memcpy(copy, bytes, size);
    int head = http_parse_response(copy, size, &status, &length);
    assert(head <= 0 || ((size_t)head <= size && status >= 0 && status <= 999));
    free(copy);
    return 0;
}
