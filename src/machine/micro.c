#include "machine/micro.h"

#include "machine/board.h"
#include "machine/memory_map.h"

static const struct board_plan plan = {.debug_console = PORT_DEBUG_CONSOLE};

static const struct board_device devices[] = {
    {"debug-console", "debug console", PORT_DEBUG_CONSOLE, false, -1, false},
    {NULL, NULL, 0, false, -1, false},
};

static int build(struct vm *vm, const struct machine_config *config,
                 const struct console_port *console, struct error *err)
{
    return board_build(vm, config, &plan, console, err);
}

const struct machine_type machine_micro = {
    .name = "micro",
    .summary = "a PC without PCI: serial port, timers, APICs, ACPI",
    .devices = devices,
    .build = build,
};
