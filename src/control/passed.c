#include "control/passed.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

union control {
    char buffer[CMSG_SPACE(PASSED_MAX * sizeof(int))];
    struct cmsghdr align;
};

ssize_t passed_send(int socket, const char *data, size_t size,
                    const struct passed *passed)
{
    union control control = {{0}};
    struct iovec iov = {(char *)data, size};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
    if (passed->count) {
        size_t bytes = passed->count * sizeof(int);
        message.msg_control = control.buffer;
        message.msg_controllen = CMSG_SPACE(bytes);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(bytes);
        memcpy(CMSG_DATA(header), passed->descriptor, bytes);
    }
    return sendmsg(socket, &message, MSG_NOSIGNAL);
}

static void take(struct passed *passed, const struct cmsghdr *header)
{
    size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
        int fd;
        memcpy(&fd, CMSG_DATA(header) + i * sizeof(fd), sizeof(fd));
        if (passed->count < PASSED_MAX) {
            passed->descriptor[passed->count++] = fd;
        } else {
            close(fd);
        }
    }
}

ssize_t passed_receive(int socket, char *data, size_t room, struct passed *passed)
{
    union control control;
    struct iovec iov = {data, room};
    struct msghdr message = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control.buffer,
        .msg_controllen = sizeof(control.buffer),
    };
    ssize_t size = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (size < 0) {
        return size;
    }
    for (struct cmsghdr *at = CMSG_FIRSTHDR(&message); at;
         at = CMSG_NXTHDR(&message, at)) {
        if (at->cmsg_level == SOL_SOCKET && at->cmsg_type == SCM_RIGHTS) {
            take(passed, at);
        }
    }
    return size;
}

void passed_close(struct passed *passed)
{
    while (passed->count) {
        close(passed->descriptor[--passed->count]);
    }
}
