/* Which machine a configuration asks for, and whether this host can have it. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysinfo.h>

#include "base/size.h"
#include "machine/memory_map.h"
#include "machine/resolve.h"
#include "x86/paravirt.h"

static int check_memory(uint64_t memory, struct error *err)
{
    char text[SIZE_TEXT], limit[SIZE_TEXT];
    size_format(memory, text);
    if (memory < CONFIG_MEMORY_MIN) {
        return fail_plain(err, EINVAL, "--memory %s: must be at least %s", text,
                          size_format(CONFIG_MEMORY_MIN, limit));
    }
    if (memory % FRAME_SIZE) {
        return fail_plain(err, EINVAL, "--memory %s: must be a multiple of 4K", text);
    }
    struct sysinfo info;
    if (sysinfo(&info) < 0) {
        return fail(err, errno, "--memory %s: cannot tell how much this host has", text);
    }
    uint64_t unit = info.mem_unit ? info.mem_unit : 1;
    uint64_t ram = info.totalram * unit, swap = info.totalswap * unit;
    if (memory > ram + swap) {
        return fail_plain(err, ENOMEM,
                          "--memory %s: this host has %" PRIu64 "M of RAM and %" PRIu64
                          "M of swap",
                          text, ram >> 20, swap >> 20);
    }
    return 0;
}

static int check_address_space(uint64_t memory, unsigned physical_bits, struct error *err)
{
    char text[SIZE_TEXT];
    uint64_t low = memory_map_low_end(memory);
    uint64_t end = memory > low ? MAP_HIGH_RAM + (memory - low) : low;
    if (physical_bits < 64 && end > 1ull << physical_bits) {
        return fail_plain(err, EINVAL,
                          "--memory %s: the processor model has addresses of %u bits",
                          size_format(memory, text), physical_bits);
    }
    return 0;
}

static int check_deterministic(const struct machine_config *config, const char *name,
                               struct error *err)
{
    const struct engine_ops *engine = engine_find(name);
    if (config->cpus != 1) {
        return fail_plain(
            err, EINVAL, "--deterministic: %u processors are never in step; use --cpus 1",
            config->cpus);
    }
    if (engine && !engine->set_limit) {
        return fail_plain(err, ENOTSUP,
                          "--deterministic: the engine %s cannot count instructions; use "
                          "--engine interpreter",
                          engine->name);
    }
    return 0;
}

static int find_engine(const char *name, bool is_deterministic,
                       struct machine_choice *choice, struct error *err)
{
    if (is_deterministic && strcmp(name, "auto") == 0) {
        choice->engine = engine_choose_counting(choice->engine_reason, err);
        return choice->engine ? 0 : -err->code;
    }
    if (strcmp(name, "auto") == 0) {
        choice->engine = engine_choose(choice->engine_reason, err);
        return choice->engine ? 0 : -err->code;
    }
    choice->engine = engine_find(name);
    if (!choice->engine) {
        return fail_plain(err, EINVAL, "--engine %.64s: there is no such engine", name);
    }
    if (choice->engine->probe(err) < 0) {
        return fail_within(err, "--engine %s", name);
    }
    snprintf(choice->engine_reason, sizeof(choice->engine_reason), "asked for");
    return 0;
}

/* One tick an instruction, and a nanosecond. */
#define DETERMINISTIC_TSC_KHZ 1000000u

static int make_cpuid(struct cpuid_policy *policy, const struct machine_config *config,
                      struct error *err)
{
    const char *model = config->cpu_model ? config->cpu_model : "host";
    struct cpuid_config cpuid = {
        .model = config->cpuid ? NULL : model,
        .cpus = config->cpus,
        /* The host's rate is measured, each time a little differently. */
        .tsc_khz = config->deterministic ? DETERMINISTIC_TSC_KHZ : 0,
    };
    int result =
        paravirt_parse(config->paravirt ? config->paravirt : "all", &cpuid.paravirt, err);
    if (result < 0) {
        return fail_within(err, "--paravirt");
    }
    cpuid.hide_hypervisor = cpuid.paravirt == 0;
    if (cpuid_policy_init(policy, &cpuid, err) < 0) {
        return fail_within(err, "--cpu %.64s", model);
    }
    if (config->cpuid) {
        result = cpuid_policy_check(config->cpuid, policy, err);
        if (result < 0) {
            return result;
        }
        *policy = *config->cpuid;
    }
    return 0;
}

/* What a guest has seen stays; what was asked for by name is given or refused; of what
 * this host has, the guest gets what the engine can give. The model in force is what a
 * snapshot keeps, so that other engines resume it as it was. */
static int fit_engine(struct machine_choice *choice, const struct machine_config *config,
                      struct error *err)
{
    const struct engine_ops *engine = choice->engine;
    const struct cpuid_policy asked = choice->cpuid;
    char names[200];
    const struct engine_config use = {.cpuid = &asked,
                                      .is_debugged = config->gdb != NULL};
    if (!engine->missing || !engine->missing(&use, names, sizeof(names))) {
        return 0;
    }
    if (config->cpuid) {
        return fail_plain(
            err, ENOTSUP,
            "the guest knows features that the engine %s does not have here "
            "(%s); use --engine interpreter, or start the guest with a --cpu "
            "and --paravirt that fit both",
            engine->name, names);
    }
    int result = engine->fit(&use, &choice->cpuid, err);
    if (result < 0) {
        return result;
    }
    bool is_model = config->cpu_model && strcmp(config->cpu_model, "host") != 0;
    bool is_list = config->paravirt && strcmp(config->paravirt, "all") != 0;
    if (is_model &&
        memcmp(asked.features, choice->cpuid.features, sizeof(asked.features)) != 0) {
        return fail_plain(err, ENOTSUP,
                          "--cpu %.64s: the engine %s does not have all of it here (%s)",
                          config->cpu_model, engine->name, names);
    }
    if (is_list && asked.paravirt != choice->cpuid.paravirt) {
        return fail_plain(err, ENOTSUP,
                          "--paravirt %.64s: the engine %s does not have all of it here "
                          "(%s)",
                          config->paravirt, engine->name, names);
    }
    return 0;
}

static int check_boot(const struct machine_type *type,
                      const struct machine_config *config, struct error *err)
{
    if (!config->kernel && !config->firmware) {
        return fail_plain(err, EINVAL,
                          "nothing to boot: give a kernel with --kernel FILE (a Linux "
                          "bzImage or vmlinux, a PVH or a multiboot image)");
    }
    if (config->firmware && !type->has_firmware) {
        return fail_plain(err, EINVAL,
                          "--firmware: the machine %s has none; use --machine pc",
                          type->name);
    }
    if (config->firmware && (config->kernel || config->initrd)) {
        return fail_plain(err, EINVAL,
                          "--firmware boots what it finds itself; give it or --%s",
                          config->kernel ? "kernel" : "initrd");
    }
    return 0;
}

static int check_code(const struct engine_ops *engine,
                      const struct machine_config *config, struct error *err)
{
    const struct engine_look *look = &config->look;
    const char *option = look->perf_map       ? "--perf-map"
                         : look->trace        ? "--trace"
                         : look->trace_file   ? "--trace-file"
                         : look->symbols      ? "--symbols"
                         : config->code_cache ? "--code-cache"
                                              : NULL;
    if (!option || engine->makes_code) {
        return 0;
    }
    return fail_plain(err, EINVAL,
                      "%s: the engine %s makes no code; use --engine "
                      "translator",
                      option, engine->name);
}

static int resolve_engine(struct machine_choice *choice,
                          const struct machine_config *config, struct error *err)
{
    const char *engine = config->engine ? config->engine : "auto";
    int result = 0;
    if (config->deterministic) {
        result = check_deterministic(config, engine, err);
    }
    if (result >= 0) {
        result = find_engine(engine, config->deterministic, choice, err);
    }
    return result < 0 ? result : check_code(choice->engine, config, err);
}

int machine_resolve(struct machine_choice *choice, const struct machine_config *config,
                    struct error *err)
{
    const char *machine = config->machine ? config->machine : machine_table[0]->name;
    choice->type = machine_find(machine);
    if (!choice->type) {
        return fail_plain(err, EINVAL, "--machine %.64s: there is no such machine",
                          machine);
    }
    if (config->cpus < 1 || config->cpus > VM_CPUS_MAX) {
        return fail_plain(err, EINVAL, "--cpus %u: must be 1 to %d", config->cpus,
                          VM_CPUS_MAX);
    }
    int result = check_memory(config->memory, err);
    if (result < 0) {
        return result;
    }
    result = check_boot(choice->type, config, err);
    if (result < 0) {
        return result;
    }
    result = resolve_engine(choice, config, err);
    if (result < 0) {
        return result;
    }
    result = make_cpuid(&choice->cpuid, config, err);
    result = result < 0 ? result : fit_engine(choice, config, err);
    if (result < 0) {
        return result;
    }
    return check_address_space(config->memory, choice->cpuid.physical_bits, err);
}
