/* An independent reading of the tables: follows the pointers as an operating system does.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "machine/acpi.h"
#include "machine/memory_map.h"

#include <cmocka.h>

#define BASE 0xe0000u

static uint8_t tables[0x10000];
static int used;

static uint64_t field(const uint8_t *at, unsigned offset, unsigned size)
{
    uint64_t value = 0;
    memcpy(&value, at + offset, size);
    return value;
}

static uint8_t sum(const uint8_t *at, unsigned size)
{
    uint8_t total = 0;
    while (size--) {
        total += *at++;
    }
    return total;
}

static const uint8_t *at(uint64_t address)
{
    assert_true(address >= BASE && address < BASE + (uint64_t)used);
    return tables + (address - BASE);
}

static void build(unsigned cpus)
{
    struct acpi_config config = {.cpus = cpus};
    struct error err;
    used = acpi_build(&config, BASE, tables, sizeof(tables), &err);
    assert_true(used > 0);
}

/* The table with that signature, its length and checksum checked. */
static const uint8_t *find(const char *signature)
{
    const uint8_t *xsdt = at(field(tables, 24, 8));
    assert_memory_equal(xsdt, "XSDT", 4);
    unsigned length = (unsigned)field(xsdt, 4, 4);
    assert_int_equal(sum(xsdt, length), 0);
    for (unsigned offset = 36; offset < length; offset += 8) {
        const uint8_t *table = at(field(xsdt, offset, 8));
        if (memcmp(table, signature, 4) == 0) {
            assert_int_equal(sum(table, (unsigned)field(table, 4, 4)), 0);
            return table;
        }
    }
    fail_msg("no %s", signature);
    return NULL;
}

static void test_root_pointer(void **state)
{
    build(1);
    assert_memory_equal(tables, "RSD PTR ", 8);
    assert_int_equal(tables[15], 2);
    assert_int_equal(sum(tables, 20), 0);
    assert_int_equal(sum(tables, 36), 0);
    assert_int_equal(field(tables, 20, 4), 36);
}

static void test_fixed_description(void **state)
{
    build(1);
    const uint8_t *fadt = find("FACP");
    assert_int_equal(field(fadt, 4, 4), 276);
    assert_int_equal(fadt[8], 6);
    assert_int_equal(field(fadt, 46, 2), GSI_SCI);
    assert_int_equal(field(fadt, 48, 4), 0);
    assert_int_equal(field(fadt, 56, 4), PORT_ACPI_PM);
    assert_int_equal(field(fadt, 64, 4), PORT_ACPI_PM + 4);
    assert_int_equal(field(fadt, 76, 4), PORT_ACPI_PM + 8);
    assert_int_equal(fadt[88], 4);
    assert_int_equal(fadt[89], 2);
    assert_int_equal(fadt[91], 4);
    assert_int_equal(fadt[108], 0x32);
    uint32_t flags = (uint32_t)field(fadt, 112, 4);
    assert_true(flags & 1u << 10);  /* reset register */
    assert_false(flags & 1u << 20); /* not hardware-reduced */
    assert_int_equal(fadt[116], 1); /* I/O space */
    assert_int_equal(fadt[117], 8);
    assert_int_equal(field(fadt, 120, 8), PORT_RESET);
    assert_int_equal(fadt[128], 6);
    assert_int_equal(field(fadt, 152, 8), PORT_ACPI_PM);     /* x_pm1a_event */
    assert_int_equal(field(fadt, 176, 8), PORT_ACPI_PM + 4); /* x_pm1a_control */
    assert_int_equal(field(fadt, 212, 8), PORT_ACPI_PM + 8); /* x_pm_timer */
    assert_int_equal(field(fadt, 40, 4), field(fadt, 140, 8));
    const uint8_t *dsdt = at(field(fadt, 40, 4));
    assert_memory_equal(dsdt, "DSDT", 4);
    assert_int_equal(sum(dsdt, (unsigned)field(dsdt, 4, 4)), 0);
    uint64_t facs = field(fadt, 36, 4);
    assert_int_equal(facs % 64, 0);
    assert_memory_equal(at(facs), "FACS", 4);
    assert_int_equal(field(at(facs), 4, 4), 64);
}

struct madt_counts {
    unsigned lapics, x2apics, ioapics, overrides, nmis, highest_id;
};

static struct madt_counts madt_count(void)
{
    struct madt_counts counts = {0};
    const uint8_t *madt = find("APIC");
    unsigned length = (unsigned)field(madt, 4, 4);
    assert_int_equal(field(madt, 36, 4), MAP_LAPIC);
    assert_int_equal(field(madt, 40, 4), 1);
    unsigned offset = 44;
    while (offset < length) {
        const uint8_t *entry = madt + offset;
        switch (entry[0]) {
        case 0:
            assert_int_equal(entry[1], 8);
            assert_int_equal(entry[2], entry[3]);
            assert_int_equal(field(entry, 4, 4), 1);
            counts.lapics++;
            counts.highest_id = entry[3];
            break;
        case 1:
            assert_int_equal(field(entry, 4, 4), MAP_IOAPIC);
            assert_int_equal(field(entry, 8, 4), 0);
            counts.ioapics++;
            break;
        case 2:
            assert_int_equal(field(entry, 4, 4), entry[3] == 0 ? 2 : GSI_SCI);
            assert_int_equal(field(entry, 8, 2), entry[3] == 0 ? 0 : 0xd);
            counts.overrides++;
            break;
        case 4:
            assert_int_equal(entry[2], 0xff);
            assert_int_equal(entry[5], 1);
            counts.nmis++;
            break;
        case 9:
            assert_int_equal(entry[1], 16);
            assert_int_equal(field(entry, 4, 4), field(entry, 12, 4));
            counts.highest_id = (unsigned)field(entry, 4, 4);
            counts.x2apics++;
            break;
        }
        assert_true(entry[1] >= 4);
        offset += entry[1];
    }
    assert_int_equal(offset, length);
    return counts;
}

static void test_interrupt_description(void **state)
{
    build(16);
    struct madt_counts counts = madt_count();
    assert_int_equal(counts.lapics, 16);
    assert_int_equal(counts.x2apics, 0);
    assert_int_equal(counts.highest_id, 15);
    assert_int_equal(counts.ioapics, 1);
    assert_int_equal(counts.overrides, 2);
    assert_int_equal(counts.nmis, 1);
}

static void test_many_processors_have_x2apic_entries(void **state)
{
    build(260);
    struct madt_counts counts = madt_count();
    assert_int_equal(counts.lapics, 255);
    assert_int_equal(counts.x2apics, 5);
    assert_int_equal(counts.highest_id, 259);
}

static void test_names_the_pci_bridge_only_where_there_is_one(void **state)
{
    static const uint8_t id[] = {0x0c, 0x41, 0xd0, 0x0a, 0x03}; /* PNP0A03 */
    for (int has_pci = 0; has_pci < 2; has_pci++) {
        struct acpi_config config = {.cpus = 1, .has_pci = has_pci};
        struct error err;
        used = acpi_build(&config, BASE, tables, sizeof(tables), &err);
        assert_true(used > 0);
        bool is_found = memmem(tables, (size_t)used, id, sizeof(id)) != NULL;
        assert_int_equal(is_found, has_pci);
    }
}

static void test_names_virtio_devices(void **state)
{
    const struct acpi_virtio devices[] = {{MAP_VIRTIO_MMIO, 16},
                                          {MAP_VIRTIO_MMIO + 0x1000, 17}};
    struct acpi_config config = {.cpus = 1, .virtio_count = 2, .virtio = devices};
    used = acpi_build(&config, BASE, tables, sizeof(tables), NULL);
    assert_true(used > 0);
    const uint8_t *dsdt = at(field(find("FACP"), 40, 4));
    unsigned length = (unsigned)field(dsdt, 4, 4);
    const char id[] = "LNRO0005";
    const uint8_t second[] = {0x86, 9, 0, 1, 0x00, 0x10, 0x00, 0xd0, 0x00, 0x10, 0, 0};
    const uint8_t *first_id = memmem(dsdt, length, id, sizeof(id));
    assert_non_null(first_id);
    const uint8_t *rest = first_id + 1;
    assert_non_null(memmem(rest, length - (size_t)(rest - dsdt), id, sizeof(id)));
    assert_non_null(memmem(dsdt, length, second, sizeof(second)));
}

static void test_names_the_panic_port(void **state)
{
    build(1);
    const uint8_t *dsdt = at(field(find("FACP"), 40, 4));
    unsigned length = (unsigned)field(dsdt, 4, 4);
    /* A string, and a port descriptor of 16 bits: 505h to 505h, alignment 1, length 1. */
    const char id[] = "\x0dQEMU0001";
    const uint8_t port[] = {0x47, 1, 0x05, 0x05, 0x05, 0x05, 1, 1};
    assert_non_null(memmem(dsdt, length, id, sizeof(id)));
    assert_non_null(memmem(dsdt, length, port, sizeof(port)));
}

/* Every capacity that is too small is refused, and nothing is written behind it. */
static void test_respects_capacity(void **state)
{
    build(4);
    int full = used;
    struct acpi_config config = {.cpus = 4};
    for (unsigned capacity = 0; capacity < (unsigned)full; capacity++) {
        struct error err;
        memset(tables, 0xcc, sizeof(tables));
        assert_int_equal(acpi_build(&config, BASE, tables, capacity, &err), -ENOSPC);
        assert_int_equal(tables[capacity], 0xcc);
    }
    assert_int_equal(acpi_build(&config, BASE, tables, (unsigned)full, NULL), full);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_root_pointer),
        cmocka_unit_test(test_fixed_description),
        cmocka_unit_test(test_interrupt_description),
        cmocka_unit_test(test_many_processors_have_x2apic_entries),
        cmocka_unit_test(test_names_the_pci_bridge_only_where_there_is_one),
        cmocka_unit_test(test_names_virtio_devices),
        cmocka_unit_test(test_names_the_panic_port),
        cmocka_unit_test(test_respects_capacity),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
