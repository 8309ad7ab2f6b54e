/* The machine `pc`: what it has at which addresses, seen from its buses. */

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
#include "machine/board.h"
#include "machine/memory_map.h"
#include "machine/pc.h"

#include <cmocka.h>

#define RAM (16ull << 20)

static char kernel_path[32];
static struct machine_config config;
static struct vm *vm;
static char output[64];
static unsigned output_size;
static struct error err;

static unsigned console_write(void *opaque, const uint8_t *data, unsigned size)
{
    memcpy(output + output_size, data, size);
    output_size += size;
    return size;
}

/* The smallest multiboot kernel: its header and a few bytes, at 1M. */
static int make_kernel(void)
{
    static const uint32_t file[] = {0x1badb002, 1u << 16, 0u - 0x1badb002 - (1u << 16),
                                    0x100000,   0x100000, 0,
                                    0,          0x100020, 0xf4f4f4f4};
    strcpy(kernel_path, "/tmp/doppel-pc-XXXXXX");
    int fd = mkstemp(kernel_path);
    ssize_t written = write(fd, file, sizeof(file));
    close(fd);
    return written == sizeof(file) ? 0 : -1;
}

static int setup(void **state)
{
    config = (struct machine_config){.machine = "pc", .cpus = 2, .memory = RAM};
    config.kernel = kernel_path;
    config.debug_exit = true;
    output_size = 0;
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
    const struct console_port console = {console_write, NULL, NULL};
    struct vm_config vm_config = {.memory_limit = board_memory_size(&config),
                                  .cpus = config.cpus,
                                  .engine = &engine_script};
    const struct cpuid_config cpuid = {.cpus = config.cpus};
    assert_int_equal(cpuid_policy_init(&vm_config.cpuid, &cpuid, &err), 0);
    vm = vm_new(&vm_config, &err);
    assert_non_null(vm);
    if (machine_pc.build(vm, &config, &console, &err) < 0 ||
        vm->boot(vm->boot_opaque, vm, &err) < 0) {
        fail_msg("%s", err.message);
    }
}

static uint64_t in(struct bus *bus, uint64_t address, unsigned size)
{
    uint64_t value = 0;
    bus_access(bus, address, size, false, (uint8_t *)&value);
    return value;
}

static void out(struct bus *bus, uint64_t address, unsigned size, uint64_t value)
{
    bus_access(bus, address, size, true, (uint8_t *)&value);
}

static void test_pci_functions_have_addresses(void **state)
{
    build();
    out(&vm->ports, 0xcf8, 4, 0x80000000);
    assert_int_equal(in(&vm->ports, 0xcfc, 4), 0x12378086);
    out(&vm->ports, 0xcf8, 4, 0x80002000);
    assert_int_equal(in(&vm->ports, 0xcfc, 4), 0x00051b36);
    out(&vm->ports, 0xcf8, 4, 0x80002010);
    assert_int_equal(in(&vm->ports, 0xcfc, 4), MAP_PCI_MEMORY);
    out(&vm->mmio, MAP_PCI_MEMORY, 1, 0);
    assert_int_equal(in(&vm->mmio, MAP_PCI_MEMORY + 1, 1), 1);
}

static void test_firmware_configuration(void **state)
{
    build();
    out(&vm->ports, 0x510, 2, 5);
    assert_int_equal(in(&vm->ports, 0x511, 1), 2);
    out(&vm->ports, 0x510, 2, 3);
    uint8_t size[8];
    bus_repeat(&vm->ports, 0x511, 1, 8, false, size);
    assert_int_equal(size[3], RAM >> 24);
    assert_int_equal(size[0] | size[1] | size[2] | size[4], 0);
}

static void test_adapter_memory_is_ram(void **state)
{
    build();
    uint16_t cell = 0x0741;
    assert_true(ram_write(vm->memory, 0xb8000, &cell, sizeof(cell)));
    assert_int_equal(memory_frame(vm->memory, 0xc0000, NULL), FRAME_NONE);
    assert_int_equal(in(&vm->mmio, 0xc0000, 2), 0xffff);
}

static void test_firmware_console(void **state)
{
    build();
    out(&vm->ports, 0x402, 1, '!');
    assert_int_equal(in(&vm->ports, 0x402, 1), 0xe9);
    assert_int_equal(output_size, 1);
    assert_int_equal(output[0], '!');
}

static void test_test_devices_only_with_debug_exit(void **state)
{
    build();
    out(&vm->ports, 0xe0, 4, 0x12345678);
    assert_int_equal(in(&vm->ports, 0xe0, 4), 0x12345678);
    out(&vm->mmio, MAP_TEST_MEMORY + 8, 4, 0x1234);
    assert_int_equal(in(&vm->mmio, MAP_TEST_MEMORY + 8, 4), 0x1234);
    out(&vm->ports, 0x200b, 1, 1);
    assert_int_equal(in(&vm->ports, 0x200b, 1), 1);
    /* What the page holds outlives that the host forgets its mapping. */
    uint32_t value = 0xabcdef;
    assert_true(ram_write(vm->memory, 0x300010, &value, 4));
    out(&vm->ports, 0xe4, 4, 0x300000);
    value = 0;
    assert_true(ram_read(vm->memory, 0x300010, &value, 4));
    assert_int_equal(value, 0xabcdef);
    vm_free(vm);
    config.debug_exit = false;
    build();
    assert_int_equal(in(&vm->ports, 0xe0, 4), 0xffffffff);
    out(&vm->ports, 0xcf8, 4, 0x80002000);
    assert_int_equal(in(&vm->ports, 0xcfc, 4), 0xffffffff);
}

static uint64_t guest(gpa_t gpa, unsigned size)
{
    uint64_t value = 0;
    assert_true(ram_read(vm->memory, gpa, &value, size));
    return value;
}

/* For code in real mode, as firmware would leave it. */
static void test_real_mode_finds_a_bios(void **state)
{
    build();
    assert_int_equal(guest(0x08 * 4, 4), 0xf000fea5);
    assert_int_equal(guest(0xffea5 + 20, 1), 0xcf);
    assert_int_equal(guest(0x21 * 4, 4), 0xf000ff53);
    assert_int_equal(guest(0xfff53, 1), 0xcf);
    assert_int_equal(guest(0x73 * 4, 4), 0xf000ff70);
    assert_int_equal(guest(0x413, 2), 639);
    assert_int_equal(guest(0x40e, 2) << 4, MAP_EBDA);
    assert_int_equal(in(&vm->ports, 0x21, 1), 0xfa);
    assert_int_equal(in(&vm->ports, 0xa1, 1), 0xff);
    /* The timer's interrupt reaches the processor by the 8259. */
    struct irq_line timer = vm_gsi(vm, 0);
    irq_set(&timer, 0);
    irq_set(&timer, 1);
    assert_int_equal(lapic_pending(&vm->vcpu[0]->lapic), LAPIC_EXTINT);
    assert_int_equal(vm->intack(vm->intack_opaque), 0x08);
}

/* A file of that size, numbered by its 64-bit words; the caller unlinks it. */
static void make_firmware(char path[32], uint64_t size)
{
    strcpy(path, "/tmp/doppel-rom-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    uint64_t *words = calloc(1, size + 8);
    for (uint64_t i = 0; i < size / 8; i++) {
        words[i] = i;
    }
    assert_int_equal(write(fd, words, size), size);
    free(words);
    close(fd);
}

static void test_firmware_is_below_4g_and_below_1m(void **state)
{
    static const uint64_t sizes[] = {0x10000, 0x20000, 0x30000, 0x100000};
    for (unsigned i = 0; i < array_size(sizes); i++) {
        char path[32];
        make_firmware(path, sizes[i]);
        config.kernel = NULL;
        config.firmware = path;
        build();
        uint64_t low = sizes[i] < 0x20000 ? sizes[i] : 0x20000;
        assert_int_equal(guest(0x100000000 - sizes[i], 8), 0);
        assert_int_equal(guest(0xfffffff8, 8), sizes[i] / 8 - 1);
        assert_int_equal(guest(0xffff8, 8), sizes[i] / 8 - 1);
        assert_int_equal(guest(0x100000 - low, 8), (sizes[i] - low) / 8);
        if (low < 0x20000) {
            assert_int_equal(memory_frame(vm->memory, 0xe0000, NULL), FRAME_NONE);
            assert_int_equal(in(&vm->mmio, 0xe0000, 4), 0xffffffff);
        }
        uint8_t byte = 0;
        assert_false(ram_write(vm->memory, 0xffff0, &byte, 1)); /* ROM */
        struct x86_state entry;
        vm->engine_ops->get_state(vm->vcpu[0]->engine, &entry);
        assert_int_equal(entry.seg[X86_CS].base + entry.rip, 0xfffffff0);
        vm_free(vm);
        vm = NULL;
        unlink(path);
    }
}

static void set_pam(unsigned offset, uint8_t value)
{
    out(&vm->ports, 0xcf8, 4, 0x80000000 | (offset & ~3u));
    out(&vm->ports, 0xcfc + offset % 4, 1, value);
}

/* As SeaBIOS does it: the ROM is copied into the RAM behind it. */
static void test_firmware_is_shadowed(void **state)
{
    char path[32];
    make_firmware(path, 0x20000);
    config.kernel = NULL;
    config.firmware = path;
    build();
    uint64_t value = 0x1234;
    set_pam(0x59, 0x20); /* reads reach the ROM, writes the RAM */
    assert_true(ram_write(vm->memory, 0xf0000, &value, 8));
    assert_int_equal(guest(0xf0000, 8), 0x2000);
    set_pam(0x59, 0x10); /* reads the RAM, writes nothing */
    assert_int_equal(guest(0xf0000, 8), 0x1234);
    assert_false(ram_write(vm->memory, 0xf0000, &value, 8));
    assert_int_equal(guest(0xe0000, 8), 0);
    set_pam(0x59, 0x30);
    value = 0x5678;
    assert_true(ram_write(vm->memory, 0xf0000, &value, 8));
    assert_int_equal(guest(0xf0000, 8), 0x5678);
    set_pam(0x5a, 0x33); /* below, there is no ROM */
    value = 0x9abc;
    assert_true(ram_write(vm->memory, 0xc4000, &value, 8));
    assert_int_equal(guest(0xc4000, 8), 0x9abc);
    /* A reset shows the ROM again. */
    for (unsigned i = 0; i < vm->device_count; i++) {
        device_reset(vm->device[i]);
    }
    assert_int_equal(guest(0xf0000, 8), 0x2000);
    assert_int_equal(guest(0xfffffff8, 8), 0x3fff);
    assert_int_equal(memory_frame(vm->memory, 0xc4000, NULL), FRAME_NONE);
    unlink(path);
}

static void test_the_gate(void **state)
{
    build();
    assert_int_equal(memory_bus_address(vm->memory, 0x100000), 0x100000);
    out(&vm->ports, 0x92, 1, 0);
    assert_int_equal(memory_bus_address(vm->memory, 0x100000), 0);
    out(&vm->ports, 0x64, 1, 0xd1);
    out(&vm->ports, 0x60, 1, 0xdf);
    assert_int_equal(memory_bus_address(vm->memory, 0x100000), 0x100000);
    out(&vm->ports, 0x64, 1, 0xdd);
    assert_int_equal(memory_bus_address(vm->memory, 0x100000), 0);
    for (unsigned i = 0; i < vm->device_count; i++) {
        device_reset(vm->device[i]);
    }
    assert_int_equal(memory_bus_address(vm->memory, 0x100000), 0x100000);
}

static void assert_refused(const char *text)
{
    const struct console_port console = {console_write, NULL, NULL};
    err = (struct error){0};
    assert_null(machine_new(&config, &console, &err));
    if (!strstr(err.message, text)) {
        fail_msg("\"%s\" does not say \"%s\"", err.message, text);
    }
}

static void test_firmware_that_is_refused(void **state)
{
    char path[32];
    config.engine = "interpreter";
    config.firmware = kernel_path;
    assert_refused("give it or --kernel");
    config.kernel = NULL;
    assert_refused("a multiple of 64 KiB");
    config.machine = "micro";
    assert_refused("use --machine pc");
    config.machine = "pc";
    make_firmware(path, 0x1010000);
    config.firmware = path;
    assert_refused("16 MiB is the limit");
    unlink(path);
    assert_refused("--firmware /tmp/doppel-rom-");
    make_firmware(path, 0x1000000);
    assert_refused("with --debug-exit it can have 16320 KiB");
    unlink(path);
}

static void test_post_codes_can_be_read_back(void **state)
{
    build();
    out(&vm->ports, 0x80, 1, 0x5a);
    assert_int_equal(in(&vm->ports, 0x190, 1), 0x5a);
    out(&vm->ports, 0x190, 1, 0xa5);
    assert_int_equal(in(&vm->ports, 0x80, 1), 0xa5);
}

static void test_every_row_answers(void **state)
{
    build();
    for (const struct board_device *row = machine_pc.devices; row->name; row++) {
        uint64_t missed =
            row->is_mmio ? vm->mmio.lookups_missed : vm->ports.lookups_missed;
        in(row->is_mmio ? &vm->mmio : &vm->ports, row->address, 1);
        assert_int_equal(
            row->is_mmio ? vm->mmio.lookups_missed : vm->ports.lookups_missed, missed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_pci_functions_have_addresses, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_firmware_configuration, setup, teardown),
        cmocka_unit_test_setup_teardown(test_adapter_memory_is_ram, setup, teardown),
        cmocka_unit_test_setup_teardown(test_firmware_console, setup, teardown),
        cmocka_unit_test_setup_teardown(test_test_devices_only_with_debug_exit, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_real_mode_finds_a_bios, setup, teardown),
        cmocka_unit_test_setup_teardown(test_firmware_is_below_4g_and_below_1m, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_firmware_is_shadowed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_gate, setup, teardown),
        cmocka_unit_test_setup_teardown(test_firmware_that_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_post_codes_can_be_read_back, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_every_row_answers, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
