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

int firmware_map(const struct image *image, struct memory *memory, struct error *err)
{
    uint64_t size = image->size, low = firmware_low_size(image);
    int64_t added = memory_add_frames(memory, size, err);
    if (added < 0) {
        return (int)added;
    }
    frame_t first = (frame_t)added;
    int result = image_read(image, 0, memory_host(memory, first), size, "it", err);
    if (result == 0) {
        result = memory_map(memory, MAP_HIGH_RAM - size, size, first, SLOT_ROM, err);
    }
    if (result == 0) {
        frame_t low_first = first + (frame_t)((size - low) >> FRAME_SHIFT);
        result = memory_map(memory, MAP_KERNEL - low, low, low_first, SLOT_ROM, err);
    }
    return result;
}
