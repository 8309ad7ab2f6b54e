#pragma once
/*
 * The control of one virtual machine from outside: its sockets, the operations on it, its
 * console for many. Everything happens in an event loop's thread; nothing a client does
 * makes the machine wait.
 */

#include "dispatcher/vm.h"
#include "machine/machine.h"

struct control;

struct control_config {
    const char *name;       /* of the machine; NULL: one is made up */
    const char *api_socket; /* another socket at this path; NULL: none */
    /* Borrowed; requests change it until the machine starts. Strings they put there live
     * as long as the control. */
    struct machine_config *machine;
    struct console_port console; /* where output goes in any case */
    /* Makes and starts the machine, and calls control_start. */
    int (*start)(void *opaque, struct error *err);
    /* Ends the machine, or the wait for its start, as that signal would. */
    void (*end)(void *opaque, int signal);
    void *opaque;
    int snapshot_dir; /* an open directory in which snapshots may be made; -1: none */
};

/*
 * Makes the sockets. Fails if a machine of that name runs, or api_socket is in use. Where
 * there can be no runtime directory and none of the two was asked for, there is a warning
 * and no socket.
 */
struct control *control_open(const struct control_config *config, struct error *err);
const char *control_name(const struct control *control);
/* The serial port's other end, for machine_new. */
struct console_port control_console(struct control *control);
/* Serves in this loop while there is no machine yet. */
int control_wait(struct control *control, struct loop *loop, struct error *err);
/* Serves for the machine, in its loop, from now on. */
int control_start(struct control *control, struct vm *vm, struct error *err);
/* Back to the loop of control_wait (if there was one): the machine could not start. */
void control_cancel(struct control *control);
/* The machine has ended, its loop no longer runs, it still exists: attached consoles get
 * the rest of the output, every connection and socket is closed, their names removed. */
void control_stop(struct control *control);
/* Accepts NULL. */
void control_close(struct control *control);
