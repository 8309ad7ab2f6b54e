#include "tool/endpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include "base/scope.h"

void endpoint_init(struct endpoint *endpoint)
{
    *endpoint = (struct endpoint){.fd = -1, .listen_fd = -1};
}

void endpoint_fini(struct endpoint *endpoint)
{
    endpoint_hang_up(endpoint);
    if (endpoint->listen_fd >= 0) {
        close(endpoint->listen_fd);
        unlink(endpoint->name);
    }
    endpoint_init(endpoint);
}

int endpoint_open_pty(struct endpoint *endpoint, struct error *err)
{
    SCOPE_FD int fd = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || grantpt(fd) < 0 || unlockpt(fd) < 0) {
        return fail(err, errno, "--console pty: cannot make a pseudoterminal");
    }
    if (ptsname_r(fd, endpoint->name, sizeof(endpoint->name)) != 0) {
        return fail(err, errno, "--console pty: the pseudoterminal has no name");
    }
    /* Raw, as the guest's own terminal driver does the line editing. Opened and closed
     * once, it counts as hung up until somebody opens it: until then output is dropped
     * instead of filling it. */
    SCOPE_FD int slave = open(endpoint->name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    struct termios mode;
    if (slave < 0 || tcgetattr(slave, &mode) < 0) {
        return fail(err, errno, "--console pty: cannot open %s", endpoint->name);
    }
    cfmakeraw(&mode);
    tcsetattr(slave, TCSANOW, &mode);
    endpoint->fd = steal_fd(&fd);
    return 0;
}

/* True for a socket that nobody listens on any more. Connecting to any other kind of file
 * is refused too, and that one must stay. */
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

int endpoint_open_socket(struct endpoint *endpoint, const char *path, struct error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path)) {
        return fail_plain(err, ENAMETOOLONG,
                          "--console socket=%s: the path is too long; use one of at most "
                          "%zu characters",
                          path, sizeof(address.sun_path) - 1);
    }
    strcpy(address.sun_path, path);
    SCOPE_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return fail(err, errno, "--console socket=%s: cannot make a socket", path);
    }
    const struct sockaddr *name = (const struct sockaddr *)&address;
    int result = bind(fd, name, sizeof(address));
    if (result < 0 && errno == EADDRINUSE && is_stale(&address)) {
        unlink(path);
        result = bind(fd, name, sizeof(address));
    }
    if (result < 0 && errno == EADDRINUSE) {
        return fail_plain(
            err, EADDRINUSE,
            "--console socket=%s: something is there already; choose another "
            "path, or remove it if nothing uses it",
            path);
    }
    if (result < 0 || listen(fd, 4) < 0) {
        return fail(err, errno, "--console socket=%s: cannot listen there", path);
    }
    strcpy(endpoint->name, path);
    endpoint->listen_fd = steal_fd(&fd);
    return 0;
}

int endpoint_accept(struct endpoint *endpoint)
{
    int client = accept4(endpoint->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (client >= 0 && endpoint->fd >= 0) {
        static const char busy[] = "doppel: this console is in use\n";
        (void)!send(client, busy, sizeof(busy) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        close(client);
        return -1;
    }
    endpoint->fd = client;
    return client;
}

void endpoint_hang_up(struct endpoint *endpoint)
{
    if (endpoint->fd >= 0) {
        close(endpoint->fd);
        endpoint->fd = -1;
    }
}
