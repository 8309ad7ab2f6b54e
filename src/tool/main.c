/*
 * Entry point of the command line. Nothing below tool/ ends the process: here a command's
 * return value becomes the exit status.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "tool/command.h"

static const struct option_spec no_options[] = {{NULL}};
static const struct command_example no_examples[] = {{NULL}};

static int version_run(const struct command *command, int argc, char **argv)
{
    int status;
    if (command_parse(command, argc, argv, NULL, &status) < 0) {
        return status;
    }
    puts("doppel " DOPPEL_VERSION);
    return STATUS_OK;
}

const struct command version_command = {
    .name = "version",
    .operands = "",
    .summary = "Name the version of this program",
    .description = "",
    .examples = no_examples,
    .options = no_options,
    .run = version_run,
};

/*
 * A process may be started with 0, 1 or 2 closed; the next file opened would then take
 * that number and get, say, guest output written into it. The stand-in for 1 and 2 is
 * opened for reading, so that writing fails with EBADF and is reported.
 */
static void standard_files_hold(void)
{
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF) {
            int stand_in = open("/dev/null", O_RDONLY);
            if (stand_in >= 0 && stand_in != fd) {
                close(stand_in);
            }
        }
    }
}

static int dispatch(int argc, char **argv)
{
    if (argc < 2) {
        help_program(stderr);
        return STATUS_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        name = "help";
    } else if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
        name = "version";
    }
    const struct command *command = command_find(name);
    if (!command) {
        return command_unknown(name);
    }
    return command->run(command, argc - 2, argv + 2);
}

int main(int argc, char **argv)
{
    standard_files_hold();
    int status = dispatch(argc, argv);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        log_error("cannot write to standard output: %s; is it closed or the disk full?",
                  strerror(errno));
        return status ? status : STATUS_HOST_ERROR;
    }
    return status;
}
