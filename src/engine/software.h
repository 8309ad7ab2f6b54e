#pragma once
/*
 * What the engines without hardware virtualization share: a VM's vCPUs are struct cpu,
 * events are looked at between two stretches of guest code, a debugger's steps are the
 * interpreter's. They differ in how a stretch is executed.
 */

#include <stdatomic.h>

#include "engine/engine.h"
#include "engine/exclusive.h"
#include "engine/processor_cpu.h"
#include "engine/sampler.h"

/* How an engine executes guest code; functions that it does not need are NULL. */
struct software_backend {
    const char *name;
    /* As struct memory_listener's. */
    void (*code_changed)(struct engine *engine, frame_t frame, unsigned offset,
                         unsigned size);
    /* The engine's own part of a VM and of a vCPU: opaque below. */
    int (*open)(struct engine *engine, struct error *err);
    void (*close)(struct engine *engine);
    int (*vcpu_open)(struct engine_vcpu *vcpu, struct error *err);
    void (*vcpu_close)(struct engine_vcpu *vcpu);
    /* As cpu_run, which it is if NULL. */
    void (*execute)(struct engine_vcpu *vcpu);
    /* Attention was set, by any thread; async-signal-safe. */
    void (*notify)(struct engine_vcpu *vcpu);
    /* As engine_ops.stats, behind what all have: time and TLB. */
    void (*stats)(struct engine *engine, struct engine_vcpu *vcpu, engine_stat_fn *each,
                  void *opaque);
};

struct engine {
    const struct software_backend *backend;
    struct engine_config config;
    struct exclusive exclusive;
    struct engine_vcpu *vcpu[64];
    void *opaque; /* the backend's */
};

struct engine_vcpu {
    struct engine *engine;
    struct processor processor;
    struct sampler sampler; /* the backend sets where its host code lies */
    void *opaque;           /* the backend's */
};

struct engine *software_open(const struct engine_config *config,
                             const struct software_backend *backend, struct error *err);

/* For struct engine_ops. */
void software_close(struct engine *engine);
struct engine_vcpu *software_vcpu_open(struct engine *engine,
                                       const struct vcpu_config *config,
                                       struct error *err);
void software_vcpu_close(struct engine_vcpu *vcpu);
enum run_result software_run(struct engine_vcpu *vcpu);
void software_kick(struct engine_vcpu *vcpu, bool return_to_caller);
void software_set_limit(struct engine_vcpu *vcpu, uint64_t retired);
void software_get_state(struct engine_vcpu *vcpu, struct x86_state *state);
void software_set_state(struct engine_vcpu *vcpu, const struct x86_state *state);
void software_flush_tlb(struct engine_vcpu *vcpu);
int software_debug(struct engine_vcpu *vcpu, const struct debug_control *control,
                   struct error *err);
void software_begin(struct engine_vcpu *vcpu);
void software_stats(struct engine *engine, struct engine_vcpu *vcpu, engine_stat_fn *each,
                    void *opaque);
void software_debug_stop(struct engine_vcpu *vcpu, struct debug_stop *stop);
