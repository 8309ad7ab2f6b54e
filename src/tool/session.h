#pragma once
/*
 * A virtual machine run in the foreground by this process: its console, its control
 * socket, the signals that end it, and what becomes of it as an exit status.
 */

#include "machine/machine.h"

struct session_plan {
    struct machine_config *config; /* the control socket may change it before the start */
    const char *api_socket;        /* NULL: only the socket in the runtime directory */
    bool waits;               /* for configuration and start over the control socket */
    bool without_jail;        /* --no-jail */
    const char *snapshot_dir; /* where clients may ask for snapshots by path, or NULL */
    /* Makes the VM; NULL: machine_new. */
    struct vm *(*make)(void *opaque, const struct machine_config *config,
                       const struct console_port *console, struct error *err);
    /* Starts it; NULL: vm_start. */
    int (*start)(void *opaque, struct vm *vm, struct error *err);
    void *opaque;
};

/* What is chosen where the user said nothing. */
void session_complete(struct machine_config *config);
/* Returns the exit status. */
int session_run(const struct session_plan *plan);
