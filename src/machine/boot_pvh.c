/*
 * PVH: an ELF image whose Xen note of type 18 names a 32-bit entry point (Xen's
 * docs/misc/pvh.pandoc, include/public/arch-x86/hvm/start_info.h). A Linux that says so
 * in its notes is left to the 64-bit protocol, which spares it the way through 32-bit
 * mode; Linux built without Xen support says nothing and boots by PVH.
 */

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "machine/elf.h"
#include "machine/entry.h"
#include "machine/kernel.h"
#include "machine/memory_map.h"

#define XEN_OWNER             "Xen"
#define XEN_NOTE_GUEST_OS     6
#define XEN_NOTE_PHYS32_ENTRY 18

#define START_INFO_MAGIC      0x336ec578u
#define START_INFO_MODULE     (MAP_BOOT_PARAMS + 0x40)
#define START_INFO_MAP        (MAP_BOOT_PARAMS + 0x80)

struct start_info {
    uint32_t magic, version, flags, module_count;
    uint64_t modules, command_line, rsdp, map;
    uint32_t map_count, reserved;
};

struct start_module {
    uint64_t address, size, command_line, reserved;
};

struct start_map_entry {
    uint64_t address, size;
    uint32_t type, reserved; /* type as in E820 */
};

/* The entry point by the note; false if there is none. */
static bool find_entry(const struct elf *elf, const struct image *image, uint32_t *entry)
{
    uint8_t content[8] = {0};
    int size = elf_note_find(elf, image, XEN_OWNER, XEN_NOTE_PHYS32_ENTRY, content,
                             sizeof(content), NULL);
    if (size != 4 && size != 8) {
        return false;
    }
    uint64_t address;
    memcpy(&address, content, sizeof(address));
    *entry = (uint32_t)address;
    return address <= UINT32_MAX;
}

static bool is_linux(const struct elf *elf, const struct image *image)
{
    char name[8] = {0};
    int size =
        elf_note_find(elf, image, XEN_OWNER, XEN_NOTE_GUEST_OS, name, sizeof(name), NULL);
    return size >= 5 && memcmp(name, "linux", 5) == 0 && name[5] == 0;
}

static bool detect(const struct boot_probe *probe)
{
    struct elf elf;
    uint32_t entry;
    if (!elf_detect(probe->head, probe->head_size) ||
        elf_open(&elf, probe->image, NULL) < 0 ||
        !find_entry(&elf, probe->image, &entry)) {
        return false;
    }
    return !(elf.is_64 && elf.is_x86_64 && is_linux(&elf, probe->image));
}

static int put_start_info(const struct boot_target *target, gpa_t initrd,
                          uint64_t initrd_size, struct error *err)
{
    struct map_entry ranges[MAP_ENTRIES_MAX];
    struct start_map_entry map[MAP_ENTRIES_MAX] = {0};
    unsigned count = memory_map_build(target->ram, ranges);
    for (unsigned i = 0; i < count; i++) {
        map[i] = (struct start_map_entry){
            .address = ranges[i].base, .size = ranges[i].size, .type = ranges[i].kind};
    }
    struct start_module module = {.address = initrd, .size = initrd_size};
    struct start_info info = {
        .magic = START_INFO_MAGIC,
        .version = 1,
        .module_count = initrd_size ? 1 : 0,
        .modules = initrd_size ? START_INFO_MODULE : 0,
        .command_line = MAP_COMMAND_LINE,
        .rsdp = target->rsdp,
        .map = START_INFO_MAP,
        .map_count = count,
    };
    if (!ram_write(target->memory, MAP_BOOT_PARAMS, &info, sizeof(info)) ||
        !ram_write(target->memory, START_INFO_MODULE, &module, sizeof(module)) ||
        !ram_write(target->memory, START_INFO_MAP, map, sizeof(map))) {
        return fail_plain(err, ENOMEM, "no guest memory for the start info");
    }
    return 0;
}

static int load(const struct boot_probe *probe, const struct boot_target *target,
                struct x86_state *entry, struct error *err)
{
    struct elf elf;
    uint64_t start, end;
    uint32_t eip;
    int result = elf_open(&elf, probe->image, err);
    if (result < 0) {
        return result;
    }
    if (!find_entry(&elf, probe->image, &eip) || !elf_bounds(&elf, &start, &end)) {
        return fail_plain(err, ENOEXEC, "a PVH image with nothing to load");
    }
    if (eip < start || eip >= end) {
        return fail_plain(err, ENOEXEC,
                          "its PVH entry point 0x%" PRIx32 " is outside what it loads",
                          eip);
    }
    result = boot_check_elf(target, &elf, &boot_low_default, err);
    if (result == 0) {
        result = elf_load(&elf, probe->image, target->memory, err);
    }
    gpa_t initrd = 0;
    uint64_t initrd_size = 0;
    if (result == 0) {
        result = boot_put_command_line(target, MAP_COMMAND_MAX - 1, err);
    }
    if (result == 0) {
        result = boot_put_initrd(target, end, UINT32_MAX, &initrd, &initrd_size, err);
    }
    if (result == 0) {
        result = put_start_info(target, initrd, initrd_size, err);
    }
    if (result < 0) {
        return result;
    }
    return entry_protected_mode(entry, target->memory, eip, MAP_BOOT_PARAMS, err);
}

const struct boot_protocol boot_pvh = {"PVH image", detect, load};
