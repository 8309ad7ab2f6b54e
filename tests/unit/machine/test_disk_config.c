#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <string.h>

#include "base/scope.h"
#include "machine/disk_config.h"

#include <cmocka.h>

static void test_descriptions(void **state)
{
    static const struct {
        const char *text, *path, *format;
        bool is_readonly;
    } cases[] = {
        {"a.img", "a.img", NULL, false},
        {"a.img,readonly", "a.img", NULL, true},
        {"/x/a b.img,format=raw,readonly,bus=virtio", "/x/a b.img", "raw", true},
        {"a,,b.img", "a,b.img", NULL, false},
        {"a,,,readonly", "a,", NULL, true},
        {"a,,", "a,", NULL, false},
        {"readonly", "readonly", NULL, false},
    };
    for (unsigned i = 0; i < array_size(cases); i++) {
        struct disk_config disk;
        struct error err = {0};
        assert_int_equal(disk_config_parse(cases[i].text, &disk, &err), 0);
        assert_string_equal(disk.path, cases[i].path);
        assert_int_equal(disk.is_readonly, cases[i].is_readonly);
        assert_int_equal(disk.format != NULL, cases[i].format != NULL);
        assert_int_equal(disk.bus, DISK_BUS_VIRTIO);
    }
}

static void test_mistakes(void **state)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"", "the name of a file is missing"},
        {",readonly", "the name of a file is missing"},
        {"a,", "unknown option ''"},
        {"a,raedonly", "unknown option 'raedonly'; did you mean readonly?"},
        {"a,readonly=1", "readonly takes no value"},
        {"a,format", "format takes a value"},
        {"a,format=rwa", "unknown format 'rwa'; did you mean raw? (choose from: raw)"},
        {"a,format=", "unknown format ''; choose from: raw"},
        {"a,bus=virtoi", "unknown bus 'virtoi'; did you mean virtio?"},
        {"a,snapshot", "snapshot is not available in this version"},
        {"a,readonly,x=y", "unknown option 'x'"},
    };
    for (unsigned i = 0; i < array_size(cases); i++) {
        struct disk_config disk;
        struct error err = {0};
        assert_true(disk_config_parse(cases[i].text, &disk, &err) < 0);
        if (!strstr(err.message, cases[i].message)) {
            fail_msg("%s: %s", cases[i].text, err.message);
        }
    }
}

static void test_long_name(void **state)
{
    static char text[CONFIG_DISK_PATH_MAX + 10];
    struct disk_config disk;
    struct error err;
    memset(text, 'x', CONFIG_DISK_PATH_MAX - 1);
    assert_int_equal(disk_config_parse(text, &disk, &err), 0);
    assert_int_equal(strlen(disk.path), CONFIG_DISK_PATH_MAX - 1);
    text[CONFIG_DISK_PATH_MAX - 1] = 'x';
    assert_true(disk_config_parse(text, &disk, &err) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_descriptions),
        cmocka_unit_test(test_mistakes),
        cmocka_unit_test(test_long_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
