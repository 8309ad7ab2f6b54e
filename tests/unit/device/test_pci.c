/* Configuration mechanism 1, base address registers, windows, PAM and pci-testdev. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include "device/pci/pci_host.h"
#include "device/pci/pci_testdev.h"

#include <cmocka.h>

#define SLOT        4u
#define PORT_BASE   0xc000u
#define MEMORY_BASE 0xe0000000u

static struct pci_host *host;
static struct pci_testdev *testdev;
static struct region address, data, ports, memory;
static struct error err;
static unsigned pam_range, pam_attributes, pam_calls;
static uint8_t reset_value;
static struct device reset_device;

static void pam_changed(void *opaque, unsigned range, unsigned attributes)
{
    pam_range = range;
    pam_attributes = attributes;
    pam_calls++;
}

static uint64_t reset_read(struct device *device, uint64_t offset, unsigned size)
{
    return reset_value;
}

static void reset_write(struct device *device, uint64_t offset, unsigned size,
                        uint64_t value)
{
    reset_value = (uint8_t)value;
}

static int setup(void **state)
{
    static const struct device_type reset_type = {.name = "reset"};
    device_init(&reset_device, &reset_type, "reset");
    const struct pci_host_config config = {
        .port_base = PORT_BASE,
        .port_size = 0x4000,
        .memory_base = MEMORY_BASE,
        .memory_size = 0x10000000,
        .reset = {&reset_device, 0xcf9, 1, 1, 1, reset_read, reset_write},
        .pam_changed = pam_changed,
    };
    host = pci_host_new("pci", &config, &err);
    testdev = pci_testdev_new("pci-testdev", &err);
    pci_host_add(host, SLOT, pci_testdev_function(testdev));
    address = pci_host_address_region(host);
    data = pci_host_data_region(host);
    ports = pci_host_port_window(host);
    memory = pci_host_memory_window(host);
    pam_calls = 0;
    reset_value = 0;
    return 0;
}

static int teardown(void **state)
{
    pci_testdev_device(testdev)->type->free(pci_testdev_device(testdev));
    pci_host_device(host)->type->free(pci_host_device(host));
    device_fini(&reset_device);
    return 0;
}

static void select_register(unsigned slot, unsigned offset)
{
    address.write(address.device, 0, 4, 0x80000000u | slot << 11 | (offset & 0xfc));
}

static uint32_t config_read(unsigned slot, unsigned offset, unsigned size)
{
    select_register(slot, offset);
    uint64_t value = data.read(data.device, offset & 3, size);
    return (uint32_t)(size == 4 ? value : value & ((1u << (8 * size)) - 1));
}

static void config_write(unsigned slot, unsigned offset, unsigned size, uint32_t value)
{
    select_register(slot, offset);
    data.write(data.device, offset & 3, size, value);
}

static void test_identities(void **state)
{
    assert_int_equal(config_read(0, PCI_VENDOR, 4), 0x12378086);
    assert_int_equal(config_read(0, PCI_CLASS + 1, 2), 0x0600);
    assert_int_equal(config_read(SLOT, PCI_VENDOR, 4), 0x00051b36);
    assert_int_equal(config_read(SLOT, PCI_HEADER_TYPE, 1), 0);
    config_write(SLOT, PCI_VENDOR, 4, 0);
    assert_int_equal(config_read(SLOT, PCI_VENDOR, 4), 0x00051b36);
}

static void test_nobody_answers(void **state)
{
    assert_int_equal(config_read(1, PCI_VENDOR, 4), 0xffffffff);
    /* Another bus, another function, not enabled. */
    static const uint32_t addresses[] = {0x80010000, 0x80000100, 0x00000000};
    for (unsigned i = 0; i < array_size(addresses); i++) {
        address.write(address.device, 0, 4, addresses[i]);
        assert_int_equal((uint32_t)data.read(data.device, 0, 4), 0xffffffff);
        data.write(data.device, 0, 4, 0x12345678);
    }
    assert_int_equal(config_read(0, PCI_VENDOR, 4), 0x12378086);
}

static void test_only_double_words_are_the_address(void **state)
{
    select_register(SLOT, PCI_VENDOR);
    address.write(address.device, 0, 1, 0x12);
    address.write(address.device, 0, 2, 0x1234);
    assert_int_equal(address.read(address.device, 0, 4), 0x80002000);
    /* Reserved bits stay 0. */
    address.write(address.device, 0, 4, 0xffffffff);
    assert_int_equal(address.read(address.device, 0, 4), 0x80fffffc);
    assert_int_equal((uint8_t)address.read(address.device, 0, 1), 0xff);
}

static void test_reset_register_is_in_the_midst(void **state)
{
    address.write(address.device, 1, 1, 6);
    assert_int_equal(reset_value, 6);
    assert_int_equal(address.read(address.device, 1, 1), 6);
    assert_int_equal(address.read(address.device, 0, 4), 0);
}

static void test_sizes_of_base_addresses(void **state)
{
    config_write(SLOT, PCI_BAR, 4, 0xffffffff);
    config_write(SLOT, PCI_BAR + 4, 4, 0xffffffff);
    config_write(SLOT, PCI_BAR + 8, 4, 0xffffffff);
    assert_int_equal(config_read(SLOT, PCI_BAR, 4), 0xfffff000);
    assert_int_equal(config_read(SLOT, PCI_BAR + 4, 4), 0xffffff01);
    assert_int_equal(config_read(SLOT, PCI_BAR + 8, 4), 0);
}

static void test_command_switches_decoding(void **state)
{
    assert_int_equal(pci_host_assign(host, &err), 0);
    assert_int_equal(config_read(SLOT, PCI_BAR, 4), MEMORY_BASE);
    assert_int_equal(config_read(SLOT, PCI_BAR + 4, 4), PORT_BASE | 1);
    memory.write(memory.device, 0, 1, 0);
    assert_int_equal(memory.read(memory.device, 1, 1), 1);
    config_write(SLOT, PCI_COMMAND, 2, PCI_COMMAND_IO);
    assert_int_equal((uint8_t)memory.read(memory.device, 1, 1), 0xff);
    assert_int_equal(ports.read(ports.device, 1, 1), 1);
    config_write(SLOT, PCI_COMMAND, 2, 0);
    assert_int_equal((uint8_t)ports.read(ports.device, 1, 1), 0xff);
}

static void test_a_register_moves(void **state)
{
    pci_host_assign(host, &err);
    config_write(SLOT, PCI_BAR, 4, MEMORY_BASE + 0x5000);
    memory.write(memory.device, 0x5000, 1, 0);
    assert_int_equal(memory.read(memory.device, 0x5001, 1), 1);
    assert_int_equal((uint8_t)memory.read(memory.device, 1, 1), 0xff);
}

static void test_no_room(void **state)
{
    const struct pci_host_config config = {.memory_base = MEMORY_BASE,
                                           .memory_size = 0x800,
                                           .port_base = PORT_BASE,
                                           .port_size = 0x100};
    struct pci_host *small = pci_host_new("small", &config, &err);
    pci_host_add(small, 1, pci_testdev_function(testdev));
    assert_true(pci_host_assign(small, &err) < 0);
    assert_non_null(strstr(err.message, "pci-testdev"));
    pci_host_device(small)->type->free(pci_host_device(small));
}

/* Selects a test and does its write n times; the count that the device then tells. */
static uint32_t count_of(const struct region *window, unsigned test, unsigned n,
                         uint32_t value)
{
    window->write(window->device, 0, 1, test);
    uint32_t offset = (uint32_t)window->read(window->device, 4, 4);
    for (unsigned i = 0; i < n; i++) {
        window->write(window->device, offset, 1, value);
    }
    return (uint32_t)window->read(window->device, 12, 4);
}

static void test_testdev_counts(void **state)
{
    pci_host_assign(host, &err);
    static const char *const kinds[] = {"no-eventfd", "wildcard-eventfd",
                                        "datamatch-eventfd"};
    const struct region *const windows[] = {&memory, &ports};
    for (unsigned i = 0; i < 2; i++) {
        for (unsigned test = 0; test < 3; test++) {
            char name[32] = {0};
            assert_int_equal(count_of(windows[i], test, 16, 0xfa), 16);
            assert_int_equal(count_of(windows[i], test, 16, 0x11), test == 1 ? 16 : 0);
            for (unsigned n = 0; n < sizeof(name); n++) {
                name[n] = (char)windows[i]->read(windows[i]->device, 16 + n, 1);
            }
            assert_non_null(strstr(name, kinds[test]));
            assert_int_equal(name[0], i == 0 ? 'm' : 'p');
        }
        windows[i]->write(windows[i]->device, 0, 1, 3); /* there is none */
        assert_int_equal(windows[i]->read(windows[i]->device, 1, 1), 0);
    }
}

static void test_pam(void **state)
{
    uint64_t base, size;
    pci_host_pam_range(12, &base, &size);
    assert_int_equal(base, 0xf0000);
    assert_int_equal(size, 0x10000);
    pci_host_pam_range(3, &base, &size);
    assert_int_equal(base, 0xcc000);
    assert_int_equal(size, 0x4000);

    config_write(0, 0x59, 1, 0xff);
    assert_int_equal(pam_calls, 1);
    assert_int_equal(pam_range, 12);
    assert_int_equal(pam_attributes, PCI_PAM_READ | PCI_PAM_WRITE);
    assert_int_equal(config_read(0, 0x59, 1), 0x30);
    config_write(0, 0x5b, 1, 0x20); /* cc000h: write only */
    assert_int_equal(pam_calls, 2);
    assert_int_equal(pam_range, 3);
    assert_int_equal(pam_attributes, PCI_PAM_WRITE);
    assert_int_equal(pci_host_pam(host, 3), PCI_PAM_WRITE);
    device_reset(pci_host_device(host));
    assert_int_equal(pam_calls, 4);
    assert_int_equal(pci_host_pam(host, 12), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_identities, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nobody_answers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_only_double_words_are_the_address, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_reset_register_is_in_the_midst, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_sizes_of_base_addresses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_command_switches_decoding, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_register_moves, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_room, setup, teardown),
        cmocka_unit_test_setup_teardown(test_testdev_counts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pam, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
