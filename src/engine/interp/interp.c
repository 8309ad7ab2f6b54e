#include "engine/interp/interp.h"

#include <errno.h>
#include <stdlib.h>

#include "base/scope.h"
#include "engine/exclusive.h"
#include "engine/processor_cpu.h"

struct engine {
    struct engine_config config;
    struct exclusive exclusive;
    struct engine_vcpu *vcpu[64];
};

struct engine_vcpu {
    struct engine *engine;
    struct processor processor;
};

static void interrupt_others(struct processor *processor)
{
    struct engine_vcpu *vcpu = container_of(processor, struct engine_vcpu, processor);
    for (unsigned i = 0; i < vcpu->engine->config.cpus; i++) {
        struct engine_vcpu *other = vcpu->engine->vcpu[i];
        if (other && other != vcpu) {
            cpu_set_attention(other->processor.cpu);
        }
    }
}

static enum run_result interp_run(struct engine_vcpu *vcpu)
{
    return processor_cpu_run(&vcpu->processor);
}

static void interp_kick(struct engine_vcpu *vcpu, bool return_to_caller)
{
    processor_cpu_kick(&vcpu->processor, return_to_caller);
}

static void interp_set_limit(struct engine_vcpu *vcpu, uint64_t retired)
{
    vcpu->processor.cpu->limit = retired;
}

static enum engine_way interp_way(const struct insn_row *row, const char **means)
{
    return WAY_ROUTINE;
}

static int interp_probe(struct error *err)
{
    return 0;
}

static struct engine *interp_open(const struct engine_config *config, struct error *err)
{
    struct engine *engine = calloc(1, sizeof(*engine));
    if (!engine || config->cpus > sizeof(engine->vcpu) / sizeof(engine->vcpu[0])) {
        fail(err, engine ? EINVAL : ENOMEM,
             "cannot open the interpreter for %u processors", config->cpus);
        free(engine);
        return NULL;
    }
    engine->config = *config;
    exclusive_init(&engine->exclusive);
    return engine;
}

static void interp_close(struct engine *engine)
{
    if (engine) {
        exclusive_fini(&engine->exclusive);
        free(engine);
    }
}

static void interp_vcpu_close(struct engine_vcpu *vcpu)
{
    if (vcpu) {
        vcpu->engine->vcpu[vcpu->processor.config.index] = NULL;
        processor_cpu_close(&vcpu->processor);
        free(vcpu);
    }
}

static void interp_set_state(struct engine_vcpu *vcpu, const struct x86_state *state)
{
    cpu_sync_in(vcpu->processor.cpu, state);
}

static void interp_get_state(struct engine_vcpu *vcpu, struct x86_state *state)
{
    cpu_sync_out(vcpu->processor.cpu, state);
}

static int interp_debug(struct engine_vcpu *vcpu, const struct debug_control *control,
                        struct error *err)
{
    return processor_cpu_debug(&vcpu->processor, control, err);
}

static void interp_debug_stop(struct engine_vcpu *vcpu, struct debug_stop *stop)
{
    *stop = vcpu->processor.stop;
}

static struct engine_vcpu *interp_vcpu_open(struct engine *engine,
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
    };
    if (processor_cpu_open(&vcpu->processor, err) < 0) {
        free(vcpu);
        return NULL;
    }
    engine->vcpu[config->index] = vcpu;
    return vcpu;
}

const struct engine_ops engine_interp = {
    .name = "interpreter",
    .summary = "executes guest instructions one by one; works on every host",
    .counts_retired = true,
    .role = JAIL_VCPU,
    .probe = interp_probe,
    .way = interp_way,
    .open = interp_open,
    .close = interp_close,
    .vcpu_open = interp_vcpu_open,
    .vcpu_close = interp_vcpu_close,
    .run = interp_run,
    .kick = interp_kick,
    .set_limit = interp_set_limit,
    .get_state = interp_get_state,
    .set_state = interp_set_state,
    .debug = interp_debug,
    .debug_stop = interp_debug_stop,
};
