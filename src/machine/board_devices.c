#include "machine/board_parts.h"

#include <time.h>

#include "base/log.h"
#include "device/pc/acpi_pm.h"
#include "device/pc/debug_console.h"
#include "device/pc/debug_exit.h"
#include "device/pc/i8042.h"
#include "device/pc/ioapic.h"
#include "device/pc/pic8259.h"
#include "device/pc/pit8254.h"
#include "device/pc/pvpanic.h"
#include "device/pc/rtc.h"
#include "device/pc/uart16550.h"
#include "machine/memory_map.h"

#define GSI_PIT_IOAPIC_INPUT 2 /* as the MADT tells the guest */

const struct board_device board_devices[] = {
    {"pic", "8259A pair", 0x20, false, -1, false},
    {"ioapic", "82093AA", MAP_IOAPIC, true, -1, false},
    {"pit", "8254", 0x40, false, GSI_PIT, false},
    {"rtc", "MC146818A", PORT_RTC, false, GSI_RTC, false},
    {"i8042", "8042", 0x60, false, GSI_KEYBOARD, false},
    {"serial0", "16550A", PORT_SERIAL, false, GSI_SERIAL, false},
    {"acpi", "ACPI fixed hardware", PORT_ACPI_PM, false, GSI_SCI, false},
    {"panic", "pvpanic", PORT_PANIC, false, -1, false},
    {"debug-exit", "debug exit", PORT_DEBUG_EXIT, false, -1, true},
    {NULL, NULL, 0, false, -1, false},
};

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

/* With a crash kernel the guest goes on by itself. */
static void report_panic(void *opaque, unsigned event)
{
    struct board *board = opaque;
    if (event == PVPANIC_PANICKED) {
        vm_request_end(board->vm, VM_END_CRASH, 0, "it reported a panic");
    } else {
        log_guest("panic: the guest reports one, and starts its crash kernel");
    }
}

static void set_a20(void *opaque, bool is_open)
{
    struct board *board = opaque;
    memory_set_a20(board->vm->memory, is_open);
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

static bool ioapic_is_waiting(void *opaque, const struct apic_message *message)
{
    return vm_apic_is_waiting(opaque, message);
}

static void ioapic_route(void *opaque, unsigned n, const struct apic_message *message)
{
    vm_apic_route(opaque, n, message);
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

int board_add_device(struct board *board, struct device *device,
                     const struct region *ports, unsigned count, struct error *err)
{
    int result = vm_add_device(board->vm, device, err);
    for (unsigned i = 0; result >= 0 && i < count; i++) {
        result = vm_add_ports(board->vm, &ports[i], err);
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
    int result = board_add_device(board, pic8259_device(board->pic), ports,
                                  array_size(ports), err);
    if (result < 0) {
        return result;
    }
    const struct ioapic_bus bus = {
        .send = ioapic_send,
        .opaque = vm,
        .is_waiting = ioapic_is_waiting,
        .route = ioapic_route,
    };
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
    int result = board_add_device(board, pit8254_device(pit), pit_ports,
                                  array_size(pit_ports), err);
    if (result < 0) {
        return result;
    }
    const struct rtc_config config = {
        .wall_ns = vm_wall_ns(vm),
        .low_memory = memory_map_low_end(board->ram),
        .high_memory = board->ram - memory_map_low_end(board->ram),
    };
    struct rtc *rtc = rtc_new("rtc", vm->timers, vm_gsi(vm, GSI_RTC), &config, err);
    if (!rtc) {
        return -err->code;
    }
    const struct region rtc_ports[] = {rtc_region(rtc, PORT_RTC)};
    return board_add_device(board, rtc_device(rtc), rtc_ports, 1, err);
}

static int add_keyboard_controller(struct board *board, struct error *err)
{
    struct vm *vm = board->vm;
    const struct i8042_actions actions = {request_reset, set_a20, board};
    struct i8042 *i8042 = i8042_new("i8042", vm_gsi(vm, GSI_KEYBOARD), &actions, err);
    if (!i8042) {
        return -err->code;
    }
    const struct region ports[] = {
        i8042_data_region(i8042, 0x60),
        i8042_command_region(i8042, 0x64),
        i8042_port_a_region(i8042, 0x92),
    };
    return board_add_device(board, i8042_device(i8042), ports, array_size(ports), err);
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
    return board_add_device(board, uart16550_device(serial), ports, 1, err);
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
    const struct region ports[] = {acpi_pm_region(board->pm, PORT_ACPI_PM)};
    return board_add_device(board, acpi_pm_device(board->pm), ports, array_size(ports),
                            err);
}

static int add_panic_port(struct board *board, struct error *err)
{
    const struct pvpanic_action action = {report_panic, board};
    struct pvpanic *pvpanic = pvpanic_new("panic", &action, err);
    if (!pvpanic) {
        return -err->code;
    }
    const struct region ports[] = {pvpanic_region(pvpanic, PORT_PANIC)};
    return board_add_device(board, pvpanic_device(pvpanic), ports, 1, err);
}

static int add_debug_ports(struct board *board, bool with_exit, struct error *err)
{
    const struct debug_console_sink sink = {debug_console_write, board};
    struct debug_console *console = debug_console_new("debug-console", &sink, err);
    if (!console) {
        return -err->code;
    }
    const struct region ports[] = {
        debug_console_region(console, board->plan->debug_console)};
    int result = board_add_device(board, debug_console_device(console), ports, 1, err);
    if (result < 0 || !with_exit) {
        return result;
    }
    const struct debug_exit_action action = {debug_exit_request, board};
    struct debug_exit *port = debug_exit_new("debug-exit", &action, err);
    if (!port) {
        return -err->code;
    }
    const struct region exit_ports[] = {debug_exit_region(port, PORT_DEBUG_EXIT)};
    return board_add_device(board, debug_exit_device(port), exit_ports, 1, err);
}

int board_add_devices(struct board *board, const struct machine_config *config,
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
        result = add_panic_port(board, err);
    }
    if (result >= 0) {
        result = add_debug_ports(board, config->debug_exit, err);
    }
    if (result >= 0) {
        result = board_disks_add(&board->disks, board->vm, config->disk,
                                 config->disk_count, err);
    }
    if (result >= 0 && board->plan->add_devices) {
        result = board->plan->add_devices(board, config, err);
    }
    return result >= 0 ? board_add_quiet_ranges(board, err) : result;
}
