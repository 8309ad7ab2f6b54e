#pragma once
/*
 * The guest's console for many: between the serial port and the console that run was
 * given. What the guest writes is kept, the last 256 KiB of it, and sent to every client
 * that has attached; what they send is input. A client is a position in what is kept:
 * one that does not read falls behind and misses output, and costs neither memory nor the
 * guest's time.
 */

#include "base/loop.h"
#include "machine/machine.h"

#define HUB_KEPT        (256u << 10)
#define HUB_CLIENTS_MAX 16

struct hub;

/* inner is where output goes in any case; it decides how much is taken. */
struct hub *hub_new(const struct console_port *inner, struct error *err);
/* For machine_new. */
struct console_port hub_port(struct hub *hub);
/* input is called in the loop's thread, with what clients send. Returns what it took. */
int hub_start(struct hub *hub, struct loop *loop,
              unsigned (*input)(void *opaque, const uint8_t *data, unsigned size),
              void *opaque, struct error *err);
/* Takes a connected, non-blocking socket, and what has been read from it already. The
 * client first gets all that is kept. */
void hub_attach(struct hub *hub, int fd, const void *data, size_t size);
/* What is kept, oldest first, in memory of its own; NULL when memory is short. */
char *hub_copy(struct hub *hub, size_t *size);
unsigned hub_clients(const struct hub *hub);
/* The guest is gone and the loop no longer runs: sends the rest, waiting no longer than a
 * second for slow readers, and parts from all clients. */
void hub_stop(struct hub *hub);
/* Accepts NULL. */
void hub_free(struct hub *hub);
