#pragma once
/* One vCPU of an engine over RAM at address 0, on a virtual clock, without a machine
 * around it: what it wants comes to a sink. */

#include "engine/engine.h"

struct engine_rig {
    const struct engine_ops *ops;
    struct clock clock;
    struct memory *memory;
    struct cpuid_policy cpuid;
    struct lapic lapic;
    struct vcpu_stats stats;
    struct engine *engine;
    struct engine_vcpu *vcpu;
};

/* options: NULL, or the engine's of which the rig does not fill in all itself. */
void engine_rig_open(struct engine_rig *rig, const struct engine_ops *ops,
                     uint32_t ram_size, const struct engine_config *options,
                     struct vcpu_sink sink);
void engine_rig_close(struct engine_rig *rig);
