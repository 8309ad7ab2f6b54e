/* doppel stats: what a machine has used. */

#include <ctype.h>
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

/* --- What the engine counts of its own --- */

#define INSIDE_ROWS 12 /* of a group with many: the largest */

static bool ends_in(const char *name, const char *end)
{
    size_t length = strlen(name), tail = strlen(end);
    return length >= tail && strcmp(name + length - tail, end) == 0;
}

/* "idle_ns": "idle", by its unit. */
static void print_stat(const char *name, double value, double sum)
{
    static const char *const units[] = {"_ns", "_bytes", "_percent"};
    char title[64], text[24];
    snprintf(title, sizeof(title), "%s", name);
    unsigned unit = 0;
    while (unit < array_size(units) && !ends_in(name, units[unit])) {
        unit++;
    }
    if (unit < array_size(units)) {
        title[strlen(title) - strlen(units[unit])] = '\0';
    }
    for (char *at = title; (at = strchr(at, '_'));) {
        *at = ' ';
    }
    printf("%-30s ", title);
    switch (unit) {
    case 0:
        printf("%14s", format_ns(value, text));
        break;
    case 1:
        printf("%12.1f M", value / (1 << 20));
        break;
    case 2:
        printf("%12.0f %%", value);
        break;
    default:
        printf("%14.0f", value);
    }
    if (sum > 0) {
        printf(" %10.1f %%", 100 * value / sum);
    }
    puts("");
}

static double group_sum(const json_t *group)
{
    const char *name;
    json_t *value;
    double sum = 0;
    json_object_foreach((json_t *)group, name, value)
    {
        sum += (double)json_integer_value(value);
    }
    return sum;
}

/* The rows of a group that is long are its largest, in order. */
static void print_largest(const json_t *group, double sum)
{
    json_t *rest = json_deep_copy(group);
    for (unsigned i = 0; i < INSIDE_ROWS && json_object_size(rest) > 0; i++) {
        const char *name, *largest = NULL;
        json_t *value;
        json_object_foreach(rest, name, value)
        {
            if (!largest || number(rest, name) > number(rest, largest)) {
                largest = name;
            }
        }
        print_stat(largest, number(rest, largest), sum);
        json_object_del(rest, largest);
    }
    if (json_object_size(rest) > 0) {
        printf("%-30s %14.0f %10.1f %%\n", "(others)", group_sum(rest),
               100 * group_sum(rest) / sum);
    }
    json_decref(rest);
}

/* Shares make sense where the rows are parts of one thing. */
static bool has_shares(const char *group)
{
    static const char *const names[] = {"time", "left_translated_code",
                                        "interpreted_instructions"};
    for (size_t i = 0; i < array_size(names); i++) {
        if (strcmp(group, names[i]) == 0) {
            return true;
        }
    }
    return false;
}

static void print_group(const char *name, const json_t *group)
{
    double sum = has_shares(name) ? group_sum(group) : 0;
    putchar('\n');
    for (const char *at = name; *at; at++) {
        putchar(*at == '_' ? ' ' : toupper((unsigned char)*at));
    }
    puts("");
    if (json_object_size(group) > INSIDE_ROWS) {
        print_largest(group, sum);
        return;
    }
    const char *row;
    json_t *value;
    json_object_foreach((json_t *)group, row, value)
    {
        print_stat(row, (double)json_integer_value(value), sum);
    }
}

static void print_inside(const json_t *inside)
{
    const char *name;
    json_t *group;
    json_object_foreach((json_t *)inside, name, group)
    {
        print_group(name, group);
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
    print_inside(json_object_get(json_object_get(exits, "totals"), "inside"));
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
        "the times above them. What follows the processor time is the engine's "
        "own;\ndocs/translator.md explains the translator's.",
    .examples = stats_examples,
    .options = stats_options,
    .run = stats_run,
};
