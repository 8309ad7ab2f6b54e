#pragma once
/*
 * The board of a PC-like machine: its memory, the devices that it always has and the
 * wires between them, and the firmware's part of starting it (tables, kernel, entry
 * state). Machines add their own devices to it. It belongs to the VM, as its first
 * device.
 */

#include "machine/image.h"
#include "machine/machine.h"

struct board;

/* In what the machines differ. */
struct board_plan {
    uint16_t debug_console;  /* its port */
    bool has_adapter_memory; /* RAM where a display adapter would have its own */
    bool has_shadow;         /* PAM registers: machine/shadow.h */
    bool has_bios;           /* kernels find what a BIOS leaves: machine/bios.h */
    /* Adds the machine's own devices to the board's; NULL: none. */
    int (*add_devices)(struct board *board, const struct machine_config *config,
                       struct error *err);
};

/* Adds memory, devices and the boot hook to a fresh VM. The VM owns the board, also after
 * a failure. The plan is constant. */
int board_build(struct vm *vm, const struct machine_config *config,
                const struct board_plan *plan, const struct console_port *console,
                struct error *err);
/* The VM's board. */
struct board *board_find(struct vm *vm);
/* The configuration that it was made from. The strings are the board's; console and
 * exit_stats, which are the process's, and cpuid are not filled in. */
struct machine_config board_config(const struct board *board);
/* The open boot files, or NULL where there is none. */
const struct image *board_kernel(const struct board *board);
const struct image *board_initrd(const struct board *board);
const struct image *board_firmware(const struct board *board);
struct uart16550 *board_serial(struct board *board);
struct acpi_pm *board_pm(struct board *board);
struct patient_console *board_patient_console(struct board *board);

/* The frames that the board needs, in bytes, for vm_config.memory_limit. */
uint64_t board_memory_size(const struct machine_config *config);

extern const struct board_device board_devices[]; /* of all; ends with a NULL name */
