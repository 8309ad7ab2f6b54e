#pragma once
/*
 * Executable ELF files for x86: headers, notes, and the loading of segments by their
 * physical addresses (System V ABI, chapters 4 and 5). Everything read is checked before
 * it is used; messages are the cause alone, without the file's name.
 */

#include <stdbool.h>
#include <stdint.h>

#include "machine/image.h"

#define ELF_SEGMENTS_MAX 64

struct elf_segment {
    bool is_note;                  /* else loadable */
    uint64_t offset, file_size;    /* inside the image */
    uint64_t address, memory_size; /* physical; address + memory_size does not wrap */
    uint64_t virtual_address;
    uint64_t alignment;
};

struct elf {
    bool is_64;
    bool is_x86_64; /* else 80386 */
    uint64_t entry;
    unsigned count; /* loadable and note segments, in file order */
    struct elf_segment segment[ELF_SEGMENTS_MAX];
};

/* Does it begin as an ELF file? */
bool elf_detect(const uint8_t *head, unsigned size);
int elf_open(struct elf *elf, const struct image *image, struct error *err);

/* The lowest and the end of the highest byte that loading fills. False: no loadable
 * segment. */
bool elf_bounds(const struct elf *elf, uint64_t *start, uint64_t *end);

/*
 * The contents of the first note of that owner and type, at most size bytes of it.
 * Returns the note's length, or -ENOENT; -errno with *err filled if notes cannot be read.
 */
int elf_note_find(const struct elf *elf, const struct image *image, const char *owner,
                  uint32_t type, void *buffer, unsigned size, struct error *err);

/* Copies the loadable segments to their physical addresses and clears the rest of their
 * memory. The caller has checked that elf_bounds is RAM. */
int elf_load(const struct elf *elf, const struct image *image, struct memory *memory,
             struct error *err);

/* e_entry as a physical address: many kernels store a virtual one. */
uint64_t elf_physical_entry(const struct elf *elf);
