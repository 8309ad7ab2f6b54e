#include "rig.h"

#include <assert.h>

#include "device/pc/acpi_pm.h"
#include "device/pc/debug_console.h"
#include "device/pc/debug_exit.h"
#include "device/pc/fw_cfg.h"
#include "device/pc/i8042.h"
#include "device/pc/pc_testdev.h"
#include "device/pc/post_code.h"
#include "device/pc/pit8254.h"
#include "device/pc/pvpanic.h"
#include "device/pc/rtc.h"
#include "device/pci/pci_host.h"
#include "device/pci/pci_testdev.h"

static void count_action(void *opaque)
{
    ((struct rig *)opaque)->actions++;
}

static void take_message(void *opaque, const struct apic_message *message)
{
    count_action(opaque);
}

static void take_byte(void *opaque, uint8_t byte)
{
    count_action(opaque);
}

static void take_value(void *opaque, uint32_t value)
{
    count_action(opaque);
}

static void take_event(void *opaque, unsigned event)
{
    count_action(opaque);
}

static void take_a20(void *opaque, bool is_enabled)
{
    count_action(opaque);
}

/* Takes every other byte, so that the transmitter fills. */
static unsigned take_output(void *opaque, const uint8_t *data, unsigned size)
{
    count_action(opaque);
    return ((struct rig *)opaque)->actions & 1 ? size : size / 2;
}

/* An interrupt line goes to both controllers, as on a PC. */
static void drive(void *opaque, unsigned number, int level)
{
    struct rig *rig = opaque;
    struct irq_line pic = pic8259_input(rig->pic, number);
    struct irq_line ioapic = ioapic_input(rig->ioapic, number == 0 ? 2 : number);
    irq_set(&pic, level);
    irq_set(&ioapic, level);
}

static void take_intr(void *opaque, unsigned number, int level)
{
}

static void add_device(struct rig *rig, struct device *device)
{
    assert(rig->device_count < RIG_DEVICES_MAX);
    rig->device[rig->device_count++] = device;
}

static void add_region(struct rig *rig, struct region region)
{
    assert(rig->region_count < RIG_REGIONS_MAX);
    rig->region[rig->region_count++] = region;
}

static struct irq_line line(struct rig *rig, unsigned number)
{
    return (struct irq_line){drive, rig, number};
}

static void add_interrupt_controllers(struct rig *rig)
{
    struct error err;
    rig->pic = pic8259_new("pic", (struct irq_line){take_intr, rig, 0}, &err);
    add_device(rig, pic8259_device(rig->pic));
    add_region(rig, pic8259_region(rig->pic, PIC8259_MASTER, 0x20));
    add_region(rig, pic8259_region(rig->pic, PIC8259_SLAVE, 0xa0));
    add_region(rig, pic8259_region(rig->pic, PIC8259_ELCR, 0x4d0));
    struct ioapic_bus bus = {take_message, rig};
    rig->ioapic = ioapic_new("ioapic", 1, &bus, &err);
    add_device(rig, ioapic_device(rig->ioapic));
    add_region(rig, ioapic_region(rig->ioapic, 0xfec00000));
}

static void add_timers(struct rig *rig)
{
    struct error err;
    struct pit8254 *pit = pit8254_new("pit", rig->timers, line(rig, 0), &err);
    add_device(rig, pit8254_device(pit));
    add_region(rig, pit8254_region(pit, 0x40));
    add_region(rig, pit8254_port_b_region(pit, 0x61));
    struct rtc_config config = {.wall_ns = 1700000000123456789, .low_memory = 1u << 30};
    struct rtc *rtc = rtc_new("rtc", rig->timers, line(rig, 8), &config, &err);
    add_device(rig, rtc_device(rtc));
    add_region(rig, rtc_region(rtc, 0x70));
    struct acpi_pm_actions actions = {count_action, count_action, rig, 5};
    struct acpi_pm *pm = acpi_pm_new("pm", rig->timers, line(rig, 9), &actions, &err);
    add_device(rig, acpi_pm_device(pm));
    add_region(rig, acpi_pm_region(pm, 0x600));
    add_region(rig, acpi_pm_reset_region(pm, 0xcf9));
}

static void add_ports(struct rig *rig)
{
    struct error err;
    struct uart16550_sink sink = {take_output, count_action, rig};
    rig->uart = uart16550_new("serial", rig->timers, line(rig, 4), &sink, &err);
    add_device(rig, uart16550_device(rig->uart));
    add_region(rig, uart16550_region(rig->uart, 0x3f8));
    struct i8042_actions actions = {count_action, take_a20, rig};
    struct i8042 *i8042 = i8042_new("keyboard", line(rig, 1), &actions, &err);
    add_device(rig, i8042_device(i8042));
    add_region(rig, i8042_data_region(i8042, 0x60));
    add_region(rig, i8042_command_region(i8042, 0x64));
    add_region(rig, i8042_port_a_region(i8042, 0x92));
    struct debug_console_sink bytes = {take_byte, rig};
    struct debug_console *console = debug_console_new("debugcon", &bytes, &err);
    add_device(rig, debug_console_device(console));
    add_region(rig, debug_console_region(console, 0xe9));
    struct debug_exit_action action = {take_value, rig};
    struct debug_exit *port = debug_exit_new("debug-exit", &action, &err);
    add_device(rig, debug_exit_device(port));
    add_region(rig, debug_exit_region(port, 0xf4));
    struct pvpanic_action report = {take_event, rig};
    struct pvpanic *pvpanic = pvpanic_new("panic", &report, &err);
    add_device(rig, pvpanic_device(pvpanic));
    add_region(rig, pvpanic_region(pvpanic, 0x505));
}

/* For DMA; the same for all rigs, and full of zeros. */
static struct memory *dma_memory(void)
{
    static struct memory *memory;
    if (!memory) {
        memory = memory_new(0x10000, NULL);
        int64_t frame = memory_add_frames(memory, 0x10000, NULL);
        memory_map(memory, 0, 0x10000, (frame_t)frame, SLOT_RAM, NULL);
    }
    return memory;
}

static void add_firmware_devices(struct rig *rig)
{
    struct error err;
    struct fw_cfg *fw_cfg = fw_cfg_new("fw-cfg", dma_memory(), &err);
    fw_cfg_add_number(fw_cfg, FW_CFG_CPUS, 2, 2, &err);
    fw_cfg_add_file(fw_cfg, "etc/test", "some content", 12, &err);
    add_device(rig, fw_cfg_device(fw_cfg));
    add_region(rig, fw_cfg_region(fw_cfg, FW_CFG_PORT));
    add_region(rig, fw_cfg_dma_region(fw_cfg, FW_CFG_DMA_PORT));
}

static void add_post_code(struct rig *rig)
{
    struct error err;
    struct post_code *post_code = post_code_new("post-code", true, &err);
    add_device(rig, post_code_device(post_code));
    add_region(rig, post_code_region(post_code, 0x80));
}

static void forget_page(void *opaque, uint64_t gpa)
{
    count_action(opaque);
}

static void pam_changed(void *opaque, unsigned range, unsigned attributes)
{
    count_action(opaque);
}

static void add_test_devices(struct rig *rig)
{
    struct error err;
    struct pc_testdev_bus bus = {.forget_page = forget_page, .opaque = rig};
    for (unsigned i = 10; i < 16; i++) { /* lines of no other device */
        bus.line[i] = line(rig, i);
    }
    struct pc_testdev *testdev = pc_testdev_new("pc-testdev", &bus, &err);
    add_device(rig, pc_testdev_device(testdev));
    add_region(rig, pc_testdev_region(testdev, PC_TESTDEV_WORD, 0xe0));
    add_region(rig, pc_testdev_region(testdev, PC_TESTDEV_FLUSH, 0xe4));
    add_region(rig, pc_testdev_region(testdev, PC_TESTDEV_BYTE, 0xe8));
    add_region(rig, pc_testdev_region(testdev, PC_TESTDEV_IRQ, 0x2000));
    add_region(rig, pc_testdev_region(testdev, PC_TESTDEV_MEMORY, 0xff000000));
}

static void add_pci(struct rig *rig)
{
    struct error err;
    const struct pci_host_config config = {
        .port_base = 0xc000,
        .port_size = 0x100,
        .memory_base = 0xe0000000,
        .memory_size = 0x1000,
        .pam_changed = pam_changed,
        .opaque = rig,
    };
    struct pci_host *host = pci_host_new("pci", &config, &err);
    rig->pci = host;
    add_device(rig, pci_host_device(host));
    add_region(rig, pci_host_address_region(host));
    add_region(rig, pci_host_data_region(host));
    add_region(rig, pci_host_port_window(host));
    add_region(rig, pci_host_memory_window(host));
    struct pci_testdev *testdev = pci_testdev_new("pci-testdev", &err);
    add_device(rig, pci_testdev_device(testdev));
    pci_host_add(host, 1, pci_testdev_function(testdev));
}

void rig_init(struct rig *rig)
{
    *rig = (struct rig){0};
    clock_init_virtual(&rig->clock);
    rig->timers = timer_queue_new(&rig->clock);
    add_interrupt_controllers(rig);
    add_timers(rig);
    add_ports(rig);
    add_firmware_devices(rig);
    add_post_code(rig);
    add_test_devices(rig);
    add_pci(rig);
}

void rig_assign(struct rig *rig)
{
    struct error err;
    int result = pci_host_assign(rig->pci, &err);
    assert(result == 0);
}

void rig_fini(struct rig *rig)
{
    while (rig->device_count > 0) {
        struct device *device = rig->device[--rig->device_count];
        device->type->free(device);
    }
    timer_queue_free(rig->timers);
}

static const struct region *access_region(struct rig *rig, unsigned *index,
                                          uint64_t *offset, unsigned *size)
{
    const struct region *region = &rig->region[*index % rig->region_count];
    if (*size < region->min_size) {
        *size = region->min_size;
    }
    if (*size > region->max_size) {
        *size = region->max_size;
    }
    *offset = *offset % region->size & ~(uint64_t)(*size - 1);
    return region;
}

uint64_t rig_read(struct rig *rig, unsigned index, uint64_t offset, unsigned size)
{
    const struct region *region = access_region(rig, &index, &offset, &size);
    pthread_mutex_lock(&region->device->lock);
    uint64_t value = region->read(region->device, offset, size);
    pthread_mutex_unlock(&region->device->lock);
    return value;
}

void rig_write(struct rig *rig, unsigned index, uint64_t offset, unsigned size,
               uint64_t value)
{
    const struct region *region = access_region(rig, &index, &offset, &size);
    pthread_mutex_lock(&region->device->lock);
    region->write(region->device, offset, size, value);
    pthread_mutex_unlock(&region->device->lock);
}

unsigned rig_advance(struct rig *rig, uint64_t ns)
{
    clock_advance(&rig->clock, ns);
    unsigned calls = 0, round;
    while ((round = timer_queue_run(rig->timers)) > 0) {
        calls += round;
        assert(calls < 1000); /* a device that re-arms itself in the past */
    }
    return calls;
}
