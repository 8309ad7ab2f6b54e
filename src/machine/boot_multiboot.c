/*
 * Multiboot (Multiboot Specification 0.6.96): an image with the magic number in its first
 * 8 KiB, 32-bit ELF or with load addresses in its header, entered in protected mode. As
 * loaders before us have done, the command line begins with the kernel's file name.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "machine/elf.h"
#include "machine/entry.h"
#include "machine/kernel.h"
#include "machine/memory_map.h"

#define SEARCH_SIZE        8192u
#define HEADER_MAGIC       0x1badb002u
#define ENTRY_MAGIC        0x2badb002u

#define FLAG_ALIGN_MODULES (1u << 0) /* they always are */
#define FLAG_MEMORY_INFO   (1u << 1) /* always given */
#define FLAG_VIDEO         (1u << 2)
#define FLAG_REQUIRED      0xffffu /* what a loader does not know of these it refuses */
#define FLAG_HAS_ADDRESSES (1u << 16)

#define INFO_MEMORY        (1u << 0)
#define INFO_COMMAND_LINE  (1u << 2)
#define INFO_MODULES       (1u << 3)
#define INFO_MEMORY_MAP    (1u << 6)
#define INFO_LOADER_NAME   (1u << 9)

/* Inside the area at MAP_MULTIBOOT. */
#define AREA_INFO         (MAP_MULTIBOOT + 0x000)
#define AREA_MODULE       (MAP_MULTIBOOT + 0x080)
#define AREA_LOADER_NAME  (MAP_MULTIBOOT + 0x0a0)
#define AREA_MEMORY_MAP   (MAP_MULTIBOOT + 0x100)
#define AREA_COMMAND_LINE (MAP_MULTIBOOT + 0x200)
#define COMMAND_MAX       (MAP_MULTIBOOT_SIZE - 0x200 - 1)

static const struct boot_low low_memory = {0x1000, MAP_MULTIBOOT};

/* 3.1.1. The addresses count only with FLAG_HAS_ADDRESSES. */
struct multiboot_header {
    uint32_t magic, flags, checksum;
    uint32_t header_address, load_address, load_end, bss_end, entry;
};

struct multiboot_info { /* 3.3 */
    uint32_t flags, memory_lower, memory_upper, boot_device, command_line;
    uint32_t module_count, modules, symbols[4];
    uint32_t map_size, map;
    uint32_t drives_size, drives, config_table, loader_name, apm_table;
};

struct multiboot_module {
    uint32_t start, end, text, reserved;
};

struct multiboot_map_entry {
    uint32_t size; /* of what follows */
    uint64_t base, length;
    uint32_t type;
} __attribute__((packed));

_Static_assert(sizeof(struct multiboot_info) <= 0x80, "the module's place");
_Static_assert(sizeof(struct multiboot_map_entry) * MAP_ENTRIES_MAX <= 0x100,
               "the command line's place");

/* The header and where it is; false if there is none. */
static bool find_header(const struct image *image, struct multiboot_header *header,
                        uint32_t *offset)
{
    uint8_t head[SEARCH_SIZE + sizeof(*header)] = {0};
    uint64_t size = image->size < sizeof(head) ? image->size : sizeof(head);
    if (image_read(image, 0, head, size, "its first pages", NULL) < 0) {
        return false;
    }
    for (uint32_t at = 0; at + 12 <= SEARCH_SIZE && at + 12 <= size; at += 4) {
        memcpy(header, head + at, sizeof(*header));
        if (header->magic == HEADER_MAGIC &&
            header->magic + header->flags + header->checksum == 0) {
            *offset = at;
            return true;
        }
    }
    return false;
}

/* A 64-bit ELF file with a header that says no addresses is left to the ELF protocol. */
static bool detect(const struct boot_probe *probe)
{
    struct multiboot_header header;
    uint32_t offset;
    if (!find_header(probe->image, &header, &offset)) {
        return false;
    }
    if (header.flags & FLAG_HAS_ADDRESSES) {
        return true;
    }
    struct elf elf;
    return elf_detect(probe->head, probe->head_size) &&
           elf_open(&elf, probe->image, NULL) == 0 && !elf.is_64;
}

static int check_flags(uint32_t flags, struct error *err)
{
    uint32_t unknown = flags & FLAG_REQUIRED & ~(FLAG_ALIGN_MODULES | FLAG_MEMORY_INFO);
    if (unknown & FLAG_VIDEO) {
        return fail_plain(err, ENOTSUP,
                          "its multiboot header asks for a video mode; there is no "
                          "display");
    }
    if (unknown) {
        return fail_plain(err, ENOTSUP,
                          "its multiboot header asks for features 0x%" PRIx32
                          " that version 0.6.96 does not have",
                          unknown);
    }
    return 0;
}

/* What the image fills, and where it is entered. */
struct loaded {
    uint64_t start, end;
    uint32_t entry;
};

static int load_elf(const struct boot_probe *probe, const struct boot_target *target,
                    struct loaded *loaded, struct error *err)
{
    struct elf elf;
    int result = elf_open(&elf, probe->image, err);
    if (result < 0) {
        return result;
    }
    if (!elf_bounds(&elf, &loaded->start, &loaded->end)) {
        return fail_plain(err, ENOEXEC, "an ELF file with nothing to load");
    }
    loaded->entry = (uint32_t)elf_physical_entry(&elf);
    result = boot_check_elf(target, &elf, &low_memory, err);
    return result < 0 ? result : elf_load(&elf, probe->image, target->memory, err);
}

/* 3.1.3: the image's part from load_address on, as the header's place in it tells. */
static int load_by_addresses(const struct boot_probe *probe,
                             const struct boot_target *target,
                             const struct multiboot_header *header, uint32_t offset,
                             struct loaded *loaded, struct error *err)
{
    const struct image *image = probe->image;
    uint32_t before = header->header_address - header->load_address;
    if (header->load_address > header->header_address || before > offset) {
        return fail_plain(err, ENOEXEC,
                          "its multiboot header loads it from before the file's begin");
    }
    uint64_t from = offset - before, size = image->size - from;
    uint64_t start = header->load_address;
    if (header->load_end) {
        if (header->load_end < start || header->load_end - start > size) {
            return fail_plain(err, ENOEXEC,
                              "its multiboot header loads more than the file has");
        }
        size = header->load_end - start;
    }
    uint64_t file_end = start + size;
    *loaded = (struct loaded){
        start, header->bss_end > file_end ? header->bss_end : file_end, header->entry};
    int result = boot_check_range(target, &low_memory, start, loaded->end, err);
    if (result == 0 && size > 0) {
        result = image_load(image, from, size, target->memory, start, "the kernel", err);
    }
    if (result == 0 && loaded->end > file_end &&
        !ram_clear(target->memory, file_end, loaded->end - file_end)) {
        return fail_plain(err, ENOMEM, "no guest memory for its BSS");
    }
    return result;
}

static bool put_text(const struct boot_target *target, gpa_t gpa, const char *text)
{
    return ram_write(target->memory, gpa, text, strlen(text) + 1);
}

static int put_command_line(const struct boot_target *target, struct error *err)
{
    size_t name = strlen(target->kernel_name), line = strlen(target->command_line);
    if (name + 1 + line > COMMAND_MAX) {
        return fail_plain(
            err, E2BIG,
            "its name and command line (--append) may have %llu characters; "
            "these have %zu",
            COMMAND_MAX, name + 1 + line);
    }
    gpa_t at = AREA_COMMAND_LINE;
    bool ok = put_text(target, at, target->kernel_name);
    if (line > 0) {
        ok = ok && put_text(target, at + name, " ") &&
             put_text(target, at + name + 1, target->command_line);
    }
    return ok ? 0 : fail_plain(err, ENOMEM, "no guest memory for the command line");
}

/* Returns the size of the map; 0: no memory for it. */
static uint32_t put_memory_map(const struct boot_target *target)
{
    struct map_entry ranges[MAP_ENTRIES_MAX];
    struct multiboot_map_entry map[MAP_ENTRIES_MAX] = {0};
    unsigned count = memory_map_build(target->ram, ranges);
    for (unsigned i = 0; i < count; i++) {
        map[i] =
            (struct multiboot_map_entry){sizeof(map[i]) - sizeof(map[i].size),
                                         ranges[i].base, ranges[i].size, ranges[i].kind};
    }
    uint32_t size = count * (uint32_t)sizeof(map[0]);
    return ram_write(target->memory, AREA_MEMORY_MAP, map, size) ? size : 0;
}

static int put_info(const struct boot_target *target, uint64_t kernel_end,
                    struct error *err)
{
    gpa_t initrd;
    uint64_t initrd_size;
    int result = put_command_line(target, err);
    if (result == 0) {
        result =
            boot_put_initrd(target, kernel_end, UINT32_MAX, &initrd, &initrd_size, err);
    }
    if (result < 0) {
        return result;
    }
    struct multiboot_module module = {
        (uint32_t)initrd, (uint32_t)(initrd + initrd_size),
        AREA_COMMAND_LINE + (uint32_t)strlen(target->kernel_name), 0};
    struct multiboot_info info = {
        .flags = INFO_MEMORY | INFO_COMMAND_LINE | INFO_MODULES | INFO_MEMORY_MAP |
                 INFO_LOADER_NAME,
        .memory_lower = MAP_EBDA >> 10,
        .memory_upper = (uint32_t)((memory_map_low_end(target->ram) - MAP_KERNEL) >> 10),
        .command_line = AREA_COMMAND_LINE,
        .module_count = initrd_size ? 1 : 0,
        .modules = initrd_size ? AREA_MODULE : 0,
        .map_size = put_memory_map(target),
        .map = AREA_MEMORY_MAP,
        .loader_name = AREA_LOADER_NAME,
    };
    if (info.map_size == 0 || !put_text(target, AREA_LOADER_NAME, "Doppel") ||
        !ram_write(target->memory, AREA_MODULE, &module, sizeof(module)) ||
        !ram_write(target->memory, AREA_INFO, &info, sizeof(info))) {
        return fail_plain(err, ENOMEM, "no guest memory for the multiboot information");
    }
    return 0;
}

static int load(const struct boot_probe *probe, const struct boot_target *target,
                struct x86_state *entry, struct error *err)
{
    struct multiboot_header header;
    struct loaded loaded;
    uint32_t offset;
    if (!find_header(probe->image, &header, &offset)) {
        return fail_plain(err, ENOEXEC, "its multiboot header has gone");
    }
    int result = check_flags(header.flags, err);
    if (result < 0) {
        return result;
    }
    if (header.flags & FLAG_HAS_ADDRESSES) {
        result = load_by_addresses(probe, target, &header, offset, &loaded, err);
    } else {
        result = load_elf(probe, target, &loaded, err);
    }
    if (result == 0 && (loaded.entry < loaded.start || loaded.entry >= loaded.end)) {
        return fail_plain(err, ENOEXEC,
                          "its entry point 0x%" PRIx32 " is outside what it loads",
                          loaded.entry);
    }
    if (result == 0) {
        result = put_info(target, loaded.end, err);
    }
    if (result == 0) {
        result =
            entry_protected_mode(entry, target->memory, loaded.entry, AREA_INFO, err);
        entry->gpr[X86_RAX] = ENTRY_MAGIC;
    }
    return result;
}

const struct boot_protocol boot_multiboot = {"multiboot image", detect, load};
