#pragma once
/*
 * Machines: which devices at which addresses, the memory map, how they boot.
 *
 * To add a machine: one file with a struct machine_type, one row in machine.c's table.
 */

#include "dispatcher/vm.h"
#include "machine/config.h"

/* Where the machine's first serial port sends and gets bytes. Both are called on any
 * thread with the port's lock held: neither may block or call the machine. */
struct console_port {
    /* Takes up to size bytes and returns how many; after a short answer
     * machine_console_ready has to be called. */
    unsigned (*write)(void *opaque, const uint8_t *data, unsigned size);
    /* There is room again after machine_console_input took less than it was given. May be
     * NULL. */
    void (*room)(void *opaque);
    void *opaque;
};

/* One row per device, for machine_describe. */
struct board_device {
    const char *name, *model;
    uint64_t address; /* the first of its ports, or of its memory */
    bool is_mmio;
    int gsi;          /* -1: none */
    bool is_optional; /* only with --debug-exit */
};

struct machine_type {
    const char *name;
    const char *summary;
    bool has_firmware; /* --firmware can be given */
    /* What it has besides the devices of every board; ends with a NULL name. */
    const struct board_device *devices;
    /* Adds memory, devices and the boot hook to a fresh VM. */
    int (*build)(struct vm *vm, const struct machine_config *config,
                 const struct console_port *console, struct error *err);
};

extern const struct machine_type *const machine_table[]; /* NULL-terminated */
const struct machine_type *machine_find(const char *name);

/* Checks the whole configuration (ranges, files, names) and builds the VM. On failure
 * *err names the option. */
struct vm *machine_new(const struct machine_config *config,
                       const struct console_port *console, struct error *err);
/* Input for the first serial port, from the event loop's thread. Returns how many bytes
 * were taken. */
unsigned machine_console_input(struct vm *vm, const uint8_t *data, unsigned size);
/* The console has room again: the serial port sends what it holds. */
void machine_console_ready(struct vm *vm);
/* After a restore: the serial port sends what it held when it was saved. */
void machine_console_resume(struct vm *vm);
/* Somebody presses the power button. Any thread. A deterministic run refuses it. */
int machine_power_button(struct vm *vm, struct error *err);
/* The resolved machine as JSON, for --dry-run and inspect. The caller frees it. */
char *machine_describe(const struct machine_config *config, struct error *err);
