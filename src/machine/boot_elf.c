/*
 * ELF images entered in 64-bit mode: a Linux vmlinux, or a bare-metal program. Linux's
 * entry point is the 64-bit one of its boot protocol; others are free to ignore the boot
 * parameters in RSI.
 */

#include <errno.h>

#include "machine/elf.h"
#include "machine/entry.h"
#include "machine/kernel.h"
#include "machine/memory_map.h"
#include "machine/zero_page.h"

/* COMMAND_LINE_SIZE of x86 Linux, without the final 0. */
#define LINUX_COMMAND_MAX 2047u
#define LINUX_INITRD_MAX  0x7fffffffu

static bool detect(const struct boot_probe *probe)
{
    return elf_detect(probe->head, probe->head_size);
}

static int load(const struct boot_probe *probe, const struct boot_target *target,
                struct x86_state *entry, struct error *err)
{
    struct elf elf;
    uint64_t start, end;
    int result = elf_open(&elf, probe->image, err);
    if (result < 0) {
        return result;
    }
    if (!elf.is_64 || !elf.is_x86_64) {
        return fail_plain(err, ENOEXEC,
                          "a 32-bit ELF file without a PVH entry note; 64-bit ELF, PVH "
                          "ELF and bzImage files can be booted");
    }
    if (!elf_bounds(&elf, &start, &end)) {
        return fail_plain(err, ENOEXEC, "an ELF file with nothing to load");
    }
    result = boot_check_elf(target, &elf, &boot_low_default, err);
    if (result == 0) {
        result = elf_load(&elf, probe->image, target->memory, err);
    }
    if (result == 0) {
        struct zero_page_config config = {
            .kernel_end = end,
            .initrd_max = LINUX_INITRD_MAX,
            .command_max = LINUX_COMMAND_MAX,
        };
        result = zero_page_put(&config, target, err);
    }
    if (result < 0) {
        return result;
    }
    return entry_long_mode(entry, target->memory, elf_physical_entry(&elf),
                           MAP_BOOT_PARAMS, err);
}

const struct boot_protocol boot_elf = {"ELF image", detect, load};
