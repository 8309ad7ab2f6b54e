/* doppel console: this terminal on a running machine's console. */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/scope.h"
#include "control/client.h"
#include "tool/command.h"
#include "tool/escape.h"
#include "tool/remote.h"
#include "tool/terminal.h"

#define PIECE      4096u
#define INPUT_SIZE (64u << 10)

static const char help_text[] = "\r\ndoppel: Ctrl-A D  leaves the console; the machine "
                                "goes on\r\n"
                                "doppel: Ctrl-A H  shows this help\r\n"
                                "doppel: Ctrl-A Ctrl-A  sends Ctrl-A to the guest\r\n";

struct attachment {
    int fd; /* the machine */
    int signal_fd;
    bool reads_input; /* until its end */
    bool is_terminal;
    bool is_over;
    int signal; /* that ended it */
    struct error *err;
    struct escape escape;
    unsigned in_start, in_end; /* input[in_start..in_end) waits for the machine */
    uint8_t input[INPUT_SIZE + 1];
};

static int write_all(const uint8_t *data, size_t size)
{
    while (size) {
        ssize_t written = write(STDOUT_FILENO, data, size);
        if (written < 0 && errno == EAGAIN) {
            struct pollfd poll_fd = {.fd = STDOUT_FILENO, .events = POLLOUT};
            poll(&poll_fd, 1, -1);
        } else if (written < 0 && errno != EINTR) {
            return -errno;
        } else if (written > 0) {
            data += written;
            size -= (size_t)written;
        }
    }
    return 0;
}

static int take_output(struct attachment *attachment)
{
    uint8_t data[PIECE];
    ssize_t size = recv(attachment->fd, data, sizeof(data), MSG_DONTWAIT);
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) {
        return 0;
    }
    if (size <= 0) {
        attachment->is_over = true;
        return 0;
    }
    int result = write_all(data, (size_t)size);
    return result < 0 ? fail(attachment->err, -result, "cannot write to standard output")
                      : 0;
}

static void filter_input(struct attachment *attachment, const uint8_t *data,
                         unsigned size)
{
    while (size && !attachment->is_over) {
        uint8_t out[PIECE + 1];
        unsigned used, kept;
        enum escape_action action =
            escape_filter(&attachment->escape, data, size, &used, out, &kept);
        if (kept > INPUT_SIZE - attachment->in_end) {
            kept = INPUT_SIZE - attachment->in_end;
            (void)!write(STDERR_FILENO, "\a", 1);
        }
        memcpy(attachment->input + attachment->in_end, out, kept);
        attachment->in_end += kept;
        data += used;
        size -= used;
        if (action == ESCAPE_QUIT) {
            attachment->is_over = true;
        } else if (action == ESCAPE_HELP) {
            (void)!write(STDERR_FILENO, help_text, sizeof(help_text) - 1);
        }
    }
}

static void take_input(struct attachment *attachment)
{
    uint8_t data[PIECE];
    ssize_t size = read(STDIN_FILENO, data, sizeof(data));
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (size <= 0) {
        attachment->reads_input = false;
    } else if (attachment->is_terminal) {
        filter_input(attachment, data, (unsigned)size);
    } else {
        memcpy(attachment->input, data, (size_t)size);
        attachment->in_end = (unsigned)size;
    }
}

static void send_input(struct attachment *attachment)
{
    ssize_t sent =
        send(attachment->fd, attachment->input + attachment->in_start,
             attachment->in_end - attachment->in_start, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0) {
        attachment->in_start += (unsigned)sent;
    }
    if (attachment->in_start == attachment->in_end) {
        attachment->in_start = attachment->in_end = 0;
    }
}

static void take_signal(struct attachment *attachment)
{
    struct signalfd_siginfo info;
    if (read(attachment->signal_fd, &info, sizeof(info)) != sizeof(info)) {
        return;
    }
    if (info.ssi_signo == SIGCONT) {
        terminal_enter(STDIN_FILENO);
    } else {
        attachment->signal = (int)info.ssi_signo;
        attachment->is_over = true;
    }
}

/* One wait for whatever comes. */
static int step(struct attachment *attachment)
{
    bool has_input = attachment->in_start != attachment->in_end;
    /* A terminal is always listened to: the escape key must work. */
    bool listens = attachment->reads_input && (!has_input || attachment->is_terminal);
    struct pollfd fds[] = {
        {.fd = attachment->fd, .events = (short)(POLLIN | (has_input ? POLLOUT : 0))},
        {.fd = attachment->signal_fd, .events = POLLIN},
        {.fd = listens ? STDIN_FILENO : -1, .events = POLLIN},
    };
    if (poll(fds, array_size(fds), -1) < 0) {
        return errno == EINTR ? 0 : fail(attachment->err, errno, "cannot wait");
    }
    if (fds[1].revents) {
        take_signal(attachment);
    }
    if (fds[2].revents) {
        take_input(attachment);
    }
    if (fds[0].revents & POLLOUT) {
        send_input(attachment);
    }
    return fds[0].revents & ~POLLOUT ? take_output(attachment) : 0;
}

static int signals_open(struct error *err)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGCONT};
    sigset_t taken;
    sigemptyset(&taken);
    for (unsigned i = 0; i < array_size(numbers); i++) {
        sigaddset(&taken, numbers[i]);
    }
    sigprocmask(SIG_BLOCK, &taken, NULL);
    int fd = signalfd(-1, &taken, SFD_CLOEXEC | SFD_NONBLOCK);
    return fd < 0 ? fail(err, errno, "cannot take signals") : fd;
}

static int attach(const char *machine, struct error *err)
{
    static struct attachment attachment;
    SCOPE_FD int fd = client_open(machine, err);
    if (fd < 0 || client_attach(fd, err) < 0) {
        return remote_error(err);
    }
    SCOPE_FD int signal_fd = signals_open(err);
    if (signal_fd < 0) {
        return remote_error(err);
    }
    attachment.fd = fd;
    attachment.signal_fd = signal_fd;
    attachment.reads_input = true;
    attachment.err = err;
    attachment.escape.takes_d = true;
    attachment.is_terminal = terminal_enter(STDIN_FILENO);
    if (attachment.is_terminal && isatty(STDERR_FILENO)) {
        fputs("doppel: Ctrl-A D leaves the console, Ctrl-A H helps\r\n", stderr);
    }
    int result = 0;
    while (result >= 0 && !attachment.is_over) {
        result = step(&attachment);
    }
    terminal_leave();
    if (attachment.is_terminal) {
        fputs("\n", stderr);
    }
    if (result < 0) {
        return remote_error(err);
    }
    return attachment.signal ? STATUS_SIGNAL + attachment.signal : STATUS_OK;
}

/* --- The command --- */

struct console_options {
    bool log;
};

static const struct option_spec console_options[] = {
    {"log", NULL, "print what is kept of the output (256K) and do not attach",
     OPTION_FLAG, offsetof(struct console_options, log)},
    {NULL},
};

static int print_log(const char *machine, struct error *err)
{
    const struct operation *operation = operation_find("console");
    struct client_reply reply;
    SCOPE_FD int fd = client_open(machine, err);
    if (fd < 0 || client_call(fd, operation->method, operation->path, NULL,
                              CLIENT_PATIENCE_MS, &reply, err) < 0) {
        return remote_error(err);
    }
    fwrite(reply.body, 1, reply.length, stdout);
    client_reply_free(&reply);
    return STATUS_OK;
}

static int console_run(const struct command *command, int argc, char **argv)
{
    struct console_options options = {0};
    struct error err;
    int status;
    const char *machine = remote_parse(command, argc, argv, &options, &status);
    if (!machine) {
        return status;
    }
    return options.log ? print_log(machine, &err) : attach(machine, &err);
}

static const struct command_example console_examples[] = {
    {"console web", "Shows the latest output and takes what you type."},
    {"console web --log > log.txt", "Keeps the latest output."},
    {NULL},
};

const struct command console_command = {
    .name = "console",
    .operands = "NAME",
    .operands_max = 1,
    .description = "Ctrl-A D leaves the console and the machine goes on. Several may be "
                   "attached to one machine,\nwhatever run --console said; all see the "
                   "same, all may type. What the guest has written before\nis shown "
                   "first, the last 256K of it.",
    .examples = console_examples,
    .options = console_options,
    .run = console_run,
};
