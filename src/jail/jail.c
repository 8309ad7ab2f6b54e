#include "jail/jail.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "base/log.h"
#include "base/scope.h"
#include "jail/capability.h"
#include "jail/files.h"
#include "jail/filter.h"
#include "jail/namespace.h"
#include "jail/violation.h"

static struct {
    bool is_prepared;
    _Atomic bool is_closed;
    struct jail_config config;
    int no_files;   /* rules of Landlock that allow nothing; -1: there are none */
    int loop_files; /* those of the event loop */
    struct jail_finding finding[JAIL_MECHANISMS];
    bool may_leave; /* namespaces */

    pthread_mutex_t lock;   /* what follows */
    pthread_cond_t entered; /* outside has become less */
    unsigned outside;       /* threads that have not entered yet */
    struct error failure;   /* the first of a thread */
    struct filter filter[JAIL_ROLES];
} jail = {
    .no_files = -1,
    .loop_files = -1,
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .entered = PTHREAD_COND_INITIALIZER,
};

/* --- Names --- */

const char *jail_role_name(enum jail_role role)
{
    static const char *const names[] = {"vcpu", "vcpu-kvm", "vcpu-steps", "loop",
                                        "disk", "console",  "ram"};
    return names[role];
}

const char *jail_mechanism_name(enum jail_mechanism mechanism)
{
    static const char *const names[] = {
        "no_new_privs",  "capabilities", "user namespace", "network namespace",
        "ipc namespace", "landlock",     "seccomp",
    };
    return names[mechanism];
}

const char *jail_state_name(enum jail_state state)
{
    static const char *const names[] = {"off", "on", "refused"};
    return names[state];
}

/* --- Findings --- */

__attribute__((format(printf, 3, 4))) static void
note(enum jail_mechanism mechanism, enum jail_state state, const char *format, ...)
{
    struct jail_finding *finding = &jail.finding[mechanism];
    va_list args;
    va_start(args, format);
    finding->state = state;
    vsnprintf(finding->note, sizeof(finding->note), format, args);
    va_end(args);
    if (state == JAIL_REFUSED) {
        log_info("jail: %s cannot be had: %s", jail_mechanism_name(mechanism),
                 finding->note);
    }
}

static void note_result(enum jail_mechanism mechanism, int result)
{
    if (result < 0) {
        note(mechanism, JAIL_REFUSED, "%s", strerror(-result));
    } else {
        note(mechanism, JAIL_ON, "%s", "");
    }
}

struct jail_finding jail_finding(enum jail_mechanism mechanism)
{
    return jail.finding[mechanism];
}

bool jail_is_closed(void)
{
    return atomic_load(&jail.is_closed);
}

bool jail_has_user_namespace(void)
{
    return jail.finding[JAIL_USER_NAMESPACE].state == JAIL_ON;
}

/* --- While there is one thread --- */

static int prepare_user(struct error *err)
{
    jail.may_leave = true;
    if (geteuid() == 0) {
        note(JAIL_USER_NAMESPACE, JAIL_OFF, "not needed by root");
        return 0;
    }
    int result = namespace_try(true, 0);
    if (result < 0) {
        jail.may_leave = false;
        note_result(JAIL_USER_NAMESPACE, result);
        return 0;
    }
    result = namespace_enter_user();
    note_result(JAIL_USER_NAMESPACE, result);
    return result < 0 ? fail(err, -result,
                             "jail: cannot enter a user namespace; "
                             "--no-jail runs without confinement")
                      : 0;
}

/* The runtime of -fsanitize looks at the process's own threads and mappings. */
static int let_sanitizer_in(void)
{
    SCOPE_FD int fd = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
    int result = fd < 0 ? -errno : files_allow(jail.no_files, fd, JAIL_READ);
    return result < 0 ? result : files_allow(jail.loop_files, fd, JAIL_READ);
}

static void prepare_files(void)
{
    int version = files_version();
    jail.no_files = version ? files_open() : -EOPNOTSUPP;
    jail.loop_files = jail.no_files < 0 ? jail.no_files : files_open();
    int result = jail.loop_files;
    if (DOPPEL_SANITIZED && result >= 0) {
        result = let_sanitizer_in();
    }
    if (result < 0) {
        note(JAIL_LANDLOCK, JAIL_REFUSED, "%s", strerror(-result));
    } else {
        note(JAIL_LANDLOCK, JAIL_OFF, "version %d", version);
    }
}

int jail_prepare(const struct jail_config *config, struct error *err)
{
    jail.config = *config;
    int result = prepare_user(err);
    if (result < 0) {
        return result;
    }
    note_result(JAIL_NO_NEW_PRIVILEGES,
                prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : 0);
    /* Refused to who has none; then no_new_privs keeps them from coming back. */
    capability_drop_bounds();
    prepare_files();
    result = filter_probe();
    if (result < 0) {
        note(JAIL_SECCOMP, JAIL_REFUSED, "%s", strerror(-result));
    } else if (violation_catch(config->end, err) < 0) {
        return -err->code;
    }
    if (DOPPEL_SANITIZED) {
        log_info("jail: built with sanitizers, whose calls the filters let through");
    }
    jail.is_prepared = true;
    return 0;
}

int jail_allow(int directory, enum jail_right right, struct error *err)
{
    if (!jail.is_prepared || jail_is_closed() || jail.loop_files < 0) {
        return 0;
    }
    int result = files_allow(jail.loop_files, directory, right);
    return result < 0 ? fail(err, -result, "the jail cannot let a directory in") : 0;
}

/* --- Threads --- */

struct start {
    void *(*main)(void *);
    void *opaque;
};

static __thread bool is_outside;

/* The calling thread has entered, or ends. */
static void count_down(void)
{
    if (is_outside) {
        is_outside = false;
        pthread_mutex_lock(&jail.lock);
        jail.outside--;
        pthread_cond_broadcast(&jail.entered);
        pthread_mutex_unlock(&jail.lock);
    }
}

static void *thread_main(void *opaque)
{
    struct start start = *(struct start *)opaque;
    free(opaque);
    is_outside = true;
    void *result = start.main(start.opaque);
    count_down();
    return result;
}

int jail_thread_create(pthread_t *thread, void *(*main)(void *), void *opaque)
{
    struct start *start = malloc(sizeof(*start));
    if (!start) {
        return ENOMEM;
    }
    *start = (struct start){main, opaque};
    pthread_mutex_lock(&jail.lock);
    jail.outside++;
    pthread_mutex_unlock(&jail.lock);
    int code = pthread_create(thread, NULL, thread_main, start);
    if (code) {
        free(start);
        pthread_mutex_lock(&jail.lock);
        jail.outside--;
        pthread_mutex_unlock(&jail.lock);
    }
    return code;
}

/* The first thread of a role makes its filter. */
static int load_filter(enum jail_role role, struct error *err)
{
    struct filter *filter = &jail.filter[role];
    pthread_mutex_lock(&jail.lock);
    int result =
        filter->code ? 0 : filter_make(filter, role, jail.config.makes_files, err);
    pthread_mutex_unlock(&jail.lock);
    if (result >= 0) {
        violation_expect(role);
        result = filter_load(filter);
        if (result < 0) {
            fail(err, -result, "cannot load the filter of system calls");
        }
    }
    return result;
}

/* In this order, since each step may forbid those before it. */
static int confine(enum jail_role role, struct error *err)
{
    int result = capability_drop();
    if (result < 0) {
        fail(err, -result, "cannot drop capabilities");
    }
    int rules = role == JAIL_LOOP ? jail.loop_files : jail.no_files;
    if (result >= 0 && rules >= 0) {
        result = files_enter(rules);
        if (result < 0) {
            fail(err, -result, "cannot restrict files by Landlock");
        }
    }
    if (result >= 0 && jail.finding[JAIL_SECCOMP].state != JAIL_REFUSED) {
        result = load_filter(role, err);
    }
    return result < 0
               ? fail_within(err, "jail: thread of the role '%s'", jail_role_name(role))
               : 0;
}

void jail_enter(enum jail_role role)
{
    struct error err;
    if (jail.is_prepared && confine(role, &err) < 0) {
        pthread_mutex_lock(&jail.lock);
        if (!jail.failure.code) {
            jail.failure = err;
        }
        pthread_mutex_unlock(&jail.lock);
    }
    count_down();
}

/* --- The end of it --- */

static void leave(enum jail_mechanism mechanism, int kind)
{
    if (jail.may_leave) {
        note_result(mechanism, namespace_leave(kind));
    } else {
        note(mechanism, JAIL_REFUSED, "it takes a user namespace");
    }
}

static int wait_for_threads(struct error *err)
{
    pthread_mutex_lock(&jail.lock);
    while (jail.outside) {
        pthread_cond_wait(&jail.entered, &jail.lock);
    }
    struct error failure = jail.failure;
    jail.failure.code = 0;
    pthread_mutex_unlock(&jail.lock);
    if (failure.code && err) {
        *err = failure;
    }
    return -failure.code;
}

static void note_closed(void)
{
    jail.finding[JAIL_CAPABILITIES] = (struct jail_finding){.state = JAIL_ON};
    if (jail.loop_files >= 0) {
        jail.finding[JAIL_LANDLOCK].state = JAIL_ON;
    }
    if (jail.finding[JAIL_SECCOMP].state != JAIL_REFUSED) {
        note(JAIL_SECCOMP, JAIL_ON, "%s",
             DOPPEL_SANITIZED ? "widened for a build with sanitizers" : "");
    }
    for (unsigned i = 0; i < JAIL_MECHANISMS; i++) {
        const struct jail_finding *finding = &jail.finding[i];
        log_info("jail: %s: %s%s%s", jail_mechanism_name(i),
                 jail_state_name(finding->state), *finding->note ? ", " : "",
                 finding->note);
    }
}

int jail_close(struct error *err)
{
    if (!jail.is_prepared || jail_is_closed()) {
        return 0;
    }
    int result = wait_for_threads(err);
    if (result < 0) {
        return result;
    }
    leave(JAIL_NETWORK_NAMESPACE, CLONE_NEWNET);
    leave(JAIL_IPC_NAMESPACE, CLONE_NEWIPC);
    result = confine(JAIL_LOOP, err);
    if (result >= 0) {
        note_closed();
        atomic_store(&jail.is_closed, true);
    }
    return result;
}
