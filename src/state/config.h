#pragma once
/* A VM's configuration as JSON: what a saved VM was made from. Keys are the names of the
 * options of `doppel run`. */

#include <jansson.h>

#include "base/error.h"
#include "machine/config.h"

/* A new reference; NULL when memory is short or a text is not valid UTF-8. console,
 * exit_stats and cpuid, which belong to the process, are left out. */
json_t *config_to_json(const struct machine_config *config);
/* Texts are borrowed from the object, and disks goes into the configuration. Unknown keys
 * and wrong types are errors. */
int config_from_json(const json_t *object, struct machine_config *config,
                     struct disk_config disks[CONFIG_DISKS_MAX], struct error *err);
