#pragma once
/* The other end of the control socket: what the commands use. Blocking, with time limits.
 */

#include <stddef.h>

#include "base/error.h"
#include "control/http.h"

#define CLIENT_PATIENCE_MS 10000

struct json_t;
struct passed; /* passed.h */

struct client_reply {
    int status;
    char *body; /* terminated; NULL: none */
    size_t length;
};

/* Connects to a machine by its name, or by the path of its socket (with a slash). */
int client_open(const char *machine, struct error *err);
/* The process behind it; 0 if it cannot be told, as from another PID namespace. */
int client_process(int fd);
/* One request; body may be NULL. A status of 400 or more is an error with the server's
 * message. */
int client_call(int fd, enum http_method method, const char *path,
                const struct json_t *body, int patience_ms, struct client_reply *reply,
                struct error *err);
/* The same with descriptors that the machine gets along with it. */
int client_call_passing(int fd, enum http_method method, const char *path,
                        const struct json_t *body, const struct passed *passed,
                        int patience_ms, struct client_reply *reply, struct error *err);
void client_reply_free(struct client_reply *reply);
/* The reply's body as JSON; the caller ends it with json_decref. */
struct json_t *client_json(const struct client_reply *reply, struct error *err);
/* Makes the connection a client of the machine's console: from now on it carries bytes.
 */
int client_attach(int fd, struct error *err);
