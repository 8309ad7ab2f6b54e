#pragma once
/* Descriptors that go along with bytes over a Unix socket (SCM_RIGHTS, unix(7)). */

#include <stddef.h>
#include <sys/types.h>

#define PASSED_MAX 8

struct passed {
    unsigned count;
    int descriptor[PASSED_MAX];
};

/* send(2) without a signal, and the descriptors with the first byte. */
ssize_t passed_send(int socket, const char *data, size_t size,
                    const struct passed *passed);
/* recv(2) without waiting; adds what comes along, close-on-exec. What there is no room
 * for is closed. */
ssize_t passed_receive(int socket, char *data, size_t room, struct passed *passed);
void passed_close(struct passed *passed);
