/* doppel compare: the same deterministic run on two engines, step by step. */

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/scope.h"
#include "engine/engine.h"
#include "machine/machine.h"
#include "state/lockstep.h"
#include "state/snapshot.h"
#include "tool/command.h"
#include "tool/run.h"

#define INTERVAL_DEFAULT 1000000u
#define STEPS_MAX        (UINT64_MAX / 2)

struct compare_options {
    struct machine_config config;
    const char *snapshot; /* NULL: boot config.kernel */
    const char *engine[2];
    uint64_t interval, until;
    bool json;
    unsigned verbose;
};

/* --- The machines --- */

static unsigned discard(void *opaque, const uint8_t *data, unsigned size)
{
    return size;
}

static const struct console_port nowhere = {.write = discard};

static int check_disks(const struct machine_config *config, struct error *err)
{
    for (unsigned i = 0; i < config->disk_count; i++) {
        if (!config->disk[i].is_readonly) {
            return fail_plain(err, EINVAL,
                              "the machine writes to the disk %.200s, which would not be "
                              "the same for the second one; only a machine whose disks "
                              "are readonly can be compared",
                              config->disk[i].path);
        }
    }
    return 0;
}

static struct vm *restore(const struct compare_options *options, const char *engine,
                          struct error *err)
{
    struct snapshot *snapshot = snapshot_open(options->snapshot, err);
    if (!snapshot) {
        return NULL;
    }
    struct machine_config config = snapshot_config(snapshot);
    config.engine = engine;
    config.deterministic = true;
    config.no_reboot = true;
    struct vm *vm = check_disks(&config, err) < 0
                        ? NULL
                        : vm_restore(snapshot, &config, &nowhere, err);
    snapshot_close(snapshot);
    if (vm) {
        machine_console_resume(vm);
    }
    return vm;
}

static struct vm *make(void *opaque, const char *engine, struct error *err)
{
    const struct compare_options *options = opaque;
    if (options->snapshot) {
        return restore(options, engine, err);
    }
    struct machine_config config = options->config;
    config.engine = engine;
    return machine_new(&config, &nowhere, err);
}

static void show_progress(void *opaque, uint64_t steps)
{
    if (steps % (100 * 1000000ull) == 0) {
        fprintf(stderr, "\r%" PRIu64 " million steps", steps / 1000000);
    }
}

/* --- Options --- */

static bool can_count(const struct engine_ops *engine)
{
    struct error unused = {0};
    return engine->set_limit && engine->probe(&unused) >= 0;
}

static int parse_engines(const struct option_spec *spec, const char *value, void *target,
                         struct error *err)
{
    struct compare_options *options =
        container_of(target, struct compare_options, engine);
    const char *comma = strchr(value, ',');
    char name[32];
    if (!comma || (size_t)(comma - value) >= sizeof(name)) {
        return fail_plain(err, EINVAL, "--engines takes two names, as A,B; not '%s'",
                          value);
    }
    memcpy(name, value, (size_t)(comma - value));
    name[comma - value] = '\0';
    const char *const names[] = {name, comma + 1};
    for (unsigned i = 0; i < 2; i++) {
        const struct engine_ops *engine = engine_find(names[i]);
        if (!engine || !engine->set_limit) {
            return fail_plain(err, EINVAL, "--engines %s: %s '%s'", value,
                              engine ? "no instructions are counted by"
                                     : "there is no engine",
                              names[i]);
        }
        options->engine[i] = engine->name;
    }
    return 0;
}

/* Not given: the fastest that can, and the interpreter. */
static void choose_engines(struct compare_options *options)
{
    for (unsigned i = 0; !options->engine[0] && engine_table[i]; i++) {
        if (can_count(engine_table[i])) {
            options->engine[0] = engine_table[i]->name;
            options->engine[1] = "interpreter";
        }
    }
}

static int parse_steps(const struct option_spec *spec, const char *value, void *target,
                       struct error *err)
{
    char *end;
    errno = 0;
    unsigned long long steps = strtoull(value, &end, 10);
    if (errno || end == value || *end || strchr(value, '-') || steps == 0 ||
        steps > STEPS_MAX) {
        return fail_plain(err, EINVAL,
                          "--%s takes a number of steps, 1 or more; not '%s'", spec->name,
                          value);
    }
    *(uint64_t *)target = steps;
    return 0;
}

#define FIELD(name) offsetof(struct compare_options, config.name)

static const struct option_spec compare_options[] = {
    {"engines", "A,B",
     "the two; the fastest that counts instructions and the interpreter if not given",
     OPTION_CUSTOM, offsetof(struct compare_options, engine), .parse = parse_engines},
    {"interval", "STEPS", "steps between two comparisons; 1000000 if not given",
     OPTION_CUSTOM, offsetof(struct compare_options, interval), .parse = parse_steps},
    {"until", "STEPS", "end there; if not given, when the guest has ended", OPTION_CUSTOM,
     offsetof(struct compare_options, until), .parse = parse_steps},
    {"kernel", "FILE", "kernel to boot, in place of a snapshot", OPTION_FILE,
     FIELD(kernel)},
    {"initrd", "FILE", "initial RAM disk for the kernel", OPTION_FILE, FIELD(initrd)},
    {"append", "STRING", "kernel command line; console=ttyS0 if not given", OPTION_STRING,
     FIELD(append)},
    {"memory", "SIZE", "guest memory, with K, M or G; 512M if not given", OPTION_SIZE,
     FIELD(memory), CONFIG_MEMORY_MIN},
    {"cpu", "MODEL", "the processor the guest sees: host", OPTION_STRING,
     FIELD(cpu_model)},
    {"paravirt", "LIST", "services for guests that know KVM's, as for run", OPTION_STRING,
     FIELD(paravirt)},
    {"debug-exit", NULL, "a write of V to port 0xf4 ends the VM", OPTION_FLAG,
     FIELD(debug_exit)},
    {"json", NULL, "print the result as JSON", OPTION_FLAG,
     offsetof(struct compare_options, json)},
    {"verbose", NULL, "say more on stderr, guest misbehaviour too; twice: still more",
     OPTION_COUNT, offsetof(struct compare_options, verbose)},
    {NULL},
};

/* --- The result --- */

static const char *end_name(const struct vm_end *end)
{
    static const char *const names[] = {
        [VM_END_NONE] = "standing",         [VM_END_POWEROFF] = "powered off",
        [VM_END_RESET] = "reset",           [VM_END_CRASH] = "crashed",
        [VM_END_DEBUG_EXIT] = "debug exit", [VM_END_REQUEST] = "ended by request",
        [VM_END_ERROR] = "failed",
    };
    return names[end->reason];
}

static int print_json(const struct compare_options *options,
                      const struct lockstep_result *result)
{
    char state[17], memory[17];
    snprintf(state, sizeof(state), "%016" PRIx64, result->digest.state);
    snprintf(memory, sizeof(memory), "%016" PRIx64, result->digest.memory);
    json_t *object =
        json_pack("{s:[s, s], s:b, s:I, s:I}", "engines", options->engine[0],
                  options->engine[1], "same", result->is_same, "steps",
                  (json_int_t)result->steps, "exits", (json_int_t)result->exits);
    if (object && result->is_same) {
        json_object_set_new(object, "end", json_string(end_name(&result->end)));
        json_object_set_new(object, "state", json_string(state));
        json_object_set_new(object, "memory", json_string(memory));
    } else if (object) {
        json_object_set_new(object, "report", json_string(result->report));
    }
    char *text = object ? json_dumps(object, JSON_INDENT(2) | JSON_PRESERVE_ORDER) : NULL;
    json_decref(object);
    if (!text) {
        log_error("no memory for the result");
        return STATUS_HOST_ERROR;
    }
    printf("%s\n", text);
    free(text);
    return result->is_same ? STATUS_OK : STATUS_FAILURE;
}

static int print_text(const struct compare_options *options,
                      const struct lockstep_result *result)
{
    const char *a = options->engine[0], *b = options->engine[1];
    if (result->is_same) {
        printf("%s and %s: the same in %" PRIu64 " steps and %" PRIu64
               " exits (%s); state %016" PRIx64 ", memory %016" PRIx64 "\n",
               a, b, result->steps, result->exits, end_name(&result->end),
               result->digest.state, result->digest.memory);
        return STATUS_OK;
    }
    printf("%s and %s differ after %" PRIu64 " steps that were the same:\n%s", a, b,
           result->steps, result->report);
    return STATUS_FAILURE;
}

static int compare_run(const struct command *command, int argc, char **argv)
{
    struct compare_options options = {
        .config = {.machine = "micro",
                   .cpus = 1,
                   .memory = CONFIG_MEMORY_DEFAULT,
                   .cpu_model = "host",
                   .append = "console=ttyS0",
                   .deterministic = true,
                   .no_reboot = true},
        .interval = INTERVAL_DEFAULT,
        .until = UINT64_MAX,
    };
    int status;
    int operands = command_parse(command, argc, argv, &options, &status);
    if (operands < 0) {
        return status;
    }
    options.snapshot = operands ? argv[0] : NULL;
    if (!options.snapshot == !options.config.kernel) {
        return usage_error("give either the directory of a snapshot or a kernel with "
                           "--kernel FILE");
    }
    if (options.verbose) {
        log_set_level(options.verbose > 1 ? LOG_DEBUG : LOG_INFO);
    }
    choose_engines(&options);
    const struct lockstep_plan plan = {
        .make = make,
        .engine = {options.engine[0], options.engine[1]},
        .interval = options.interval,
        .until = options.until,
        .progress = isatty(STDERR_FILENO) ? show_progress : NULL,
        .opaque = &options,
    };
    struct error err = {0};
    SCOPE_FREE struct lockstep_result *result = malloc(sizeof(*result));
    if (!result || lockstep_run(&plan, result, &err) < 0) {
        log_error("%s", result ? err.message : "no memory for the comparison");
        return STATUS_HOST_ERROR;
    }
    return options.json ? print_json(&options, result) : print_text(&options, result);
}

static const struct command_example compare_examples[] = {
    {"compare --kernel vmlinuz --initrd initrd.img --append \"console=ttyS0 quiet\"",
     "Boots twice, side by side, until the guest powers off."},
    {"compare saved --engines translator,interpreter --until 100000000",
     "Goes on from a snapshot for a hundred million instructions."},
    {NULL},
};

const struct command compare_command = {
    .name = "compare",
    .operands = "[DIR]",
    .operands_max = 1,
    .summary = "Run a guest on two engines in step and find where they differ",
    .description =
        "Both run deterministically (docs/time.md), from the snapshot in DIR or from a "
        "kernel,\n"
        "and are compared after every so many steps: registers, devices, memory, exits. "
        "Where\n"
        "they differ, the first instruction that they execute differently is looked for "
        "and\n"
        "shown with the registers before and behind it. The exit status is 0 if there "
        "is no\n"
        "difference, 1 if there is one.",
    .examples = compare_examples,
    .options = compare_options,
    .run = compare_run,
};
