#include "machine/patient_console.h"

#include <time.h>

void patient_console_init(struct patient_console *console,
                          const struct console_port *inner, struct vm *vm)
{
    *console = (struct patient_console){.inner = *inner, .vm = vm};
    pthread_mutex_init(&console->lock, NULL);
    pthread_cond_init(&console->room, NULL);
}

void patient_console_fini(struct patient_console *console)
{
    pthread_cond_destroy(&console->room);
    pthread_mutex_destroy(&console->lock);
}

void patient_console_wake(struct patient_console *console)
{
    pthread_mutex_lock(&console->lock);
    console->wakes++;
    pthread_cond_signal(&console->room);
    pthread_mutex_unlock(&console->lock);
}

/* Now and then it looks whether the machine has been ended meanwhile. */
#define LOOK_NS 100000000l

static void await_room(struct patient_console *console, unsigned wakes)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += LOOK_NS;
    until.tv_sec += until.tv_nsec / (long)NS_PER_SECOND;
    until.tv_nsec %= (long)NS_PER_SECOND;
    pthread_mutex_lock(&console->lock);
    if (console->wakes == wakes) {
        pthread_cond_timedwait(&console->room, &console->lock, &until);
    }
    pthread_mutex_unlock(&console->lock);
}

static unsigned patient_write(void *opaque, const uint8_t *data, unsigned size)
{
    struct patient_console *console = opaque;
    unsigned done = 0;
    for (;;) {
        pthread_mutex_lock(&console->lock);
        unsigned wakes = console->wakes;
        pthread_mutex_unlock(&console->lock);
        done += console->inner.write(console->inner.opaque, data + done, size - done);
        if (done == size || vm_is_ending(console->vm)) {
            return size;
        }
        await_room(console, wakes);
    }
}

static void patient_room(void *opaque)
{
    struct patient_console *console = opaque;
    console->inner.room(console->inner.opaque);
}

struct console_port patient_console_port(struct patient_console *console)
{
    return (struct console_port){patient_write, console->inner.room ? patient_room : NULL,
                                 console};
}
