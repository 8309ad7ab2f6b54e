#pragma once
/*
 * What a machine with PAM registers has from 0xc0000 to 1M: for each of their ranges RAM
 * that shadows the firmware's ROM, or nothing at all, for reads and writes apart.
 */

#include "machine/board_parts.h"

/* Maps it as after a reset: reads reach the ROM, whose frames begin with rom and end
 * below 1M, writes are lost. rom_size 0: there is none. */
int shadow_map(struct board *board, frame_t rom, uint64_t rom_size, struct error *err);
/* For struct pci_host_config; opaque is the board. */
void shadow_changed(void *opaque, unsigned range, unsigned attributes);
/* As firmware leaves it where a kernel is started without any: the BIOS area is RAM, and
 * nothing is below. */
void shadow_open(struct board *board);
