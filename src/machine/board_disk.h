#pragma once
/* The disks of a board: their images, the threads that serve them, and the virtio devices
 * in front of them, one page and one interrupt each. */

#include "device/virtio/virtio_blk.h"
#include "dispatcher/vm.h"
#include "machine/acpi.h"
#include "machine/disk_config.h"

struct board_disks {
    struct worker_pool *pool; /* NULL without disks */
    unsigned count;
    struct disk_config *config; /* owned */
    struct acpi_virtio place[CONFIG_DISKS_MAX];
};

/* Opens the images and adds the devices to the VM, which owns them from then on. The
 * message of a failure names the option. */
int board_disks_add(struct board_disks *disks, struct vm *vm,
                    const struct disk_config *config, unsigned count, struct error *err);
/* After the VM's devices have been freed. */
void board_disks_free(struct board_disks *disks);

/* Where the index-th disk is, and what it is called. */
struct acpi_virtio board_disk_place(unsigned index);
const char *board_disk_name(unsigned index);
