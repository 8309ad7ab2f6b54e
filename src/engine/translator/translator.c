#include "engine/translator/translator.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/software.h"
#include "engine/translator/emit.h"
#include "engine/translator/look.h"
#include "engine/translator/run.h"
#include "engine/translator/stats.h"
#include "interpreter/hold.h"

/* ---- a VM's part ------------------------------------------------------------------ */

/* On the thread that stored: a vCPU's own instruction, or a device's or a debugger's
 * access to guest memory. */
static enum code_cause cause_of_store(void)
{
    bool is_vcpu = translator_frame.cpu && sampler_where != WHERE_DEVICE;
    return is_vcpu ? BY_STORE : BY_DEVICE;
}

static void code_changed(struct engine *engine, frame_t frame, unsigned offset,
                         unsigned size)
{
    struct code_cache *cache = engine->opaque;
    pthread_mutex_lock(&cache->lock);
    code_stored(cache, frame, offset, size, cause_of_store());
    pthread_mutex_unlock(&cache->lock);
}

static int backend_open(struct engine *engine, struct error *err)
{
    const struct engine_config *config = &engine->config;
    bool counts = config->is_deterministic;
    struct code_cache *cache =
        code_cache_new(config->memory, config->cpuid, config->code_cache, counts,
                       counts || config->cpus > 1, err);
    if (!cache) {
        return -ENOMEM;
    }
    engine->opaque = cache;
    int result = look_open(&cache->look, cache, &engine->config.look, err);
    if (result < 0) {
        return result;
    }
    if (signal_watch_cache(cache, err) < 0) {
        return -ENOSPC;
    }
    return 0;
}

static void backend_close(struct engine *engine)
{
    struct code_cache *cache = engine->opaque;
    if (cache) {
        signal_forget_cache(cache);
        look_close(cache->look, cache);
        code_cache_free(cache);
    }
}

/* ---- a vCPU's --------------------------------------------------------------------- */

static int backend_vcpu_open(struct engine_vcpu *vcpu, struct error *err)
{
    const struct code_cache *cache = vcpu->engine->opaque;
    if (!cache->looks && hold_begin(vcpu->processor.cpu, err) < 0) {
        return -ENOMEM;
    }
    struct translator_cpu *translator = calloc(1, sizeof(*translator));
    if (!translator) {
        return fail(err, ENOMEM, "cannot make virtual processor %u",
                    vcpu->processor.config.index);
    }
    vcpu->opaque = translator;
    vcpu->sampler.code = (uintptr_t)cache->execute;
    vcpu->sampler.code_size = cache->size;
    return translator_cpu_init(translator, vcpu->engine->opaque, vcpu->processor.cpu,
                               err);
}

static void backend_vcpu_close(struct engine_vcpu *vcpu)
{
    struct translator_cpu *translator = vcpu->opaque;
    if (translator) {
        translator_cpu_fini(translator);
        free(translator);
    }
}

static void execute(struct engine_vcpu *vcpu)
{
    translator_run(vcpu->opaque);
}

static void notify(struct engine_vcpu *vcpu)
{
    translator_notify(vcpu->opaque);
}

static void stats(struct engine *engine, struct engine_vcpu *vcpu, engine_stat_fn *each,
                  void *opaque)
{
    if (vcpu) {
        translator_stats_tell(vcpu->opaque, each, opaque);
    } else {
        code_stats_tell(engine->opaque, each, opaque);
    }
}

static const struct software_backend backend = {
    .name = "translator",
    .code_changed = code_changed,
    .open = backend_open,
    .close = backend_close,
    .vcpu_open = backend_vcpu_open,
    .vcpu_close = backend_vcpu_close,
    .execute = execute,
    .notify = notify,
    .stats = stats,
};

static int translator_probe(struct error *err)
{
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("bmi2")) {
        return fail_plain(err, ENOTSUP,
                          "the host's processor has no AVX2 and BMI2, which translated "
                          "code is made of");
    }
    return 0;
}

static enum engine_way translator_way(const struct insn_row *row, const char **means)
{
    return emit_way(row);
}

static struct engine *translator_open(const struct engine_config *config,
                                      struct error *err)
{
    return software_open(config, &backend, err);
}

const struct engine_ops engine_translator = {
    .name = "translator",
    .summary = "translates guest code into host code; works on every host with AVX2",
    .counts_retired = false,
    .makes_code = true,
    .role = JAIL_VCPU,
    .probe = translator_probe,
    .way = translator_way,
    .open = translator_open,
    .close = software_close,
    .vcpu_open = software_vcpu_open,
    .vcpu_close = software_vcpu_close,
    .run = software_run,
    .kick = software_kick,
    .set_limit = software_set_limit,
    .get_state = software_get_state,
    .set_state = software_set_state,
    .flush_tlb = software_flush_tlb,
    .debug = software_debug,
    .debug_stop = software_debug_stop,
    .begin = software_begin,
    .stats = software_stats,
};
