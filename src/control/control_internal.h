#pragma once
/* What the handlers of operations share. */

#include "base/clock.h"
#include "control/control.h"
#include "control/hub.h"
#include "control/operation.h"
#include "control/runtime.h"
#include "control/server.h"

struct json_t;

#define DRIVE_PARTUUID_SIZE 64

/* A disk named over the socket. */
struct drive {
    char id[OPERATION_ID_MAX + 1];
    char partuuid[DRIVE_PARTUUID_SIZE]; /* of the root partition; "": none */
    bool is_root;
    struct disk_config disk;
};

struct control {
    struct control_config config;
    char name[RUNTIME_NAME_MAX + 1];
    struct server *server;
    struct socket_name sockets[2]; /* in the runtime directory; --api-socket */
    struct hub *hub;
    struct loop *waiting_loop; /* before the machine starts */
    struct vm *vm;             /* NULL until it has started */
    int stop_fd;               /* timer: the guest has had its time to stop */
    int metrics_fd;            /* where FlushMetrics writes; -1: nowhere */
    int statm_fd;              /* /proc/self/statm; -1: none */
    int64_t started_s;         /* of the day; 0: not yet */
    struct json_t *machine;    /* machine_describe's; NULL if it failed */
    bool tracks_dirty_pages;   /* as a client said; it changes nothing */
    unsigned drive_count;
    struct drive drive[CONFIG_DISKS_MAX];
    struct disk_config *disks; /* what drives_apply made, and the command line */
    char *append;
    struct json_t *bodies; /* by operation: whose strings config.machine borrows */
};

/* "waiting", "running", "paused". */
const char *control_state(const struct control *control);
/* {"name": ..., ...}: the machine as resolved, and how it is. */
struct json_t *control_inspect(struct control *control);
/* Exits, memory, time of threads. */
struct json_t *stats_json(struct control *control);
/* The same for Prometheus; the caller frees it. */
char *metrics_text(struct control *control, size_t *length);

/* drives.c */
extern const struct option_spec drive_fields[];
int drives_put(struct control *control, const struct call *call, struct answer *answer,
               struct error *err);
struct json_t *drives_json(const struct control *control);
/* Puts them into the machine's configuration, once. */
int drives_apply(struct control *control, struct error *err);
