#pragma once
/*
 * Boot images: what a file is, where it goes in guest memory, and in which state it is
 * entered. See docs/boot.md.
 *
 * To add a boot protocol: one file with a struct boot_protocol, one row in kernel.c's
 * table.
 */

#include <stdbool.h>
#include <stdint.h>

#include "allocator/memory.h"
#include "base/error.h"
#include "machine/elf.h"
#include "machine/image.h"
#include "x86/state.h"

/* What a kernel is given. Everything is borrowed. */
struct boot_target {
    struct memory *memory;
    uint64_t ram;               /* bytes; laid out as memory_map_build says */
    const char *kernel_name;    /* the file's, for protocols that tell it; never NULL */
    const char *command_line;   /* never NULL */
    const struct image *initrd; /* NULL: none */
    gpa_t rsdp;                 /* ACPI's root pointer */
    bool use_cache;             /* of unpacked payloads: machine/cache.h */
};

#define BOOT_HEAD_SIZE 4096u

/* A file under examination: its first bytes, zeros behind its end. */
struct boot_probe {
    const struct image *image;
    unsigned head_size;
    uint8_t head[BOOT_HEAD_SIZE];
};

struct boot_protocol {
    const char *name; /* as messages call such a file */
    /* Is it one? Looks at the file only as far as needed to tell. */
    bool (*detect)(const struct boot_probe *probe);
    /* Loads it and fills *entry, the bootstrap processor's state. Errors are the cause
     * alone, without the file's name. */
    int (*load)(const struct boot_probe *probe, const struct boot_target *target,
                struct x86_state *entry, struct error *err);
};

extern const struct boot_protocol boot_linux, boot_pvh, boot_multiboot, boot_elf;

/* Finds out what the image is. NULL: none of ours, and *err says what it looks like. */
const struct boot_protocol *kernel_detect(const struct image *image,
                                          struct boot_probe *probe, struct error *err);
/* Detects and loads. Can be repeated: a reboot loads the image again. */
int kernel_load(const struct image *image, const struct boot_target *target,
                struct x86_state *entry, struct error *err);

/* The part of conventional RAM that a protocol leaves to the image. */
struct boot_low {
    uint64_t start, end;
};
extern const struct boot_low boot_low_default; /* what lies around it is ours */

/* For protocols: is [start, end) guest RAM that an image may fill? The message says how
 * much memory the guest needs. */
int boot_check_range(const struct boot_target *target, const struct boot_low *low,
                     uint64_t start, uint64_t end, struct error *err);
/* The same for all that an ELF file loads; segments may lie on both sides of the hole
 * below 1M. */
int boot_check_elf(const struct boot_target *target, const struct elf *elf,
                   const struct boot_low *low, struct error *err);
/* Copies the command line to MAP_COMMAND_LINE. max is without the final 0. */
int boot_put_command_line(const struct boot_target *target, uint64_t max,
                          struct error *err);
/*
 * Loads the initrd as high as RAM below 4G and highest (its last byte's limit) allow, and
 * above kernel_end. *gpa and *size are 0 without one.
 */
int boot_put_initrd(const struct boot_target *target, uint64_t kernel_end,
                    uint64_t highest, gpa_t *gpa, uint64_t *size, struct error *err);
