#include "engine/engine.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "engine/interp/interp.h"

const struct engine_ops *const engine_table[] = {
    &engine_interp,
    NULL,
};

const struct engine_ops *engine_find(const char *name)
{
    for (unsigned i = 0; engine_table[i]; i++) {
        if (strcmp(engine_table[i]->name, name) == 0) {
            return engine_table[i];
        }
    }
    return NULL;
}

const struct engine_ops *engine_choose(struct error *err)
{
    struct error reason = {.message = "this build has none"};
    for (unsigned i = 0; engine_table[i]; i++) {
        if (engine_table[i]->probe(&reason) >= 0) {
            return engine_table[i];
        }
    }
    fail_plain(err, ENOTSUP, "no engine works on this host: %s", reason.message);
    return NULL;
}
