#include "machine/acpi.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "machine/aml.h"
#include "machine/memory_map.h"

#define TABLE_ALIGNMENT 64u /* FACS needs 64, the others 4 or 8 */

struct acpi_header {
    char signature[4];
    uint32_t length;
    uint8_t revision, checksum;
    char oem[6], oem_table[8];
    uint32_t oem_revision;
    char creator[4];
    uint32_t creator_revision;
} __attribute__((packed));

struct acpi_rsdp {
    char signature[8];
    uint8_t checksum; /* of the first 20 bytes */
    char oem[6];
    uint8_t revision;
    uint32_t rsdt, length;
    uint64_t xsdt;
    uint8_t extended_checksum; /* of all 36 */
    uint8_t reserved[3];
} __attribute__((packed));

/* Generic address structure, 5.2.3.2. */
struct acpi_address {
    uint8_t space, bits, offset, access;
    uint64_t address;
} __attribute__((packed));

#define SPACE_IO 1

struct acpi_facs {
    char signature[4];
    uint32_t length, hardware_signature, waking_vector, global_lock, flags;
    uint64_t x_waking_vector;
    uint8_t version, reserved[31];
} __attribute__((packed));

struct acpi_fadt { /* 5.2.9, table 5.9 */
    struct acpi_header header;
    uint32_t facs, dsdt;
    uint8_t reserved0, profile;
    uint16_t sci;
    uint32_t smi_command;
    uint8_t acpi_enable, acpi_disable, s4_bios, p_state;
    uint32_t pm1a_event, pm1b_event, pm1a_control, pm1b_control, pm2_control, pm_timer,
        gpe0, gpe1;
    uint8_t pm1_event_length, pm1_control_length, pm2_control_length, pm_timer_length,
        gpe0_length, gpe1_length, gpe1_base, c_state;
    uint16_t c2_latency, c3_latency, flush_size, flush_stride;
    uint8_t duty_offset, duty_width, day_alarm, month_alarm, century;
    uint16_t boot_architecture;
    uint8_t reserved1;
    uint32_t flags;
    struct acpi_address reset;
    uint8_t reset_value;
    uint16_t arm_architecture;
    uint8_t minor_revision;
    uint64_t x_facs, x_dsdt;
    struct acpi_address x_pm1a_event, x_pm1b_event, x_pm1a_control, x_pm1b_control,
        x_pm2_control, x_pm_timer, x_gpe0, x_gpe1, sleep_control, sleep_status;
    uint64_t hypervisor;
} __attribute__((packed));

_Static_assert(sizeof(struct acpi_fadt) == 276, "FADT revision 6");

#define BOOT_LEGACY_DEVICES  (1u << 0)
#define BOOT_NO_VGA          (1u << 2)

#define FADT_WBINVD          (1u << 0)
#define FADT_PROC_C1         (1u << 2)
#define FADT_NO_SLEEP_BUTTON (1u << 5)
#define FADT_TIMER_32BIT     (1u << 8)
#define FADT_RESET           (1u << 10)

#define LATENCY_NO_C2        0x0fff /* larger than 100 us: no C2 */
#define LATENCY_NO_C3        0x0fff
#define RESET_VALUE          6 /* hard reset by the reset control register */
#define CMOS_CENTURY         0x32

struct acpi_madt {
    struct acpi_header header;
    uint32_t local_apic, flags;
} __attribute__((packed));

#define MADT_DUAL_8259 1u

/* Interrupt controller structures, 5.2.12. */
struct madt_lapic {
    uint8_t type, length, processor, apic_id;
    uint32_t flags;
} __attribute__((packed));

struct madt_x2apic {
    uint8_t type, length;
    uint16_t reserved;
    uint32_t apic_id, flags, processor;
} __attribute__((packed));

struct madt_ioapic {
    uint8_t type, length, id, reserved;
    uint32_t address, first_gsi;
} __attribute__((packed));

struct madt_override {
    uint8_t type, length, bus, irq;
    uint32_t gsi;
    uint16_t flags;
} __attribute__((packed));

struct madt_nmi {
    uint8_t type, length, processor;
    uint16_t flags;
    uint8_t lint;
} __attribute__((packed));

struct madt_x2apic_nmi {
    uint8_t type, length;
    uint16_t flags;
    uint32_t processor;
    uint8_t lint, reserved[3];
} __attribute__((packed));

#define MADT_ENABLED          1u
#define MADT_ACTIVE_HIGH      (1u << 0)
#define MADT_LEVEL            (3u << 2)
#define MADT_CONFORMING       0u
#define MADT_LAPIC_ID_MAX     254u
#define MADT_PIT_IOAPIC_INPUT 2u

/* A table under construction: where the next one goes. */
struct builder {
    uint8_t *buffer;
    unsigned used, capacity;
    uint64_t base;
};

static uint8_t checksum(const void *data, size_t size)
{
    const uint8_t *bytes = data;
    uint8_t sum = 0;
    for (size_t i = 0; i < size; i++) {
        sum += bytes[i];
    }
    return (uint8_t)-sum;
}

/* Copies a finished table to the next free place; returns its guest-physical address, or
 * 0 if it does not fit. */
static uint64_t place(struct builder *builder, const void *table, unsigned size)
{
    unsigned offset = (builder->used + TABLE_ALIGNMENT - 1) & ~(TABLE_ALIGNMENT - 1);
    if (offset > builder->capacity || size > builder->capacity - offset) {
        return 0;
    }
    memset(builder->buffer + builder->used, 0, offset - builder->used);
    memcpy(builder->buffer + offset, table, size);
    builder->used = offset + size;
    return builder->base + offset;
}

static void header_init(struct acpi_header *header, const char *signature,
                        uint8_t revision)
{
    *header = (struct acpi_header){
        .revision = revision,
        .oem = {'D', 'O', 'P', 'P', 'E', 'L'},
        .oem_table = {'M', 'I', 'C', 'R', 'O', ' ', ' ', ' '},
        .oem_revision = 1,
        .creator = {'D', 'P', 'P', 'L'},
        .creator_revision = 1,
    };
    memcpy(header->signature, signature, sizeof(header->signature));
}

/* Fills in length and checksum and places the table. */
static uint64_t place_table(struct builder *builder, struct acpi_header *table,
                            unsigned size)
{
    table->length = size;
    table->checksum = 0;
    table->checksum = checksum(table, size);
    return place(builder, table, size);
}

static struct acpi_address io_address(uint16_t port, uint8_t bytes)
{
    uint8_t access = bytes == 4 ? 3 : bytes == 2 ? 2 : 1; /* double word, word, byte */
    return (struct acpi_address){SPACE_IO, (uint8_t)(bytes * 8), 0, access, port};
}

static uint64_t put_facs(struct builder *builder)
{
    struct acpi_facs facs = {
        .signature = {'F', 'A', 'C', 'S'}, .length = sizeof(facs), .version = 2};
    return place(builder, &facs, sizeof(facs));
}

static uint64_t put_fadt(struct builder *builder, uint64_t facs, uint64_t dsdt)
{
    struct acpi_fadt fadt = {
        .facs = (uint32_t)facs,
        .dsdt = (uint32_t)dsdt,
        .sci = GSI_SCI,
        /* smi_command 0: ACPI mode is on from the start and stays on. */
        .pm1a_event = PORT_ACPI_PM,
        .pm1a_control = PORT_ACPI_PM + 4,
        .pm_timer = PORT_ACPI_PM + 8,
        .pm1_event_length = 4,
        .pm1_control_length = 2,
        .pm_timer_length = 4,
        .c2_latency = LATENCY_NO_C2,
        .c3_latency = LATENCY_NO_C3,
        .century = CMOS_CENTURY,
        .boot_architecture = BOOT_LEGACY_DEVICES | BOOT_NO_VGA,
        .flags = FADT_WBINVD | FADT_PROC_C1 | FADT_NO_SLEEP_BUTTON | FADT_TIMER_32BIT |
                 FADT_RESET,
        .reset = io_address(PORT_RESET, 1),
        .reset_value = RESET_VALUE,
        .minor_revision = 5,
        .x_dsdt = dsdt,
        .x_pm1a_event = io_address(PORT_ACPI_PM, 4),
        .x_pm1a_control = io_address(PORT_ACPI_PM + 4, 2),
        .x_pm_timer = io_address(PORT_ACPI_PM + 8, 4),
    };
    /* Of facs and x_facs only one may be set (5.2.9); x_dsdt goes before dsdt. */
    header_init(&fadt.header, "FACP", 6);
    memcpy(&fadt.hypervisor, "DOPPEL\0", 8);
    return place_table(builder, &fadt.header, sizeof(fadt));
}

static void put_processors(struct aml *out, unsigned cpus)
{
    for (unsigned id = 0; id < cpus; id++) {
        if (id <= MADT_LAPIC_ID_MAX) {
            struct madt_lapic entry = {0, sizeof(entry), (uint8_t)id, (uint8_t)id,
                                       MADT_ENABLED};
            aml_bytes(out, &entry, sizeof(entry));
        } else {
            struct madt_x2apic entry = {9, sizeof(entry), 0, id, MADT_ENABLED, id};
            aml_bytes(out, &entry, sizeof(entry));
        }
    }
}

static uint64_t put_madt(struct builder *builder, unsigned cpus)
{
    uint8_t table[4096];
    struct aml out;
    struct acpi_madt madt = {.local_apic = MAP_LAPIC, .flags = MADT_DUAL_8259};
    struct madt_ioapic ioapic = {1, sizeof(ioapic), 0, 0, MAP_IOAPIC, 0};
    struct madt_override overrides[] = {
        {2, sizeof(overrides[0]), 0, 0, MADT_PIT_IOAPIC_INPUT, MADT_CONFORMING},
        {2, sizeof(overrides[0]), 0, GSI_SCI, GSI_SCI, MADT_ACTIVE_HIGH | MADT_LEVEL},
    };
    struct madt_nmi nmi = {4, sizeof(nmi), 0xff /* all */, MADT_CONFORMING, 1};
    struct madt_x2apic_nmi x2apic_nmi = {
        10, sizeof(x2apic_nmi), MADT_CONFORMING, UINT32_MAX /* all */, 1, {0}};

    header_init(&madt.header, "APIC", 5);
    aml_init(&out, table, sizeof(table));
    aml_bytes(&out, &madt, sizeof(madt));
    put_processors(&out, cpus);
    aml_bytes(&out, &ioapic, sizeof(ioapic));
    aml_bytes(&out, overrides, sizeof(overrides));
    aml_bytes(&out, &nmi, sizeof(nmi));
    if (cpus > MADT_LAPIC_ID_MAX + 1) {
        aml_bytes(&out, &x2apic_nmi, sizeof(x2apic_nmi));
    }
    if (out.size > sizeof(table)) {
        return 0;
    }
    return place_table(builder, (struct acpi_header *)(void *)table, out.size);
}

/* A device with ports and one interrupt of the ISA kind. */
struct legacy_device {
    const char *name, *id;
    uint16_t port;
    uint8_t count, irq;
};

static const struct legacy_device legacy_devices[] = {
    {"COM1", "PNP0501", PORT_SERIAL, 8, GSI_SERIAL},
    {"RTC0", "PNP0B00", PORT_RTC, 2, GSI_RTC},
};

static void put_legacy_device(struct aml *aml, const struct legacy_device *device)
{
    uint32_t begin = aml_device_begin(aml, device->name);
    aml_name(aml, "_HID");
    aml_eisa_id(aml, device->id);
    aml_name(aml, "_UID");
    aml_integer(aml, 1);
    aml_name(aml, "_STA");
    aml_integer(aml, 0xf); /* present, enabled, shown, working */
    aml_name(aml, "_CRS");
    uint32_t resources = aml_resources_begin(aml);
    aml_resource_io(aml, device->port, device->count);
    aml_resource_irq(aml, device->irq);
    aml_resources_end(aml, resources);
    aml_end(aml, begin);
}

/* QEMU's docs/specs/pvpanic, which Linux's pvpanic-mmio follows. */
static void put_panic_device(struct aml *aml)
{
    uint32_t begin = aml_device_begin(aml, "PEVT");
    aml_name(aml, "_HID");
    aml_string(aml, "QEMU0001");
    aml_name(aml, "_STA");
    aml_integer(aml, 0xf);
    aml_name(aml, "_CRS");
    uint32_t resources = aml_resources_begin(aml);
    aml_resource_io(aml, PORT_PANIC, 1);
    aml_resources_end(aml, resources);
    aml_end(aml, begin);
}

static void put_pci_bridge(struct aml *aml)
{
    uint32_t begin = aml_device_begin(aml, "PCI0");
    aml_name(aml, "_HID");
    aml_eisa_id(aml, "PNP0A03");
    aml_name(aml, "_UID");
    aml_integer(aml, 0);
    aml_name(aml, "_CRS");
    uint32_t resources = aml_resources_begin(aml);
    aml_resource_window(aml, AML_WINDOW_BUS, 0, 0);
    aml_resource_io(aml, PORT_PCI_CONFIG, 8);
    aml_resource_window(aml, AML_WINDOW_IO, PORT_PCI, 0xffff);
    aml_resource_window(aml, AML_WINDOW_MEMORY, (uint32_t)MAP_PCI_MEMORY,
                        (uint32_t)MAP_PCI_MEMORY_END - 1);
    aml_resources_end(aml, resources);
    aml_end(aml, begin);
}

static void put_processor_device(struct aml *aml, unsigned index)
{
    char name[8];
    snprintf(name, sizeof(name), "C%03X", index & 0xfff);
    uint32_t begin = aml_device_begin(aml, name);
    aml_name(aml, "_HID");
    aml_string(aml, "ACPI0007");
    aml_name(aml, "_UID");
    aml_integer(aml, index);
    aml_end(aml, begin);
}

static void put_virtio_device(struct aml *aml, unsigned index,
                              const struct acpi_virtio *device)
{
    char name[8];
    snprintf(name, sizeof(name), "VR%02X", index & 0xff);
    uint32_t begin = aml_device_begin(aml, name);
    aml_name(aml, "_HID");
    aml_string(aml, "LNRO0005");
    aml_name(aml, "_UID");
    aml_integer(aml, index);
    aml_name(aml, "_CCA"); /* its DMA is coherent */
    aml_integer(aml, 1);
    aml_name(aml, "_CRS");
    uint32_t resources = aml_resources_begin(aml);
    aml_resource_memory(aml, (uint32_t)device->base, 0x1000);
    aml_resource_interrupt(aml, device->gsi, true);
    aml_resources_end(aml, resources);
    aml_end(aml, begin);
}

static uint64_t put_dsdt(struct builder *builder, const struct acpi_config *config)
{
    uint8_t table[16384];
    struct aml aml;
    struct acpi_header header;
    header_init(&header, "DSDT", 2); /* 2: integers have 64 bits */
    aml_init(&aml, table, sizeof(table));
    aml_bytes(&aml, &header, sizeof(header));

    aml_name(&aml, "_S5_");
    uint32_t sleep = aml_package_begin(&aml, 4);
    aml_integer(&aml, ACPI_SLEEP_S5); /* PM1a */
    aml_integer(&aml, ACPI_SLEEP_S5); /* PM1b */
    aml_integer(&aml, 0);
    aml_integer(&aml, 0);
    aml_end(&aml, sleep);

    uint32_t scope = aml_scope_begin(&aml, "\\_SB_");
    for (unsigned i = 0; i < config->cpus; i++) {
        put_processor_device(&aml, i);
    }
    for (unsigned i = 0; i < sizeof(legacy_devices) / sizeof(legacy_devices[0]); i++) {
        put_legacy_device(&aml, &legacy_devices[i]);
    }
    put_panic_device(&aml);
    if (config->has_pci) {
        put_pci_bridge(&aml);
    }
    for (unsigned i = 0; i < config->virtio_count; i++) {
        put_virtio_device(&aml, i, &config->virtio[i]);
    }
    aml_end(&aml, scope);
    if (aml.size > sizeof(table)) {
        return 0;
    }
    return place_table(builder, (struct acpi_header *)(void *)table, aml.size);
}

static uint64_t put_xsdt(struct builder *builder, uint64_t fadt, uint64_t madt)
{
    struct {
        struct acpi_header header;
        uint64_t entries[2];
    } __attribute__((packed)) xsdt = {.entries = {fadt, madt}};
    header_init(&xsdt.header, "XSDT", 1);
    return place_table(builder, &xsdt.header, sizeof(xsdt));
}

int acpi_build(const struct acpi_config *config, uint64_t base, uint8_t *buffer,
               unsigned capacity, struct error *err)
{
    struct builder builder = {.buffer = buffer, .capacity = capacity, .base = base};
    struct acpi_rsdp rsdp = {
        .signature = {'R', 'S', 'D', ' ', 'P', 'T', 'R', ' '},
        .oem = {'D', 'O', 'P', 'P', 'E', 'L'},
        .revision = 2,
        .length = sizeof(rsdp),
    };
    uint64_t root = place(&builder, &rsdp, sizeof(rsdp));
    uint64_t facs = put_facs(&builder);
    uint64_t dsdt = put_dsdt(&builder, config);
    uint64_t fadt = put_fadt(&builder, facs, dsdt);
    uint64_t madt = put_madt(&builder, config->cpus);
    rsdp.xsdt = put_xsdt(&builder, fadt, madt);
    if (!root || !facs || !dsdt || !fadt || !madt || !rsdp.xsdt) {
        return fail_plain(err, ENOSPC, "the ACPI tables do not fit into %u bytes",
                          capacity);
    }
    rsdp.checksum = checksum(&rsdp, offsetof(struct acpi_rsdp, length));
    rsdp.extended_checksum = checksum(&rsdp, sizeof(rsdp));
    memcpy(buffer, &rsdp, sizeof(rsdp));
    return (int)builder.used;
}
