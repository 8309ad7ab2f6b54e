#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <jansson.h>

#include "base/scope.h"
#include "control/fields.h"

#include <cmocka.h>

struct target {
    bool flag;
    unsigned count, cpus;
    uint64_t memory;
    const char *name, *engine;
    unsigned given;
};

static const char *engine_name(unsigned index)
{
    static const char *const names[] = {"auto", "interpreter", NULL};
    return names[index];
}

static int parse_each(const struct option_spec *spec, const char *value, void *target,
                      struct error *err)
{
    ++*(unsigned *)target;
    return 0;
}

static const struct option_spec table[] = {
    {"flag", NULL, "a flag", OPTION_FLAG, offsetof(struct target, flag)},
    {"verbose", NULL, "a count", OPTION_COUNT, offsetof(struct target, count)},
    {"name", "NAME", "a string", OPTION_STRING, offsetof(struct target, name)},
    {"cpus", "N", "a number", OPTION_UNSIGNED, offsetof(struct target, cpus), 1, 16},
    {"memory", "SIZE", "a size", OPTION_SIZE, offsetof(struct target, memory), 2 << 20},
    {"engine", "NAME", "a choice", OPTION_CHOICE, offsetof(struct target, engine),
     .choice = engine_name},
    {"disk", "FILE", "several", OPTION_CUSTOM, offsetof(struct target, given),
     .parse = parse_each},
    {"cdrom", "FILE", "comes later", OPTION_LATER},
    {NULL},
};

static void test_every_kind_is_read(void **state)
{
    struct target target = {0};
    struct error err;
    json_t *object = json_loads(
        "{\"flag\": true, \"verbose\": 2, \"name\": \"web\", \"cpus\": 4, \"memory\": "
        "\"16M\", \"engine\": \"interpreter\", \"disk\": [\"a\", \"b\"]}",
        0, NULL);
    assert_int_equal(fields_parse(table, object, &target, &err), 0);
    assert_true(target.flag);
    assert_int_equal(target.count, 2);
    assert_string_equal(target.name, "web");
    assert_int_equal(target.cpus, 4);
    assert_int_equal(target.memory, 16 << 20);
    assert_string_equal(target.engine, "interpreter");
    assert_int_equal(target.given, 2);
    json_decref(object);

    object =
        json_loads("{\"flag\": false, \"memory\": 4194304, \"name\": null}", 0, NULL);
    target.name = "as it was";
    assert_int_equal(fields_parse(table, object, &target, &err), 0);
    assert_false(target.flag);
    assert_int_equal(target.memory, 4 << 20);
    assert_string_equal(target.name, "as it was");
    json_decref(object);
}

static void test_refusals_name_the_key(void **state)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"{\"cpsu\": 1}", "unknown key 'cpsu'; did you mean 'cpus'?"},
        {"{\"zebra\": 1}", "unknown key 'zebra'"},
        {"{\"cpus\": \"4\"}", "cpus must be a whole number"},
        {"{\"cpus\": 4.5}", "cpus must be a whole number"},
        {"{\"cpus\": 17}", "cpus 17 is out of range; give 1 to 16"},
        {"{\"cpus\": -1}", "cpus takes a whole number, not '-1'"},
        {"{\"flag\": 1}", "flag must be true or false"},
        {"{\"flag\": \"true\"}", "flag must be true or false"},
        {"{\"name\": 5}", "name must be a string"},
        {"{\"name\": [\"a\"]}", "name must be a string"},
        {"{\"memory\": true}", "memory must be a number of bytes or a string such as "
                               "\"512M\""},
        {"{\"memory\": 1}", "memory 1 is out of range; give at least 2M"},
        {"{\"engine\": \"interpeter\"}",
         "unknown value 'interpeter' of engine; did you mean interpreter? (choose from: "
         "auto, interpreter)"},
        {"{\"disk\": [1]}", "disk must be a string"},
        {"{\"cdrom\": \"x\"}", "cdrom is not available in this version"},
    };
    for (unsigned i = 0; i < array_size(cases); i++) {
        struct target target = {0};
        struct error err = {0};
        json_t *object = json_loads(cases[i].text, 0, NULL);
        assert_non_null(object);
        assert_true(fields_parse(table, object, &target, &err) < 0);
        assert_string_equal(err.message, cases[i].message);
        json_decref(object);
    }
}

static void test_formatting_is_the_way_back(void **state)
{
    static const struct option_spec plain[] = {
        {"flag", NULL, "", OPTION_FLAG, offsetof(struct target, flag)},
        {"cpus", NULL, "", OPTION_UNSIGNED, offsetof(struct target, cpus), 1, 16},
        {"memory", NULL, "", OPTION_SIZE, offsetof(struct target, memory)},
        {"name", NULL, "", OPTION_STRING, offsetof(struct target, name)},
        {NULL},
    };
    struct target before = {.flag = true, .cpus = 3, .memory = 1ull << 40, .name = "x"};
    struct target after = {0};
    struct error err;
    json_t *object = fields_format(plain, &before);
    assert_non_null(object);
    assert_int_equal(fields_parse(plain, object, &after, &err), 0);
    assert_true(after.flag);
    assert_int_equal(after.cpus, 3);
    assert_int_equal(after.memory, 1ull << 40);
    assert_string_equal(after.name, "x");
    json_decref(object);
    before.name = "\xff";
    assert_null(fields_format(plain, &before));
}

static void test_files_that_are_no_configuration(void **state)
{
    struct error err;
    assert_null(fields_load("/nonexistent", &err));
    assert_non_null(strstr(err.message, "/nonexistent"));
    assert_null(fields_load("/", &err));
    assert_null(fields_load("/dev/null", &err));
    assert_null(fields_load("/dev/zero", &err));
    assert_non_null(strstr(err.message, "larger than 1M"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_kind_is_read),
        cmocka_unit_test(test_refusals_name_the_key),
        cmocka_unit_test(test_formatting_is_the_way_back),
        cmocka_unit_test(test_files_that_are_no_configuration),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
