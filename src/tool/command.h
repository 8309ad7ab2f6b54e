#pragma once
/*
 * The commands of the doppel program. One description of a command feeds the parser, its
 * help, docs/cli.md and the shell completions.
 *
 * To add a command: one file with a struct command, one row in command.c's table.
 */

#include <stdio.h>

#include "base/option.h"

/* Exit statuses; others are 128 + a signal's number and --debug-exit's value. */
enum {
    STATUS_OK = 0,
    STATUS_FAILURE = 1, /* doctor: no VM can run here */
    STATUS_USAGE = 2,
    STATUS_GUEST_CRASH = 124,
    STATUS_HOST_ERROR = 125,
    STATUS_SIGNAL = 128,
};

struct command_example {
    const char *line; /* without "doppel " */
    const char *meaning;
};

struct command {
    const char *name;
    const char *operands; /* after the name in the usage line; "" for none */
    unsigned operands_max;
    /* One line, no full stop; NULL: that of the control operation of the same name. */
    const char *summary;
    const char *description; /* paragraphs, wrapped at 80 columns; may be "" */
    const struct command_example *examples; /* ends with line NULL */
    const struct option_spec *options;
    /* The index-th word the first operand can be, NULL after the last; or NULL. */
    const char *(*operand)(unsigned index);
    /* argv holds what follows the command's name. Returns the exit status. */
    int (*run)(const struct command *command, int argc, char **argv);
};

extern const struct command *const command_table[]; /* NULL-terminated */
const struct command *command_find(const char *name);
/* Names in order, NULL after the last: a choice function. */
const char *command_name(unsigned index);

extern const struct command run_command, ps_command, inspect_command, stats_command,
    console_command, pause_command, resume_command, stop_command, kill_command,
    snapshot_command, restore_command, compare_command, engines_command, doctor_command,
    help_command, version_command, completion_command;

const char *command_summary(const struct command *command);

/*
 * Parses a command's arguments into target. Returns the number of operands, which are
 * argv's first; or -1 when the command is done already (help shown, or a usage error
 * reported) with the exit status in *status.
 */
int command_parse(const struct command *command, int argc, char **argv, void *target,
                  int *status);

/* "doppel: cause; what to do" on stderr. Returns STATUS_USAGE. */
int usage_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Reports a first argument that is no command, with the nearest one. Returns
 * STATUS_USAGE.
 */
int command_unknown(const char *name);

/* help.c */
void help_program(FILE *out);
void help_command_print(const struct command *command, FILE *out);
void help_markdown(FILE *out);
