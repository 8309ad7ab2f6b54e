#pragma once
/*
 * How the process gives up power before the first guest instruction: no new privileges,
 * no capabilities, namespaces of its own, no files but those allowed, and for each thread
 * the system calls of its role alone. docs/jail.md is the account of it.
 *
 * A jail is a property of the process, so its state is the process's, too. Without
 * jail_prepare (tests, --no-jail) nothing here has an effect. In order:
 *
 *     jail_prepare()          one thread only
 *     jail_allow()            while files are opened
 *     jail_thread_create()    each thread calls jail_enter() when it has what it needs
 *     jail_close()            the thread that called jail_prepare, before guest code runs
 */

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* What a thread is for. To add one: a row here and in policy.c's table. */
enum jail_role {
    JAIL_VCPU,       /* a virtual processor of an engine that needs nothing of the host */
    JAIL_VCPU_KVM,   /* one of the engine kvm */
    JAIL_VCPU_STEPS, /* that of a deterministic machine, in step with its disks */
    JAIL_LOOP,       /* the event loop: devices' timers, control socket, console input */
    JAIL_DISK,       /* a worker that reads and writes disk images */
    JAIL_CONSOLE,    /* writes the console's output */
    JAIL_RAM,        /* brings in saved memory as it is touched */
    JAIL_ROLES,
};

const char *jail_role_name(enum jail_role role);

struct jail_config {
    bool makes_files; /* the event loop makes files, where jail_allow says so */
    /* Ends the process, in a signal handler, when a filter has stopped one of its threads
     * and a message has told of it. */
    void (*end)(void);
};

/* What the event loop may do beneath a directory. */
enum jail_right {
    JAIL_READ,   /* open files */
    JAIL_REMOVE, /* remove names of files */
    JAIL_MAKE,   /* all that making, renaming and removing a directory of files takes */
};

/* Fails only where the process would be left half changed. What the host refuses is noted
 * (jail_finding) and done without. */
int jail_prepare(const struct jail_config *config, struct error *err);
/* The directory is borrowed; O_PATH suffices. */
int jail_allow(int directory, enum jail_right right, struct error *err);
/* As pthread_create, for a thread that will call jail_enter. */
int jail_thread_create(pthread_t *thread, void *(*main)(void *), void *opaque);
/* Confines the calling thread for good. A failure is jail_close's. */
void jail_enter(enum jail_role role);
/* Waits until the threads have entered, then confines the calling one as JAIL_LOOP. */
int jail_close(struct error *err);
/* Has jail_close been passed? */
bool jail_is_closed(void);
/* Other users' numbers may be unknown in a user namespace. */
bool jail_has_user_namespace(void);

/* Of a mechanism: what this process has of it. */
enum jail_state {
    JAIL_OFF,     /* not asked for, or not yet */
    JAIL_ON,      /* in force */
    JAIL_REFUSED, /* not to be had on this host */
};

enum jail_mechanism {
    JAIL_NO_NEW_PRIVILEGES,
    JAIL_CAPABILITIES,
    JAIL_USER_NAMESPACE,
    JAIL_NETWORK_NAMESPACE,
    JAIL_IPC_NAMESPACE,
    JAIL_LANDLOCK,
    JAIL_SECCOMP,
    JAIL_MECHANISMS,
};

struct jail_finding {
    enum jail_state state;
    char note[80]; /* a version; why it is off or refused; "" */
};

const char *jail_mechanism_name(enum jail_mechanism mechanism);
const char *jail_state_name(enum jail_state state);
struct jail_finding jail_finding(enum jail_mechanism mechanism);

/* What this host would give, without a change to the calling process: for doctor. */
struct jail_finding jail_probe(enum jail_mechanism mechanism);
