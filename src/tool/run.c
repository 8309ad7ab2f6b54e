/* doppel run: makes a virtual machine from the options and runs it in the foreground. */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/log.h"
#include "base/scope.h"
#include "control/gdb.h"
#include "engine/engine.h"
#include "machine/machine.h"
#include "tool/command.h"
#include "tool/console.h"

/* What Linux needs to talk on the machine's first serial port. */
#define APPEND_DEFAULT "console=ttyS0"

struct run_options {
    struct machine_config config;
    struct disk_config disk[CONFIG_DISKS_MAX]; /* config's */
    bool dry_run;
    unsigned verbose;
};

static const char *machine_choice(unsigned index)
{
    return machine_table[index] ? machine_table[index]->name : NULL;
}

static const char *engine_choice(unsigned index)
{
    if (index == 0) {
        return "auto";
    }
    return engine_table[index - 1] ? engine_table[index - 1]->name : NULL;
}

static const char *console_choice(unsigned index)
{
    static const char *const names[] = {"stdio", "none", "pty", "socket=", NULL};
    return names[index];
}

static int parse_console(const struct option_spec *spec, const char *value, void *target,
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
     .choice = machine_choice, .later = "pc"},
    {"engine", "NAME", "what executes guest code; auto takes the fastest that works here",
     OPTION_CHOICE, FIELD(engine), .choice = engine_choice,
     .later = "kvm direct translator interpreter"},
    {"cpus", "N", "number of virtual processors", OPTION_UNSIGNED, FIELD(cpus), 1,
     VM_CPUS_MAX},
    {"memory", "SIZE", "guest memory, with K, M or G; 512M if not given", OPTION_SIZE,
     FIELD(memory), CONFIG_MEMORY_MIN},
    {"cpu", "MODEL", "the processor the guest sees: host", OPTION_STRING,
     FIELD(cpu_model)},
    {"paravirt", "LIST",
     "services for guests that know KVM's: all (if not given), none (nor any sign of a "
     "hypervisor), or a list of clock, io-delay, steal, ipi, yield",
     OPTION_STRING, FIELD(paravirt)},
    {"kernel", "FILE", "kernel to boot: bzImage, vmlinux or another ELF file",
     OPTION_FILE, FIELD(kernel)},
    {"initrd", "FILE", "initial RAM disk for the kernel", OPTION_FILE, FIELD(initrd)},
    {"append", "STRING",
     "kernel command line; " APPEND_DEFAULT " if not given and the console is stdio",
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
    {"exit-stats", "FILE",
     "write exit counts, times and retired instructions there, as JSON", OPTION_FILE,
     FIELD(exit_stats)},
    {"gdb", "ADDR[,wait]",
     "let gdb attach at PORT, HOST:PORT or a socket's path (with a slash); wait: run "
     "nothing before it has",
     OPTION_STRING, FIELD(gdb)},
    {"dry-run", NULL, "print the resolved machine as JSON and do not run it", OPTION_FLAG,
     offsetof(struct run_options, dry_run)},
    {"verbose", NULL, "say more on stderr, guest misbehaviour too; twice: still more",
     OPTION_COUNT, offsetof(struct run_options, verbose)},
    {"firmware", .kind = OPTION_LATER},
    {"boot", .kind = OPTION_LATER},
    {"cdrom", .kind = OPTION_LATER},
    {"net", .kind = OPTION_LATER},
    {"publish", .kind = OPTION_LATER},
    {"share", .kind = OPTION_LATER},
    {"vsock", .kind = OPTION_LATER},
    {"display", .kind = OPTION_LATER},
    {"api-socket", .kind = OPTION_LATER},
    {"config", .kind = OPTION_LATER},
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

/* The running VM and what serves it. */
struct run {
    struct vm *vm;
    struct console *console;
    struct gdb *gdb; /* NULL: no debugger was asked for */
    int signal_fd;
    int stats_fd;
    sigset_t signals_before;
    char output_failure[256]; /* told by the console's thread; "" if none */
};

static unsigned guest_input(void *opaque, const uint8_t *data, unsigned size)
{
    struct run *run = opaque;
    return machine_console_input(run->vm, data, size);
}

static void guest_ready(void *opaque)
{
    struct run *run = opaque;
    machine_console_ready(run->vm);
}

static void guest_quit(void *opaque)
{
    struct run *run = opaque;
    vm_request_end(run->vm, VM_END_REQUEST, 0, NULL);
}

static void guest_failed(void *opaque, const char *message)
{
    struct run *run = opaque;
    snprintf(run->output_failure, sizeof(run->output_failure), "%s", message);
    vm_request_end(run->vm, VM_END_ERROR, 0, message);
}

static void on_signal(void *opaque, int fd, uint32_t events)
{
    struct run *run = opaque;
    struct signalfd_siginfo info;
    if (read(fd, &info, sizeof(info)) != sizeof(info)) {
        return;
    }
    if (info.ssi_signo == SIGCONT) {
        console_continue(run->console);
    } else {
        vm_request_end(run->vm, VM_END_REQUEST, (int)info.ssi_signo, NULL);
    }
}

/* Before any thread exists, so that all of them inherit the mask. A signal that our
 * parent had ignored (nohup) stays so: blocked, it would be kept for the descriptor all
 * the same. A reader that left and ulimit -f are told by the write. */
static int signals_take(struct run *run, struct error *err)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGCONT};
    sigset_t taken;
    sigemptyset(&taken);
    for (unsigned i = 0; i < array_size(numbers); i++) {
        struct sigaction before;
        if (sigaction(numbers[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN) {
            sigaddset(&taken, numbers[i]);
        }
    }
    pthread_sigmask(SIG_BLOCK, &taken, &run->signals_before);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    run->signal_fd = signalfd(-1, &taken, SFD_CLOEXEC | SFD_NONBLOCK);
    if (run->signal_fd < 0) {
        return fail(err, errno, "cannot take signals");
    }
    return 0;
}

static int run_open(struct run *run, const struct machine_config *config,
                    struct error *err)
{
    if (config->exit_stats) {
        run->stats_fd =
            open(config->exit_stats, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        if (run->stats_fd < 0) {
            return fail(err, errno, "--exit-stats: cannot write %s", config->exit_stats);
        }
    }
    int result = signals_take(run, err);
    if (result < 0) {
        return result;
    }
    run->console = console_open(config->console, config->console_path, err);
    if (!run->console) {
        return -err->code;
    }
    const struct console_port port = console_port(run->console);
    run->vm = machine_new(config, &port, err);
    return run->vm ? 0 : -err->code;
}

static int debugger_open(struct run *run, const char *where, struct error *err)
{
    run->gdb = gdb_open(run->vm, where, err);
    if (!run->gdb) {
        return -err->code;
    }
    log_warning("gdb: target remote %s", gdb_address(run->gdb));
    return 0;
}

static int run_start(struct run *run, const char *gdb, struct error *err)
{
    const struct console_guest guest = {
        guest_input, guest_ready, guest_quit, guest_failed, run,
    };
    int result = loop_add(run->vm->loop, run->signal_fd, EPOLLIN, on_signal, run, err);
    if (result >= 0) {
        result = console_attach(run->console, run->vm->loop, &guest, err);
    }
    if (result >= 0 && gdb) {
        result = debugger_open(run, gdb, err);
    }
    if (result >= 0) {
        result = vm_start(run->vm, err);
    }
    return result;
}

static void run_close(struct run *run)
{
    /* The console's thread calls the VM, and the VM's devices the console: first the one
     * falls silent, then the other goes. */
    if (run->console) {
        console_stop(run->console);
    }
    gdb_close(run->gdb, STATUS_HOST_ERROR);
    vm_free(run->vm);
    console_close(run->console);
    if (run->signal_fd >= 0) {
        close(run->signal_fd);
    }
    if (run->stats_fd >= 0) {
        close(run->stats_fd);
    }
}

static int end_status(const struct vm_end *end)
{
    switch (end->reason) {
    case VM_END_POWEROFF:
    case VM_END_RESET:
        return STATUS_OK;
    case VM_END_CRASH:
        log_error("the guest crashed%s%s", *end->message ? ": " : "", end->message);
        return STATUS_GUEST_CRASH;
    case VM_END_DEBUG_EXIT:
        return ((end->value << 1) | 1) & 0xff;
    case VM_END_REQUEST:
        return end->value ? STATUS_SIGNAL + end->value : STATUS_OK;
    default:
        log_error("%s", *end->message ? end->message : "the virtual machine failed");
        return STATUS_HOST_ERROR;
    }
}

/* After the VM has ended: hands over what it said last, then the counters. */
static int run_finish(struct run *run, const struct vm_end *end,
                      const struct machine_config *config)
{
    struct error err;
    console_detach(run->console);
    /* From here a signal ends the process at once, also while a slow reader of our output
     * is waited for. */
    pthread_sigmask(SIG_SETMASK, &run->signals_before, NULL);
    console_flush(run->console, end->reason == VM_END_REQUEST);
    console_stop(run->console);
    int status = end_status(end);
    if (status == STATUS_OK && *run->output_failure) {
        /* The guest was done before its last words could not be written. */
        log_error("%s", run->output_failure);
        status = STATUS_HOST_ERROR;
    }
    if (run->stats_fd >= 0 && vm_write_exit_stats(run->vm, run->stats_fd, &err) < 0) {
        fail_within(&err, "--exit-stats %s", config->exit_stats);
        host_error(&err);
        status = status ? status : STATUS_HOST_ERROR;
    }
    return status;
}

static int run_machine(const struct machine_config *config)
{
    struct run run = {.signal_fd = -1, .stats_fd = -1};
    struct error err = {0};
    int status;
    if (run_open(&run, config, &err) < 0 || run_start(&run, config->gdb, &err) < 0) {
        /* The terminal first: a message belongs on a sane one. */
        if (run.console) {
            console_detach(run.console);
        }
        status = host_error(&err);
    } else {
        struct vm_end end = vm_run(run.vm);
        status = run_finish(&run, &end, config);
        gdb_close(steal(run.gdb), status);
    }
    run_close(&run);
    return status;
}

static int run_run(const struct command *command, int argc, char **argv)
{
    struct run_options options = {
        .config =
            {
                .machine = "micro",
                .engine = "auto",
                .cpus = 1,
                .memory = CONFIG_MEMORY_DEFAULT,
                .cpu_model = "host",
            },
    };
    int status;
    if (command_parse(command, argc, argv, &options, &status) < 0) {
        return status;
    }
    struct machine_config *config = &options.config;
    if (options.verbose) {
        log_set_level(options.verbose > 1 ? LOG_DEBUG : LOG_INFO);
    }
    if (!config->kernel) {
        return usage_error("nothing to boot; give a kernel with --kernel FILE");
    }
    if (!config->append && config->console == CONSOLE_STDIO) {
        config->append = APPEND_DEFAULT;
    }
    return options.dry_run ? run_dry(config) : run_machine(config);
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
