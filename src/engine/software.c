#include "engine/software.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/counter.h"
#include "base/scope.h"
#include "interpreter/hold.h"

static void interrupt_others(struct processor *processor)
{
    struct engine_vcpu *vcpu = container_of(processor, struct engine_vcpu, processor);
    for (unsigned i = 0; i < vcpu->engine->config.cpus; i++) {
        struct engine_vcpu *other = vcpu->engine->vcpu[i];
        if (other && other != vcpu) {
            processor_cpu_kick(&other->processor, false);
        }
    }
}

/* Each drops what it cached when it looks at events. */
static void layout_changed(void *opaque)
{
    struct engine *engine = opaque;
    for (unsigned i = 0; i < engine->config.cpus; i++) {
        if (engine->vcpu[i]) {
            processor_cpu_kick(&engine->vcpu[i]->processor, false);
        }
    }
}

static void code_changed(void *opaque, frame_t frame, unsigned offset, unsigned size)
{
    struct engine *engine = opaque;
    engine->backend->code_changed(engine, frame, offset, size);
}

/* To processors whose TLB holds stores to watched frames back: there is only one then,
 * and this its thread. */
static void code_watched(void *opaque, frame_t frame)
{
    struct engine *engine = opaque;
    struct cpu *cpu = engine->vcpu[0] ? engine->vcpu[0]->processor.cpu : NULL;
    if (cpu && cpu->hold) {
        hold_frame(cpu, frame);
    }
}

/* Frames become watched, for the dirty log, while no guest code runs. */
static void frames_watched(void *opaque)
{
    struct engine *engine = opaque;
    struct cpu *cpu = engine->vcpu[0] ? engine->vcpu[0]->processor.cpu : NULL;
    if (cpu && cpu->hold) {
        cpu_flush_all(cpu);
    }
}

static void log_switched(void *opaque, bool is_on)
{
    if (is_on) {
        frames_watched(opaque);
    }
}

static const struct memory_listener listener = {.changed = layout_changed};

/* Of engines that keep code which outlives its frame's version. */
static const struct memory_listener code_listener = {
    .changed = layout_changed,
    .log = log_switched,
    .collect = frames_watched,
    .code_changed = code_changed,
    .code_watched = code_watched,
};

static void execute(struct processor *processor)
{
    struct engine_vcpu *vcpu = container_of(processor, struct engine_vcpu, processor);
    vcpu->engine->backend->execute(vcpu);
}

static void notify(struct processor *processor)
{
    struct engine_vcpu *vcpu = container_of(processor, struct engine_vcpu, processor);
    vcpu->engine->backend->notify(vcpu);
}

void software_begin(struct engine_vcpu *vcpu)
{
    sampler_begin(&vcpu->sampler);
}

enum run_result software_run(struct engine_vcpu *vcpu)
{
    /* Without host code of the backend all is the interpreter's. */
    enum where before =
        where_enter(vcpu->engine->backend->execute ? WHERE_ENGINE : WHERE_INTERPRETER);
    enum run_result result = processor_cpu_run(&vcpu->processor);
    where_enter(before);
    return result;
}

static void tell(engine_stat_fn *each, void *opaque, const char *group, const char *name,
                 uint64_t value)
{
    const struct engine_stat stat = {group, name, value};
    each(opaque, &stat);
}

static void time_stats(struct engine_vcpu *vcpu, engine_stat_fn *each, void *opaque)
{
    for (unsigned i = 0; i < WHERE_COUNT; i++) {
        char name[32];
        snprintf(name, sizeof(name), "%s_ns", where_name(i));
        tell(each, opaque, "time", name, sampler_ns(&vcpu->sampler, i));
    }
    /* The dispatcher's, whose thread sleeps then. */
    tell(each, opaque, "time", "idle_ns",
         counter_get(&vcpu->processor.config.stats->exit[EXIT_HLT].ns));
}

static void tlb_stats(const struct cpu *cpu, engine_stat_fn *each, void *opaque)
{
    const struct cpu_counters *counters = &cpu->counters;
    const struct {
        const char *name;
        const _Atomic uint64_t *counter;
    } rows[] = {
        {"filled", &counters->tlb_filled},
        {"replaced_by_another_page", &counters->tlb_replaced},
        {"pages_dropped", &counters->pages_dropped},
        {"large_pages_dropped", &counters->regions_dropped},
        {"spaces_entered", &counters->spaces_entered},
        {"spaces_kept", &counters->spaces_kept},
        {"spaces_dropped", &counters->spaces_dropped},
        {"spaces_replaced", &counters->spaces_replaced},
    };
    for (unsigned i = 0; i < array_size(rows); i++) {
        tell(each, opaque, "tlb", rows[i].name, counter_get(rows[i].counter));
    }
}

void software_stats(struct engine *engine, struct engine_vcpu *vcpu, engine_stat_fn *each,
                    void *opaque)
{
    if (vcpu) {
        time_stats(vcpu, each, opaque);
        tlb_stats(vcpu->processor.cpu, each, opaque);
    }
    if (engine->backend->stats) {
        engine->backend->stats(engine, vcpu, each, opaque);
    }
}

void software_kick(struct engine_vcpu *vcpu, bool return_to_caller)
{
    processor_cpu_kick(&vcpu->processor, return_to_caller);
}

void software_set_limit(struct engine_vcpu *vcpu, uint64_t retired)
{
    vcpu->processor.cpu->limit = retired;
}

struct engine *software_open(const struct engine_config *config,
                             const struct software_backend *backend, struct error *err)
{
    struct engine *engine = calloc(1, sizeof(*engine));
    if (!engine || config->cpus > sizeof(engine->vcpu) / sizeof(engine->vcpu[0])) {
        fail(err, engine ? EINVAL : ENOMEM, "cannot open the engine %s for %u processors",
             backend->name, config->cpus);
        free(engine);
        return NULL;
    }
    engine->backend = backend;
    engine->config = *config;
    exclusive_init(&engine->exclusive);
    if (backend->open && backend->open(engine, err) < 0) {
        software_close(engine);
        return NULL;
    }
    memory_set_engine(config->memory, backend->code_changed ? &code_listener : &listener,
                      engine);
    return engine;
}

void software_close(struct engine *engine)
{
    if (engine) {
        memory_set_engine(engine->config.memory, NULL, NULL);
        if (engine->backend->close) {
            engine->backend->close(engine);
        }
        exclusive_fini(&engine->exclusive);
        free(engine);
    }
}

void software_vcpu_close(struct engine_vcpu *vcpu)
{
    if (vcpu) {
        vcpu->engine->vcpu[vcpu->processor.config.index] = NULL;
        sampler_end(&vcpu->sampler);
        if (vcpu->engine->backend->vcpu_close) {
            vcpu->engine->backend->vcpu_close(vcpu);
        }
        processor_cpu_close(&vcpu->processor);
        free(vcpu);
    }
}

void software_set_state(struct engine_vcpu *vcpu, const struct x86_state *state)
{
    cpu_sync_in(vcpu->processor.cpu, state);
}

void software_get_state(struct engine_vcpu *vcpu, struct x86_state *state)
{
    cpu_sync_out(vcpu->processor.cpu, state);
}

void software_flush_tlb(struct engine_vcpu *vcpu)
{
    cpu_flush_all(vcpu->processor.cpu);
}

int software_debug(struct engine_vcpu *vcpu, const struct debug_control *control,
                   struct error *err)
{
    return processor_cpu_debug(&vcpu->processor, control, err);
}

void software_debug_stop(struct engine_vcpu *vcpu, struct debug_stop *stop)
{
    *stop = vcpu->processor.stop;
}

struct engine_vcpu *software_vcpu_open(struct engine *engine,
                                       const struct vcpu_config *config,
                                       struct error *err)
{
    struct engine_vcpu *vcpu = calloc(1, sizeof(*vcpu));
    if (!vcpu) {
        fail(err, ENOMEM, "cannot make virtual processor %u", config->index);
        return NULL;
    }
    vcpu->engine = engine;
    vcpu->processor = (struct processor){
        .engine = &engine->config,
        .config = *config,
        .exclusive = &engine->exclusive,
        .interrupt_others = interrupt_others,
        .execute = engine->backend->execute ? execute : NULL,
        .notify = engine->backend->notify ? notify : NULL,
    };
    if (processor_cpu_open(&vcpu->processor, err) < 0) {
        free(vcpu);
        return NULL;
    }
    if (engine->backend->vcpu_open && engine->backend->vcpu_open(vcpu, err) < 0) {
        software_vcpu_close(vcpu);
        return NULL;
    }
    engine->vcpu[config->index] = vcpu;
    return vcpu;
}
