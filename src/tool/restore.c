/* doppel restore: goes on with a saved virtual machine. */

#include "base/log.h"
#include "base/scope.h"
#include "tool/command.h"
#include "state/snapshot.h"
#include "tool/run.h"
#include "tool/session.h"

struct restore_options {
    struct machine_config config; /* only what the options below set */
    const char *api_socket;
    const char *snapshot_dir;
    bool no_jail;
    unsigned verbose;
};

#define FIELD(name) offsetof(struct restore_options, config.name)

static const struct option_spec restore_options[] = {
    {"name", "NAME", "what to call the virtual machine; as it was called if not given",
     OPTION_STRING, FIELD(name)},
    {"engine", "NAME", "what executes guest code; auto takes the fastest that works here",
     OPTION_CHOICE, FIELD(engine), .choice = engine_choice,
     .later = "kvm direct translator interpreter"},
    {"console", "WHERE",
     "the first serial port: stdio, none, pty or socket=PATH; stdio if not given",
     OPTION_CUSTOM, FIELD(console), .choice = console_choice, .parse = parse_console},
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
    {"api-socket", "PATH", "another control socket, besides the runtime directory's",
     OPTION_FILE, offsetof(struct restore_options, api_socket)},
    {"snapshot-dir", "DIR",
     "where clients of the control socket may ask for snapshots by path; doppel snapshot "
     "needs no such place",
     OPTION_FILE, offsetof(struct restore_options, snapshot_dir)},
    {"no-jail", NULL,
     "keep all the rights of the user who runs this: for debugging, with guests that are "
     "trusted",
     OPTION_FLAG, offsetof(struct restore_options, no_jail)},
    {"verbose", NULL, "say more on stderr, guest misbehaviour too; twice: still more",
     OPTION_COUNT, offsetof(struct restore_options, verbose)},
    {NULL},
};

/* What the snapshot says, but for what belongs to this process. */
static struct machine_config combine(const struct snapshot *snapshot,
                                     const struct machine_config *given)
{
    struct machine_config config = snapshot_config(snapshot);
    config.name = given->name ? given->name : config.name;
    config.engine = given->engine;
    config.console = given->console;
    config.console_path = given->console_path;
    config.no_reboot = config.no_reboot || given->no_reboot;
    config.deterministic = config.deterministic || given->deterministic;
    config.exit_stats = given->exit_stats;
    config.trace_exits = given->trace_exits;
    config.look = given->look;
    config.code_cache = given->code_cache;
    config.gdb = given->gdb;
    return config;
}

/* What the session does in machine_new's and vm_start's place. */

static struct vm *make(void *opaque, const struct machine_config *config,
                       const struct console_port *console, struct error *err)
{
    return vm_restore(opaque, config, console, err);
}

static int start(void *opaque, struct vm *vm, struct error *err)
{
    /* Of a deterministic run this is the first event, and before all instructions. */
    if (vm->config.is_deterministic) {
        machine_console_resume(vm);
        return vm_start(vm, err);
    }
    int result = vm_start(vm, err);
    if (result >= 0) {
        machine_console_resume(vm);
    }
    return result;
}

static int restore_run(const struct command *command, int argc, char **argv)
{
    struct restore_options options = {.config = {.engine = "auto"}};
    int status;
    int operands = command_parse(command, argc, argv, &options, &status);
    if (operands < 0) {
        return status;
    }
    if (operands == 0) {
        return usage_error("nothing to restore; give the directory that doppel snapshot "
                           "made");
    }
    if (options.verbose) {
        log_set_level(options.verbose > 1 ? LOG_DEBUG : LOG_INFO);
    }
    struct error err;
    struct snapshot *snapshot = snapshot_open(argv[0], &err);
    if (!snapshot) {
        log_error("%s", err.message);
        return STATUS_HOST_ERROR;
    }
    struct machine_config config = combine(snapshot, &options.config);
    const struct session_plan plan = {
        .config = &config,
        .api_socket = options.api_socket,
        .make = make,
        .start = start,
        .opaque = snapshot,
        .without_jail = options.no_jail,
        .snapshot_dir = options.snapshot_dir,
    };
    status = session_run(&plan);
    snapshot_close(snapshot);
    return status;
}

static const struct command_example restore_examples[] = {
    {"restore saved", "Goes on where the virtual machine in the directory was saved."},
    {"restore saved --name second --console socket=/tmp/second",
     "The same under another name, with the console on a socket."},
    {NULL},
};

const struct command restore_command = {
    .name = "restore",
    .operands = "DIR",
    .operands_max = 1,
    .summary = "Go on with a saved virtual machine in the foreground",
    .description =
        "DIR is a directory that doppel snapshot made. It is read and checked as a whole "
        "first;\n"
        "what is damaged or does not fit this host is refused. Guest time goes on "
        "without a\n"
        "jump. The directory is not changed and can be restored again. The exit status "
        "is "
        "that\n"
        "of doppel run.",
    .examples = restore_examples,
    .options = restore_options,
    .run = restore_run,
};
