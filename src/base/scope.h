#pragma once
/* Clean-up at the end of a scope, and handing on what must outlive it. */

#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

static inline void scope_free_(void *pointer)
{
    free(*(void **)pointer);
}

static inline void scope_close_(const int *fd)
{
    if (*fd >= 0) {
        close(*fd);
    }
}

/* SCOPE_FREE char *name = strdup(...);   SCOPE_FD int fd = open(...); */
#define SCOPE_FREE __attribute__((cleanup(scope_free_)))
#define SCOPE_FD   __attribute__((cleanup(scope_close_)))

/* Yields the pointer and clears the variable, so that its scope no longer frees it. */
#define steal(variable)                            \
    ({                                             \
        __typeof__(variable) stolen_ = (variable); \
        (variable) = NULL;                         \
        stolen_;                                   \
    })

/* The same for a descriptor. */
static inline int steal_fd(int *fd)
{
    int stolen = *fd;
    *fd = -1;
    return stolen;
}

#define container_of(pointer, type, member) \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

#define array_size(array) (sizeof(array) / sizeof((array)[0]))
