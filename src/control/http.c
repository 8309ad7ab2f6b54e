#include "control/http.h"

#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static const char *const method_names[HTTP_METHOD_COUNT] = {
    [HTTP_GET] = "GET",   [HTTP_PUT] = "PUT",       [HTTP_PATCH] = "PATCH",
    [HTTP_POST] = "POST", [HTTP_DELETE] = "DELETE",
};

static const struct {
    int status;
    const char *text;
} status_texts[] = {
    {100, "Continue"},
    {101, "Switching Protocols"},
    {200, "OK"},
    {202, "Accepted"},
    {204, "No Content"},
    {400, "Bad Request"},
    {403, "Forbidden"},
    {404, "Not Found"},
    {405, "Method Not Allowed"},
    {408, "Request Timeout"},
    {409, "Conflict"},
    {411, "Length Required"},
    {413, "Content Too Large"},
    {417, "Expectation Failed"},
    {426, "Upgrade Required"},
    {431, "Request Header Fields Too Large"},
    {500, "Internal Server Error"},
    {501, "Not Implemented"},
    {503, "Service Unavailable"},
    {505, "HTTP Version Not Supported"},
};

const char *http_method_name(enum http_method method)
{
    return method_names[method];
}

const char *http_status_text(int status)
{
    for (size_t i = 0; i < sizeof(status_texts) / sizeof(status_texts[0]); i++) {
        if (status_texts[i].status == status) {
            return status_texts[i].text;
        }
    }
    return "Unknown";
}

/* A piece of the data. */
struct span {
    const char *start;
    size_t length;
};

static bool span_is(struct span span, const char *text)
{
    return span.length == strlen(text) && strncasecmp(span.start, text, span.length) == 0;
}

/* What stands before the separator, which is skipped; all of it if there is none. */
static struct span span_cut(struct span *rest, char separator)
{
    const char *at = memchr(rest->start, separator, rest->length);
    struct span piece = {rest->start, at ? (size_t)(at - rest->start) : rest->length};
    size_t used = piece.length + (at ? 1 : 0);
    rest->start += used;
    rest->length -= used;
    return piece;
}

static struct span span_trim(struct span span)
{
    while (span.length && (*span.start == ' ' || *span.start == '\t')) {
        span.start++;
        span.length--;
    }
    while (span.length &&
           (span.start[span.length - 1] == ' ' || span.start[span.length - 1] == '\t')) {
        span.length--;
    }
    return span;
}

/* RFC 9110 5.6.2: what names are made of. */
static bool is_token(struct span span)
{
    for (size_t i = 0; i < span.length; i++) {
        unsigned char c = (unsigned char)span.start[i];
        if (!isalnum(c) && (!c || !strchr("!#$%&'*+-.^_`|~", c))) {
            return false;
        }
    }
    return span.length > 0;
}

/* RFC 9110 5.5: no control characters but the tab. */
static bool is_field_value(struct span span)
{
    for (size_t i = 0; i < span.length; i++) {
        unsigned char c = (unsigned char)span.start[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f) {
            return false;
        }
    }
    return true;
}

static bool list_has(struct span list, const char *word)
{
    while (list.length) {
        if (span_is(span_trim(span_cut(&list, ',')), word)) {
            return true;
        }
    }
    return false;
}

/* What is gathered from a head. */
struct head {
    struct http_request *request;
    bool has_length, is_chunked, asks_upgrade, names_console;
    size_t length;
    const char **reason;
};

static int refuse(const struct head *head, int status, const char *reason)
{
    *head->reason = reason;
    return -status;
}

static int parse_target(const struct head *head, struct span target)
{
    if (!target.length || *target.start != '/') {
        return refuse(head, 400, "the request's target must be a path");
    }
    for (size_t i = 0; i < target.length; i++) {
        unsigned char c = (unsigned char)target.start[i];
        if (c <= 0x20 || c >= 0x7f) {
            return refuse(head, 400, "the path has a character that a URL cannot have");
        }
    }
    struct span path = span_cut(&target, '?');
    head->request->path = path.start;
    head->request->path_length = path.length;
    return 0;
}

static int parse_request_line(const struct head *head, struct span line)
{
    struct span method = span_cut(&line, ' ');
    struct span target = span_cut(&line, ' ');
    if (!is_token(method)) {
        return refuse(head, 400, "this is not an HTTP request");
    }
    if (line.length != 8 || memcmp(line.start, "HTTP/", 5) != 0 ||
        !isdigit((unsigned char)line.start[5]) || line.start[6] != '.' ||
        !isdigit((unsigned char)line.start[7])) {
        return refuse(head, 400, "the request line must be METHOD PATH HTTP/1.1");
    }
    if (line.start[5] != '1') {
        return refuse(head, 505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
    }
    head->request->is_persistent = line.start[7] != '0';
    for (unsigned i = 0; i < HTTP_METHOD_COUNT; i++) {
        /* Methods are case-sensitive. */
        if (method.length == strlen(method_names[i]) &&
            memcmp(method.start, method_names[i], method.length) == 0) {
            head->request->method = i;
            return parse_target(head, target);
        }
    }
    return refuse(head, 501, "the method is not GET, PUT, PATCH, POST or DELETE");
}

static int parse_length(struct head *head, struct span value)
{
    size_t length = 0;
    if (!value.length) {
        return refuse(head, 400, "Content-Length must be a number");
    }
    for (size_t i = 0; i < value.length; i++) {
        if (!isdigit((unsigned char)value.start[i])) {
            return refuse(head, 400, "Content-Length must be a number");
        }
        /* Stays put once too large, so it cannot wrap. */
        if (length <= HTTP_BODY_MAX) {
            length = length * 10 + (size_t)(value.start[i] - '0');
        }
    }
    if (head->has_length && length != head->length) {
        return refuse(head, 400, "two lengths are given for one body");
    }
    head->has_length = true;
    head->length = length;
    return 0;
}

static int parse_header(struct head *head, struct span line)
{
    struct span name = span_cut(&line, ':');
    struct span value = span_trim(line);
    /* A blank before the colon, or a line that continues the one before, is how requests
     * are smuggled past others (RFC 9112 5.1, 5.2). */
    if (!is_token(name) || name.start + name.length == line.start) {
        return refuse(head, 400, "a header line must be NAME: VALUE");
    }
    if (!is_field_value(value)) {
        return refuse(head, 400, "a header's value has a control character");
    }
    if (span_is(name, "Content-Length")) {
        return parse_length(head, value);
    }
    if (span_is(name, "Transfer-Encoding")) {
        head->is_chunked = true;
    } else if (span_is(name, "Connection")) {
        if (list_has(value, "close")) {
            head->request->is_persistent = false;
        } else if (list_has(value, "keep-alive")) {
            head->request->is_persistent = true;
        }
        head->asks_upgrade |= list_has(value, "upgrade");
    } else if (span_is(name, "Upgrade")) {
        head->names_console |= list_has(value, "doppel-console");
    } else if (span_is(name, "Expect")) {
        if (!span_is(value, "100-continue")) {
            return refuse(head, 417, "nothing but 100-continue can be expected");
        }
        head->request->expects_continue = true;
    }
    return 0;
}

/* The next line without its end; false if its end is not there yet. */
static bool next_line(struct span *rest, struct span *line)
{
    const char *end = memchr(rest->start, '\n', rest->length);
    if (!end) {
        return false;
    }
    *line = span_cut(rest, '\n');
    if (line->length && line->start[line->length - 1] == '\r') {
        line->length--;
    }
    return true;
}

/* After the head: how the body is told. */
static int finish_head(struct head *head)
{
    struct http_request *request = head->request;
    if (head->is_chunked) {
        return refuse(head, head->has_length ? 400 : 411,
                      "a body needs a Content-Length; chunks are not taken");
    }
    if (head->length > HTTP_BODY_MAX) {
        return refuse(head, 413, "the body is larger than 51200 bytes");
    }
    request->body_length = head->length;
    request->upgrades_to_console = head->asks_upgrade && head->names_console;
    return 0;
}

/* Returns the length of the head, 0 if it is not complete, or the refusal. */
static int parse_head(const char *data, size_t size, struct head *head)
{
    struct span rest = {data, size < HTTP_HEAD_MAX ? size : HTTP_HEAD_MAX};
    struct span line;
    unsigned lines = 0;
    int result = 0;
    while (result == 0 && next_line(&rest, &line)) {
        if (!line.length) {
            /* Empty lines before a request are left over from the one before (RFC 9112
             * 2.2). */
            if (lines) {
                return (int)(rest.start - data);
            }
        } else if (lines++ == 0) {
            result = parse_request_line(head, line);
        } else if (lines > HTTP_HEADERS_MAX + 1) {
            result = refuse(head, 431, "there are more than 64 headers");
        } else {
            result = parse_header(head, line);
        }
    }
    if (result == 0 && size >= HTTP_HEAD_MAX) {
        result = refuse(head, 431, "request line and headers are longer than 8192 bytes");
    }
    return result;
}

int http_parse(const char *data, size_t size, struct http_request *request,
               const char **reason)
{
    *request = (struct http_request){0};
    struct head head = {.request = request, .reason = reason};
    int length = parse_head(data, size, &head);
    if (length <= 0) {
        return length;
    }
    int result = finish_head(&head);
    if (result < 0) {
        return result;
    }
    request->head_length = (size_t)length;
    request->body = data + length;
    if (size - (size_t)length < request->body_length) {
        return 0;
    }
    return length + (int)request->body_length;
}

size_t http_format_head(char *buffer, int status, const char *type, size_t length,
                        bool is_persistent)
{
    int used = snprintf(buffer, HTTP_RESPONSE_HEAD_MAX, "HTTP/1.1 %d %s\r\n", status,
                        http_status_text(status));
    char *at = buffer + used;
    size_t room = HTTP_RESPONSE_HEAD_MAX - (size_t)used;
    if (status < 200) {
        used += snprintf(at, room, "%s\r\n",
                         status == 101 ? "Connection: Upgrade\r\n"
                                         "Upgrade: doppel-console\r\n"
                                       : "");
        return (size_t)used;
    }
    /* A 204 has no body, and must not tell a length (RFC 9110 8.6). */
    if (status == 204) {
        used += snprintf(at, room, "Server: Doppel\r\nConnection: %s\r\n\r\n",
                         is_persistent ? "keep-alive" : "close");
    } else {
        used += snprintf(at, room,
                         "Server: Doppel\r\nConnection: %s\r\nContent-Type: %s\r\n"
                         "Content-Length: %zu\r\n\r\n",
                         is_persistent ? "keep-alive" : "close", type, length);
    }
    return (size_t)used;
}

/* "HTTP/1.1 200 OK" */
static bool parse_status(struct span line, int *status)
{
    if (line.length < 12 || memcmp(line.start, "HTTP/1.", 7) != 0) {
        return false;
    }
    *status = 0;
    for (unsigned i = 9; i < 12; i++) {
        if (!isdigit((unsigned char)line.start[i])) {
            return false;
        }
        *status = *status * 10 + (line.start[i] - '0');
    }
    return true;
}

int http_parse_response(const char *data, size_t size, int *status,
                        size_t *content_length)
{
    struct span rest = {data, size};
    struct span line;
    bool is_first = true;
    *content_length = SIZE_MAX;
    while (next_line(&rest, &line)) {
        if (is_first) {
            if (!parse_status(line, status)) {
                return -1;
            }
            is_first = false;
            continue;
        }
        if (!line.length) {
            return (int)(rest.start - data);
        }
        struct span name = span_cut(&line, ':');
        if (span_is(name, "Content-Length")) {
            *content_length = 0;
            line = span_trim(line);
            for (size_t i = 0; i < line.length && isdigit((unsigned char)line.start[i]);
                 i++) {
                *content_length = *content_length * 10 + (size_t)(line.start[i] - '0');
            }
        }
    }
    return size >= HTTP_HEAD_MAX ? -1 : 0;
}
