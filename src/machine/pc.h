#pragma once
/*
 * The machine `pc`: the board with a PCI bus, the firmware configuration device and,
 * with --debug-exit, the devices that tests of processors look for.
 */

#include "machine/machine.h"

extern const struct machine_type machine_pc;
