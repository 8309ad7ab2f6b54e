#pragma once
/* Disks as users describe them: FILE[,format=raw][,readonly][,bus=virtio]. */

#include <stdbool.h>

#include "base/error.h"

#define CONFIG_DISKS_MAX     8
#define CONFIG_DISK_PATH_MAX 4096

enum disk_bus {
    DISK_BUS_VIRTIO,
};

struct disk_config {
    char path[CONFIG_DISK_PATH_MAX];
    const char *format; /* static; NULL: find out */
    enum disk_bus bus;
    bool is_readonly;
};

/* Reads one description. Two commas stand for one in the file's name. Fails with what is
 * wrong and what there is instead, without the option's name. */
int disk_config_parse(const char *text, struct disk_config *disk, struct error *err);
const char *disk_bus_name(enum disk_bus bus);
