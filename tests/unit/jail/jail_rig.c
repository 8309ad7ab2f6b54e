#include "jail_rig.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/wait.h>

char said[4096]; /* by the child on stderr */

int in_child(void (*action)(void *), void *opaque)
{
    int ends[2], status;
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        action(opaque);
        _exit(0);
    }
    close(ends[1]);
    size_t size = 0;
    ssize_t got;
    while ((got = read(ends[0], said + size, sizeof(said) - 1 - size)) > 0) {
        size += (size_t)got;
    }
    said[size] = '\0';
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void works(void (*action)(void *), void *opaque)
{
    int status = in_child(action, opaque);
    if (status != 0) {
        fail_msg("status %d: %s", status, said);
    }
}

static void stop(void)
{
    _exit(STOPPED);
}

void prepare(bool makes_files)
{
    const struct jail_config config = {.makes_files = makes_files, .end = stop};
    struct error err = {0};
    if (jail_prepare(&config, &err) < 0) {
        dprintf(STDERR_FILENO, "%s\n", err.message);
        _exit(FAILED);
    }
}

void enter(enum jail_role role)
{
    struct error err = {0};
    if (role != JAIL_LOOP) {
        jail_enter(role);
    }
    /* Tells of a failure of jail_enter's, too. */
    if (role == JAIL_LOOP && jail_close(&err) < 0) {
        dprintf(STDERR_FILENO, "%s\n", err.message);
        _exit(FAILED);
    }
}

void call_socket(void)
{
    socket(AF_INET, SOCK_STREAM, 0);
}
