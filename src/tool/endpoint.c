#include "tool/endpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
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
        socket_remove(&endpoint->socket);
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

int endpoint_open_socket(struct endpoint *endpoint, const char *path, struct error *err)
{
    int fd = socket_listen(path, &endpoint->socket, err);
    if (fd == -EADDRINUSE) {
        return fail_plain(
            err, EADDRINUSE,
            "--console socket=%s: something is there already; choose another "
            "path, or remove it if nothing uses it",
            path);
    }
    if (fd < 0) {
        return fail_within(err, "--console socket");
    }
    endpoint->listen_fd = fd;
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
