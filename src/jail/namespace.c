#include "jail/namespace.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/scope.h"

static int write_file(const char *path, const char *text)
{
    SCOPE_FD int fd = open(path, O_WRONLY | O_CLOEXEC);
    return fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? 0 : -errno;
}

/* user_namespaces(7): who may not set others' numbers maps its own, and gives up
 * setgroups(2) before it maps groups. */
static int map_own(uid_t uid, gid_t gid)
{
    char users[48], groups[48];
    snprintf(users, sizeof(users), "%u %u 1", uid, uid);
    snprintf(groups, sizeof(groups), "%u %u 1", gid, gid);
    int result = write_file("/proc/self/uid_map", users);
    if (result == 0) {
        result = write_file("/proc/self/setgroups", "deny");
    }
    return result < 0 ? result : write_file("/proc/self/gid_map", groups);
}

int namespace_enter_user(void)
{
    uid_t uid = geteuid();
    gid_t gid = getegid();
    return unshare(CLONE_NEWUSER) < 0 ? -errno : map_own(uid, gid);
}

/*
 * In a child, as there is no way back: some hosts grant the namespace and then refuse its
 * maps (a security module), and a process without numbers can do nothing.
 */
int namespace_try(bool is_user, int kind)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        int result = is_user ? namespace_enter_user() : 0;
        if (result == 0 && kind && unshare(kind) < 0) {
            result = -errno;
        }
        syscall(SYS_exit_group, -result); /* of the child alone */
    }
    if (child < 0) {
        return -errno;
    }
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFEXITED(status) ? -WEXITSTATUS(status) : -EPERM;
}

int namespace_leave(int kind)
{
    return unshare(kind) < 0 ? -errno : 0;
}
