#pragma once
/* The raw format: the file's bytes are the disk's. */

#include "disk/disk.h"

extern const struct disk_format disk_raw;
