#pragma once
/*
 * Guest output on its way to a descriptor of the host. A vCPU puts bytes into a ring and
 * goes on; a thread writes them out. The descriptor may block (a shell shares the flags
 * of its terminal and pipes with us, so O_NONBLOCK is not ours to set) and the vCPU never
 * does: a full ring takes nothing, and the device is told when there is room.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct writer;

/* Called on the writer's thread, without its lock. */
struct writer_events {
    void (*room)(void *opaque);             /* after a full ring: it is half empty */
    void (*failed)(void *opaque, int code); /* errno; what follows is discarded */
    void *opaque;
};

/* fd is borrowed; -1 discards. drops_unread: so does a pseudoterminal nobody has open. */
struct writer *writer_new(int fd, bool drops_unread, const struct writer_events *events,
                          struct error *err);
/* Abandons what is left. Accepts NULL. */
void writer_free(struct writer *writer);
/* Any thread: takes up to size bytes, returns how many. */
unsigned writer_put(struct writer *writer, const void *data, unsigned size);
/* Another descriptor, or -1. After it returns the old one is not used any more; one that
 * blocks must have been shut down before. */
void writer_set_fd(struct writer *writer, int fd);
/* Waits until all is written, at most patience_ms without any progress (-1: for ever).
 * True if all of it was. */
bool writer_flush(struct writer *writer, int patience_ms);
