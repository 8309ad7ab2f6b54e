#pragma once
/*
 * The user's terminal in raw mode, restored whatever happens: at the end, at exit, and
 * from the handlers of fatal signals. There is one per process.
 */

#include <stdbool.h>

/* Puts the terminal on fd into raw mode: no echo, no line editing, no signals from keys.
 * False when fd is no terminal, or one whose foreground belongs to another job. */
bool terminal_enter(int fd);
/* Back to what it was before. Async-signal-safe; does nothing if it was not entered. */
void terminal_leave(void);
