#pragma once
/*
 * The ACPI tables for firmware, which places them itself: two files of the firmware
 * configuration device, and a third with the commands that say how: allocate memory for a
 * file, add its address to a pointer in another, sum up again (the linker and loader of
 * QEMU's firmware interface).
 */

#include "device/pc/fw_cfg.h"
#include "machine/acpi.h"

int acpi_loader_add(struct fw_cfg *fw_cfg, const struct acpi_config *config,
                    struct error *err);
