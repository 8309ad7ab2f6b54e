#include "engine/engine.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "engine/interp/interp.h"
#include "engine/kvm/kvm.h"
#include "engine/translator/translator.h"

const struct engine_ops *const engine_table[] = {
    &engine_kvm,
    &engine_translator,
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

/* Appends "name: why" to the reason. */
static void explain(char reason[ENGINE_REASON_SIZE], const char *name, const char *why)
{
    size_t length = strlen(reason);
    snprintf(reason + length, ENGINE_REASON_SIZE - length, "%s%s: %.180s",
             length ? "; " : "", name, why);
}

const struct engine_ops *engine_choose_counting(char reason[ENGINE_REASON_SIZE],
                                                struct error *err)
{
    reason[0] = '\0';
    for (unsigned i = 0; engine_table[i]; i++) {
        const struct engine_ops *engine = engine_table[i];
        struct error failure = {0};
        if (!engine->set_limit) {
            explain(reason, engine->name, "cannot count instructions");
        } else if (engine->probe(&failure) < 0) {
            explain(reason, engine->name, failure.message);
        } else {
            explain(reason, engine->name, "the fastest that counts instructions");
            return engine;
        }
    }
    fail_plain(err, ENOTSUP, "no engine here can make deterministic runs: %s", reason);
    return NULL;
}

const struct engine_ops *engine_choose(char reason[ENGINE_REASON_SIZE], struct error *err)
{
    reason[0] = '\0';
    for (unsigned i = 0; engine_table[i]; i++) {
        const struct engine_ops *engine = engine_table[i];
        struct error failure = {0};
        char why[200] = "works here";
        bool works = engine->probe(&failure) >= 0;
        bool is_fast = works && (!engine->is_fast || engine->is_fast(why, sizeof(why)));
        explain(reason, engine->name, works ? why : failure.message);
        if (is_fast) {
            return engine;
        }
    }
    fail_plain(err, ENOTSUP, "no engine works on this host: %s", reason);
    return NULL;
}
