#pragma once
/* What the commands that ask a running machine have in common. */

#include "base/error.h"
#include "control/operation.h"

struct json_t;
struct command;

/* A machine's answer to the operation of that name, asked once. body may be NULL; *result
 * may be NULL when there is none to come, else the caller ends it with json_decref. */
int remote_ask(const char *machine, const char *operation, const struct json_t *body,
               int patience_ms, struct json_t **result, struct error *err);
/* Parses a command's arguments, of which the first must be a machine's name. NULL: the
 * command is done, with *status. */
const char *remote_parse(const struct command *command, int argc, char **argv,
                         void *target, int *status);
/* Reports an error. Returns STATUS_HOST_ERROR. */
int remote_error(const struct error *err);
/* Prints it for programs, and ends it. Returns the exit status. */
int remote_print(struct json_t *object);
