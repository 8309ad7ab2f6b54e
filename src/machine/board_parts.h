#pragma once
/* The parts of struct board, for the files that make it: board.c (its life and memory),
 * board_devices.c (devices and wires), board_ports.c (what nothing stands behind),
 * board_boot.c (the firmware's part). */

#include "machine/acpi.h"
#include "machine/board.h"
#include "machine/board_disk.h"
#include "machine/patient_console.h"

/*
 * The board is a device too: it answers the ports that every PC has and that nothing
 * stands behind here, and it owns what a reboot needs. The kernel and the initrd stay
 * open, so that a reboot finds them even if the files have been replaced.
 */
struct board {
    struct device device;
    struct vm *vm;
    const struct board_plan *plan;
    uint64_t ram;
    char *name, *machine, *cpu_model,
        *paravirt; /* of the configuration; owned, may be NULL */
    bool has_debug_exit;
    char *kernel_path, *initrd_path, *firmware_path; /* for messages; owned */
    char *command_line;
    struct image kernel, initrd, firmware;
    struct console_port console;
    struct patient_console patient; /* behind it, in deterministic runs */
    struct board_disks disks;
    struct uart16550 *serial;
    struct pic8259 *pic;
    struct ioapic *ioapic;
    struct acpi_pm *pm;
    struct pci_host *pci;           /* NULL: there is no PCI bus */
    frame_t shadow_ram, shadow_rom; /* of machines with PAM registers: shadow.h */
    uint64_t shadow_rom_size;
    struct region reset; /* acpi_pm's port, inside of PCI's configuration address */
};

/* Adds the devices and wires them up; nothing is undone on failure, for the VM owns them.
 */
int board_add_devices(struct board *board, const struct machine_config *config,
                      struct error *err);
/* Adds a device with its ports; takes it, also on failure. */
int board_add_device(struct board *board, struct device *device,
                     const struct region *ports, unsigned count, struct error *err);
/* Adds the ports and addresses that answer with all ones without a message, where no
 * device answers. */
int board_add_quiet_ranges(struct board *board, struct error *err);
/* The boot hook, opaque being the board: tables, kernel, entry state. */
int board_boot(void *opaque, struct vm *vm, struct error *err);
/* The same with firmware, which places the tables itself: the processors are as after a
 * reset, and it is in its place. */
int board_boot_firmware(void *opaque, struct vm *vm, struct error *err);
/* What the machine's ACPI tables tell. */
struct acpi_config board_acpi(const struct board *board);
