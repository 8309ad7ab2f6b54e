#pragma once
/* The machine `micro`: the board alone, without a bus for more. */

#include "machine/machine.h"

extern const struct machine_type machine_micro;
