#include "engine_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

void engine_rig_open(struct engine_rig *rig, const struct engine_ops *ops,
                     uint32_t ram_size, const struct engine_config *options,
                     struct vcpu_sink sink)
{
    struct error err = {0};
    memset(rig, 0, sizeof(*rig));
    rig->ops = ops;
    clock_init_virtual(&rig->clock);
    struct cpuid_config cpuid = {.cpus = 1};
    assert_int_equal(cpuid_policy_init(&rig->cpuid, &cpuid, NULL), 0);
    rig->memory = memory_new(ram_size, &err);
    assert_non_null(rig->memory);
    int64_t frame = memory_add_frames(rig->memory, ram_size, &err);
    assert_true(frame >= 0);
    assert_int_equal(memory_map(rig->memory, 0, ram_size, (frame_t)frame, SLOT_RAM, &err),
                     0);
    lapic_reset(&rig->lapic, 0, 1000000);
    struct engine_config config = options ? *options : (struct engine_config){0};
    config.memory = rig->memory;
    config.clock = &rig->clock;
    config.cpuid = &rig->cpuid;
    config.cpus = 1;
    rig->engine = ops->open(&config, &err);
    assert_non_null(rig->engine);
    struct vcpu_config vcpu = {
        .is_bootstrap = true, .lapic = &rig->lapic, .sink = sink, .stats = &rig->stats};
    rig->vcpu = ops->vcpu_open(rig->engine, &vcpu, &err);
    assert_non_null(rig->vcpu);
}

void engine_rig_close(struct engine_rig *rig)
{
    rig->ops->vcpu_close(rig->vcpu);
    rig->ops->close(rig->engine);
    memory_free(rig->memory);
}
