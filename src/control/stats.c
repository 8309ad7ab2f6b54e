/* What a machine has used: exits, memory, processor time; as JSON and for Prometheus. */

#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "control/control_internal.h"
#include "dispatcher/vcpu.h"

static uint64_t timespec_ns(const struct timespec *time)
{
    return (uint64_t)time->tv_sec * NS_PER_SECOND + (uint64_t)time->tv_nsec;
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    return clock_gettime(clock, &now) == 0 ? timespec_ns(&now) : 0;
}

/* Resident memory of the whole process. */
static uint64_t process_bytes(const struct control *control)
{
    char text[128] = "";
    unsigned long long total, resident;
    if (control->statm_fd < 0 ||
        pread(control->statm_fd, text, sizeof(text) - 1, 0) <= 0 ||
        sscanf(text, "%llu %llu", &total, &resident) != 2) {
        return 0;
    }
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Calls each with the name and the processor time of a thread: every vCPU's, the event
 * loop's (the caller's), and what is left for others. */
static void each_thread(struct control *control,
                        void (*each)(void *opaque, const char *name, uint64_t ns),
                        void *opaque)
{
    uint64_t rest = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    for (unsigned i = 0; i < control->vm->cpu_count; i++) {
        const struct vcpu *vcpu = control->vm->vcpu[i];
        clockid_t clock;
        /* The loop's thread, which this is, joins them. */
        if (!vcpu->has_thread || pthread_getcpuclockid(vcpu->thread, &clock) != 0) {
            continue;
        }
        char name[16];
        snprintf(name, sizeof(name), "cpu%u", vcpu->index);
        uint64_t ns = clock_ns(clock);
        each(opaque, name, ns);
        rest -= ns < rest ? ns : rest;
    }
    uint64_t ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    each(opaque, "loop", ns);
    each(opaque, "others", rest - (ns < rest ? ns : rest));
}

static void append_thread(void *opaque, const char *name, uint64_t ns)
{
    json_array_append_new(opaque,
                          json_pack("{s:s, s:I}", "name", name, "ns", (json_int_t)ns));
}

struct json_t *stats_json(struct control *control)
{
    json_t *threads = json_array();
    json_t *exits = vm_exit_stats(control->vm);
    if (!threads || !exits) {
        json_decref(threads);
        json_decref(exits);
        return NULL;
    }
    each_thread(control, append_thread, threads);
    return json_pack("{s:s, s:s, s:o, s:{s:I, s:I, s:I}, s:o}", "name", control->name,
                     "state", control_state(control), "exits", exits, "memory",
                     "configured", (json_int_t)control->config.machine->memory,
                     "resident", (json_int_t)memory_resident(control->vm->memory),
                     "process", (json_int_t)process_bytes(control), "threads", threads);
}

/* --- Prometheus text format, version 0.0.4 --- */

static void print_family(FILE *out, const char *name, const char *type, const char *help)
{
    fprintf(out, "# HELP doppel_%s %s\n# TYPE doppel_%s %s\n", name, help, name, type);
}

static double seconds(uint64_t ns)
{
    return (double)ns / (double)NS_PER_SECOND;
}

static void print_exits(FILE *out, const struct vm *vm, bool is_time)
{
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        for (unsigned reason = 0; reason < EXIT_REASON_COUNT; reason++) {
            const struct exit_count *exit = &vm->vcpu[i]->stats.exit[reason];
            fprintf(out, "doppel_%s{vcpu=\"%u\",reason=\"%s\"} ",
                    is_time ? "exit_seconds_total" : "exits_total", i,
                    exit_reason_name(reason));
            if (is_time) {
                fprintf(out, "%.9f\n", seconds(exit->ns));
            } else {
                fprintf(out, "%" PRIu64 "\n", exit->count);
            }
        }
    }
}

static void print_thread(void *opaque, const char *name, uint64_t ns)
{
    fprintf(opaque, "doppel_cpu_seconds_total{thread=\"%s\"} %.9f\n", name, seconds(ns));
}

/* A histogram, whose buckets hold what is below them, too. */
static void print_lateness(FILE *out, const char *labels, const struct lateness *lateness)
{
    uint64_t count = 0;
    for (unsigned i = 0; i < LATENESS_GRADES; i++) {
        uint64_t limit = lateness_limit(i);
        count += lateness->count[i];
        if (limit == UINT64_MAX) {
            fprintf(out, "doppel_timer_late_seconds_bucket{%s,le=\"+Inf\"} %" PRIu64 "\n",
                    labels, count);
        } else {
            fprintf(out, "doppel_timer_late_seconds_bucket{%s,le=\"%g\"} %" PRIu64 "\n",
                    labels, seconds(limit), count);
        }
    }
    fprintf(out, "doppel_timer_late_seconds_count{%s} %" PRIu64 "\n", labels, count);
}

static void print_timers(FILE *out, const struct vm *vm)
{
    const struct lateness *devices = timer_queue_lateness(vm->timers);
    char labels[40];
    print_family(out, "timer_late_seconds", "histogram",
                 "How long after its deadline a timer was served.");
    print_lateness(out, "timer=\"device\"", devices);
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        snprintf(labels, sizeof(labels), "timer=\"apic\",vcpu=\"%u\"", i);
        print_lateness(out, labels, &vm->vcpu[i]->stats.timer);
    }
    print_family(out, "timer_missed_total", "counter", "Ticks that merged with others.");
    fprintf(out, "doppel_timer_missed_total{timer=\"device\"} %" PRIu64 "\n",
            devices->missed);
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        fprintf(out,
                "doppel_timer_missed_total{timer=\"apic\",vcpu=\"%u\"} %" PRIu64 "\n", i,
                vm->vcpu[i]->stats.timer.missed);
    }
}

struct inside {
    FILE *out;
    const char *vcpu; /* "" of the whole machine */
};

static void print_stat(void *opaque, const struct engine_stat *stat)
{
    const struct inside *inside = opaque;
    fprintf(inside->out,
            "doppel_engine{vcpu=\"%s\",group=\"%s\",name=\"%s\"} %" PRIu64 "\n",
            inside->vcpu, stat->group, stat->name, stat->value);
}

static void print_inside(FILE *out, const struct vm *vm)
{
    if (!vm->engine_ops->stats) {
        return;
    }
    print_family(out, "engine", "untyped",
                 "What the engine counts of its own; no two engines count the same.");
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        char index[16];
        snprintf(index, sizeof(index), "%u", i);
        struct inside inside = {out, index};
        vm->engine_ops->stats(vm->engine, vm->vcpu[i]->engine, print_stat, &inside);
    }
    struct inside inside = {out, ""};
    vm->engine_ops->stats(vm->engine, NULL, print_stat, &inside);
}

static void print_metrics(FILE *out, struct control *control)
{
    const struct vm *vm = control->vm;
    print_family(out, "exits_total", "counter", "Exits from guest code.");
    print_exits(out, vm, false);
    print_family(out, "exit_seconds_total", "counter", "Time spent handling exits.");
    print_exits(out, vm, true);
    if (vm->engine_ops->counts_retired) {
        print_family(out, "instructions_total", "counter",
                     "Guest instructions executed.");
        for (unsigned i = 0; i < vm->cpu_count; i++) {
            fprintf(out, "doppel_instructions_total{vcpu=\"%u\"} %" PRIu64 "\n", i,
                    vm->vcpu[i]->stats.retired);
        }
    }
    print_timers(out, vm);
    print_inside(out, vm);
    print_family(out, "memory_bytes", "gauge", "Memory, configured and resident.");
    fprintf(out, "doppel_memory_bytes{kind=\"configured\"} %" PRIu64 "\n",
            control->config.machine->memory);
    fprintf(out, "doppel_memory_bytes{kind=\"resident\"} %" PRIu64 "\n",
            memory_resident(vm->memory));
    fprintf(out, "doppel_memory_bytes{kind=\"process\"} %" PRIu64 "\n",
            process_bytes(control));
    print_family(out, "cpu_seconds_total", "counter", "Processor time of threads.");
    each_thread(control, print_thread, out);
    print_family(out, "guest_seconds", "counter", "Guest time; it stands while paused.");
    fprintf(out, "doppel_guest_seconds %.9f\n", seconds(clock_now(&vm->clock)));
    print_family(out, "paused", "gauge", "1 while the machine is paused.");
    fprintf(out, "doppel_paused %d\n", strcmp(control_state(control), "paused") == 0);
    print_family(out, "console_clients", "gauge", "Clients attached to the console.");
    fprintf(out, "doppel_console_clients %u\n", hub_clients(control->hub));
}

char *metrics_text(struct control *control, size_t *length)
{
    char *text = NULL;
    FILE *out = open_memstream(&text, length);
    if (!out) {
        return NULL;
    }
    print_metrics(out, control);
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}
