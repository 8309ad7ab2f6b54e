/* doppel stats: what a machine has used. */

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/scope.h"
#include "control/client.h"
#include "tool/command.h"
#include "tool/remote.h"
#include "x86/exit_reason.h"

struct stats_options {
    bool json;
};

static const struct option_spec stats_options[] = {
    {"json", NULL, "write them as JSON, for each processor too", OPTION_FLAG,
     offsetof(struct stats_options, json)},
    {NULL},
};

static double number(const json_t *object, const char *key)
{
    return (double)json_integer_value(json_object_get(object, key));
}

/* A time with its unit, or a dash for none. */
static const char *format_ns(double ns, char text[24])
{
    static const struct {
        double ns;
        const char *name;
    } units[] = {{1e9, "s"}, {1e6, "ms"}, {1e3, "us"}, {1, "ns"}};
    for (size_t i = 0; i < array_size(units); i++) {
        if (ns >= units[i].ns) {
            snprintf(text, 24, "%.2f %s", ns / units[i].ns, units[i].name);
            return text;
        }
    }
    return strcpy(text, "-");
}

static void print_exits(const json_t *totals)
{
    const json_t *exits = json_object_get(totals, "exits");
    char time[24], each[24];
    printf("%-30s %14s %12s %12s\n", "EXITS", "COUNT", "TIME", "EACH");
    for (unsigned reason = 0; reason < EXIT_REASON_COUNT; reason++) {
        const json_t *exit = json_object_get(exits, exit_reason_name(reason));
        double count = number(exit, "count"), ns = number(exit, "ns");
        if (count > 0) {
            printf("%-30s %14.0f %12s %12s\n", exit_reason_title(reason), count,
                   format_ns(ns, time), format_ns(ns / count, each));
        }
    }
}

static void print_instructions(const json_t *exits)
{
    const json_t *retired = json_object_get(json_object_get(exits, "totals"), "retired");
    double seconds = number(exits, "wall_ns") / 1e9;
    if (json_is_integer(retired)) {
        double count = (double)json_integer_value(retired);
        printf("%-30s %14.0f %9.1f M/s\n", "guest instructions", count,
               seconds > 0 ? count / seconds / 1e6 : 0);
    }
}

/* A row: how often, how many lost, the worst, and shares by lateness. */
static void print_lateness(const char *title, const json_t *lateness)
{
    const json_t *grades = json_object_get(lateness, "late");
    char worst[24];
    size_t index;
    json_t *grade;
    printf("%-30s %14.0f %12.0f %12s ", title, number(lateness, "count"),
           number(lateness, "missed"), format_ns(number(lateness, "worst_ns"), worst));
    json_array_foreach((json_t *)grades, index, grade)
    {
        printf(" %.0f", number(grade, "count"));
    }
    puts("");
}

static void print_timers(const json_t *exits)
{
    const json_t *apic = json_object_get(json_object_get(exits, "totals"), "timer");
    const json_t *grades = json_object_get(apic, "late");
    char limit[24];
    size_t index;
    json_t *grade;
    printf("\n%-30s %14s %12s %12s ", "TIMERS", "COUNT", "MISSED", "LATEST");
    json_array_foreach((json_t *)grades, index, grade)
    {
        const json_t *within = json_object_get(grade, "within_ns");
        printf(" %s", json_is_integer(within)
                          ? format_ns((double)json_integer_value(within), limit)
                          : "more");
    }
    puts("");
    print_lateness("local APICs", apic);
    print_lateness("others", json_object_get(exits, "device_timers"));
}

static void print_memory(const json_t *memory)
{
    static const struct {
        const char *key, *title;
    } rows[] = {{"configured", "guest memory"},
                {"resident", "  of it touched"},
                {"process", "memory of the process"}};
    puts("\nMEMORY");
    for (size_t i = 0; i < array_size(rows); i++) {
        printf("%-30s %12.1f M\n", rows[i].title,
               number(memory, rows[i].key) / (1 << 20));
    }
}

static void print_threads(const json_t *threads)
{
    size_t index;
    json_t *thread;
    char time[24];
    puts("\nPROCESSOR TIME");
    json_array_foreach((json_t *)threads, index, thread)
    {
        printf("%-30s %14s\n", json_string_value(json_object_get(thread, "name")),
               format_ns(number(thread, "ns"), time));
    }
}

static int stats_run(const struct command *command, int argc, char **argv)
{
    struct stats_options options = {0};
    struct error err;
    json_t *object;
    int status;
    const char *machine = remote_parse(command, argc, argv, &options, &status);
    if (!machine) {
        return status;
    }
    if (remote_ask(machine, "stats", NULL, CLIENT_PATIENCE_MS, &object, &err) < 0) {
        return remote_error(&err);
    }
    if (options.json) {
        return remote_print(object);
    }
    const json_t *exits = json_object_get(object, "exits");
    print_exits(json_object_get(exits, "totals"));
    print_instructions(exits);
    print_timers(exits);
    print_memory(json_object_get(object, "memory"));
    print_threads(json_object_get(object, "threads"));
    json_decref(object);
    return STATUS_OK;
}

static const struct command_example stats_examples[] = {
    {"stats web", "Shows its exits by reason, its memory, its threads' time."},
    {"stats web --json", "The same for programs, for each virtual processor."},
    {NULL},
};

const struct command stats_command = {
    .name = "stats",
    .operands = "NAME",
    .operands_max = 1,
    .description =
        "TIME is what handling took; what an engine does within guest code, "
        "without leaving it,\nis counted but not timed. TIMERS: how long after "
        "its deadline a timer was served; the\ncounts on the right are within "
        "the times above them.",
    .examples = stats_examples,
    .options = stats_options,
    .run = stats_run,
};
