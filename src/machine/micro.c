#include "machine/micro.h"

#include "machine/board.h"

static int build(struct vm *vm, const struct machine_config *config,
                 const struct console_port *console, struct error *err)
{
    return board_build(vm, config, console, err) ? 0 : -err->code;
}

const struct machine_type machine_micro = {
    .name = "micro",
    .summary = "a PC without PCI: serial port, timers, APICs, ACPI",
    .build = build,
};
