#include "machine/board_disk.h"

#include <errno.h>
#include <string.h>

#include "base/scope.h"
#include "device/virtio/virtio_mmio.h"
#include "dispatcher/doorbell.h"
#include "dispatcher/steps.h"
#include "jail/jail.h"
#include "machine/memory_map.h"

/* As many requests can wait for the host at once; more are queued. */
#define DISK_THREADS 4

static const char *const names[CONFIG_DISKS_MAX] = {"disk0", "disk1", "disk2", "disk3",
                                                    "disk4", "disk5", "disk6", "disk7"};

_Static_assert(GSI_VIRTIO + CONFIG_DISKS_MAX <= VM_GSI_COUNT, "an interrupt for each");

const char *board_disk_name(unsigned index)
{
    return names[index];
}

struct acpi_virtio board_disk_place(unsigned index)
{
    return (struct acpi_virtio){.base = MAP_VIRTIO_MMIO + index * VIRTIO_MMIO_SIZE,
                                .gsi = GSI_VIRTIO + index};
}

static int add_disk(struct board_disks *disks, struct vm *vm, unsigned index,
                    struct error *err)
{
    const struct disk_config *config = &disks->config[index];
    const struct disk_options options = {.format = config->format,
                                         .is_readonly = config->is_readonly};
    const struct acpi_virtio place = board_disk_place(index);
    unsigned queues =
        vm->cpu_count < VIRTIO_QUEUES_MAX ? vm->cpu_count : VIRTIO_QUEUES_MAX;
    struct disk *disk = disk_open(config->path, &options, disks->pool, err);
    if (!disk) {
        return fail_within(err, "--disk");
    }
    struct virtio_blk *blk = virtio_blk_new(names[index], disk, vm->memory,
                                            vm_gsi(vm, place.gsi), queues, err);
    if (!blk) {
        return -err->code;
    }
    int result = vm_add_device(vm, virtio_blk_device(blk), err);
    if (result < 0) {
        return result;
    }
    const struct region region = virtio_mmio_region(virtio_blk_virtio(blk), place.base);
    disks->place[index] = place;
    result = vm_add_mmio(vm, &region, err);
    for (unsigned i = 0; result >= 0 && i < queues; i++) {
        vm_add_doorbell(vm, place.base + VIRTIO_MMIO_NOTIFY, i);
    }
    return result;
}

static void enter_jail(void)
{
    jail_enter(JAIL_DISK);
}

int board_disks_add(struct board_disks *disks, struct vm *vm,
                    const struct disk_config *config, unsigned count, struct error *err)
{
    if (count == 0) {
        return 0;
    }
    if (count > CONFIG_DISKS_MAX) {
        return fail_plain(err, EINVAL, "--disk: at most %d disks", CONFIG_DISKS_MAX);
    }
    disks->config = calloc(count, sizeof(*config));
    if (!disks->config) {
        return fail(err, ENOMEM, "cannot make the disks");
    }
    memcpy(disks->config, config, count * sizeof(*config));
    bool is_deterministic = vm->config.is_deterministic;
    const struct worker_config workers = {
        .name = "disk",
        .threads = is_deterministic ? 0 : DISK_THREADS,
        .create = jail_thread_create,
        .begin = enter_jail,
    };
    disks->pool = worker_pool_open(&workers, err);
    if (!disks->pool) {
        return -err->code;
    }
    if (is_deterministic) {
        steps_take_jobs(vm, disks->pool);
    }
    int result = 0;
    while (result >= 0 && disks->count < count) {
        result = add_disk(disks, vm, disks->count++, err);
    }
    return result;
}

void board_disks_free(struct board_disks *disks)
{
    worker_pool_close(disks->pool);
    free(disks->config);
}
