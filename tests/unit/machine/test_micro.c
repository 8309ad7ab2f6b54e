/* The machine as a whole, its processor played by the script engine. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dispatcher/vcpu.h"
#include "engine/script/script.h"
#include "machine/machine.h"
#include "machine/memory_map.h"
#include "machine/micro.h"

#include <cmocka.h>

#define RAM (16ull << 20)

static char kernel_path[] = "/tmp/doppel-micro-XXXXXX";
static struct machine_config config;
static struct vm *vm;
static char output[256];
static unsigned output_size, rooms;
static struct error err;

static unsigned console_write(void *opaque, const uint8_t *data, unsigned size)
{
    assert_true(output_size + size <= sizeof(output));
    memcpy(output + output_size, data, size);
    output_size += size;
    return size;
}

static void console_room(void *opaque)
{
    rooms++;
}

/* The smallest kernel: an ELF file that fills 4 bytes at 2M. */
static int make_kernel(void)
{
    static const uint8_t elf[0x7c] = {
        0x7f, 'E', 'L', 'F', 2, 1,
        1, [16] = 2, [18] = 62, [20] = 1, [26] = 0x20, [32] = 64, [54] = 56, [56] = 1,
        /* program header: PT_LOAD from 0x78 to 2M, 4 bytes */
        [64] = 1, [64 + 8] = 0x78, [64 + 26] = 0x20, [64 + 32] = 4,
        [64 + 40] = 4, [0x78] = 'c', 'o', 'd', 'e'};
    memcpy(kernel_path, "/tmp/doppel-micro-XXXXXX", sizeof(kernel_path));
    int fd = mkstemp(kernel_path);
    ssize_t written = write(fd, elf, sizeof(elf));
    close(fd);
    return written == sizeof(elf) ? 0 : -1;
}

static int setup(void **state)
{
    config = (struct machine_config){
        .cpus = 2, .memory = RAM, .kernel = kernel_path, .debug_exit = true};
    output_size = rooms = 0;
    err = (struct error){0};
    return make_kernel();
}

static int teardown(void **state)
{
    vm_free(vm);
    vm = NULL;
    unlink(kernel_path);
    return 0;
}

static void build(void)
{
    const struct console_port console = {console_write, console_room, NULL};
    struct vm_config vm_config = {.memory_limit = RAM,
                                  .cpus = config.cpus,
                                  .engine = &engine_script,
                                  .no_reboot = config.no_reboot};
    const struct cpuid_config cpuid = {.cpus = config.cpus};
    assert_int_equal(cpuid_policy_init(&vm_config.cpuid, &cpuid, &err), 0);
    vm = vm_new(&vm_config, &err);
    assert_non_null(vm);
    if (machine_micro.build(vm, &config, &console, &err) < 0) {
        fail_msg("%s", err.message);
    }
}

static struct vm_end run(const struct script_step *steps)
{
    build();
    script_set(vm->vcpu[0]->engine, steps);
    if (vm_start(vm, &err) < 0) {
        fail_msg("%s", err.message);
    }
    struct vm_end end = vm_run(vm);
    struct script_failure failure = script_failed(vm->vcpu[0]->engine);
    if (failure.has_failed) {
        fail_msg("step %u: expected 0x%lx, got 0x%lx", failure.step, failure.expected,
                 failure.got);
    }
    return end;
}

static void test_serial_output_reaches_the_console(void **state)
{
    static const struct script_step steps[] = {
        SCRIPT_OUT(0x3f8, 1, 'h'), SCRIPT_OUT(0x3f8, 1, 'i'), SCRIPT_OUT(0xe9, 1, '!'),
        SCRIPT_OUT(0xf4, 1, 7),    {.op = SCRIPT_END},
    };
    struct vm_end end = run(steps);
    assert_int_equal(end.reason, VM_END_DEBUG_EXIT);
    assert_int_equal(end.value, 7);
    assert_int_equal(output_size, 3);
    assert_memory_equal(output, "hi!", 3);
}

static void type_two(void *opaque, struct engine_vcpu *vcpu)
{
    assert_int_equal(machine_console_input(vm, (const uint8_t *)"ab", 2), 1);
    assert_int_equal(rooms, 0);
}

static void test_console_hears_that_the_serial_port_has_room(void **state)
{
    const struct script_step steps[] = {
        {.op = SCRIPT_CALL, .function = type_two},
        SCRIPT_IN(0x3f8, 1, 'a'),
        SCRIPT_OUT(0xf4, 1, 1),
        {.op = SCRIPT_END},
    };
    run(steps);
    assert_int_equal(rooms, 1);
}

static void test_soft_off_by_the_value_of_s5(void **state)
{
    static const struct script_step steps[] = {
        SCRIPT_OUT(0x604, 2, 0x2000 | 5 << 10),
        {.op = SCRIPT_END},
    };
    assert_int_equal(run(steps).reason, VM_END_POWEROFF);
}

static void scribble(void *opaque, struct engine_vcpu *vcpu)
{
    unsigned *runs = opaque;
    assert_memory_equal(ram_map(vm->memory, 0x200000, 4, false), "code", 4);
    ram_write(vm->memory, 0x200000, "????", 4);
    unlink(kernel_path);
    if (++*runs == 2) {
        vm_request_end(vm, VM_END_REQUEST, 42, NULL);
    }
}

static void test_reset_loads_the_kernel_again(void **state)
{
    unsigned runs = 0;
    const struct script_step steps[] = {
        {.op = SCRIPT_CALL, .function = scribble, .opaque = &runs},
        SCRIPT_OUT(0xcf9, 1, 6),
        {.op = SCRIPT_END},
    };
    struct vm_end end = run(steps);
    assert_int_equal(end.reason, VM_END_REQUEST);
    assert_int_equal(end.value, 42);
    assert_int_equal(runs, 2);
}

/* The dword at cf8h covers the reset register and must not write it. */
static void test_pci_probing_does_not_reset(void **state)
{
    static const struct script_step steps[] = {
        SCRIPT_OUT(0xcf8, 4, 0x80000600),
        SCRIPT_IN(0xcf8, 4, 0xffffffff),
        SCRIPT_IN(0xcfc, 4, 0xffffffff),
        SCRIPT_OUT(0xf4, 1, 1),
        {.op = SCRIPT_END},
    };
    config.no_reboot = true;
    assert_int_equal(run(steps).reason, VM_END_DEBUG_EXIT);
}

static void test_unanswered_ports_read_ones(void **state)
{
    static const struct script_step steps[] = {
        SCRIPT_OUT(0x80, 1, 0x55),
        SCRIPT_IN(0x2f8, 1, 0xff),
        SCRIPT_IN(0x80, 1, 0xff),
        SCRIPT_IN(0x4000, 4, 0xffffffff),
        SCRIPT_LOAD(MAP_IOAPIC, 4, 0),
        SCRIPT_OUT(0xf4, 1, 1),
        {.op = SCRIPT_END},
    };
    assert_int_equal(run(steps).reason, VM_END_DEBUG_EXIT);
}

/* Bit 1 says that a crash kernel follows, others nothing. */
static void test_reported_panic_ends_the_machine_as_crashed(void **state)
{
    static const struct script_step steps[] = {
        SCRIPT_IN(0x505, 1, 3), SCRIPT_OUT(0x505, 1, 0xfc), SCRIPT_OUT(0x505, 1, 2),
        SCRIPT_IN(0x505, 1, 3), SCRIPT_OUT(0x505, 1, 1),    {.op = SCRIPT_END},
    };
    struct vm_end end = run(steps);
    assert_int_equal(end.reason, VM_END_CRASH);
    assert_string_equal(end.message, "it reported a panic");
}

static void test_debug_exit_only_by_option(void **state)
{
    static const struct script_step steps[] = {
        SCRIPT_OUT(0xf4, 1, 1),
        SCRIPT_IN(0xf4, 1, 0xff),
        SCRIPT_OUT(0x604, 2, 0x2000 | 5 << 10),
        {.op = SCRIPT_END},
    };
    config.debug_exit = false;
    assert_int_equal(run(steps).reason, VM_END_POWEROFF);
}

static void test_tables_are_where_the_firmware_leaves_them(void **state)
{
    static const struct script_step steps[] = {
        SCRIPT_OUT(0xf4, 1, 1),
        {.op = SCRIPT_END},
    };
    run(steps);
    assert_memory_equal(ram_map(vm->memory, MAP_BIOS_AREA, 8, false), "RSD PTR ", 8);
    struct x86_state other;
    engine_script.get_state(vm->vcpu[1]->engine, &other);
    assert_int_equal(other.mtrr.default_type, 0x806);
    assert_int_equal(other.mtrr.variable[0].base, 0xc0000000);
}

#define MICRO_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        MICRO_TEST(test_serial_output_reaches_the_console),
        MICRO_TEST(test_console_hears_that_the_serial_port_has_room),
        MICRO_TEST(test_soft_off_by_the_value_of_s5),
        MICRO_TEST(test_reset_loads_the_kernel_again),
        MICRO_TEST(test_pci_probing_does_not_reset),
        MICRO_TEST(test_unanswered_ports_read_ones),
        MICRO_TEST(test_reported_panic_ends_the_machine_as_crashed),
        MICRO_TEST(test_debug_exit_only_by_option),
        MICRO_TEST(test_tables_are_where_the_firmware_leaves_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
