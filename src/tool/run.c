/* doppel run: makes a virtual machine from the options and runs it in the foreground. */

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/scope.h"
#include "control/fields.h"
#include "engine/engine.h"
#include "machine/machine.h"
#include "tool/command.h"
#include "tool/run.h"
#include "tool/session.h"

struct run_options {
    struct machine_config config;
    struct disk_config disk[CONFIG_DISKS_MAX]; /* config's */
    const char *api_socket, *config_file;
    bool dry_run, no_jail;
    const char *snapshot_dir;
    unsigned verbose;
};

static const char *machine_choice(unsigned index)
{
    return machine_table[index] ? machine_table[index]->name : NULL;
}

const char *engine_choice(unsigned index)
{
    if (index == 0) {
        return "auto";
    }
    return engine_table[index - 1] ? engine_table[index - 1]->name : NULL;
}

const char *console_choice(unsigned index)
{
    static const char *const names[] = {"stdio", "none", "pty", "socket=", NULL};
    return names[index];
}

int parse_console(const struct option_spec *spec, const char *value, void *target,
                  struct error *err)
{
    struct machine_config *config = container_of(target, struct machine_config, console);
    if (strncmp(value, "socket=", 7) == 0 && value[7]) {
        config->console = CONSOLE_SOCKET;
        config->console_path = value + 7;
        return 0;
    }
    static const enum console_kind kinds[] = {CONSOLE_STDIO, CONSOLE_NONE, CONSOLE_PTY};
    for (unsigned i = 0; i < array_size(kinds); i++) {
        if (strcmp(value, console_choice(i)) == 0) {
            config->console = kinds[i];
            return 0;
        }
    }
    return fail_plain(err, EINVAL,
                      "--console takes stdio, none, pty or socket=PATH, not '%s'", value);
}

static int parse_disk(const struct option_spec *spec, const char *value, void *target,
                      struct error *err)
{
    struct run_options *options = container_of(target, struct run_options, disk);
    struct machine_config *config = &options->config;
    if (config->disk_count == CONFIG_DISKS_MAX) {
        return fail_plain(err, EINVAL, "--disk: a machine has at most %d disks",
                          CONFIG_DISKS_MAX);
    }
    if (disk_config_parse(value, &options->disk[config->disk_count], err) < 0) {
        return fail_within(err, "--disk %.200s", value);
    }
    config->disk = options->disk;
    config->disk_count++;
    return 0;
}

#define FIELD(name) offsetof(struct run_options, config.name)

static const struct option_spec run_options[] = {
    {"name", "NAME", "what to call the virtual machine", OPTION_STRING, FIELD(name)},
    {"machine", "TYPE", "the machine to build", OPTION_CHOICE, FIELD(machine),
     .choice = machine_choice},
    {"engine", "NAME", "what executes guest code; auto takes the fastest that works here",
     OPTION_CHOICE, FIELD(engine), .choice = engine_choice, .later = "direct"},
    {"cpus", "N", "number of virtual processors", OPTION_UNSIGNED, FIELD(cpus), 1,
     VM_CPUS_MAX},
    {"memory", "SIZE", "guest memory, with K, M or G; 512M if not given", OPTION_SIZE,
     FIELD(memory), CONFIG_MEMORY_MIN},
    {"cpu", "MODEL",
     "the processor the guest sees: host, x86-64-v1, x86-64-v2 or x86-64-v3",
     OPTION_STRING, FIELD(cpu_model)},
    {"paravirt", "LIST",
     "services for guests that know KVM's: all (if not given), none (nor any sign of a "
     "hypervisor), or a list of clock, io-delay, steal, ipi, yield, eoi, tlb-flush",
     OPTION_STRING, FIELD(paravirt)},
    {"kernel", "FILE",
     "kernel to boot: bzImage, vmlinux, multiboot image or another ELF file", OPTION_FILE,
     FIELD(kernel)},
    {"firmware", "FILE",
     "a ROM image to start instead of a kernel, with --machine pc; POST codes are told "
     "with --verbose",
     OPTION_FILE, FIELD(firmware)},
    {"initrd", "FILE", "initial RAM disk for the kernel", OPTION_FILE, FIELD(initrd)},
    {"append", "STRING",
     "kernel command line; console=ttyS0 if not given and the console is stdio",
     OPTION_STRING, FIELD(append)},
    {"disk", "FILE[,format=raw][,readonly][,bus=virtio]",
     "a disk image or block device; several times: /dev/vda, /dev/vdb ... in the guest",
     OPTION_CUSTOM, offsetof(struct run_options, disk), .parse = parse_disk},
    {"console", "WHERE",
     "the first serial port: stdio, none, pty or socket=PATH; stdio if not given",
     OPTION_CUSTOM, FIELD(console), .choice = console_choice, .parse = parse_console},
    {"debug-exit", NULL, "a write of V to port 0xf4 ends the VM with status (V<<1)|1",
     OPTION_FLAG, FIELD(debug_exit)},
    {"no-reboot", NULL, "a guest reset ends the VM instead of restarting it", OPTION_FLAG,
     FIELD(no_reboot)},
    {"deterministic", NULL,
     "time is the number of instructions: the same run each time (docs/time.md)",
     OPTION_FLAG, FIELD(deterministic)},
    {"trace-exits", "FILE", "write each exit there, and a digest of the state at the end",
     OPTION_FILE, FIELD(trace_exits)},
    {"exit-stats", "FILE",
     "write exit counts, times and retired instructions there, as JSON", OPTION_FILE,
     FIELD(exit_stats)},
    CODE_CACHE_OPTION(FIELD(code_cache)),
    LOOK_OPTIONS(FIELD(look)),
    {"gdb", "ADDR[,wait]",
     "let gdb attach at PORT, HOST:PORT or a socket's path (with a slash); wait: run "
     "nothing before it has",
     OPTION_STRING, FIELD(gdb)},
    {"api-socket", "PATH",
     "another control socket; without a kernel, wait to be configured and started there",
     OPTION_FILE, offsetof(struct run_options, api_socket)},
    {"snapshot-dir", "DIR",
     "where clients of the control socket may ask for snapshots by path; doppel snapshot "
     "needs no such place",
     OPTION_FILE, offsetof(struct run_options, snapshot_dir)},
    {"no-jail", NULL,
     "keep all the rights of the user who runs this: for debugging, with guests that are "
     "trusted",
     OPTION_FLAG, offsetof(struct run_options, no_jail)},
    {"config", "FILE", "read options from a JSON object; those given here override it",
     OPTION_FILE, offsetof(struct run_options, config_file)},
    {"dry-run", NULL, "print the resolved machine as JSON and do not run it", OPTION_FLAG,
     offsetof(struct run_options, dry_run)},
    {"verbose", NULL, "say more on stderr, guest misbehaviour too; twice: still more",
     OPTION_COUNT, offsetof(struct run_options, verbose)},
    {"boot", .kind = OPTION_LATER},
    {"cdrom", .kind = OPTION_LATER},
    {"net", .kind = OPTION_LATER},
    {"publish", .kind = OPTION_LATER},
    {"share", .kind = OPTION_LATER},
    {"vsock", .kind = OPTION_LATER},
    {"display", .kind = OPTION_LATER},
    {NULL},
};

static int host_error(const struct error *err)
{
    log_error("%s", err->message);
    return STATUS_HOST_ERROR;
}

static int run_dry(const struct machine_config *config)
{
    struct error err;
    SCOPE_FREE char *description = machine_describe(config, &err);
    if (!description) {
        return host_error(&err);
    }
    size_t length = strlen(description);
    printf("%s%s", description, length && description[length - 1] == '\n' ? "" : "\n");
    return STATUS_OK;
}

static void options_init(struct run_options *options)
{
    *options = (struct run_options){
        .config =
            {
                .machine = "micro",
                .engine = "auto",
                .cpus = 1,
                .memory = CONFIG_MEMORY_DEFAULT,
                .cpu_model = "host",
            },
    };
}

/* Begins anew with what the file says, which *file keeps alive, and lets the command line
 * override it. */
static int apply_file(const struct command *command, int argc, char **argv,
                      struct run_options *options, json_t **file, struct error *err)
{
    const char *path = options->config_file;
    *file = fields_load(path, err);
    if (!*file) {
        return fail_within(err, "--config");
    }
    options_init(options);
    if (fields_parse(run_options, *file, options, err) < 0) {
        return fail_within(err, "--config %s", path);
    }
    if (options->config_file) {
        return fail_plain(err, EINVAL, "--config %s: config: a file cannot name another",
                          path);
    }
    struct option_result result;
    /* The second time: nothing new can be wrong with it. */
    return option_parse(command->options, argc, argv, options, &result, err);
}

static int run_options_apply(struct run_options *options)
{
    struct machine_config *config = &options->config;
    if (options->verbose) {
        log_set_level(options->verbose > 1 ? LOG_DEBUG : LOG_INFO);
    }
    bool has_image = config->kernel || config->firmware;
    bool waits = !has_image && options->api_socket && !options->dry_run;
    if (!has_image && !waits) {
        return usage_error("nothing to boot; give a kernel with --kernel FILE");
    }
    if (options->dry_run) {
        session_complete(config);
        return run_dry(config);
    }
    const struct session_plan plan = {
        .config = config,
        .api_socket = options->api_socket,
        .waits = waits,
        .without_jail = options->no_jail,
        .snapshot_dir = options->snapshot_dir,
    };
    return session_run(&plan);
}

static int run_run(const struct command *command, int argc, char **argv)
{
    struct run_options options;
    struct error err;
    json_t *file = NULL;
    int status;
    options_init(&options);
    if (command_parse(command, argc, argv, &options, &status) < 0) {
        return status;
    }
    if (options.config_file &&
        apply_file(command, argc, argv, &options, &file, &err) < 0) {
        status = usage_error("%s", err.message);
    } else {
        status = run_options_apply(&options);
    }
    json_decref(file);
    return status;
}

static const struct command_example run_examples[] = {
    {"run --kernel vmlinuz --initrd initrd.img", "Boots Linux on this terminal."},
    {"run --cpus 4 --memory 2G --kernel vmlinuz --initrd initrd.img "
     "--append \"console=ttyS0 quiet\"",
     "The same with four processors, 2 GiB and a command line of your own."},
    {"run --no-reboot --debug-exit --kernel test.elf",
     "Runs a bare-metal test whose result becomes the exit status."},
    {NULL},
};

const struct command run_command = {
    .name = "run",
    .operands = "",
    .summary = "Make a virtual machine and run it in the foreground",
    .description =
        "The guest's first serial port is on standard input and output. On a terminal\n"
        "Ctrl-A X ends the virtual machine and Ctrl-A H helps. What Doppel itself has "
        "to\n"
        "say goes to standard error. The exit status is 0 when the guest powered off or\n"
        "was ended with Ctrl-A X, 124 when it crashed, 125 after an error of the host "
        "or\n"
        "the configuration, 2 for a wrong command line, 128+N after signal N.",
    .examples = run_examples,
    .options = run_options,
    .run = run_run,
};
