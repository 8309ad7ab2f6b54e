#include "machine/kernel.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/scope.h"
#include "machine/memory_map.h"

/* In order of detection: a Linux vmlinux with a PVH note is an ELF image, too. */
static const struct boot_protocol *const protocols[] = {
    &boot_linux,
    &boot_pvh,
    &boot_multiboot,
    &boot_elf,
};

/* What people give by mistake, by its first bytes. */
static const struct {
    unsigned offset;
    const char *magic;
    unsigned size;
    const char *what;
} lookalikes[] = {
    {0, "\x1f\x8b", 2, "a gzip file; unpack it first"},
    {0,
     "\xfd"
     "7zXZ",
     5, "an xz file; unpack it first"},
    {0, "\x28\xb5\x2f\xfd", 4, "a zstd file; unpack it first"},
    {0, "BZh", 3, "a bzip2 file; unpack it first"},
    {0, "\x02\x21\x4c\x18", 4, "an lz4 file; unpack it first"},
    {0, "\x04\x22\x4d\x18", 4, "an lz4 file; unpack it first"},
    {0, "#!", 2, "a script"},
    {0, "!<arch>\n", 8, "an archive or a Debian package; unpack it first"},
    {0, "070701", 6, "a cpio archive; perhaps it is meant as --initrd"},
    {0, "QFI\xfb", 4, "a qcow2 disk image"},
    {257, "ustar", 5, "a tar archive"},
    {56, "ARM\x64", 4, "a 64-bit ARM Linux kernel, not x86"},
    {0, "MZ", 2, "a PE/EFI binary that is not a Linux kernel"},
    {510, "\x55\xaa", 2, "a boot sector or disk image"},
};

static int refuse(const struct boot_probe *probe, struct error *err)
{
    if (probe->head_size == 0) {
        return fail_plain(err, ENOEXEC, "the file is empty");
    }
    for (unsigned i = 0; i < array_size(lookalikes); i++) {
        unsigned offset = lookalikes[i].offset, size = lookalikes[i].size;
        if (offset + size <= probe->head_size &&
            memcmp(probe->head + offset, lookalikes[i].magic, size) == 0) {
            return fail_plain(err, ENOEXEC, "not a kernel: it looks like %s",
                              lookalikes[i].what);
        }
    }
    return fail_plain(err, ENOEXEC,
                      "not a kernel: neither a Linux bzImage nor an x86 ELF file");
}

const struct boot_protocol *kernel_detect(const struct image *image,
                                          struct boot_probe *probe, struct error *err)
{
    *probe = (struct boot_probe){.image = image};
    probe->head_size =
        image->size < BOOT_HEAD_SIZE ? (unsigned)image->size : BOOT_HEAD_SIZE;
    if (image_read(image, 0, probe->head, probe->head_size, "its first page", err) < 0) {
        return NULL;
    }
    for (unsigned i = 0; i < array_size(protocols); i++) {
        if (protocols[i]->detect(probe)) {
            return protocols[i];
        }
    }
    refuse(probe, err);
    return NULL;
}

int kernel_load(const struct image *image, const struct boot_target *target,
                struct x86_state *entry, struct error *err)
{
    struct error local = {0};
    struct boot_probe probe;
    const struct boot_protocol *protocol = kernel_detect(image, &probe, &local);
    if (!protocol) {
        return fail_plain(err, local.code, "%s", local.message);
    }
    return protocol->load(&probe, target, entry, err);
}

const struct boot_low boot_low_default = {MAP_BOOT_END, MAP_EBDA};

int boot_check_range(const struct boot_target *target, const struct boot_low *low,
                     uint64_t start, uint64_t end, struct error *err)
{
    uint64_t low_end = memory_map_low_end(target->ram);
    bool is_conventional = start >= low->start && end <= low->end;
    bool is_low = start >= MAP_KERNEL && end <= low_end;
    bool is_high = start >= MAP_HIGH_RAM && target->ram > low_end &&
                   end <= MAP_HIGH_RAM + (target->ram - low_end);
    if (is_conventional || is_low || is_high) {
        return 0;
    }
    if (start < MAP_KERNEL) {
        return fail_plain(err, ENOEXEC,
                          "it loads at 0x%" PRIx64 "-0x%" PRIx64
                          "; below 1M only 0x%" PRIx64 "-0x%" PRIx64 " can be filled",
                          start, end, low->start, low->end);
    }
    if (end <= MAP_LOW_RAM_END) {
        return fail_plain(err, ENOMEM,
                          "it needs at least %" PRIu64 " MiB of memory and the guest has "
                          "%" PRIu64 " MiB; give more with --memory",
                          (end + (1u << 20) - 1) >> 20, target->ram >> 20);
    }
    return fail_plain(err, ENOMEM,
                      "it loads at 0x%" PRIx64 "-0x%" PRIx64 ", where a guest of %" PRIu64
                      " MiB has no memory",
                      start, end, target->ram >> 20);
}

int boot_check_elf(const struct boot_target *target, const struct elf *elf,
                   const struct boot_low *low, struct error *err)
{
    uint64_t start, end;
    if (!elf_bounds(elf, &start, &end)) {
        return fail_plain(err, ENOEXEC, "an ELF file with nothing to load");
    }
    if (start >= MAP_KERNEL) {
        return boot_check_range(target, low, start, end, err);
    }
    int result = 0;
    for (unsigned i = 0; result == 0 && i < elf->count; i++) {
        const struct elf_segment *segment = &elf->segment[i];
        if (!segment->is_note) {
            result = boot_check_range(target, low, segment->address,
                                      segment->address + segment->memory_size, err);
        }
    }
    return result;
}

int boot_put_command_line(const struct boot_target *target, uint64_t max,
                          struct error *err)
{
    uint64_t length = strlen(target->command_line);
    if (max > MAP_COMMAND_MAX - 1) {
        max = MAP_COMMAND_MAX - 1;
    }
    if (length > max) {
        return fail_plain(err, E2BIG,
                          "its command line (--append) may have %" PRIu64
                          " characters; this one has %" PRIu64,
                          max, length);
    }
    if (!ram_write(target->memory, MAP_COMMAND_LINE, target->command_line, length + 1)) {
        return fail_plain(err, ENOMEM, "no guest memory for the command line");
    }
    return 0;
}

int boot_put_initrd(const struct boot_target *target, uint64_t kernel_end,
                    uint64_t highest, gpa_t *gpa, uint64_t *size, struct error *err)
{
    *gpa = *size = 0;
    if (!target->initrd || target->initrd->size == 0) {
        return 0;
    }
    uint64_t length = target->initrd->size;
    uint64_t limit = memory_map_low_end(target->ram);
    if (highest < limit) {
        limit = highest + 1;
    }
    uint64_t start = limit < length ? 0 : (limit - length) & ~(uint64_t)(FRAME_SIZE - 1);
    if (start < kernel_end || start < MAP_KERNEL) {
        return fail_plain(err, ENOMEM,
                          "its initrd of %" PRIu64
                          " MiB does not fit between the kernel, "
                          "which ends at %" PRIu64 " MiB, and %" PRIu64
                          " MiB; give more memory with --memory, or a smaller --initrd",
                          (length + (1u << 20) - 1) >> 20,
                          (kernel_end + (1u << 20) - 1) >> 20, limit >> 20);
    }
    int result =
        image_load(target->initrd, 0, length, target->memory, start, "the initrd", err);
    if (result == 0) {
        *gpa = start;
        *size = length;
    }
    return result;
}
