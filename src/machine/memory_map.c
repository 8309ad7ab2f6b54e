#include "machine/memory_map.h"

unsigned memory_map_build(uint64_t ram, struct map_entry entries[MAP_ENTRIES_MAX])
{
    unsigned count = 0;
    entries[count++] = (struct map_entry){0, MAP_EBDA, MAP_KIND_RAM};
    entries[count++] =
        (struct map_entry){MAP_EBDA, MAP_VGA - MAP_EBDA, MAP_KIND_RESERVED};
    entries[count++] =
        (struct map_entry){MAP_BIOS_AREA, MAP_BIOS_AREA_SIZE, MAP_KIND_RESERVED};
    uint64_t low_end = memory_map_low_end(ram);
    entries[count++] = (struct map_entry){MAP_KERNEL, low_end - MAP_KERNEL, MAP_KIND_RAM};
    if (ram > low_end) {
        entries[count++] = (struct map_entry){MAP_HIGH_RAM, ram - low_end, MAP_KIND_RAM};
    }
    return count;
}
