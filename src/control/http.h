#pragma once
/*
 * HTTP/1.1 requests and responses (RFC 9110, 9112), as far as a control socket needs
 * them. What the peer sends is untrusted: every part has a limit, and the parser keeps no
 * state but the bytes themselves.
 */

#include <stdbool.h>
#include <stddef.h>

struct passed; /* passed.h */

enum http_method {
    HTTP_GET,
    HTTP_PUT,
    HTTP_PATCH,
    HTTP_POST,
    HTTP_DELETE,
    HTTP_METHOD_COUNT,
};

#define HTTP_HEAD_MAX    8192u  /* request line and headers */
#define HTTP_BODY_MAX    51200u /* what Firecracker takes */
#define HTTP_REQUEST_MAX (HTTP_HEAD_MAX + HTTP_BODY_MAX)
#define HTTP_HEADERS_MAX 64u

struct http_request {
    enum http_method method;
    const char *path; /* in the data, not terminated; without the query */
    size_t path_length;
    const char *body;
    size_t body_length;
    size_t head_length;    /* 0 while the head is not complete */
    bool is_persistent;    /* the connection stays open for another request */
    bool expects_continue; /* the client waits to be told to send the body */
    bool upgrades_to_console;
    /* What came with it: the server's, closed when it has been answered. */
    const struct passed *passed;
};

/*
 * The first request in data. Returns the number of bytes it takes, 0 if more are needed,
 * or the negative of the status with which it must be refused, after which the connection
 * cannot go on; *reason then says why. Pointers in *request are into data.
 */
int http_parse(const char *data, size_t size, struct http_request *request,
               const char **reason);

const char *http_method_name(enum http_method method);
/* "OK", "Bad Request": the standard's words for the statuses that are used here. */
const char *http_status_text(int status);
/* Room for any head that http_format_head writes. */
#define HTTP_RESPONSE_HEAD_MAX 256u
/* The head of a response with a body of length bytes. Returns its size. */
size_t http_format_head(char *buffer, int status, const char *type, size_t length,
                        bool is_persistent);

/* One step of reading a response's head in data. Returns its length, 0 if more is needed,
 * negative if it is not HTTP. *content_length is SIZE_MAX where none is told. */
int http_parse_response(const char *data, size_t size, int *status,
                        size_t *content_length);
