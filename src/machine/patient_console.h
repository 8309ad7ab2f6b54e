#pragma once
/*
 * The console of a deterministic run: takes every byte at once, so that how fast the host
 * reads changes nothing for the guest. The vCPU waits for a slow reader, and with it the
 * machine's time.
 */

#include <pthread.h>

#include "machine/machine.h"

struct patient_console {
    struct console_port inner;
    struct vm *vm;
    pthread_mutex_t lock;
    pthread_cond_t room;
    unsigned wakes; /* under lock */
};

void patient_console_init(struct patient_console *console,
                          const struct console_port *inner, struct vm *vm);
void patient_console_fini(struct patient_console *console);
struct console_port patient_console_port(struct patient_console *console);
/* inner has room again. Any thread. */
void patient_console_wake(struct patient_console *console);
