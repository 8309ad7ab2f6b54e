#pragma once
/*
 * The host's end of the guest's first serial port: the terminal (or whatever stdin and
 * stdout are), a pseudoterminal, a socket, or nothing. It loses no byte in either
 * direction and never makes a vCPU wait.
 */

#include "base/loop.h"
#include "machine/machine.h"

struct console;

/* The guest's end. input and quit are called on the event loop's thread, ready and failed
 * on any. */
struct console_guest {
    unsigned (*input)(void *opaque, const uint8_t *data, unsigned size); /* taken */
    void (*ready)(void *opaque);
    void (*quit)(void *opaque); /* the user typed Ctrl-A X */
    void (*failed)(void *opaque, const char *message);
    void *opaque;
};

/* Opens what the kind needs; a pseudoterminal's name is told on stderr. path is for
 * CONSOLE_SOCKET. */
struct console *console_open(enum console_kind kind, const char *path, struct error *err);
struct console_port console_port(struct console *console);
/* Starts both directions; puts a terminal into raw mode. */
int console_attach(struct console *console, struct loop *loop,
                   const struct console_guest *guest, struct error *err);
/* After SIGCONT: the job may have moved to the foreground or the background. */
void console_continue(struct console *console);
/* Ends the input and restores the terminal; the loop is no longer running. Output still
 * flows. */
void console_detach(struct console *console);
/* Waits for the output to be written. One that nobody must read is given a second;
 * is_hurried gives any only that. */
void console_flush(struct console *console, bool is_hurried);
/* The guest's end is not called any more; what it still writes is dropped. */
void console_stop(struct console *console);
/* Accepts NULL. */
void console_close(struct console *console);
