#pragma once
/*
 * What a virtual machine can be asked over its control socket. One description of an
 * operation feeds the server, the checks of its input, docs/api.md and the command of the
 * same name.
 *
 * To add an operation: a handler and a row in the table of its file; for a command, a row
 * in tool/.
 */

#include <stdio.h>

#include "base/option.h"
#include "control/http.h"

struct control;
struct json_t;

/* When it is possible. */
enum {
    OPERATION_BEFORE = 1, /* while the machine waits to be started */
    OPERATION_AFTER = 2,
    OPERATION_ANY = OPERATION_BEFORE | OPERATION_AFTER,
};

#define OPERATION_FIELDS_MAX 128 /* bytes of a fields struct */
#define OPERATION_ID_MAX     64

struct call {
    const struct operation *operation;
    const struct http_request *request;
    const char *id;     /* what stands in the path where {...} does; or "" */
    const void *fields; /* by the operation's table; what is not given: default */
    const struct json_t *object; /* the body they were read from, or NULL */
};

struct answer {
    int status;          /* 0: 200 with a body, 204 without */
    struct json_t *json; /* the body; taken */
    const char *type;    /* of text, and: */
    char *text;          /* a body that is not JSON; taken */
    size_t length;
    bool upgrades; /* the connection becomes a client of the console */
};

struct operation {
    const char *name;
    enum http_method method;
    const char *path; /* {word} stands for any one segment */
    unsigned when;
    const char *summary;              /* one line; no full stop */
    const char *description;          /* sentences; may be "" */
    const struct option_spec *fields; /* of the body; NULL: there is none */
    const void *defaults;             /* a fields struct of that size */
    size_t fields_size;
    const char *request;  /* an example of the body; NULL: none */
    const char *response; /* what comes back, in words or by example */
    int success;          /* the status */
    /* Returns 0 or a negative errno, which is answered with status 400 unless the answer
     * has another. */
    int (*handle)(struct control *control, const struct call *call, struct answer *answer,
                  struct error *err);
};

/* Tables, each ended by a row without a name; NULL-terminated. */
extern const struct operation *const operation_tables[];
extern const struct operation firecracker_operations[], machine_operations[];

/* The fields of stop, also its command's options. */
struct stop_fields {
    unsigned timeout; /* seconds */
};
extern const struct option_spec stop_options[];
extern const struct stop_fields stop_defaults;

/* The fields of snapshot. */
struct snapshot_fields {
    const char *directory;
};
extern const struct option_spec snapshot_options[];

/* By name; NULL if there is none. */
const struct operation *operation_find(const char *name);
/* By method and path; copies what stands for {...} into id. NULL if there is none;
 * *path_exists then tells whether the path has another method. */
const struct operation *operation_match(enum http_method method, const char *path,
                                        size_t length, char id[OPERATION_ID_MAX + 1],
                                        bool *path_exists);
/* Writes docs/api.md. */
void operation_markdown(FILE *out);
