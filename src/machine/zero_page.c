#include "machine/zero_page.h"

#include <errno.h>

#include "machine/memory_map.h"

#define LOADER_UNKNOWN 0xff /* "undefined": no number is assigned to us */
#define E820_SIZE      20u

static void put(uint8_t *page, enum zero_page_offset offset, uint64_t value,
                unsigned size)
{
    memcpy(page + offset, &value, size);
}

/* The header as the image has it; everything around it must be zero. */
static void copy_header(uint8_t *page, const uint8_t *head)
{
    unsigned end = ZP_HEADER + head[ZP_JUMP + 1];
    if (end > ZP_HEADER_MAX) {
        end = ZP_HEADER_MAX;
    }
    if (end > ZP_SETUP_SECTORS) {
        memcpy(page + ZP_SETUP_SECTORS, head + ZP_SETUP_SECTORS, end - ZP_SETUP_SECTORS);
    }
}

/* For an ELF image, which has none. */
static void make_header(uint8_t *page)
{
    put(page, ZP_BOOT_FLAG, ZP_BOOT_FLAG_VALUE, 2);
    put(page, ZP_HEADER, ZP_HEADER_VALUE, 4);
    put(page, ZP_VERSION, 0x020c, 2);
    put(page, ZP_KERNEL_ALIGN, 0x1000000, 4);
    put(page, ZP_XLOAD_FLAGS, ZP_XLF_KERNEL_64, 2);
}

static void put_memory_map(uint8_t *page, uint64_t ram)
{
    struct map_entry entries[MAP_ENTRIES_MAX];
    unsigned count = memory_map_build(ram, entries);
    for (unsigned i = 0; i < count; i++) {
        enum zero_page_offset at = ZP_E820 + i * E820_SIZE;
        put(page, at, entries[i].base, 8);
        put(page, at + 8, entries[i].size, 8);
        put(page, at + 16, entries[i].kind, 4);
    }
    put(page, ZP_E820_COUNT, count, 1);
}

int zero_page_put(const struct zero_page_config *config, const struct boot_target *target,
                  struct error *err)
{
    uint8_t page[ZERO_PAGE_SIZE] = {0};
    uint64_t initrd, initrd_size;
    int result = boot_put_command_line(target, config->command_max, err);
    if (result == 0) {
        result = boot_put_initrd(target, config->kernel_end, config->initrd_max, &initrd,
                                 &initrd_size, err);
    }
    if (result < 0) {
        return result;
    }
    if (config->head) {
        copy_header(page, config->head);
    } else {
        make_header(page);
    }
    put(page, ZP_LOADER_TYPE, LOADER_UNKNOWN, 1);
    /* No heap and no silence asked for: both are the real-mode setup code's business. */
    put(page, ZP_LOAD_FLAGS, ZP_LOADED_HIGH, 1);
    put(page, ZP_VIDEO_MODE, 0xffff, 2); /* "normal" */
    put(page, ZP_RAMDISK_IMAGE, initrd, 4);
    put(page, ZP_RAMDISK_SIZE, initrd_size, 4);
    put(page, ZP_COMMAND_LINE, MAP_COMMAND_LINE, 4);
    put(page, ZP_ACPI_RSDP, target->rsdp, 8);
    put_memory_map(page, target->ram);
    if (!ram_write(target->memory, MAP_BOOT_PARAMS, page, sizeof(page))) {
        return fail_plain(err, ENOMEM, "no guest memory for the boot parameters");
    }
    return 0;
}
