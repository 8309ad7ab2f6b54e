#pragma once
/*
 * What is to be put in order before a fatal signal ends the process, whoever handles it:
 * the terminal's mode, say.
 */

/* One function, async-signal-safe; NULL: none. */
void fatal_set_hook(void (*hook)(void));
/* Calls it, if there is one. Async-signal-safe. */
void fatal_run_hook(void);
