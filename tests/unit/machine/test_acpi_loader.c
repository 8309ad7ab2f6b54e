/* The firmware's side of the linker and loader: places the files as the commands say, and
 * finds the tables whole. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/scope.h"
#include "machine/acpi_loader.h"

#include <cmocka.h>

#define FILES 8u
#define NAME  56u

struct file {
    char name[NAME];
    uint8_t *data;
    uint32_t size;
    uint64_t address; /* where it was placed */
};

static struct memory *memory;
static struct fw_cfg *fw_cfg;
static struct region ports;
static struct file file[FILES];
static unsigned file_count;
static struct error err;

static void read_item(uint16_t key, void *buffer, uint32_t size)
{
    uint8_t *bytes = buffer;
    ports.write(ports.device, 0, 2, key);
    for (uint32_t i = 0; i < size; i++) {
        bytes[i] = (uint8_t)ports.read(ports.device, 1, 1);
    }
}

static uint32_t big_endian(const uint8_t *at, unsigned size)
{
    uint32_t value = 0;
    for (unsigned i = 0; i < size; i++) {
        value = value << 8 | at[i];
    }
    return value;
}

static void read_files(void)
{
    uint8_t directory[4 + FILES * 64];
    read_item(FW_CFG_DIRECTORY, directory, sizeof(directory));
    file_count = big_endian(directory, 4);
    assert_in_range(file_count, 1, FILES);
    for (unsigned i = 0; i < file_count; i++) {
        const uint8_t *entry = directory + 4 + i * 64;
        strcpy(file[i].name, (const char *)entry + 8);
        file[i].size = big_endian(entry, 4);
        file[i].data = calloc(1, file[i].size);
        file[i].address = 0;
        read_item((uint16_t)big_endian(entry + 4, 2), file[i].data, file[i].size);
    }
}

static struct file *find_file(const char *name)
{
    for (unsigned i = 0; i < file_count; i++) {
        if (strcmp(file[i].name, name) == 0) {
            return &file[i];
        }
    }
    fail_msg("no file %s", name);
    return NULL;
}

static uint32_t number(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof(value));
    return value;
}

static uint8_t sum(const uint8_t *at, uint32_t size)
{
    uint8_t total = 0;
    while (size--) {
        total = (uint8_t)(total + *at++);
    }
    return total;
}

static void allocate(const uint8_t *command)
{
    static uint64_t next = 0x7fe0000;
    struct file *target = find_file((const char *)command + 4);
    uint32_t alignment = number(command + 60);
    assert_true(alignment && !(alignment & (alignment - 1)));
    assert_in_range(command[64], 1, 2);
    assert_int_equal(target->address, 0);
    target->address = command[64] == 2 ? 0xf5000 : next;
    assert_int_equal(target->address % alignment, 0);
}

static void add_pointer(const uint8_t *command)
{
    struct file *target = find_file((const char *)command + 4);
    const struct file *to = find_file((const char *)command + 4 + NAME);
    uint32_t offset = number(command + 4 + 2 * NAME);
    uint8_t size = command[8 + 2 * NAME];
    uint64_t value = 0;
    assert_true(to->address && offset + size <= target->size && size <= 8);
    memcpy(&value, target->data + offset, size);
    assert_true(value < to->size);
    value += to->address;
    memcpy(target->data + offset, &value, size);
}

static void add_checksum(const uint8_t *command)
{
    struct file *target = find_file((const char *)command + 4);
    uint32_t offset = number(command + 60), start = number(command + 64);
    uint32_t length = number(command + 68);
    assert_true(offset < target->size && start + length <= target->size);
    target->data[offset] =
        (uint8_t)(target->data[offset] - sum(target->data + start, length));
}

static void run_commands(void)
{
    const struct file *commands = find_file("etc/table-loader");
    assert_int_equal(commands->size % 128, 0);
    for (uint32_t at = 0; at < commands->size; at += 128) {
        const uint8_t *command = commands->data + at;
        switch (number(command)) {
        case 1:
            allocate(command);
            break;
        case 2:
            add_pointer(command);
            break;
        case 3:
            add_checksum(command);
            break;
        default:
            fail_msg("command %u", number(command));
        }
    }
}

/* A table at an address, with its signature, and its sum zero. */
static const uint8_t *table_at(const uint8_t *pointer, unsigned size,
                               const char *signature)
{
    const struct file *tables = find_file("etc/acpi/tables");
    uint64_t address = 0;
    memcpy(&address, pointer, size);
    assert_in_range(address, tables->address, tables->address + tables->size - 36);
    const uint8_t *table = tables->data + (address - tables->address);
    assert_memory_equal(table, signature, 4);
    if (strcmp(signature, "FACS") != 0) { /* which has none */
        assert_int_equal(sum(table, number(table + 4)), 0);
    }
    return table;
}

static void test_tables_are_whole_where_they_are_placed(void **state)
{
    const struct acpi_virtio disk = {.base = 0xd0000000, .gsi = 16};
    const struct acpi_config config = {
        .cpus = 3, .has_pci = true, .virtio_count = 1, .virtio = &disk};
    assert_int_equal(acpi_loader_add(fw_cfg, &config, &err), 0);
    read_files();
    run_commands();
    const struct file *rsdp = find_file("etc/acpi/rsdp");
    assert_int_equal(rsdp->size, 36);
    assert_int_equal(rsdp->address, 0xf5000);
    assert_memory_equal(rsdp->data, "RSD PTR ", 8);
    assert_int_equal(sum(rsdp->data, 20), 0);
    assert_int_equal(sum(rsdp->data, 36), 0);
    const uint8_t *xsdt = table_at(rsdp->data + 24, 8, "XSDT");
    assert_int_equal(number(xsdt + 4), 36 + 2 * 8);
    const uint8_t *fadt = table_at(xsdt + 36, 8, "FACP");
    table_at(xsdt + 44, 8, "APIC");
    table_at(fadt + 36, 4, "FACS");
    const uint8_t *dsdt = table_at(fadt + 140, 8, "DSDT");
    assert_ptr_equal(table_at(fadt + 40, 4, "DSDT"), dsdt);
    assert_non_null(memmem(dsdt, number(dsdt + 4), "LNRO0005", 8));
    /* Nobody takes the place of the RSDP in the tables' file for another. */
    const struct file *tables = find_file("etc/acpi/tables");
    assert_null(memmem(tables->data, tables->size, "RSD PTR ", 8));
}

static int setup(void **state)
{
    memory = memory_new(0x1000, NULL);
    fw_cfg = fw_cfg_new("fw-cfg", memory, &err);
    assert_non_null(fw_cfg);
    ports = fw_cfg_region(fw_cfg, FW_CFG_PORT);
    return 0;
}

static int teardown(void **state)
{
    for (unsigned i = 0; i < file_count; i++) {
        free(file[i].data);
    }
    fw_cfg_device(fw_cfg)->type->free(fw_cfg_device(fw_cfg));
    memory_free(memory);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_tables_are_whole_where_they_are_placed,
                                        setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
