#include "tool/command.h"

#include <stdarg.h>
#include <string.h>

#include "base/log.h"
#include "base/nearest.h"
#include "control/operation.h"

/* clang-format off */
const struct command *const command_table[] = {
    &run_command,
    &ps_command,
    &inspect_command,
    &stats_command,
    &console_command,
    &pause_command,
    &resume_command,
    &stop_command,
    &kill_command,
    &snapshot_command,
    &restore_command,
    &compare_command,
    &engines_command,
    &doctor_command,
    &help_command,
    &version_command,
    &completion_command,
    NULL,
};
/* clang-format on */

const char *command_summary(const struct command *command)
{
    return command->summary ? command->summary : operation_find(command->name)->summary;
}

const struct command *command_find(const char *name)
{
    for (unsigned i = 0; command_table[i]; i++) {
        if (strcmp(command_table[i]->name, name) == 0) {
            return command_table[i];
        }
    }
    return NULL;
}

const char *command_name(unsigned index)
{
    /* Asked in order, from 0: the entry before is known to exist. */
    return command_table[index] ? command_table[index]->name : NULL;
}

int usage_error(const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    log_error("%s", text);
    return STATUS_USAGE;
}

int command_parse(const struct command *command, int argc, char **argv, void *target,
                  int *status)
{
    struct option_result result;
    struct error err;
    if (option_parse(command->options, argc, argv, target, &result, &err) < 0) {
        *status = usage_error("%s", err.message);
        return -1;
    }
    if (result.wants_help) {
        help_command_print(command, stdout);
        *status = STATUS_OK;
        return -1;
    }
    if (result.operands > command->operands_max) {
        *status = usage_error("unexpected argument '%s'; see doppel help %s",
                              argv[command->operands_max], command->name);
        return -1;
    }
    return (int)result.operands;
}

int command_unknown(const char *name)
{
    const char *kind = name[0] == '-' ? "option" : "command";
    struct nearest nearest;
    nearest_init(&nearest, name);
    for (unsigned i = 0; command_table[i]; i++) {
        nearest_offer(&nearest, command_table[i]->name);
    }
    if (name[0] == '-') {
        nearest_offer(&nearest, "--help");
        nearest_offer(&nearest, "--version");
    }
    if (nearest.best) {
        return usage_error("unknown %s %s; did you mean %s?", kind, name, nearest.best);
    }
    return usage_error("unknown %s %s; doppel help lists what there is", kind, name);
}
