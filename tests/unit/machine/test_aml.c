#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "machine/aml.h"

#include <cmocka.h>

static uint8_t buffer[256];
static struct aml aml;

static int setup(void **state)
{
    aml_init(&aml, buffer, sizeof(buffer));
    return 0;
}

#define assert_written(...)                               \
    do {                                                  \
        const uint8_t expected_[] = {__VA_ARGS__};        \
        assert_int_equal(aml.size, sizeof(expected_));    \
        assert_memory_equal(buffer, expected_, aml.size); \
    } while (0)

static void test_integers_take_their_shortest_form(void **state)
{
    aml_integer(&aml, 0);
    aml_integer(&aml, 1);
    aml_integer(&aml, 0xff);
    aml_integer(&aml, 0x100);
    aml_integer(&aml, 0x10000);
    aml_integer(&aml, 0x100000000);
    assert_written(0x00, 0x01, 0x0a, 0xff, 0x0b, 0x00, 0x01, 0x0c, 0x00, 0x00, 0x01, 0x00,
                   0x0e, 0, 0, 0, 0, 1, 0, 0, 0);
}

static void test_eisa_id(void **state)
{
    aml_eisa_id(&aml, "PNP0501");
    assert_written(0x0c, 0x41, 0xd0, 0x05, 0x01);
}

static void test_device_length_covers_its_contents(void **state)
{
    uint32_t begin = aml_device_begin(&aml, "COM1");
    aml_name(&aml, "_UID");
    aml_integer(&aml, 1);
    aml_end(&aml, begin);
    /* 4 bytes of length, 4 of name, 6 of contents */
    assert_written(0x5b, 0x82, 0xce, 0x00, 0x00, 0x00, 'C', 'O', 'M', '1', 0x08, '_', 'U',
                   'I', 'D', 0x01);
}

static void test_resources_are_a_buffer_with_an_end_tag(void **state)
{
    uint32_t begin = aml_resources_begin(&aml);
    aml_resource_io(&aml, 0x3f8, 8);
    aml_resource_irq(&aml, 4);
    aml_resources_end(&aml, begin);
    assert_written(0x11, 0xc4, 0x01, 0x00, 0x00, 0x0b, 13, 0, 0x47, 1, 0xf8, 0x03, 0xf8,
                   0x03, 1, 8, 0x22, 0x10, 0x00, 0x79, 0x00);
}

static void test_windows(void **state)
{
    aml_resource_window(&aml, AML_WINDOW_IO, 0xc000, 0xffff);
    aml_resource_window(&aml, AML_WINDOW_MEMORY, 0xe0000000, 0xe0000fff);
    aml_resource_window(&aml, AML_WINDOW_BUS, 0, 0);
    assert_written(0x88, 13, 0, 1, 0x0c, 0x03, 0, 0, 0x00, 0xc0, 0xff, 0xff, 0, 0, 0x00,
                   0x40, 0x87, 23, 0, 0, 0x0c, 0x01, 0, 0, 0, 0, 0, 0, 0, 0xe0, 0xff,
                   0x0f, 0, 0xe0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0x88, 13, 0, 2, 0x0c, 0, 0,
                   0, 0, 0, 0, 0, 0, 0, 1, 0);
}

static void test_full_buffer_counts_on(void **state)
{
    aml_init(&aml, buffer, 4);
    buffer[4] = 0xcc;
    uint32_t begin = aml_scope_begin(&aml, "\\_SB_");
    aml_string(&aml, "text");
    aml_end(&aml, begin);
    assert_int_equal(aml.size, 16);
    assert_int_equal(buffer[4], 0xcc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_integers_take_their_shortest_form, setup),
        cmocka_unit_test_setup(test_eisa_id, setup),
        cmocka_unit_test_setup(test_device_length_covers_its_contents, setup),
        cmocka_unit_test_setup(test_resources_are_a_buffer_with_an_end_tag, setup),
        cmocka_unit_test_setup(test_windows, setup),
        cmocka_unit_test_setup(test_full_buffer_counts_on, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
