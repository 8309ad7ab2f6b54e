/*
 * Runs a guest program while the VM is saved and restored all the time, each time in a
 * new process.
 * usage: hop ENGINE[,ENGINE...] HOPS MAX-MS SEED DIR PROGRAM CPUS
 *
 * Of several engines the next one takes over each time; the guest then has a processor
 * and services that all of them can give.
 * After a pseudo-random time, at most MAX-MS of guest time, the VM is paused and saved
 * into DIR/<number>, and the process replaced by one that restores it; the directory is
 * removed as soon as the VM runs. At each restore the VM is saved once more before it
 * starts: every section must be what was loaded. The exit status is the guest's, or 125.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "state/part.h"
#include "state/snapshot.h"

#define FAILURE 125

static struct vm *vm;
static struct timer timer;
static struct error err;
static unsigned long hops, hop;
static const char *place;
static char **arguments;
static bool is_leaving;

static unsigned console_write(void *opaque, const uint8_t *data, unsigned size)
{
    ssize_t done = write(STDOUT_FILENO, data, size);
    return done > 0 ? (unsigned)done : 0;
}

static const struct console_port console = {console_write, NULL};

static int complain(const char *what)
{
    fprintf(stderr, "hop %lu: %s: %s\n", hop, what, err.message);
    return FAILURE;
}

static void name_dir(char *text, size_t size, unsigned long number)
{
    snprintf(text, size, "%s/%lu", place, number);
}

static void remove_dir(unsigned long number)
{
    static const char *const names[] = {SNAPSHOT_STATE, SNAPSHOT_MEMORY, SNAPSHOT_KERNEL,
                                        SNAPSHOT_MANIFEST};
    char dir[4096], path[4200];
    name_dir(dir, sizeof(dir), number);
    for (unsigned i = 0; i < array_size(names); i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
        unlink(path);
    }
    rmdir(dir);
}

static void leave(void *opaque)
{
    char dir[4096];
    if (vm_get_status(vm) != VM_RUNNING) {
        return;
    }
    name_dir(dir, sizeof(dir), hop + 1);
    vm_pause(vm);
    if (vm_snapshot(vm, dir, &err) >= 0) {
        is_leaving = true;
        vm_request_end(vm, VM_END_REQUEST, 0, NULL);
        return;
    }
    bool is_ending = err.code == EBUSY;
    vm_resume(vm);
    if (!is_ending) {
        vm_request_end(vm, VM_END_ERROR, 0, err.message);
    }
}

static void expired(void *opaque)
{
    loop_post(vm->loop, leave, NULL);
}

static void tell_difference(const struct stream_section *now,
                            const struct stream_section *before)
{
    struct stream_field field, other;
    fprintf(stderr, "hop %lu: section %s '%s' changed by loading:", hop, now->kind,
            now->instance);
    for (size_t next = 0; before && section_next(now, &next, &field);) {
        if (section_field(before, field.name, field.size, &other, NULL) < 0 ||
            memcmp(field.data, other.data, (size_t)field.size * field.count) != 0) {
            uint32_t at = 0;
            while (other.data[at] == field.data[at]) {
                at++;
            }
            fprintf(stderr, " %s at 0x%x (0x%x -> 0x%x)", field.name, at, other.data[at],
                    field.data[at]);
        }
    }
    fprintf(stderr, "\n");
}

/* What the VM has loaded is what it would save. */
static int compare(struct stream_writer *writer, const struct stream *loaded)
{
    struct stream now;
    if (stream_finish(writer, &err) < 0 ||
        stream_parse(&now, writer->data, writer->size, &err) < 0) {
        return complain("saving again");
    }
    for (unsigned i = 0; i < now.count; i++) {
        const struct stream_section *section = &now.section[i];
        const struct stream_section *before =
            stream_find(loaded, section->kind, section->instance);
        if (!before || before->length != section->length ||
            memcmp(before->data, section->data, section->length) != 0) {
            tell_difference(section, before);
            return FAILURE;
        }
    }
    stream_free(&now);
    return 0;
}

static int check_loaded(const char *dir)
{
    char path[4200];
    struct stream loaded;
    struct stream_writer writer;
    snprintf(path, sizeof(path), "%s/%s", dir, SNAPSHOT_STATE);
    FILE *file = fopen(path, "r");
    uint8_t *data = malloc(1 << 24);
    size_t size = file && data ? fread(data, 1, 1 << 24, file) : 0;
    if (file) {
        fclose(file);
    }
    if (stream_parse(&loaded, data, size, &err) < 0) {
        return complain("reading again");
    }
    stream_init(&writer);
    state_save(vm, &writer);
    int result = compare(&writer, &loaded);
    stream_fini(&writer);
    stream_free(&loaded);
    free(data);
    return result;
}

/* The one whose turn it is. KVM may not have all services. */
static const char *choose_engine(char *list, bool *is_only, bool *has_kvm)
{
    *has_kvm = strstr(list, "kvm") != NULL;
    static char *engine[8];
    unsigned count = 0;
    for (char *name = strtok(list, ","); name && count < 8; name = strtok(NULL, ",")) {
        engine[count++] = name;
    }
    *is_only = count < 2;
    return count ? engine[hop % count] : "";
}

static int open_vm(char **argv)
{
    char dir[4096], engines[64];
    bool is_only, has_kvm;
    snprintf(engines, sizeof(engines), "%s", argv[1]);
    const char *engine = choose_engine(engines, &is_only, &has_kvm);
    struct machine_config config = {
        .engine = engine,
        .cpu_model = is_only ? NULL : "x86-64-v2",
        .paravirt = is_only || !has_kvm ? NULL : "clock,io-delay,steal",
        .cpus = (unsigned)atoi(argv[7]),
        .memory = 128 << 20,
        .kernel = argv[6],
        .debug_exit = true,
        .no_reboot = true,
    };
    if (hop == 0) {
        vm = machine_new(&config, &console, &err);
        return vm ? 0 : complain("making the VM");
    }
    name_dir(dir, sizeof(dir), hop);
    struct snapshot *snapshot = snapshot_open(dir, &err);
    if (!snapshot) {
        return complain("opening");
    }
    config = snapshot_config(snapshot);
    config.engine = engine;
    vm = vm_restore(snapshot, &config, &console, &err);
    snapshot_close(snapshot);
    return vm ? check_loaded(dir) : complain("restoring");
}

static void go_on(void)
{
    char number[24];
    snprintf(number, sizeof(number), "%lu", hop + 1);
    setenv("HOP", number, 1);
    execv("/proc/self/exe", arguments);
    perror("execv");
}

int main(int argc, char **argv)
{
    if (argc != 8) {
        return 2;
    }
    arguments = argv;
    hops = strtoul(argv[2], NULL, 10);
    uint64_t longest_ns = strtoul(argv[3], NULL, 10) * 1000000;
    place = argv[5];
    hop = getenv("HOP") ? strtoul(getenv("HOP"), NULL, 10) : 0;
    if (open_vm(argv) != 0) {
        return FAILURE;
    }
    srandom((unsigned)(strtoul(argv[4], NULL, 10) * 1000 + hop));
    timer_init(&timer, vm->timers, NULL, expired, NULL);
    if (hop < hops) {
        timer_set(&timer, clock_now(&vm->clock) + (uint64_t)random() % longest_ns);
    }
    if (vm_start(vm, &err) < 0) {
        return complain("starting");
    }
    machine_console_resume(vm);
    if (hop > 0) {
        remove_dir(hop);
    }
    struct vm_end end = vm_run(vm);
    timer_fini(&timer);
    vm_free(vm);
    if (is_leaving) {
        go_on();
        return FAILURE;
    }
    fprintf(stderr, "%lu hops\n", hop);
    if (end.reason != VM_END_DEBUG_EXIT) {
        fprintf(stderr, "hop %lu: end %d %s\n", hop, end.reason, end.message);
        return FAILURE;
    }
    return end.value << 1 | 1;
}
