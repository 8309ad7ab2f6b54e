#include <elf.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "machine/elf.h"

#include <cmocka.h>

/* A small valid file: a loadable segment and a note. */
static struct {
    Elf64_Ehdr header;
    Elf64_Phdr program[2];
    struct {
        Elf64_Nhdr header;
        char name[4];
        uint64_t content;
    } note;
    uint8_t code[64];
} file;

static struct image image;
static struct elf elf;
static struct error err;

static int setup(void **state)
{
    memset(&file, 0, sizeof(file));
    memcpy(file.header.e_ident, ELFMAG, SELFMAG);
    file.header.e_ident[EI_CLASS] = ELFCLASS64;
    file.header.e_ident[EI_DATA] = ELFDATA2LSB;
    file.header.e_type = ET_EXEC;
    file.header.e_machine = EM_X86_64;
    file.header.e_entry = 0xffffffff81000010;
    file.header.e_phoff = sizeof(Elf64_Ehdr);
    file.header.e_phentsize = sizeof(Elf64_Phdr);
    file.header.e_phnum = 2;
    file.program[0] =
        (Elf64_Phdr){.p_type = PT_LOAD,
                     .p_offset = (size_t)((char *)file.code - (char *)&file),
                     .p_paddr = 0x1000000,
                     .p_vaddr = 0xffffffff81000000,
                     .p_filesz = 64,
                     .p_memsz = 0x2000};
    file.program[1] =
        (Elf64_Phdr){.p_type = PT_NOTE,
                     .p_offset = (size_t)((char *)&file.note - (char *)&file),
                     .p_filesz = sizeof(file.note)};
    file.note.header = (Elf64_Nhdr){4, 8, 18};
    memcpy(file.note.name, "Xen", 4);
    file.note.content = 0x1000040;
    image_init_memory(&image, &file, sizeof(file));
    err = (struct error){0};
    return 0;
}

static void assert_refused(const char *text)
{
    assert_true(elf_open(&elf, &image, &err) < 0);
    if (!strstr(err.message, text)) {
        fail_msg("\"%s\" does not say \"%s\"", err.message, text);
    }
}

static void test_reads_segments(void **state)
{
    uint64_t start, end;
    assert_int_equal(elf_open(&elf, &image, &err), 0);
    assert_true(elf.is_64 && elf.is_x86_64);
    assert_int_equal(elf.count, 2);
    assert_true(elf_bounds(&elf, &start, &end));
    assert_int_equal(start, 0x1000000);
    assert_int_equal(end, 0x1002000);
}

static void test_entry_is_made_physical(void **state)
{
    assert_int_equal(elf_open(&elf, &image, &err), 0);
    assert_int_equal(elf_physical_entry(&elf), 0x1000010);
    elf.entry = 0x1000020;
    assert_int_equal(elf_physical_entry(&elf), 0x1000020);
}

static void test_finds_notes(void **state)
{
    uint64_t content = 0;
    assert_int_equal(elf_open(&elf, &image, &err), 0);
    assert_int_equal(elf_note_find(&elf, &image, "Xen", 18, &content, 8, NULL), 8);
    assert_int_equal(content, 0x1000040);
    assert_int_equal(elf_note_find(&elf, &image, "Xen", 6, &content, 8, NULL), -ENOENT);
    assert_int_equal(elf_note_find(&elf, &image, "GNU", 18, &content, 8, NULL), -ENOENT);
}

static void test_hostile_note_sizes_end_the_search(void **state)
{
    static const uint32_t sizes[] = {UINT32_MAX, 0x7fffffff, 0xfffffffc, 9};
    uint64_t content;
    assert_int_equal(elf_open(&elf, &image, &err), 0);
    for (unsigned i = 0; i < 4; i++) {
        file.note.header = (Elf64_Nhdr){4, sizes[i], 18};
        assert_int_equal(elf_note_find(&elf, &image, "Xen", 18, &content, 8, NULL),
                         -ENOENT);
        file.note.header = (Elf64_Nhdr){sizes[i], 8, 18};
        assert_int_equal(elf_note_find(&elf, &image, "Xen", 18, &content, 8, NULL),
                         -ENOENT);
    }
}

static void test_every_truncation_is_refused(void **state)
{
    for (uint64_t size = 0; size < sizeof(file); size++) {
        image.size = size;
        assert_refused("truncated in ");
    }
}

static void test_refusals_name_the_cause(void **state)
{
    file.header.e_machine = EM_AARCH64;
    assert_refused("64-bit ARM");
    setup(state);
    file.header.e_machine = 0x1234;
    assert_refused("machine type 4660");
    setup(state);
    file.header.e_ident[EI_DATA] = ELFDATA2MSB;
    assert_refused("big-endian");
    setup(state);
    file.header.e_type = ET_REL;
    assert_refused("object file");
    setup(state);
    file.header.e_type = ET_CORE;
    assert_refused("core dump");
    setup(state);
    file.header.e_phnum = 0;
    assert_refused("without program headers");
    setup(state);
    file.header.e_phentsize = 8;
    assert_refused("program headers of 8 bytes");
    setup(state);
    file.header.e_ident[0] = 0;
    assert_refused("not an ELF file");
}

static void test_hostile_offsets_are_refused(void **state)
{
    file.header.e_phoff = UINT64_MAX - 8;
    assert_refused("truncated in");
    setup(state);
    file.header.e_phnum = UINT16_MAX;
    assert_refused("truncated in");
    setup(state);
    file.program[0].p_offset = UINT64_MAX;
    assert_refused("truncated in ELF segment 0");
    setup(state);
    file.program[0].p_filesz = UINT64_MAX;
    assert_refused("truncated in ELF segment 0");
    setup(state);
    file.program[0].p_memsz = 1;
    assert_refused("larger in the file than in memory");
    setup(state);
    file.program[0].p_memsz = UINT64_MAX;
    assert_refused("wraps around");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_reads_segments, setup),
        cmocka_unit_test_setup(test_entry_is_made_physical, setup),
        cmocka_unit_test_setup(test_finds_notes, setup),
        cmocka_unit_test_setup(test_hostile_note_sizes_end_the_search, setup),
        cmocka_unit_test_setup(test_every_truncation_is_refused, setup),
        cmocka_unit_test_setup(test_refusals_name_the_cause, setup),
        cmocka_unit_test_setup(test_hostile_offsets_are_refused, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
