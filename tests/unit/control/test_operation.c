#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/scope.h"
#include "control/fields.h"
#include "control/operation.h"

#include <cmocka.h>

static void for_each(void (*check)(const struct operation *row))
{
    for (unsigned t = 0; operation_tables[t]; t++) {
        for (const struct operation *row = operation_tables[t]; row->name; row++) {
            check(row);
        }
    }
}

static void check_row(const struct operation *row)
{
    char id[OPERATION_ID_MAX + 1];
    bool exists;
    assert_ptr_equal(operation_find(row->name), row);
    assert_non_null(row->handle);
    assert_true(*row->summary && row->summary[strlen(row->summary) - 1] != '.');
    assert_non_null(row->description);
    assert_true(row->when & OPERATION_ANY);
    assert_true(row->success >= 200 && row->success < 300);
    assert_int_equal(row->success == 200, row->response != NULL);
    assert_true(row->fields_size <= OPERATION_FIELDS_MAX);
    assert_true(strcmp(http_status_text(row->success), "Unknown") != 0);
    if (!strchr(row->path, '{')) {
        assert_ptr_equal(
            operation_match(row->method, row->path, strlen(row->path), id, &exists), row);
    }
}

static void test_every_row_is_whole(void **state)
{
    for_each(check_row);
}

static void check_example(const struct operation *row)
{
    _Alignas(max_align_t) char fields[OPERATION_FIELDS_MAX] = {0};
    struct error err = {0};
    if (!row->request) {
        assert_null(row->fields);
        return;
    }
    json_t *object = json_loads(row->request, 0, NULL);
    assert_non_null(object);
    if (fields_parse(row->fields, object, fields, &err) < 0) {
        fail_msg("%s: %s", row->name, err.message);
    }
    json_decref(object);
}

static void test_every_example_is_taken(void **state)
{
    for_each(check_example);
}

static void test_paths(void **state)
{
    char id[OPERATION_ID_MAX + 1];
    bool exists;
    static const char *const unknown[] = {
        "", "/x", "//", "/vm/", "/vmx", "/doppel", "/doppel/stats/x"};
    for (unsigned i = 0; i < array_size(unknown); i++) {
        assert_null(
            operation_match(HTTP_GET, unknown[i], strlen(unknown[i]), id, &exists));
        assert_false(exists);
    }
    assert_null(operation_match(HTTP_GET, "/vm", 3, id, &exists));
    assert_true(exists);
}

static void test_the_document_names_every_path(void **state)
{
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    operation_markdown(out);
    fclose(out);
    for (unsigned t = 0; operation_tables[t]; t++) {
        for (const struct operation *row = operation_tables[t]; row->name; row++) {
            char heading[128];
            snprintf(heading, sizeof(heading), "### %s %s\n",
                     http_method_name(row->method), row->path);
            assert_non_null(strstr(text, heading));
        }
    }
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_row_is_whole),
        cmocka_unit_test(test_every_example_is_taken),
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_the_document_names_every_path),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
