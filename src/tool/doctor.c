/* doppel doctor: what this host offers, which engine would be chosen, what to do. */

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/scope.h"
#include "engine/engine.h"
#include "tool/check.h"
#include "tool/command.h"

struct doctor_options {
    bool json;
};

static const struct option_spec doctor_options[] = {
    {"json", NULL, "write the findings as JSON", OPTION_FLAG,
     offsetof(struct doctor_options, json)},
    {NULL},
};

/* What --engine auto would take, or why there is none. */
struct choice {
    const struct engine_ops *engine;
    char reason[ENGINE_REASON_SIZE];
    struct error why_not;
};

static bool colour_wanted(void)
{
    const char *no_color = getenv("NO_COLOR");
    return isatty(STDOUT_FILENO) && !(no_color && *no_color);
}

static void print_finding(const struct check *check, const struct finding *finding)
{
    static const char *const colours[] = {[CHECK_OK] = "\033[32m",
                                          [CHECK_WARNING] = "\033[33m",
                                          [CHECK_MISSING] = "\033[31m"};
    bool has_colour = colour_wanted();
    printf("%s%-8s%s %-16s %s\n", has_colour ? colours[finding->state] : "",
           check_state_name(finding->state), has_colour ? "\033[0m" : "", check->name,
           finding->value);
    if (finding->state != CHECK_OK) {
        printf("%26s%s\n", "", check->meaning);
    }
    if (*finding->remedy) {
        printf("%26s-> %s\n", "", finding->remedy);
    }
}

static void print_choice(const struct choice *choice, bool can_run)
{
    if (choice->engine) {
        printf("\nengine: %s (%s)\n        %s\n", choice->engine->name,
               choice->engine->summary, choice->reason);
    } else {
        printf("\nengine: none; %s\n", choice->why_not.message);
    }
    puts(can_run ? "A virtual machine can run on this host."
                 : "No virtual machine can run on this host; see what is missing above.");
}

static json_t *finding_json(const struct check *check, const struct finding *finding)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:b}", "name", check->name, "state",
                     check_state_name(finding->state), "value", finding->value, "meaning",
                     check->meaning, "remedy", finding->remedy, "required",
                     check->is_required);
}

static int print_json(json_t *checks, const struct choice *choice, bool can_run)
{
    json_t *engine =
        choice->engine
            ? json_pack("{s:s, s:s}", "name", choice->engine->name, "why", choice->reason)
            : json_pack("{s:n, s:s}", "name", "why", choice->why_not.message);
    json_t *report = json_pack("{s:b, s:o, s:o}", "can_run", can_run, "engine", engine,
                               "checks", checks);
    SCOPE_FREE char *text = report ? json_dumps(report, JSON_INDENT(2)) : NULL;
    json_decref(report);
    if (!text) {
        log_error("cannot write the report: out of memory");
        return STATUS_HOST_ERROR;
    }
    puts(text);
    return can_run ? STATUS_OK : STATUS_FAILURE;
}

static int doctor_run(const struct command *command, int argc, char **argv)
{
    struct doctor_options options = {0};
    int status;
    if (command_parse(command, argc, argv, &options, &status) < 0) {
        return status;
    }
    struct choice choice = {0};
    choice.engine = engine_choose(choice.reason, &choice.why_not);
    bool can_run = choice.engine;
    json_t *checks = json_array();
    for (const struct check *check = check_table; check->name; check++) {
        struct finding finding = {0};
        check->probe(&finding);
        if (check->is_required && finding.state == CHECK_MISSING) {
            can_run = false;
        }
        if (options.json) {
            json_array_append_new(checks, finding_json(check, &finding));
        } else {
            print_finding(check, &finding);
        }
    }
    if (options.json) {
        return print_json(checks, &choice, can_run);
    }
    json_decref(checks);
    print_choice(&choice, can_run);
    return can_run ? STATUS_OK : STATUS_FAILURE;
}

static const struct command_example doctor_examples[] = {
    {"doctor", "Shows what was found, and what to do about what is missing."},
    {"doctor --json", "The same for programs."},
    {NULL},
};

const struct command doctor_command = {
    .name = "doctor",
    .operands = "",
    .summary = "Tell what this host offers and which engine would be chosen",
    .description = "The exit status is 0 if a virtual machine can run here, 1 otherwise.",
    .examples = doctor_examples,
    .options = doctor_options,
    .run = doctor_run,
};
