#include "machine/firmware.h"

#include <errno.h>
#include <inttypes.h>

#include "machine/memory_map.h"

int firmware_open(struct image *image, const char *path, struct error *err)
{
    int result = image_open(image, path, err);
    if (result < 0) {
        return result;
    }
    if (image->size == 0 || image->size % FIRMWARE_UNIT) {
        return fail_plain(err, EINVAL,
                          "it has %" PRIu64
                          " bytes; a firmware image is a multiple of 64 KiB",
                          image->size);
    }
    if (image->size > FIRMWARE_SIZE_MAX) {
        return fail_plain(err, EFBIG, "it has %" PRIu64 " MiB; 16 MiB is the limit",
                          (image->size + (1u << 20) - 1) >> 20);
    }
    return 0;
}

uint64_t firmware_low_size(const struct image *image)
{
    return image->size < MAP_BIOS_AREA_SIZE ? image->size : MAP_BIOS_AREA_SIZE;
}

int64_t firmware_map(const struct image *image, struct memory *memory, struct error *err)
{
    uint64_t size = image->size;
    int64_t first = memory_add_frames(memory, size, err);
    if (first < 0) {
        return first;
    }
    int result =
        image_read(image, 0, memory_host(memory, (frame_t)first), size, "it", err);
    if (result == 0) {
        result =
            memory_map(memory, MAP_HIGH_RAM - size, size, (frame_t)first, SLOT_ROM, err);
    }
    return result < 0 ? result : first;
}
