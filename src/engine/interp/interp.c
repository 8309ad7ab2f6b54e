#include "engine/interp/interp.h"

#include "engine/software.h"

static const struct software_backend backend = {
    .name = "interpreter",
};

static enum engine_way interp_way(const struct insn_row *row, const char **means)
{
    return WAY_ROUTINE;
}

static int interp_probe(struct error *err)
{
    return cpu_check_host(err);
}

static struct engine *interp_open(const struct engine_config *config, struct error *err)
{
    return software_open(config, &backend, err);
}

const struct engine_ops engine_interp = {
    .name = "interpreter",
    .summary = "executes guest instructions one by one; works on every host",
    .counts_retired = true,
    .role = JAIL_VCPU,
    .probe = interp_probe,
    .way = interp_way,
    .open = interp_open,
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
