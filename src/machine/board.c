#include "machine/board.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "device/pc/acpi_pm.h"
#include "device/pc/debug_console.h"
#include "device/pc/debug_exit.h"
#include "device/pc/i8042.h"
#include "device/pc/ioapic.h"
#include "device/pc/pic8259.h"
#include "device/pc/pit8254.h"
#include "device/pc/rtc.h"
#include "device/pc/uart16550.h"
#include "dispatcher/vcpu.h"
#include "machine/acpi.h"
#include "machine/board_disk.h"
#include "machine/kernel.h"
#include "machine/memory_map.h"

#define GSI_PIT_IOAPIC_INPUT 2 /* as the MADT tells the guest */

/*
 * The board is a device too: it answers the ports that every PC has and that nothing
 * stands behind here, and it owns what a reboot needs. The kernel and the initrd stay
 * open, so that a reboot finds them even if the files have been replaced.
 */
struct board {
    struct device device;
    struct vm *vm;
    uint64_t ram;
    char *name, *machine, *cpu_model,
        *paravirt; /* of the configuration; owned, may be NULL */
    bool has_debug_exit;
    char *kernel_path, *initrd_path; /* for messages; owned */
    char *command_line;
    struct image kernel, initrd;
    struct console_port console;
    struct board_disks disks;
    struct uart16550 *serial;
    struct pic8259 *pic;
    struct ioapic *ioapic;
    struct acpi_pm *pm;
    struct region reset; /* acpi_pm's port, inside of PCI's configuration address */
};

const struct board_device board_devices[] = {
    {"pic", "8259A pair", 0x20, false, -1, false},
    {"ioapic", "82093AA", MAP_IOAPIC, true, -1, false},
    {"pit", "8254", 0x40, false, GSI_PIT, false},
    {"rtc", "MC146818A", PORT_RTC, false, GSI_RTC, false},
    {"i8042", "8042", 0x60, false, GSI_KEYBOARD, false},
    {"serial0", "16550A", PORT_SERIAL, false, GSI_SERIAL, false},
    {"acpi", "ACPI fixed hardware", PORT_ACPI_PM, false, GSI_SCI, false},
    {"debug-console", "debug console", PORT_DEBUG_CONSOLE, false, -1, false},
    {"debug-exit", "debug exit", PORT_DEBUG_EXIT, false, -1, true},
    {NULL, NULL, 0, false, -1, false},
};

/*
 * Ports that software of the PC pokes without looking: nothing answers, and that is not
 * worth a message. DMA controllers and page registers (with the POST code and delay
 * ports), coprocessor latch, VGA, Super I/O, the other serial ports, PCI's configuration
 * data.
 */
static const struct {
    uint16_t base, size;
} quiet_ports[] = {
    {0x000, 0x10}, {0x02e, 2}, {0x04e, 2}, {0x080, 0x10}, {0x0c0, 0x20},
    {0x0ed, 1},    {0x0f0, 2}, {0x2e8, 8}, {0x2f8, 8},    {0x3b0, 0x30},
    {0x3e8, 8},    {0x3f0, 8}, {0xcfc, 4},
};

#define PORT_PCI_ADDRESS 0xcf8 /* the reset register is its second byte */

static uint64_t quiet_read(struct device *device, uint64_t offset, unsigned size)
{
    return UINT64_MAX;
}

static void quiet_write(struct device *device, uint64_t offset, unsigned size,
                        uint64_t value)
{
}

/* A double word is PCI's configuration address, which no bridge answers; only a byte at
 * the second port is the reset register (82371AB 4.1.4). */
static bool is_reset_register(uint64_t offset, unsigned size)
{
    return offset == PORT_RESET - PORT_PCI_ADDRESS && size == 1;
}

static uint64_t pci_address_read(struct device *device, uint64_t offset, unsigned size)
{
    struct board *board = container_of(device, struct board, device);
    const struct region *reset = &board->reset;
    if (!is_reset_register(offset, size)) {
        return UINT64_MAX;
    }
    pthread_mutex_lock(&reset->device->lock);
    uint64_t value = reset->read(reset->device, 0, 1);
    pthread_mutex_unlock(&reset->device->lock);
    return value;
}

static void pci_address_write(struct device *device, uint64_t offset, unsigned size,
                              uint64_t value)
{
    struct board *board = container_of(device, struct board, device);
    const struct region *reset = &board->reset;
    if (is_reset_register(offset, size)) {
        pthread_mutex_lock(&reset->device->lock);
        reset->write(reset->device, 0, 1, value);
        pthread_mutex_unlock(&reset->device->lock);
    }
}

static void board_reset(struct device *device)
{
}

static void board_free(struct device *device)
{
    struct board *board = container_of(device, struct board, device);
    board_disks_free(&board->disks);
    image_close(&board->kernel);
    image_close(&board->initrd);
    free(board->name);
    free(board->machine);
    free(board->cpu_model);
    free(board->paravirt);
    free(board->kernel_path);
    free(board->initrd_path);
    free(board->command_line);
    device_fini(&board->device);
    free(board);
}

static const struct device_field board_fields[] = {DEVICE_FIELD_END};

static const struct device_type board_type = {
    .name = "board",
    .fields = board_fields,
    .reset = board_reset,
    .free = board_free,
};

struct board *board_find(struct vm *vm)
{
    assert(vm->device_count > 0 && vm->device[0]->type == &board_type);
    return container_of(vm->device[0], struct board, device);
}

struct uart16550 *board_serial(struct board *board)
{
    return board->serial;
}

struct acpi_pm *board_pm(struct board *board)
{
    return board->pm;
}

struct machine_config board_config(const struct board *board)
{
    return (struct machine_config){
        .name = board->name,
        .machine = board->machine,
        .engine = board->vm->engine_ops->name,
        .cpus = board->vm->cpu_count,
        .memory = board->ram,
        .cpu_model = board->cpu_model,
        .paravirt = board->paravirt,
        .kernel = board->kernel_path,
        .initrd = board->initrd_path,
        .append = board->command_line,
        .disk = board->disks.config,
        .disk_count = board->disks.count,
        .debug_exit = board->has_debug_exit,
        .no_reboot = board->vm->config.no_reboot,
    };
}

const struct image *board_kernel(const struct board *board)
{
    return board->kernel_path ? &board->kernel : NULL;
}

const struct image *board_initrd(const struct board *board)
{
    return board->initrd_path ? &board->initrd : NULL;
}

/* --- Memory --- */

uint64_t board_memory_size(uint64_t ram)
{
    return ram;
}

static int add_ram(struct vm *vm, gpa_t start, gpa_t end, struct error *err)
{
    if (start >= end) {
        return 0;
    }
    int64_t frame = memory_add_frames(vm->memory, end - start, err);
    if (frame < 0) {
        return (int)frame;
    }
    return memory_map(vm->memory, start, end - start, (frame_t)frame, SLOT_RAM, err);
}

static int add_memory(struct board *board, struct error *err)
{
    struct vm *vm = board->vm;
    uint64_t low_end = memory_map_low_end(board->ram);
    int result = add_ram(vm, 0, MAP_VGA, err);
    if (result >= 0) {
        result = add_ram(vm, MAP_BIOS_AREA, MAP_BIOS_AREA + MAP_BIOS_AREA_SIZE, err);
    }
    if (result >= 0) {
        result = add_ram(vm, MAP_KERNEL, low_end, err);
    }
    if (result >= 0) {
        result = add_ram(vm, MAP_HIGH_RAM, MAP_HIGH_RAM + (board->ram - low_end), err);
    }
    return result;
}

/* --- What devices ask of the VM --- */

static void power_off(void *opaque)
{
    struct board *board = opaque;
    vm_request_end(board->vm, VM_END_POWEROFF, 0, NULL);
}

static void request_reset(void *opaque)
{
    struct board *board = opaque;
    vm_request_reset(board->vm);
}

static void debug_exit_request(void *opaque, uint32_t value)
{
    struct board *board = opaque;
    vm_request_end(board->vm, VM_END_DEBUG_EXIT, (int)value, NULL);
}

static unsigned serial_write(void *opaque, const uint8_t *data, unsigned size)
{
    struct board *board = opaque;
    return board->console.write(board->console.opaque, data, size);
}

static void serial_room(void *opaque)
{
    struct board *board = opaque;
    board->console.room(board->console.opaque);
}

/* The debug console has no flow control: a byte that finds no room is lost. */
static void debug_console_write(void *opaque, uint8_t byte)
{
    struct board *board = opaque;
    board->console.write(board->console.opaque, &byte, 1);
}

static void ioapic_send(void *opaque, const struct apic_message *message)
{
    vm_apic_send(opaque, message, -1);
}

static int acknowledge(void *opaque)
{
    struct board *board = opaque;
    return pic8259_acknowledge(board->pic);
}

static void broadcast_eoi(void *opaque, uint8_t vector)
{
    struct board *board = opaque;
    ioapic_eoi(board->ioapic, vector);
}

/* --- Devices --- */

/* Adds a device with the regions given; takes it, also on failure. NULL: making it failed
 * and *err says why. */
static int add_device(struct vm *vm, struct device *device, const struct region *ports,
                      unsigned count, struct error *err)
{
    int result = vm_add_device(vm, device, err);
    for (unsigned i = 0; result >= 0 && i < count; i++) {
        result = vm_add_ports(vm, &ports[i], err);
    }
    return result;
}

static int add_interrupt_controllers(struct board *board, struct error *err)
{
    struct vm *vm = board->vm;
    board->pic = pic8259_new("pic", (struct irq_line){vm_set_extint, vm, 0}, err);
    if (!board->pic) {
        return -err->code;
    }
    const struct region ports[] = {
        pic8259_region(board->pic, PIC8259_MASTER, 0x20),
        pic8259_region(board->pic, PIC8259_SLAVE, 0xa0),
        pic8259_region(board->pic, PIC8259_ELCR, 0x4d0),
    };
    int result =
        add_device(vm, pic8259_device(board->pic), ports, array_size(ports), err);
    if (result < 0) {
        return result;
    }
    const struct ioapic_bus bus = {ioapic_send, vm};
    board->ioapic = ioapic_new("ioapic", 0, &bus, err);
    if (!board->ioapic) {
        return -err->code;
    }
    result = vm_add_device(vm, ioapic_device(board->ioapic), err);
    if (result < 0) {
        return result;
    }
    const struct region mmio = ioapic_region(board->ioapic, MAP_IOAPIC);
    result = vm_add_mmio(vm, &mmio, err);
    for (unsigned gsi = 0; gsi < VM_GSI_COUNT; gsi++) {
        if (gsi < 16) {
            vm->gsi[gsi].pic = pic8259_input(board->pic, gsi);
        }
        vm->gsi[gsi].ioapic =
            ioapic_input(board->ioapic, gsi == GSI_PIT ? GSI_PIT_IOAPIC_INPUT : gsi);
    }
    /* Input 2 belongs to the timer there, and to the cascade here. */
    vm->gsi[GSI_PIT_IOAPIC_INPUT] = (struct gsi_route){0};
    vm->intack = acknowledge;
    vm->intack_opaque = board;
    vm->eoi = broadcast_eoi;
    vm->eoi_opaque = board;
    return result;
}

static int add_timers(struct board *board, struct error *err)
{
    struct vm *vm = board->vm;
    struct pit8254 *pit = pit8254_new("pit", vm->timers, vm_gsi(vm, GSI_PIT), err);
    if (!pit) {
        return -err->code;
    }
    const struct region pit_ports[] = {
        pit8254_region(pit, 0x40),
        pit8254_port_b_region(pit, 0x61),
    };
    int result =
        add_device(vm, pit8254_device(pit), pit_ports, array_size(pit_ports), err);
    if (result < 0) {
        return result;
    }
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    const struct rtc_config config = {
        .wall_ns = now.tv_sec * (int64_t)NS_PER_SECOND + now.tv_nsec,
        .low_memory = memory_map_low_end(board->ram),
        .high_memory = board->ram - memory_map_low_end(board->ram),
    };
    struct rtc *rtc = rtc_new("rtc", vm->timers, vm_gsi(vm, GSI_RTC), &config, err);
    if (!rtc) {
        return -err->code;
    }
    const struct region rtc_ports[] = {rtc_region(rtc, PORT_RTC)};
    return add_device(vm, rtc_device(rtc), rtc_ports, 1, err);
}

static int add_keyboard_controller(struct board *board, struct error *err)
{
    struct vm *vm = board->vm;
    const struct i8042_actions actions = {.reset = request_reset, .opaque = board};
    struct i8042 *i8042 = i8042_new("i8042", vm_gsi(vm, GSI_KEYBOARD), &actions, err);
    if (!i8042) {
        return -err->code;
    }
    const struct region ports[] = {
        i8042_data_region(i8042, 0x60),
        i8042_command_region(i8042, 0x64),
        i8042_port_a_region(i8042, 0x92),
    };
    return add_device(vm, i8042_device(i8042), ports, array_size(ports), err);
}

static int add_serial_port(struct board *board, struct error *err)
{
    struct vm *vm = board->vm;
    const struct uart16550_sink sink = {serial_write,
                                        board->console.room ? serial_room : NULL, board};
    struct uart16550 *serial =
        uart16550_new("serial0", vm->timers, vm_gsi(vm, GSI_SERIAL), &sink, err);
    if (!serial) {
        return -err->code;
    }
    board->serial = serial;
    const struct region ports[] = {uart16550_region(serial, PORT_SERIAL)};
    return add_device(vm, uart16550_device(serial), ports, 1, err);
}

static int add_power_management(struct board *board, struct error *err)
{
    struct vm *vm = board->vm;
    const struct acpi_pm_actions actions = {power_off, request_reset, board,
                                            ACPI_SLEEP_S5};
    board->pm = acpi_pm_new("acpi", vm->timers, vm_gsi(vm, GSI_SCI), &actions, err);
    if (!board->pm) {
        return -err->code;
    }
    board->reset = acpi_pm_reset_region(board->pm, PORT_RESET);
    const struct region ports[] = {
        acpi_pm_region(board->pm, PORT_ACPI_PM),
        {&board->device, PORT_PCI_ADDRESS, 4, 1, 4, pci_address_read, pci_address_write},
    };
    return add_device(vm, acpi_pm_device(board->pm), ports, array_size(ports), err);
}

static int add_debug_ports(struct board *board, bool with_exit, struct error *err)
{
    struct vm *vm = board->vm;
    const struct debug_console_sink sink = {debug_console_write, board};
    struct debug_console *console = debug_console_new("debug-console", &sink, err);
    if (!console) {
        return -err->code;
    }
    const struct region ports[] = {debug_console_region(console, PORT_DEBUG_CONSOLE)};
    int result = add_device(vm, debug_console_device(console), ports, 1, err);
    if (result < 0 || !with_exit) {
        return result;
    }
    const struct debug_exit_action action = {debug_exit_request, board};
    struct debug_exit *port = debug_exit_new("debug-exit", &action, err);
    if (!port) {
        return -err->code;
    }
    const struct region exit_ports[] = {debug_exit_region(port, PORT_DEBUG_EXIT)};
    return add_device(vm, debug_exit_device(port), exit_ports, 1, err);
}

static int add_quiet_ranges(struct board *board, struct error *err)
{
    /* Where adapters would have their memory and ROMs; operating systems search it. */
    const struct region adapters = {
        &board->device, MAP_VGA, MAP_BIOS_AREA - MAP_VGA, 1, 8, quiet_read, quiet_write};
    int result = vm_add_mmio(board->vm, &adapters, err);
    for (unsigned i = 0; result >= 0 && i < array_size(quiet_ports); i++) {
        const struct region region = {
            &board->device, quiet_ports[i].base, quiet_ports[i].size, 1, 4,
            quiet_read,     quiet_write};
        result = vm_add_ports(board->vm, &region, err);
    }
    return result;
}

static int add_devices(struct board *board, const struct machine_config *config,
                       struct error *err)
{
    int result = add_interrupt_controllers(board, err);
    if (result >= 0) {
        result = add_timers(board, err);
    }
    if (result >= 0) {
        result = add_keyboard_controller(board, err);
    }
    if (result >= 0) {
        result = add_serial_port(board, err);
    }
    if (result >= 0) {
        result = add_power_management(board, err);
    }
    if (result >= 0) {
        result = add_debug_ports(board, config->debug_exit, err);
    }
    if (result >= 0) {
        result = board_disks_add(&board->disks, board->vm, config->disk,
                                 config->disk_count, err);
    }
    return result >= 0 ? add_quiet_ranges(board, err) : result;
}

/* --- Boot --- */

/* What firmware leaves in the MTRRs: write-back but for the hole below 4G (SDM 3A 12.11).
 * All processors alike, or Linux complains. */
static void mtrr_init(struct x86_state *state, unsigned physical_bits)
{
    uint64_t addresses = (1ull << physical_bits) - 1;
    state->mtrr = (struct x86_mtrr){.default_type = 1u << 11 | 6 /* enabled, WB */};
    state->mtrr.variable[0].base = MAP_LOW_RAM_END; /* UC */
    state->mtrr.variable[0].mask =
        (addresses & ~(MAP_HIGH_RAM - MAP_LOW_RAM_END - 1)) | 1u << 11;
}

static int put_acpi_tables(struct board *board, struct error *err)
{
    uint8_t tables[16384];
    const struct acpi_config config = {
        .cpus = board->vm->cpu_count,
        .virtio_count = board->disks.count,
        .virtio = board->disks.place,
    };
    int size = acpi_build(&config, MAP_BIOS_AREA, tables, sizeof(tables), err);
    if (size < 0) {
        return size;
    }
    if (!ram_write(board->vm->memory, MAP_BIOS_AREA, tables, (uint64_t)size)) {
        return fail_plain(err, ENOMEM, "no guest memory for the ACPI tables");
    }
    return 0;
}

static void set_processors(struct vm *vm, const struct x86_state *entry)
{
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        struct x86_state state;
        struct engine_vcpu *vcpu = vm->vcpu[i]->engine;
        if (i == 0) {
            state = *entry;
        } else {
            vm->engine_ops->get_state(vcpu, &state);
        }
        mtrr_init(&state, vm->config.cpuid.physical_bits);
        vm->engine_ops->set_state(vcpu, &state);
    }
}

static int board_boot(void *opaque, struct vm *vm, struct error *err)
{
    struct board *board = opaque;
    struct x86_state entry;
    int result = put_acpi_tables(board, err);
    if (result < 0) {
        return result;
    }
    const struct boot_target target = {
        .memory = vm->memory,
        .ram = board->ram,
        .command_line = board->command_line,
        .initrd = board->initrd_path ? &board->initrd : NULL,
        .rsdp = MAP_BIOS_AREA,
        .use_cache = true,
    };
    result = kernel_load(&board->kernel, &target, &entry, err);
    if (result < 0) {
        fail_within(err, "cannot boot %.200s", board->kernel_path);
        return result;
    }
    set_processors(vm, &entry);
    return 0;
}

/* False when memory is short. */
static bool copy_text(char **copy, const char *text)
{
    *copy = text ? strdup(text) : NULL;
    return *copy || !text;
}

static int copy_config(struct board *board, const struct machine_config *config,
                       struct error *err)
{
    board->ram = config->memory;
    board->has_debug_exit = config->debug_exit;
    bool is_whole = copy_text(&board->name, config->name) &&
                    copy_text(&board->machine, config->machine) &&
                    copy_text(&board->cpu_model, config->cpu_model) &&
                    copy_text(&board->paravirt, config->paravirt) &&
                    copy_text(&board->kernel_path, config->kernel) &&
                    copy_text(&board->initrd_path, config->initrd) &&
                    copy_text(&board->command_line, config->append ? config->append : "");
    return is_whole ? 0 : fail(err, ENOMEM, "cannot make the machine");
}

static int open_files(struct board *board, const struct machine_config *config,
                      struct error *err)
{
    struct boot_probe probe;
    if (image_open(&board->kernel, config->kernel, err) < 0 ||
        !kernel_detect(&board->kernel, &probe, err)) {
        return fail_within(err, "cannot boot %.200s", config->kernel);
    }
    if (config->initrd && image_open(&board->initrd, config->initrd, err) < 0) {
        return fail_within(err, "--initrd %.200s", config->initrd);
    }
    return 0;
}

struct board *board_build(struct vm *vm, const struct machine_config *config,
                          const struct console_port *console, struct error *err)
{
    struct board *board = calloc(1, sizeof(*board));
    if (!board) {
        fail(err, ENOMEM, "cannot make the machine");
        return NULL;
    }
    device_init(&board->device, &board_type, "board");
    board->vm = vm;
    board->console = *console;
    board->kernel = board->initrd = (struct image)IMAGE_NONE;
    if (vm_add_device(vm, &board->device, err) < 0 ||
        copy_config(board, config, err) < 0 || open_files(board, config, err) < 0 ||
        add_memory(board, err) < 0 || add_devices(board, config, err) < 0) {
        return NULL;
    }
    vm->boot = board_boot;
    vm->boot_opaque = board;
    return board;
}
