#include "tool/console.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/scope.h"
#include "tool/endpoint.h"
#include "tool/escape.h"
#include "tool/terminal.h"
#include "tool/writer.h"

/* What the user may type ahead of the guest; the rest of a pipe waits in the pipe. */
#define INPUT_SIZE (256u << 10)
#define READ_SIZE  4096u
/* Reads in one go before other descriptors get their turn. */
#define READS_PER_TURN 16
#define PATIENCE_MS    1000

static const char help_text[] = "\ndoppel: Ctrl-A X  ends the virtual machine\n"
                                "doppel: Ctrl-A H  shows this help\n"
                                "doppel: Ctrl-A Ctrl-A  sends Ctrl-A to the guest\n";

struct console {
    enum console_kind kind;
    struct endpoint endpoint; /* CONSOLE_PTY, CONSOLE_SOCKET */
    struct writer *writer;
    struct loop *loop; /* while attached */
    struct console_guest guest;

    int in_fd; /* watched for input; -1: none, or it has ended */
    bool is_terminal;
    struct escape escape;
    int wake_fd; /* has input moved: the guest has room, or there is more to read */
    unsigned in_start, in_end; /* input[in_start..in_end) waits for the guest */
    uint8_t input[INPUT_SIZE + 1];
};

static void console_wake(struct console *console)
{
    const uint64_t one = 1;
    (void)!write(console->wake_fd, &one, sizeof(one));
}

static bool is_pending(const struct console *console)
{
    return console->in_start != console->in_end;
}

static void console_deliver(struct console *console)
{
    if (!is_pending(console)) {
        return;
    }
    unsigned taken =
        console->guest.input(console->guest.opaque, console->input + console->in_start,
                             console->in_end - console->in_start);
    console->in_start += taken;
    if (!is_pending(console)) {
        console->in_start = console->in_end = 0;
    }
}

static bool is_readable(const struct console *console)
{
    if (console->in_fd < 0) {
        return false;
    }
    /* A terminal is always listened to, for the escape key must work in a guest that
     * does not take its input. */
    if (is_pending(console) && !console->is_terminal) {
        return false;
    }
    struct pollfd poll_fd = {.fd = console->in_fd, .events = POLLIN};
    if (poll(&poll_fd, 1, 0) <= 0) {
        return false;
    }
    /* A pseudoterminal that nobody has open hangs up and may come back. */
    return console->kind == CONSOLE_PTY ? poll_fd.revents & POLLIN : poll_fd.revents;
}

/* Input from the terminal, without the escape sequences, behind what is pending. */
static void console_filter(struct console *console, const uint8_t *data, unsigned size)
{
    while (size) {
        unsigned used, kept;
        uint8_t out[READ_SIZE + 1];
        enum escape_action action =
            escape_filter(&console->escape, data, size, &used, out, &kept);
        if (kept > INPUT_SIZE - console->in_end) {
            kept = INPUT_SIZE - console->in_end;
            (void)!write(STDERR_FILENO, "\a", 1);
        }
        memcpy(console->input + console->in_end, out, kept);
        console->in_end += kept;
        data += used;
        size -= used;
        if (action == ESCAPE_QUIT) {
            console->guest.quit(console->guest.opaque);
        } else if (action == ESCAPE_HELP) {
            (void)!write(STDERR_FILENO, help_text, sizeof(help_text) - 1);
        }
    }
}

static void console_input_ended(struct console *console)
{
    loop_remove(console->loop, console->in_fd);
    console->in_fd = -1;
    if (console->kind == CONSOLE_SOCKET) {
        shutdown(console->endpoint.fd, SHUT_RDWR);
        writer_set_fd(console->writer, -1);
        endpoint_hang_up(&console->endpoint);
    }
}

static void console_read(struct console *console)
{
    uint8_t data[READ_SIZE];
    ssize_t size = read(console->in_fd, data, sizeof(data));
    if (size < 0 && (errno == EINTR || errno == EAGAIN)) {
        return;
    }
    if (size <= 0) {
        if (console->kind != CONSOLE_PTY) {
            console_input_ended(console);
        }
        return;
    }
    if (console->is_terminal) {
        console_filter(console, data, (unsigned)size);
    } else {
        memcpy(console->input, data, (size_t)size);
        console->in_end = (unsigned)size;
    }
}

/* Everything that can be moved now. What the guest has no room for waits until it says
 * that it has (port_room); what there was no time for follows in the next turn. */
static void console_pump(struct console *console)
{
    unsigned reads = 0;
    console_deliver(console);
    while (reads < READS_PER_TURN && is_readable(console)) {
        console_read(console);
        console_deliver(console);
        reads++;
    }
    if (reads == READS_PER_TURN) {
        console_wake(console);
    }
}

static void on_input(void *opaque, int fd, uint32_t events)
{
    console_pump(opaque);
}

static void on_wake(void *opaque, int fd, uint32_t events)
{
    uint64_t count;
    (void)!read(fd, &count, sizeof(count));
    console_pump(opaque);
}

/*
 * Edge-triggered: what is not taken now, or a hang-up, must not spin the loop. A regular
 * file cannot be watched and need not be: it is always readable.
 */
static int console_watch(struct console *console, int fd, struct error *err)
{
    int result = loop_add(console->loop, fd, EPOLLIN | EPOLLET, on_input, console, err);
    if (result < 0 && result != -EPERM) {
        return result;
    }
    console->in_fd = fd;
    console_wake(console);
    return 0;
}

static void on_connection(void *opaque, int fd, uint32_t events)
{
    struct console *console = opaque;
    struct error err;
    int client = endpoint_accept(&console->endpoint);
    if (client < 0) {
        return;
    }
    if (console_watch(console, client, &err) < 0) {
        log_warning("console: %s", err.message);
        endpoint_hang_up(&console->endpoint);
        return;
    }
    writer_set_fd(console->writer, client);
}

static void on_room(void *opaque)
{
    struct console *console = opaque;
    console->guest.ready(console->guest.opaque);
}

static void on_failure(void *opaque, int code)
{
    struct console *console = opaque;
    if (console->kind == CONSOLE_STDIO) {
        char message[200], text[100];
        snprintf(message, sizeof(message),
                 "cannot write the guest's console to standard output: %s; keep its "
                 "reader running, or use --console none",
                 strerror_r(code, text, sizeof(text)));
        console->guest.failed(console->guest.opaque, message);
    }
    /* The other end of a socket or pseudoterminal may leave when it likes. */
}

struct console *console_open(enum console_kind kind, const char *path, struct error *err)
{
    struct console *console = calloc(1, sizeof(*console));
    if (!console) {
        fail(err, ENOMEM, "cannot make the console");
        return NULL;
    }
    console->kind = kind;
    console->in_fd = -1;
    endpoint_init(&console->endpoint);
    console->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (console->wake_fd < 0) {
        fail(err, errno, "cannot make the console");
        console_close(console);
        return NULL;
    }
    int result = 0;
    if (kind == CONSOLE_PTY) {
        result = endpoint_open_pty(&console->endpoint, err);
    } else if (kind == CONSOLE_SOCKET) {
        result = endpoint_open_socket(&console->endpoint, path, err);
    }
    if (result < 0) {
        console_close(console);
        return NULL;
    }
    if (kind == CONSOLE_PTY) {
        log_warning("the console is on %s", console->endpoint.name);
    }
    return console;
}

static unsigned port_write(void *opaque, const uint8_t *data, unsigned size)
{
    struct console *console = opaque;
    return console->writer ? writer_put(console->writer, data, size) : size;
}

static void port_room(void *opaque)
{
    console_wake(opaque);
}

struct console_port console_port(struct console *console)
{
    return (struct console_port){port_write, port_room, console};
}

static int attach_stdio(struct console *console, struct error *err)
{
    if (!isatty(STDIN_FILENO)) {
        return console_watch(console, STDIN_FILENO, err);
    }
    console->is_terminal = true;
    if (isatty(STDERR_FILENO)) {
        fputs("doppel: Ctrl-A X ends it, Ctrl-A H helps\n", stderr);
    }
    console_continue(console);
    return 0;
}

int console_attach(struct console *console, struct loop *loop,
                   const struct console_guest *guest, struct error *err)
{
    console->guest = *guest;
    console->loop = loop;
    if (console->kind == CONSOLE_NONE) {
        return 0;
    }
    bool is_stdio = console->kind == CONSOLE_STDIO;
    const struct writer_events events = {on_room, on_failure, console};
    console->writer = writer_new(is_stdio ? STDOUT_FILENO : console->endpoint.fd,
                                 console->kind == CONSOLE_PTY, &events, err);
    if (!console->writer) {
        return -err->code;
    }
    int result = loop_add(loop, console->wake_fd, EPOLLIN, on_wake, console, err);
    if (result < 0) {
        return result;
    }
    switch (console->kind) {
    case CONSOLE_STDIO:
        return attach_stdio(console, err);
    case CONSOLE_PTY:
        return console_watch(console, console->endpoint.fd, err);
    default:
        return loop_add(loop, console->endpoint.listen_fd, EPOLLIN, on_connection,
                        console, err);
    }
}

void console_continue(struct console *console)
{
    if (!console->is_terminal || !console->loop) {
        return;
    }
    /* Reading from the background would stop us (SIGTTIN). */
    if (console->in_fd >= 0) {
        loop_remove(console->loop, console->in_fd);
        console->in_fd = -1;
    }
    struct error err;
    if (terminal_enter(STDIN_FILENO) && console_watch(console, STDIN_FILENO, &err) < 0) {
        log_warning("no input from the terminal: %s", err.message);
    }
}

void console_detach(struct console *console)
{
    if (!console->loop) {
        return;
    }
    if (console->in_fd >= 0) {
        loop_remove(console->loop, console->in_fd);
        console->in_fd = -1;
    }
    if (console->endpoint.listen_fd >= 0) {
        loop_remove(console->loop, console->endpoint.listen_fd);
    }
    loop_remove(console->loop, console->wake_fd);
    console->loop = NULL;
    terminal_leave();
}

void console_flush(struct console *console, bool is_hurried)
{
    if (console->writer) {
        bool is_patient = console->kind == CONSOLE_STDIO && !is_hurried;
        writer_flush(console->writer, is_patient ? -1 : PATIENCE_MS);
    }
}

void console_stop(struct console *console)
{
    console_detach(console);
    writer_free(console->writer);
    console->writer = NULL;
}

void console_close(struct console *console)
{
    if (!console) {
        return;
    }
    console_stop(console);
    endpoint_fini(&console->endpoint);
    if (console->wake_fd >= 0) {
        close(console->wake_fd);
    }
    free(console);
}
