/* What is refused before anything is built, and with which words. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "machine/machine.h"

#include <cmocka.h>

static struct machine_config config;
static const struct console_port console;

static int setup(void **state)
{
    config = (struct machine_config){
        .cpus = 1, .memory = CONFIG_MEMORY_DEFAULT, .kernel = "/nonexistent/kernel"};
    return 0;
}

static void assert_refused(const char *text)
{
    struct error err = {0};
    assert_null(machine_new(&config, &console, &err));
    if (!strstr(err.message, text)) {
        fail_msg("\"%s\" does not say \"%s\"", err.message, text);
    }
    /* --dry-run says the same. */
    struct error dry = {0};
    assert_null(machine_describe(&config, &dry));
    assert_string_equal(dry.message, err.message);
}

static void test_memory(void **state)
{
    config.memory = 0;
    assert_refused("--memory 0: must be at least 2M");
    config.memory = 1 << 20;
    assert_refused("--memory 1M: must be at least 2M");
    config.memory = 3000001;
    assert_refused("--memory 3000001: must be a multiple of 4K");
    config.memory = 1ull << 50;
    assert_refused("this host has ");
    config.memory = UINT64_MAX - 4095;
    assert_refused("this host has ");
}

static void test_cpus(void **state)
{
    config.cpus = 0;
    assert_refused("--cpus 0: must be 1 to 16");
    config.cpus = 1000;
    assert_refused("--cpus 1000: must be 1 to 16");
}

static void test_names(void **state)
{
    config.machine = "pd";
    assert_refused("--machine pd: there is no such machine");
    config.machine = "micro";
    config.engine = "warp";
    assert_refused("--engine warp: there is no such engine");
}

static void test_no_kernel(void **state)
{
    config.kernel = NULL;
    assert_refused("give a kernel with --kernel FILE");
}

static void test_every_machine_is_found_by_name(void **state)
{
    for (unsigned i = 0; machine_table[i]; i++) {
        assert_ptr_equal(machine_find(machine_table[i]->name), machine_table[i]);
        assert_true(machine_table[i]->summary[0] != 0);
    }
    assert_null(machine_find("nothing"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_memory, setup),
        cmocka_unit_test_setup(test_cpus, setup),
        cmocka_unit_test_setup(test_names, setup),
        cmocka_unit_test_setup(test_no_kernel, setup),
        cmocka_unit_test_setup(test_every_machine_is_found_by_name, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
