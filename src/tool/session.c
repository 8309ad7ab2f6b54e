#include "tool/session.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/log.h"
#include "base/scope.h"
#include "control/control.h"
#include "control/gdb.h"
#include "jail/jail.h"
#include "tool/command.h"
#include "tool/console.h"
#include "tool/terminal.h"
#include "tool/trace.h"

/* What Linux needs to talk on the machine's first serial port. */
#define APPEND_DEFAULT "console=ttyS0"

/* The running VM and what serves it. */
struct session {
    const struct session_plan *plan;
    struct vm *vm;
    struct console *console;
    struct control *control;
    struct gdb *gdb;           /* NULL: no debugger was asked for */
    struct loop *waiting_loop; /* while there is no VM yet; NULL otherwise */
    int signal_fd;
    int stats_fd;
    struct trace *trace; /* NULL: not asked for */
    int snapshot_dir;    /* an open directory; -1: none */
    int waiting_signal;  /* that ended the wait */
    sigset_t signals_before;
    char output_failure[256]; /* told by the console's thread; "" if none */
};

void session_complete(struct machine_config *config)
{
    if (!config->append && config->console == CONSOLE_STDIO) {
        config->append = APPEND_DEFAULT;
    }
}

static unsigned guest_input(void *opaque, const uint8_t *data, unsigned size)
{
    struct session *session = opaque;
    return machine_console_input(session->vm, data, size);
}

static void guest_ready(void *opaque)
{
    struct session *session = opaque;
    machine_console_ready(session->vm);
}

static void guest_quit(void *opaque)
{
    struct session *session = opaque;
    vm_request_end(session->vm, VM_END_REQUEST, 0, NULL);
}

static void guest_failed(void *opaque, const char *message)
{
    struct session *session = opaque;
    snprintf(session->output_failure, sizeof(session->output_failure), "%s", message);
    vm_request_end(session->vm, VM_END_ERROR, 0, message);
}

/* Ends the machine, or the wait for it. */
static void session_end(void *opaque, int signal)
{
    struct session *session = opaque;
    if (session->vm) {
        vm_request_end(session->vm, VM_END_REQUEST, signal, NULL);
    } else if (session->waiting_loop) {
        session->waiting_signal = signal;
        loop_stop(session->waiting_loop);
    }
}

static void on_signal(void *opaque, int fd, uint32_t events)
{
    struct session *session = opaque;
    struct signalfd_siginfo info;
    if (read(fd, &info, sizeof(info)) != sizeof(info)) {
        return;
    }
    if (info.ssi_signo == SIGCONT) {
        console_continue(session->console);
    } else {
        session_end(session, (int)info.ssi_signo);
    }
}

/* Before any thread exists, so that all of them inherit the mask. A signal that our
 * parent had ignored (nohup) stays so: blocked, it would be kept for the descriptor all
 * the same. A reader that left and ulimit -f are told by the write. */
static int signals_take(struct session *session, struct error *err)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGCONT};
    sigset_t taken;
    sigemptyset(&taken);
    for (unsigned i = 0; i < array_size(numbers); i++) {
        struct sigaction before;
        if (sigaction(numbers[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN) {
            sigaddset(&taken, numbers[i]);
        }
    }
    pthread_sigmask(SIG_BLOCK, &taken, &session->signals_before);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    session->signal_fd = signalfd(-1, &taken, SFD_CLOEXEC | SFD_NONBLOCK);
    if (session->signal_fd < 0) {
        return fail(err, errno, "cannot take signals");
    }
    return 0;
}

/* --- Start --- */

static int debugger_open(struct session *session, const char *where, struct error *err)
{
    session->gdb = gdb_open(session->vm, where, err);
    if (!session->gdb) {
        return -err->code;
    }
    log_warning("gdb: target remote %s", gdb_address(session->gdb));
    return 0;
}

static int attach(struct session *session, struct error *err)
{
    struct vm *vm = session->vm;
    const struct console_guest guest = {
        guest_input, guest_ready, guest_quit, guest_failed, session,
    };
    int result = loop_add(vm->loop, session->signal_fd, EPOLLIN, on_signal, session, err);
    if (result >= 0) {
        result = console_attach(session->console, vm->loop, &guest, err);
    }
    if (result >= 0) {
        result = control_start(session->control, vm, err);
    }
    if (result >= 0 && session->plan->config->gdb) {
        result = debugger_open(session, session->plan->config->gdb, err);
    }
    if (result >= 0) {
        result = session->plan->start
                     ? session->plan->start(session->plan->opaque, vm, err)
                     : vm_start(vm, err);
    }
    return result;
}

/* Makes the VM and starts it. After a failure everything is as before. */
static int session_start(void *opaque, struct error *err)
{
    struct session *session = opaque;
    const struct session_plan *plan = session->plan;
    const struct console_port port = control_console(session->control);
    session_complete(plan->config);
    session->vm = plan->make ? plan->make(plan->opaque, plan->config, &port, err)
                             : machine_new(plan->config, &port, err);
    if (!session->vm) {
        return -err->code;
    }
    if (session->trace) {
        trace_attach(session->trace, session->vm);
    }
    int result = attach(session, err);
    if (result < 0) {
        console_stop(session->console);
        control_cancel(session->control);
        gdb_close(steal(session->gdb), STATUS_HOST_ERROR);
        vm_free(session->vm);
        session->vm = NULL;
    } else if (session->waiting_loop) {
        loop_stop(session->waiting_loop);
    }
    return result;
}

/* Until a client has started the machine, or a signal came. */
static int session_wait(struct session *session, struct error *err)
{
    session->waiting_loop = loop_open(NULL, err);
    if (!session->waiting_loop) {
        return -err->code;
    }
    int result = loop_add(session->waiting_loop, session->signal_fd, EPOLLIN, on_signal,
                          session, err);
    if (result >= 0) {
        result = control_wait(session->control, session->waiting_loop, err);
    }
    if (result >= 0) {
        loop_run(session->waiting_loop);
    }
    return result;
}

static int open_control(struct session *session, struct error *err)
{
    const struct session_plan *plan = session->plan;
    const struct control_config config = {
        .name = plan->config->name,
        .api_socket = plan->api_socket,
        .machine = plan->config,
        .console = console_port(session->console),
        .start = session_start,
        .end = session_end,
        .opaque = session,
        .snapshot_dir = session->snapshot_dir,
    };
    session->control = control_open(&config, err);
    if (!session->control) {
        return -err->code;
    }
    plan->config->name = control_name(session->control);
    return 0;
}

/* A crash of its own kind: nothing is flushed or removed, only the terminal put back. */
static void jail_violated(void)
{
    terminal_leave();
    _exit(STATUS_HOST_ERROR);
}

/* While this is the only thread. */
static int prepare_jail(struct session *session, struct error *err)
{
    const struct session_plan *plan = session->plan;
    const struct jail_config config = {
        .makes_files = plan->snapshot_dir,
        .end = jail_violated,
    };
    if (plan->snapshot_dir) {
        session->snapshot_dir =
            open(plan->snapshot_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (session->snapshot_dir < 0) {
            return fail(err, errno, "--snapshot-dir %s", plan->snapshot_dir);
        }
    }
    if (plan->without_jail) {
        log_info("jail: off, by --no-jail");
        return 0;
    }
    int result = jail_prepare(&config, err);
    if (result >= 0 && plan->snapshot_dir) {
        result = jail_allow(session->snapshot_dir, JAIL_MAKE, err);
    }
    return result;
}

static int session_open(struct session *session, struct error *err)
{
    const struct machine_config *config = session->plan->config;
    if (config->exit_stats) {
        session->stats_fd =
            open(config->exit_stats, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        if (session->stats_fd < 0) {
            return fail(err, errno, "--exit-stats: cannot write %s", config->exit_stats);
        }
    }
    if (config->trace_exits) {
        session->trace = trace_open(config->trace_exits, err);
        if (!session->trace) {
            return -err->code;
        }
    }
    int result = prepare_jail(session, err);
    if (result >= 0) {
        result = signals_take(session, err);
    }
    if (result < 0) {
        return result;
    }
    session->console = console_open(config->console, config->console_path, err);
    if (!session->console) {
        return -err->code;
    }
    result = open_control(session, err);
    if (result >= 0) {
        result = session->plan->waits ? session_wait(session, err)
                                      : session_start(session, err);
    }
    return result;
}

/* --- End --- */

static void session_close(struct session *session)
{
    /* The console's thread calls the VM, and the VM's devices the console: first the one
     * falls silent, then the other goes. */
    if (session->console) {
        console_stop(session->console);
    }
    if (session->control) {
        control_stop(session->control);
    }
    gdb_close(session->gdb, STATUS_HOST_ERROR);
    vm_free(session->vm);
    trace_close(session->trace);
    control_close(session->control);
    loop_close(session->waiting_loop);
    console_close(session->console);
    if (session->signal_fd >= 0) {
        close(session->signal_fd);
    }
    if (session->stats_fd >= 0) {
        close(session->stats_fd);
    }
    if (session->snapshot_dir >= 0) {
        close(session->snapshot_dir);
    }
}

static int end_status(const struct vm_end *end)
{
    switch (end->reason) {
    case VM_END_POWEROFF:
    case VM_END_RESET:
        return STATUS_OK;
    case VM_END_CRASH:
        log_error("the guest crashed%s%s", *end->message ? ": " : "", end->message);
        return STATUS_GUEST_CRASH;
    case VM_END_DEBUG_EXIT:
        return ((end->value << 1) | 1) & 0xff;
    case VM_END_REQUEST:
        return end->value ? STATUS_SIGNAL + end->value : STATUS_OK;
    default:
        log_error("%s", *end->message ? end->message : "the virtual machine failed");
        return STATUS_HOST_ERROR;
    }
}

/* After the VM has ended: hands over what it said last, then the counters. */
static int session_finish(struct session *session, const struct vm_end *end)
{
    struct error err;
    console_detach(session->console);
    control_stop(session->control);
    /* From here a signal ends the process at once, also while a slow reader of our output
     * is waited for. */
    pthread_sigmask(SIG_SETMASK, &session->signals_before, NULL);
    console_flush(session->console, end->reason == VM_END_REQUEST);
    console_stop(session->console);
    int status = end_status(end);
    if (status == STATUS_OK && *session->output_failure) {
        /* The guest was done before its last words could not be written. */
        log_error("%s", session->output_failure);
        status = STATUS_HOST_ERROR;
    }
    if (session->stats_fd >= 0 &&
        vm_write_exit_stats(session->vm, session->stats_fd, &err) < 0) {
        log_error("--exit-stats %s: %s", session->plan->config->exit_stats, err.message);
        status = status ? status : STATUS_HOST_ERROR;
    }
    if (session->trace && trace_finish(steal(session->trace), session->vm, &err) < 0) {
        log_error("--trace-exits: %s", err.message);
        status = status ? status : STATUS_HOST_ERROR;
    }
    return status;
}

int session_run(const struct session_plan *plan)
{
    struct session session = {
        .plan = plan, .signal_fd = -1, .stats_fd = -1, .snapshot_dir = -1};
    struct error err = {0};
    int status;
    if (session_open(&session, &err) < 0) {
        /* The terminal first: a message belongs on a sane one. */
        if (session.console) {
            console_detach(session.console);
        }
        log_error("%s", err.message);
        status = STATUS_HOST_ERROR;
    } else if (!session.vm) {
        status =
            session.waiting_signal ? STATUS_SIGNAL + session.waiting_signal : STATUS_OK;
    } else {
        struct vm_end end = vm_run(session.vm);
        status = session_finish(&session, &end);
        gdb_close(steal(session.gdb), status);
    }
    session_close(&session);
    return status;
}
