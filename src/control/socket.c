#include "control/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/scope.h"
#include "jail/jail.h"

#define BACKLOG 64

static int make_address(const char *path, struct sockaddr_un *address, struct error *err)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (!*path || strlen(path) >= sizeof(address->sun_path)) {
        return fail_plain(err, ENAMETOOLONG,
                          "%s: the path of a socket has 1 to %zu characters", path,
                          sizeof(address->sun_path) - 1);
    }
    strcpy(address->sun_path, path);
    return 0;
}

/* True for a socket that nobody listens on. */
static bool is_stale(const struct sockaddr_un *address)
{
    struct stat status;
    if (lstat(address->sun_path, &status) < 0 || !S_ISSOCK(status.st_mode)) {
        return false;
    }
    SCOPE_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return fd >= 0 &&
           connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 &&
           errno == ECONNREFUSED;
}

void socket_remove_stale(const char *path)
{
    struct sockaddr_un address;
    struct error err;
    if (make_address(path, &address, &err) >= 0 && is_stale(&address)) {
        unlink(path);
    }
}

static const char *base_name(const char *path)
{
    size_t start = strlen(path);
    while (start > 0 && path[start - 1] != '/') {
        start--;
    }
    return path + start;
}

/* The folder in which the name is to be removed some day, under the jail. */
static int open_parent(const char *path, struct error *err)
{
    char parent[sizeof(((struct socket_name *)NULL)->path)] = ".";
    int length = (int)(base_name(path) - path);
    if (length) {
        snprintf(parent, sizeof(parent), "%.*s", length, path);
    }
    SCOPE_FD int fd = open(parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return fail(err, errno, "%s: cannot listen there", path);
    }
    int result = jail_allow(fd, JAIL_REMOVE, err);
    return result < 0 ? result : steal_fd(&fd);
}

int socket_listen(const char *path, struct socket_name *name, struct error *err)
{
    struct sockaddr_un address;
    int result = make_address(path, &address, err);
    if (result < 0) {
        return result;
    }
    SCOPE_FD int directory = open_parent(path, err);
    if (directory < 0) {
        return directory;
    }
    SCOPE_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* bind() makes the file with the mode of the descriptor: it is never open to others,
     * not even for a moment. */
    if (fd < 0 || fchmod(fd, 0600) < 0) {
        return fail(err, errno, "%s: cannot make a socket", path);
    }
    const struct sockaddr *where = (const struct sockaddr *)&address;
    result = bind(fd, where, sizeof(address));
    if (result < 0 && errno == EADDRINUSE && is_stale(&address)) {
        unlink(path);
        result = bind(fd, where, sizeof(address));
    }
    if (result < 0) {
        return fail(err, errno, "%s: cannot listen there", path);
    }
    struct stat status;
    if (listen(fd, BACKLOG) < 0 || lstat(address.sun_path, &status) < 0) {
        result = fail(err, errno, "%s: cannot listen there", address.sun_path);
        unlink(address.sun_path);
        return result;
    }
    snprintf(name->path, sizeof(name->path), "%s", path);
    name->directory = steal_fd(&directory);
    name->device = status.st_dev;
    name->inode = status.st_ino;
    return steal_fd(&fd);
}

void socket_remove(struct socket_name *name)
{
    struct stat status;
    if (!*name->path) {
        return;
    }
    const char *file = base_name(name->path);
    if (fstatat(name->directory, file, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
        status.st_dev == name->device && status.st_ino == name->inode) {
        unlinkat(name->directory, file, 0);
    }
    close(name->directory);
    *name->path = '\0';
}

int socket_connect(const char *path, struct error *err)
{
    struct sockaddr_un address;
    int result = make_address(path, &address, err);
    if (result < 0) {
        return result;
    }
    SCOPE_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    /* The time limit also holds for a connection that its listener never takes. */
    const struct timeval limit = {.tv_sec = 5};
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0 ||
        connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
        return fail(err, errno, "%s: cannot connect", path);
    }
    return steal_fd(&fd);
}
