#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/option.h"
#include "base/scope.h"

/* After the headers of ours: it defines a macro fail(). */
#include <cmocka.h>

struct target {
    bool flag;
    unsigned count;
    const char *name;
    unsigned cpus;
    uint64_t memory;
    const char *engine;
};

static const char *engine_name(unsigned index)
{
    static const char *const names[] = {"auto", "interpreter", NULL};
    return names[index];
}

static const struct option_spec table[] = {
    {"flag", NULL, "a flag", OPTION_FLAG, offsetof(struct target, flag)},
    {"verbose", NULL, "a count", OPTION_COUNT, offsetof(struct target, count)},
    {"name", "NAME", "a string", OPTION_STRING, offsetof(struct target, name)},
    {"cpus", "N", "a number", OPTION_UNSIGNED, offsetof(struct target, cpus), 1, 16},
    {"memory", "SIZE", "a size", OPTION_SIZE, offsetof(struct target, memory), 2 << 20},
    {"engine", "NAME", "a choice", OPTION_CHOICE, offsetof(struct target, engine),
     .choice = engine_name, .later = "kvm direct"},
    {"disk", "FILE", "comes later", OPTION_LATER},
    {NULL},
};

struct run {
    struct target target;
    struct option_result result;
    struct error err;
    char *argv[8];
    int status;
};

/* Parses up to 8 arguments, blank-separated in text. */
static struct run parse(const char *text)
{
    static char copy[256];
    struct run run = {0};
    int argc = 0;
    snprintf(copy, sizeof(copy), "%s", text);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " ")) {
        run.argv[argc++] = word;
    }
    run.status = option_parse(table, argc, run.argv, &run.target, &run.result, &run.err);
    return run;
}

static void test_both_spellings_of_a_value(void **state)
{
    struct run run = parse("--name=a=b --cpus 4 --memory=1G --engine interpreter --flag");
    assert_int_equal(run.status, 0);
    assert_string_equal(run.target.name, "a=b");
    assert_int_equal(run.target.cpus, 4);
    assert_int_equal(run.target.memory, 1ull << 30);
    assert_string_equal(run.target.engine, "interpreter");
    assert_true(run.target.flag);
}

static void test_value_may_look_like_an_option(void **state)
{
    struct run run = parse("--name --flag --name= --verbose --verbose");
    assert_int_equal(run.status, 0);
    assert_string_equal(run.target.name, "");
    assert_false(run.target.flag);
    assert_int_equal(run.target.count, 2);
}

static void test_operands_move_to_the_front(void **state)
{
    struct run run = parse("one --flag two -- --name -");
    assert_int_equal(run.status, 0);
    assert_int_equal(run.result.operands, 4);
    assert_string_equal(run.argv[0], "one");
    assert_string_equal(run.argv[1], "two");
    assert_string_equal(run.argv[2], "--name");
    assert_string_equal(run.argv[3], "-");
    assert_null(run.target.name);
}

static void test_help_stops_parsing(void **state)
{
    assert_true(parse("--help --nonsense").result.wants_help);
    assert_true(parse("-h").result.wants_help);
    assert_false(parse("-- -h").result.wants_help);
}

static void test_errors_name_the_option_and_the_way_out(void **state)
{
    static const struct {
        const char *line, *message;
    } cases[] = {
        {"--memroy 1G", "unknown option --memroy; did you mean --memory?"},
        {"--cpu=4", "unknown option --cpu; did you mean --cpus?"},
        {"-cpus", "unknown option -cpus; did you mean --cpus?"},
        {"--zzzzzz", "unknown option --zzzzzz; --help lists what there is"},
        {"-x", "unknown option -x; --help lists what there is"},
        {"--disk a", "unknown option --disk: it is not available in this version"},
        {"--flag=1", "--flag takes no value; leave out '=1'"},
        {"--cpus", "--cpus needs a value: --cpus N"},
        {"--cpus 0", "--cpus 0 is out of range; give 1 to 16"},
        {"--cpus 1000", "--cpus 1000 is out of range; give 1 to 16"},
        {"--cpus 99999999999999999999",
         "--cpus 99999999999999999999 is out of range; give 1 to 16"},
        {"--cpus -1", "--cpus takes a whole number, not '-1'"},
        {"--cpus 4x", "--cpus takes a whole number, not '4x'"},
        {"--cpus=", "--cpus takes a whole number, not ''"},
        {"--memory 1M", "--memory 1M is out of range; give at least 2M"},
        {"--memory 0", "--memory 0 is out of range; give at least 2M"},
        {"--engine interpeter", "unknown value 'interpeter' of --engine; did you mean "
                                "interpreter? (choose from: auto, interpreter)"},
        {"--engine zzz",
         "unknown value 'zzz' of --engine; choose from: auto, interpreter"},
        {"--engine kvm", "--engine kvm is not available in this version; choose from: "
                         "auto, interpreter"},
    };
    for (unsigned i = 0; i < array_size(cases); i++) {
        struct run run = parse(cases[i].line);
        assert_true(run.status < 0);
        assert_string_equal(run.err.message, cases[i].message);
    }
}

static void test_size_errors_name_the_option(void **state)
{
    struct run run = parse("--memory 512X");
    assert_true(run.status < 0);
    assert_memory_equal(run.err.message, "--memory: '512X'", 16);
    assert_true(parse("--memory 99999999999999999999").status < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_spellings_of_a_value),
        cmocka_unit_test(test_value_may_look_like_an_option),
        cmocka_unit_test(test_operands_move_to_the_front),
        cmocka_unit_test(test_help_stops_parsing),
        cmocka_unit_test(test_size_errors_name_the_option),
        cmocka_unit_test(test_errors_name_the_option_and_the_way_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
