#include "machine/elf.h"

#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/scope.h"

/* The notes of a kernel fill a few hundred bytes; more is not looked at. */
#define NOTES_SIZE_MAX (64u << 10)

bool elf_detect(const uint8_t *head, unsigned size)
{
    return size >= SELFMAG && memcmp(head, ELFMAG, SELFMAG) == 0;
}

/* The header fields that both classes have, in the wider class's form. */
struct header {
    uint64_t entry, table;
    uint16_t type, machine, entry_size, count;
};

static int header_read(struct header *header, bool is_64, const struct image *image,
                       struct error *err)
{
    if (is_64) {
        Elf64_Ehdr raw;
        int result = image_read(image, 0, &raw, sizeof(raw), "the ELF header", err);
        *header = (struct header){raw.e_entry,   raw.e_phoff,     raw.e_type,
                                  raw.e_machine, raw.e_phentsize, raw.e_phnum};
        return result;
    }
    Elf32_Ehdr raw;
    int result = image_read(image, 0, &raw, sizeof(raw), "the ELF header", err);
    *header = (struct header){raw.e_entry,   raw.e_phoff,     raw.e_type,
                              raw.e_machine, raw.e_phentsize, raw.e_phnum};
    return result;
}

static const char *architecture_name(uint16_t machine)
{
    static const struct {
        uint16_t machine;
        const char *name;
    } names[] = {
        {EM_AARCH64, "64-bit ARM"},  {EM_ARM, "ARM"},       {EM_RISCV, "RISC-V"},
        {EM_PPC64, "64-bit Power"},  {EM_S390, "s390"},     {EM_MIPS, "MIPS"},
        {EM_PPC, "Power"},           {EM_SPARCV9, "SPARC"}, {EM_IA_64, "Itanium"},
        {EM_LOONGARCH, "LoongArch"},
    };
    for (unsigned i = 0; i < array_size(names); i++) {
        if (names[i].machine == machine) {
            return names[i].name;
        }
    }
    return NULL;
}

static int header_check(const struct header *header, bool is_64, struct error *err)
{
    if (header->machine != EM_X86_64 && header->machine != EM_386) {
        const char *name = architecture_name(header->machine);
        if (name) {
            return fail_plain(err, ENOEXEC, "an ELF file for %s, not x86", name);
        }
        return fail_plain(err, ENOEXEC, "an ELF file for machine type %u, not x86",
                          header->machine);
    }
    if (header->type != ET_EXEC && header->type != ET_DYN) {
        return fail_plain(err, ENOEXEC, "%s, not an executable",
                          header->type == ET_REL    ? "an ELF object file"
                          : header->type == ET_CORE ? "an ELF core dump"
                                                    : "an ELF file of unknown type");
    }
    size_t entry_size = is_64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
    if (header->count == 0) {
        return fail_plain(err, ENOEXEC, "an ELF file without program headers");
    }
    if (header->entry_size != entry_size) {
        return fail_plain(err, ENOEXEC,
                          "ELF program headers of %u bytes each; %zu expected",
                          header->entry_size, entry_size);
    }
    return 0;
}

static int segment_read(struct elf_segment *segment, uint32_t *type, bool is_64,
                        const struct image *image, uint64_t offset, struct error *err)
{
    if (is_64) {
        Elf64_Phdr raw = {0};
        int result =
            image_read(image, offset, &raw, sizeof(raw), "the ELF program headers", err);
        *type = raw.p_type;
        *segment = (struct elf_segment){
            raw.p_type == PT_NOTE, raw.p_offset, raw.p_filesz, raw.p_paddr,
            raw.p_memsz,           raw.p_vaddr,  raw.p_align};
        return result;
    }
    Elf32_Phdr raw = {0};
    int result =
        image_read(image, offset, &raw, sizeof(raw), "the ELF program headers", err);
    *type = raw.p_type;
    *segment = (struct elf_segment){
        raw.p_type == PT_NOTE, raw.p_offset, raw.p_filesz, raw.p_paddr,
        raw.p_memsz,           raw.p_vaddr,  raw.p_align};
    return result;
}

static int segment_check(const struct elf_segment *segment, unsigned index,
                         const struct image *image, struct error *err)
{
    if (!image_contains(image, segment->offset, segment->file_size)) {
        return fail_plain(
            err, ENOEXEC,
            "truncated in ELF segment %u: it ends at byte %" PRIu64 " of %" PRIu64, index,
            segment->offset > UINT64_MAX - segment->file_size
                ? UINT64_MAX
                : segment->offset + segment->file_size,
            image->size);
    }
    if (segment->is_note) {
        return 0;
    }
    if (segment->file_size > segment->memory_size) {
        return fail_plain(err, ENOEXEC,
                          "ELF segment %u is larger in the file than in memory", index);
    }
    if (segment->memory_size > UINT64_MAX - segment->address) {
        return fail_plain(err, ENOEXEC, "ELF segment %u wraps around the address space",
                          index);
    }
    return 0;
}

static int segments_read(struct elf *elf, const struct header *header,
                         const struct image *image, struct error *err)
{
    for (unsigned i = 0; i < header->count; i++) {
        struct elf_segment segment;
        uint32_t type;
        uint64_t offset = header->table + (uint64_t)i * header->entry_size;
        if (offset < header->table) {
            return fail_plain(err, ENOEXEC, "truncated in the ELF program headers");
        }
        int result = segment_read(&segment, &type, elf->is_64, image, offset, err);
        if (result < 0) {
            return result;
        }
        if (type != PT_NOTE && (type != PT_LOAD || segment.memory_size == 0)) {
            continue;
        }
        if (elf->count == ELF_SEGMENTS_MAX) {
            return fail_plain(err, ENOEXEC, "more than %u ELF segments",
                              ELF_SEGMENTS_MAX);
        }
        result = segment_check(&segment, i, image, err);
        if (result < 0) {
            return result;
        }
        elf->segment[elf->count++] = segment;
    }
    return 0;
}

int elf_open(struct elf *elf, const struct image *image, struct error *err)
{
    uint8_t ident[EI_NIDENT] = {0};
    int result = image_read(image, 0, ident, sizeof(ident), "the ELF header", err);
    if (result < 0) {
        return result;
    }
    if (!elf_detect(ident, sizeof(ident))) {
        return fail_plain(err, ENOEXEC, "not an ELF file");
    }
    if (ident[EI_CLASS] != ELFCLASS64 && ident[EI_CLASS] != ELFCLASS32) {
        return fail_plain(err, ENOEXEC, "an ELF file of unknown class %u",
                          ident[EI_CLASS]);
    }
    if (ident[EI_DATA] != ELFDATA2LSB) {
        return fail_plain(err, ENOEXEC, "a big-endian ELF file, not x86");
    }
    *elf = (struct elf){.is_64 = ident[EI_CLASS] == ELFCLASS64};
    struct header header;
    result = header_read(&header, elf->is_64, image, err);
    if (result == 0) {
        result = header_check(&header, elf->is_64, err);
    }
    if (result < 0) {
        return result;
    }
    elf->is_x86_64 = header.machine == EM_X86_64;
    elf->entry = header.entry;
    return segments_read(elf, &header, image, err);
}

bool elf_bounds(const struct elf *elf, uint64_t *start, uint64_t *end)
{
    bool found = false;
    *start = UINT64_MAX;
    *end = 0;
    for (unsigned i = 0; i < elf->count; i++) {
        const struct elf_segment *segment = &elf->segment[i];
        if (segment->is_note) {
            continue;
        }
        found = true;
        uint64_t segment_end = segment->address + segment->memory_size;
        *start = segment->address < *start ? segment->address : *start;
        *end = segment_end > *end ? segment_end : *end;
    }
    return found;
}

static uint64_t align_up(uint64_t value, uint64_t alignment)
{
    return (value + alignment - 1) & ~(alignment - 1);
}

/* Looks through the notes of one segment; both classes have the same note header. */
static int notes_find(const uint8_t *notes, uint64_t size, uint64_t alignment,
                      const char *owner, uint32_t type, void *buffer, unsigned capacity)
{
    uint64_t offset = 0;
    while (offset + sizeof(Elf64_Nhdr) <= size) {
        Elf64_Nhdr note;
        memcpy(&note, notes + offset, sizeof(note));
        /* All sums of 32-bit sizes fit into 64 bits. */
        uint64_t name = offset + sizeof(note);
        uint64_t content = align_up(name + note.n_namesz, alignment);
        if (content > size || note.n_descsz > size - content) {
            break;
        }
        if (note.n_type == type && note.n_namesz == strlen(owner) + 1 &&
            memcmp(notes + name, owner, note.n_namesz) == 0) {
            memcpy(buffer, notes + content,
                   note.n_descsz < capacity ? note.n_descsz : capacity);
            return (int)note.n_descsz;
        }
        offset = align_up(content + note.n_descsz, alignment);
    }
    return -ENOENT;
}

int elf_note_find(const struct elf *elf, const struct image *image, const char *owner,
                  uint32_t type, void *buffer, unsigned size, struct error *err)
{
    for (unsigned i = 0; i < elf->count; i++) {
        const struct elf_segment *segment = &elf->segment[i];
        if (!segment->is_note) {
            continue;
        }
        uint64_t length =
            segment->file_size < NOTES_SIZE_MAX ? segment->file_size : NOTES_SIZE_MAX;
        SCOPE_FREE uint8_t *notes = malloc(length ? length : 1);
        if (!notes) {
            return fail(err, ENOMEM, "cannot read the ELF notes");
        }
        int result =
            image_read(image, segment->offset, notes, length, "the ELF notes", err);
        if (result < 0) {
            return result;
        }
        result = notes_find(notes, length, segment->alignment == 8 ? 8 : 4, owner, type,
                            buffer, size);
        if (result >= 0) {
            return result;
        }
    }
    return -ENOENT;
}

/* The range is inside one slot. */
static int clear(struct memory *memory, gpa_t gpa, uint64_t size, struct error *err)
{
    if (!ram_clear(memory, gpa, size)) {
        return fail_plain(err, ENOMEM, "no guest memory at 0x%" PRIx64 "-0x%" PRIx64, gpa,
                          gpa + size);
    }
    return 0;
}

int elf_load(const struct elf *elf, const struct image *image, struct memory *memory,
             struct error *err)
{
    for (unsigned i = 0; i < elf->count; i++) {
        const struct elf_segment *segment = &elf->segment[i];
        if (segment->is_note) {
            continue;
        }
        char what[32];
        snprintf(what, sizeof(what), "ELF segment at 0x%" PRIx64, segment->address);
        int result = image_load(image, segment->offset, segment->file_size, memory,
                                segment->address, what, err);
        if (result == 0) {
            result = clear(memory, segment->address + segment->file_size,
                           segment->memory_size - segment->file_size, err);
        }
        if (result < 0) {
            return result;
        }
    }
    return 0;
}

uint64_t elf_physical_entry(const struct elf *elf)
{
    for (unsigned i = 0; i < elf->count; i++) {
        const struct elf_segment *segment = &elf->segment[i];
        if (!segment->is_note && elf->entry >= segment->address &&
            elf->entry - segment->address < segment->memory_size) {
            return elf->entry;
        }
    }
    for (unsigned i = 0; i < elf->count; i++) {
        const struct elf_segment *segment = &elf->segment[i];
        if (!segment->is_note && elf->entry >= segment->virtual_address &&
            elf->entry - segment->virtual_address < segment->memory_size) {
            return elf->entry - segment->virtual_address + segment->address;
        }
    }
    return elf->entry;
}
