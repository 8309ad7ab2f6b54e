#pragma once
/* A conversation with a debugger: commands in, replies out; which vCPUs run, and why they
 * stopped. */

#include "control/gdb_packet.h"
#include "dispatcher/vcpu.h"

struct gdb_session {
    struct vm *vm;
    /* Sends one packet. */
    void (*send)(void *opaque, const char *data, size_t size);
    void *opaque;

    bool is_running;              /* the last word was the debugger's: continue or step */
    bool without_ack;             /* QStartNoAckMode */
    bool is_physical;             /* addresses are guest-physical: monitor physical on */
    bool wants_detach;            /* D was answered: close the connection */
    unsigned current;             /* vCPU that register and memory commands mean */
    struct debug_control control; /* the points; step is per vCPU */
    bool runs[VM_CPUS_MAX];       /* released for the present run */
    bool has_stop[VM_CPUS_MAX];   /* stopped by itself, not yet reported */
    struct debug_stop stop[VM_CPUS_MAX];
    char reply[GDB_PACKET_MAX + 1];
};

/* A debugger has connected: the VM is paused. */
void gdb_session_begin(struct gdb_session *session, struct vm *vm,
                       void (*send)(void *opaque, const char *data, size_t size),
                       void *opaque);
/* It has gone: its points are removed, every vCPU goes on. */
void gdb_session_end(struct gdb_session *session);
/* One complete packet; data is changed. */
void gdb_session_command(struct gdb_session *session, char *data, size_t size);
void gdb_session_interrupt(struct gdb_session *session);
/* A vCPU stopped by itself (the function for vm_set_debugger, opaque is the session). */
void gdb_session_stopped(void *opaque);
