#pragma once
/* A configuration with every choice made. */

#include "machine/machine.h"

struct machine_choice {
    const struct machine_type *type;
    const struct engine_ops *engine;
    char engine_reason[ENGINE_REASON_SIZE]; /* why it */
    struct cpuid_policy cpuid;
};

/* Checks what can be checked before anything is made; *err names the option. */
int machine_resolve(struct machine_choice *choice, const struct machine_config *config,
                    struct error *err);
