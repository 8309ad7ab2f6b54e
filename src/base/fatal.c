#include "base/fatal.h"

#include <stdatomic.h>
#include <stddef.h>

static void (*_Atomic current)(void);

void fatal_set_hook(void (*hook)(void))
{
    atomic_store(&current, hook);
}

void fatal_run_hook(void)
{
    void (*hook)(void) = atomic_load(&current);
    if (hook != NULL) {
        hook();
    }
}
