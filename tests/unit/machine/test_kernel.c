/* Loads small images into guest memory and looks at what is there. */

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "base/scope.h"
#include "machine/kernel.h"
#include "machine/memory_map.h"
#include "machine/zero_page.h"
#include "x86/state.h"

#include <cmocka.h>

#define RAM (32ull << 20)

static struct memory *memory;
static struct boot_target target;
static struct x86_state entry;
static struct error err;
static struct image image;

static void add_ram(uint64_t start, uint64_t end)
{
    int64_t frame = memory_add_frames(memory, end - start, NULL);
    assert_true(frame >= 0);
    assert_int_equal(
        memory_map(memory, start, end - start, (frame_t)frame, SLOT_RAM, NULL), 0);
}

static int setup(void **state)
{
    memory = memory_new(RAM, NULL);
    assert_non_null(memory);
    add_ram(0, MAP_VGA);
    add_ram(MAP_BIOS_AREA, MAP_KERNEL);
    add_ram(MAP_KERNEL, RAM);
    target = (struct boot_target){
        .memory = memory, .ram = RAM, .command_line = "console=ttyS0", .rsdp = 0xe0000};
    memset(&entry, 0xcc, sizeof(entry));
    err = (struct error){0};
    return 0;
}

static int teardown(void **state)
{
    image_close(&image);
    memory_free(memory);
    return 0;
}

static uint64_t guest(gpa_t gpa, unsigned size)
{
    uint64_t value = 0;
    assert_true(ram_read(memory, gpa, &value, size));
    return value;
}

static void load(void)
{
    int result = kernel_load(&image, &target, &entry, &err);
    if (result < 0) {
        fail_msg("%s", err.message);
    }
}

static void assert_refused(const char *text)
{
    err = (struct error){0};
    assert_true(kernel_load(&image, &target, &entry, &err) < 0);
    if (!strstr(err.message, text)) {
        fail_msg("\"%s\" does not say \"%s\"", err.message, text);
    }
}

/* An ELF file with one segment of 16 bytes at 16M and, if wanted, Xen notes. */
struct elf_file {
    Elf64_Ehdr header;
    Elf64_Phdr program[2];
    struct {
        Elf64_Nhdr header;
        char owner[4];
        char content[8];
    } note[2];
    char code[16];
};

static struct elf_file file;

static void make_elf(void)
{
    file = (struct elf_file){
        .header = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, 1},
                   .e_type = ET_EXEC,
                   .e_machine = EM_X86_64,
                   .e_entry = 0x1000004,
                   .e_phoff = offsetof(struct elf_file, program),
                   .e_phentsize = sizeof(Elf64_Phdr),
                   .e_phnum = 1},
        .program = {{.p_type = PT_LOAD,
                     .p_offset = offsetof(struct elf_file, code),
                     .p_paddr = 0x1000000,
                     .p_vaddr = 0xffffffff81000000,
                     .p_filesz = 16,
                     .p_memsz = 0x3000},
                    {.p_type = PT_NOTE,
                     .p_offset = offsetof(struct elf_file, note),
                     .p_filesz = sizeof(file.note)}},
        .code = "some machine co",
    };
    image_init_memory(&image, &file, sizeof(file));
}

static void add_notes(const char *os)
{
    uint64_t pvh_entry = 0x1000008;
    file.header.e_phnum = 2;
    file.note[0].header = (Elf64_Nhdr){4, 8, 6};
    file.note[1].header = (Elf64_Nhdr){4, 8, 18};
    memcpy(file.note[0].owner, "Xen", 4);
    memcpy(file.note[1].owner, "Xen", 4);
    memcpy(file.note[0].content, os, strlen(os));
    memcpy(file.note[1].content, &pvh_entry, 8);
}

static void assert_long_mode(uint64_t rip)
{
    assert_int_equal(x86_state_mode(&entry), X86_MODE_LONG64);
    assert_int_equal(entry.rip, rip);
    assert_int_equal(entry.gpr[X86_RSI], MAP_BOOT_PARAMS);
    assert_int_equal(entry.gpr[X86_RAX] | entry.gpr[X86_RBX] | entry.gpr[X86_RDI], 0);
    assert_int_equal(entry.rflags, X86_FLAG_1);
    assert_int_equal(entry.seg[X86_CS].selector, 0x10);
    assert_int_equal(entry.seg[X86_DS].selector, 0x18);
    assert_int_equal(entry.seg[X86_SS].selector, 0x18);
    assert_int_equal(entry.cr3, MAP_BOOT_TABLES);
}

static void test_elf_is_entered_in_long_mode(void **state)
{
    make_elf();
    memset(ram_map(memory, 0x1000010, 0x100, true), 0xcc, 0x100);
    load();
    assert_long_mode(0x1000004);
    assert_memory_equal(ram_map(memory, 0x1000000, 16, false), file.code, 16);
    assert_int_equal(guest(0x1000010, 8), 0);
}

static void test_virtual_entry_is_translated(void **state)
{
    make_elf();
    file.header.e_entry = 0xffffffff81000004;
    load();
    assert_int_equal(entry.rip, 0x1000004);
}

/* Walks the tables as the processor does, for addresses all over the first 4 GiB. */
static void test_first_4g_are_mapped_to_themselves(void **state)
{
    make_elf();
    load();
    for (uint64_t address = 0; address < 1ull << 32; address += (2 << 20) * 7 + 12345) {
        uint64_t table = entry.cr3;
        for (unsigned shift = 39; shift > 21; shift -= 9) {
            uint64_t item = guest(table + (address >> shift & 511) * 8, 8);
            assert_int_equal(item & 0xfff, X86_PTE_P | X86_PTE_W | X86_PTE_A);
            table = item & ~0xfffull;
        }
        uint64_t item = guest(table + (address >> 21 & 511) * 8, 8);
        assert_true(item & X86_PTE_P && item & X86_PTE_W && item & X86_PTE_PS);
        assert_int_equal((item & ~0x1fffffull) | (address & 0x1fffff), address);
    }
}

static void test_descriptor_table_matches_the_segments(void **state)
{
    make_elf();
    load();
    assert_int_equal(entry.gdtr.base, MAP_BOOT_GDT);
    assert_true(entry.gdtr.limit >= 0x27);
    assert_int_equal(guest(entry.gdtr.base, 8), 0);
    assert_int_equal(guest(entry.gdtr.base + 0x10, 8), 0x00af9b000000ffff);
    assert_int_equal(guest(entry.gdtr.base + 0x18, 8), 0x00cf93000000ffff);
}

static void test_zero_page(void **state)
{
    static const struct {
        uint64_t base, size;
        uint32_t kind;
    } map[] = {
        {0, 0x9fc00, 1},
        {0x9fc00, 0x400, 2},
        {0xe0000, 0x20000, 2},
        {0x100000, RAM - 0x100000, 1},
    };
    gpa_t page = MAP_BOOT_PARAMS;
    make_elf();
    load();
    assert_int_equal(guest(page + 0x1fe, 2), 0xaa55);
    assert_int_equal(guest(page + 0x202, 4), 0x53726448);
    assert_int_equal(guest(page + 0x210, 1), 0xff);
    assert_int_equal(guest(page + 0x211, 1), 1);
    assert_int_equal(guest(page + 0x218, 8), 0);
    assert_int_equal(guest(page + 0x070, 8), 0xe0000);
    assert_int_equal(guest(page + 0x1ef, 1), 0); /* sentinel */
    gpa_t line = guest(page + 0x228, 4);
    assert_string_equal(ram_map(memory, line, 64, false), "console=ttyS0");
    assert_int_equal(guest(page + 0x1e8, 1), 4);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(guest(page + 0x2d0 + i * 20, 8), map[i].base);
        assert_int_equal(guest(page + 0x2d8 + i * 20, 8), map[i].size);
        assert_int_equal(guest(page + 0x2e0 + i * 20, 4), map[i].kind);
    }
}

static void test_memory_map_has_a_hole_below_4g(void **state)
{
    struct map_entry entries[MAP_ENTRIES_MAX];
    assert_int_equal(memory_map_build(3ull << 30, entries), 4);
    assert_int_equal(memory_map_build(5ull << 30, entries), 5);
    assert_int_equal(entries[3].base + entries[3].size, 0xc0000000);
    assert_int_equal(entries[4].base, 1ull << 32);
    assert_int_equal(entries[4].size, 2ull << 30);
}

static void test_initrd_is_placed_high(void **state)
{
    struct image initrd;
    char content[5000];
    memset(content, 'x', sizeof(content));
    image_init_memory(&initrd, content, sizeof(content));
    make_elf();
    target.initrd = &initrd;
    load();
    assert_int_equal(guest(MAP_BOOT_PARAMS + 0x218, 4), RAM - 0x2000);
    assert_int_equal(guest(MAP_BOOT_PARAMS + 0x21c, 4), sizeof(content));
    assert_memory_equal(ram_map(memory, RAM - 0x2000, sizeof(content), false), content,
                        sizeof(content));
    image_init_memory(&initrd, content, RAM);
    assert_refused("initrd of 32 MiB does not fit");
}

static void test_command_line_limit(void **state)
{
    char line[2049];
    memset(line, 'a', sizeof(line));
    line[2047] = 0;
    make_elf();
    target.command_line = line;
    load();
    line[2047] = 'a';
    line[2048] = 0;
    assert_refused("may have 2047 characters; this one has 2048");
}

static void test_pvh_is_entered_in_protected_mode(void **state)
{
    struct image initrd;
    image_init_memory(&initrd, "initrd", 6);
    make_elf();
    add_notes("toy");
    target.initrd = &initrd;
    load();
    assert_int_equal(x86_state_mode(&entry), X86_MODE_PROTECTED32);
    assert_int_equal(entry.rip, 0x1000008);
    assert_int_equal(entry.cr0 & X86_CR0_PG, 0);
    assert_int_equal(entry.rflags, X86_FLAG_1);
    assert_int_equal(entry.seg[X86_CS].limit, UINT32_MAX);
    gpa_t info = entry.gpr[X86_RBX];
    assert_int_equal(guest(info, 4), 0x336ec578);
    assert_int_equal(guest(info + 4, 4), 1);
    assert_int_equal(guest(info + 12, 4), 1);
    gpa_t module = guest(info + 16, 8);
    assert_int_equal(guest(module, 8), RAM - 0x1000);
    assert_int_equal(guest(module + 8, 8), 6);
    assert_string_equal(ram_map(memory, guest(info + 24, 8), 64, false), "console=ttyS0");
    assert_int_equal(guest(info + 32, 8), 0xe0000);
    gpa_t map = guest(info + 40, 8);
    assert_int_equal(guest(info + 48, 4), 4);
    assert_int_equal(guest(map + 3 * 24, 8), 0x100000);
    assert_int_equal(guest(map + 3 * 24 + 8, 8), RAM - 0x100000);
    assert_int_equal(guest(map + 3 * 24 + 16, 4), 1);
}

static void test_linux_with_pvh_note_takes_the_64_bit_entry(void **state)
{
    make_elf();
    add_notes("linux");
    load();
    assert_long_mode(0x1000004);
}

static void test_refusals(void **state)
{
    static const struct {
        const char *bytes;
        unsigned size;
        const char *text;
    } files[] = {
        {"", 0, "the file is empty"},
        {"#!/bin/sh\n", 10, "a script"},
        {"\x1f\x8b\x08\x00", 4, "a gzip file"},
        {"MZ\x90\x00", 4, "a PE/EFI binary"},
        {"!<arch>\ndebian", 14, "Debian package"},
        {"070701xxxx", 10, "perhaps it is meant as --initrd"},
        {"hello, world", 12, "neither a Linux bzImage nor an x86 ELF file"},
        {"\x7f"
         "ELF",
         4, "truncated in the ELF header"},
    };
    for (unsigned i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        image_init_memory(&image, files[i].bytes, files[i].size);
        assert_refused(files[i].text);
    }
}

static void test_elf_outside_memory_is_refused(void **state)
{
    make_elf();
    file.program[0].p_memsz = RAM;
    assert_refused("needs at least 48 MiB of memory and the guest has 32 MiB");
    file.program[0].p_paddr = 0x7000;
    file.program[0].p_memsz = 0x1000;
    assert_refused("below 1M only");
    file.program[0].p_paddr = 0x90000;
    file.program[0].p_memsz = 0x20000;
    assert_refused("below 1M only");
    file.program[0].p_paddr = 1ull << 40;
    assert_refused("has no memory");
}

static void test_elf_on_both_sides_of_the_hole(void **state)
{
    make_elf();
    file.header.e_phnum = 2;
    file.program[1] = file.program[0];
    file.program[1].p_paddr = 0x80000;
    file.program[1].p_memsz = 0x1000;
    load();
    assert_memory_equal(ram_map(memory, 0x80000, 16, false), file.code, 16);
    assert_memory_equal(ram_map(memory, 0x1000000, 16, false), file.code, 16);
}

static void test_32_bit_elf_without_note_is_refused(void **state)
{
    struct {
        Elf32_Ehdr header;
        Elf32_Phdr program;
    } small = {
        .header = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, 1},
                   .e_type = ET_EXEC,
                   .e_machine = EM_386,
                   .e_phoff = sizeof(Elf32_Ehdr),
                   .e_phentsize = sizeof(Elf32_Phdr),
                   .e_phnum = 1},
        .program = {.p_type = PT_LOAD, .p_paddr = 0x100000, .p_memsz = 0x1000},
    };
    image_init_memory(&image, &small, sizeof(small));
    assert_refused("a 32-bit ELF file without a PVH entry note");
}

/* A bzImage: setup sectors, code with a gzip payload that holds the ELF file. */
static uint8_t bzimage[16384];
#define SETUP   1024u
#define PAYLOAD 0x400u

static void put(unsigned offset, uint64_t value, unsigned size)
{
    memcpy(bzimage + offset, &value, size);
}

static unsigned pack(const void *data, unsigned size)
{
    z_stream stream = {.next_in = (Bytef *)data,
                       .avail_in = size,
                       .next_out = bzimage + SETUP + PAYLOAD,
                       .avail_out = 8192};
    deflateInit2(&stream, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
    assert_int_equal(deflate(&stream, Z_FINISH), Z_STREAM_END);
    deflateEnd(&stream);
    return (unsigned)stream.total_out;
}

static void make_bzimage_of(const void *kernel, unsigned size)
{
    memset(bzimage, 0, sizeof(bzimage));
    put(0x1f1, 1, 1);
    put(0x1f4, 4096 / 16, 4);
    put(0x1fe, 0xaa55, 2);
    put(0x200, 0x6aeb, 2);
    put(0x202, 0x53726448, 4);
    put(0x206, 0x20f, 2);
    put(0x211, 1, 1);
    put(0x22c, 0x7fffffff, 4);
    put(0x236, 1, 2);
    put(0x238, 255, 4);
    put(0x248, PAYLOAD, 4);
    put(0x24c, pack(kernel, size), 4);
    put(0x258, 0x1000000, 8);
    put(0x260, 0x100000, 4);
    memcpy(bzimage + SETUP, "the decompressor", 16);
    image_init_memory(&image, bzimage, sizeof(bzimage));
}

static void make_bzimage(void)
{
    make_elf();
    make_bzimage_of(&file, sizeof(file));
}

static void test_bzimage_is_unpacked(void **state)
{
    make_bzimage();
    load();
    assert_long_mode(0x1000004);
    assert_memory_equal(ram_map(memory, 0x1000000, 16, false), file.code, 16);
    /* The header is the image's own, completed. */
    assert_int_equal(guest(MAP_BOOT_PARAMS + 0x206, 2), 0x20f);
    assert_int_equal(guest(MAP_BOOT_PARAMS + 0x260, 4), 0x100000);
    assert_int_equal(guest(MAP_BOOT_PARAMS + 0x210, 1), 0xff);
    assert_int_equal(guest(MAP_BOOT_PARAMS + 0x228, 4), MAP_COMMAND_LINE);
}

/* A kernel of more than three chunks of the cache, the last of which is damaged. */
static void test_bzimage_is_unpacked_again_where_the_cache_is_damaged(void **state)
{
    static struct {
        struct elf_file elf;
        char more[3 * IMAGE_CHUNK];
    } large;
    char directory[] = "/tmp/doppel-kernel-XXXXXX", pattern[64];
    assert_non_null(mkdtemp(directory));
    setenv("XDG_CACHE_HOME", directory, 1);
    make_elf();
    large.elf = file;
    large.elf.program[0].p_filesz += sizeof(large.more);
    large.elf.program[0].p_memsz = large.elf.program[0].p_filesz;
    for (size_t i = 0; i < sizeof(large.more); i++) {
        large.more[i] = (char)('a' + i % 23);
    }
    make_bzimage_of(&large, sizeof(large));
    target.use_cache = true;
    load();
    glob_t found;
    snprintf(pattern, sizeof(pattern), "%s/doppel/*.kernel", directory);
    assert_int_equal(glob(pattern, 0, NULL, &found), 0);
    assert_int_equal(truncate(found.gl_pathv[0], 1), 0);
    for (unsigned i = 0; i < 3; i++) {
        teardown(state);
        setup(state);
        image_init_memory(&image, bzimage, sizeof(bzimage));
        target.use_cache = true;
        load();
        assert_memory_equal(ram_map(memory, 0x1000000, 16, false), file.code, 16);
        assert_memory_equal(ram_map(memory, 0x1000010, sizeof(large.more), false),
                            large.more, sizeof(large.more));
        SCOPE_FD int fd = open(found.gl_pathv[0], O_RDWR);
        struct stat status;
        char last;
        assert_int_equal(fstat(fd, &status), 0);
        assert_int_equal(pread(fd, &last, 1, status.st_size - 1), 1);
        assert_int_equal(last, large.more[sizeof(large.more) - 1]);
        assert_int_equal(pwrite(fd, "!", 1, status.st_size - 1), 1);
    }
    assert_int_equal(unlink(found.gl_pathv[0]), 0);
    globfree(&found);
    snprintf(pattern, sizeof(pattern), "%s/doppel", directory);
    assert_int_equal(rmdir(pattern), 0);
    assert_int_equal(rmdir(directory), 0);
}

static void test_bzimage_unpacks_itself_where_we_cannot(void **state)
{
    make_bzimage();
    memcpy(bzimage + SETUP + PAYLOAD, "BZh9", 4);
    load();
    assert_long_mode(0x1000200);
    assert_memory_equal(ram_map(memory, 0x1000000, 16, false), "the decompressor", 16);
}

static void assert_protected_mode(uint64_t rip)
{
    assert_int_equal(x86_state_mode(&entry), X86_MODE_PROTECTED32);
    assert_int_equal(entry.rip, rip);
    assert_int_equal(entry.gpr[X86_RSI], MAP_BOOT_PARAMS);
    assert_int_equal(entry.gpr[X86_RBX] | entry.gpr[X86_RBP] | entry.gpr[X86_RDI], 0);
    assert_int_equal(entry.seg[X86_CS].selector, 0x10);
    assert_int_equal(entry.seg[X86_DS].selector, 0x18);
    assert_int_equal(entry.seg[X86_SS].selector, 0x18);
    assert_false(entry.cr0 & X86_CR0_PG);
}

/* Its payload is no 32-bit executable, so that it has to unpack itself, too. */
static void test_bzimage_of_32_bits_is_entered_at_its_beginning(void **state)
{
    make_bzimage();
    put(0x236, 0, 2);
    load();
    assert_protected_mode(0x1000000);
    assert_memory_equal(ram_map(memory, 0x1000000, 16, false), "the decompressor", 16);
}

static void test_bzimage_of_32_bits_is_unpacked(void **state)
{
    struct {
        Elf32_Ehdr header;
        Elf32_Phdr program;
        char code[16];
    } small = {
        .header = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, 1},
                   .e_type = ET_EXEC,
                   .e_machine = EM_386,
                   .e_entry = 0x1000004,
                   .e_phoff = sizeof(Elf32_Ehdr),
                   .e_phentsize = sizeof(Elf32_Phdr),
                   .e_phnum = 1},
        .program = {.p_type = PT_LOAD,
                    .p_offset = sizeof(Elf32_Ehdr) + sizeof(Elf32_Phdr),
                    .p_paddr = 0x1000000,
                    .p_vaddr = 0xc1000000,
                    .p_filesz = 16,
                    .p_memsz = 0x3000},
        .code = "some machine co",
    };
    make_bzimage();
    put(0x236, 0, 2);
    put(0x24c, pack(&small, sizeof(small)), 4);
    load();
    assert_protected_mode(0x1000004);
    assert_memory_equal(ram_map(memory, 0x1000000, 16, false), small.code, 16);
    /* A 64-bit executable inside does not fit. */
    make_bzimage();
    put(0x236, 0, 2);
    load();
    assert_protected_mode(0x1000000);
}

/* Such as memtest86+: a program in a bzImage, whose length is no multiple of 16. */
static void test_bzimage_need_not_be_compressed(void **state)
{
    make_bzimage();
    put(0x248, 0, 4);
    put(0x24c, 0, 4);
    image.size = SETUP + 4096 - 15;
    load();
    assert_long_mode(0x1000200);
    assert_memory_equal(ram_map(memory, 0x1000000, 16, false), "the decompressor", 16);
}

static void test_bzimage_command_line_limit_is_its_own(void **state)
{
    char line[300];
    memset(line, 'a', sizeof(line));
    line[256] = 0;
    make_bzimage();
    target.command_line = line;
    assert_refused("may have 255 characters; this one has 256");
}

static void test_bzimage_refusals(void **state)
{
    make_bzimage();
    image.size = SETUP + 4080;
    assert_refused("truncated in the kernel proper: the header promises 5120 bytes");
    image.size = 0x240;
    assert_refused("truncated in the setup header");
    make_bzimage();
    put(0x206, 0x20b, 2);
    assert_refused("boot protocol 2.11");
    make_bzimage();
    put(0x211, 0, 1);
    assert_refused("zImage");
    make_bzimage();
    put(0x248, UINT32_MAX, 4);
    assert_refused("outside the kernel proper");
    make_bzimage();
    put(0x24c, UINT32_MAX, 4);
    assert_refused("outside the kernel proper");
    make_bzimage();
    memcpy(bzimage + SETUP + PAYLOAD, "BZh9", 4);
    put(0x258, UINT64_MAX, 8);
    assert_refused("above 4G");
    put(0x258, 0x1000000, 8);
    put(0x260, UINT32_MAX, 4);
    assert_refused("has no memory");
}

static void test_every_truncation_is_survived(void **state)
{
    make_bzimage();
    for (uint64_t size = 0; size + 16 <= SETUP + 4096; size++) {
        image.size = size;
        assert_true(kernel_load(&image, &target, &entry, &err) < 0);
        assert_true(err.message[0] != 0);
    }
}

static void test_irregular_files_are_refused_at_once(void **state)
{
    char path[] = "/tmp/doppel-fifo-XXXXXX";
    assert_true(mkdtemp(path) != NULL);
    assert_true(image_open(&image, path, &err) < 0);
    assert_string_equal(err.message, "is a directory");
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_true(image_open(&image, path, &err) < 0);
    assert_non_null(strstr(err.message, "is a FIFO"));
    assert_int_equal(unlink(path), 0);
    assert_true(image_open(&image, path, &err) < 0);
    assert_non_null(strstr(err.message, "No such file"));
    assert_true(image_open(&image, "/dev/zero", &err) < 0);
    assert_non_null(strstr(err.message, "is a device"));
}

#define KERNEL_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        KERNEL_TEST(test_elf_is_entered_in_long_mode),
        KERNEL_TEST(test_virtual_entry_is_translated),
        KERNEL_TEST(test_first_4g_are_mapped_to_themselves),
        KERNEL_TEST(test_descriptor_table_matches_the_segments),
        KERNEL_TEST(test_zero_page),
        KERNEL_TEST(test_memory_map_has_a_hole_below_4g),
        KERNEL_TEST(test_initrd_is_placed_high),
        KERNEL_TEST(test_command_line_limit),
        KERNEL_TEST(test_pvh_is_entered_in_protected_mode),
        KERNEL_TEST(test_linux_with_pvh_note_takes_the_64_bit_entry),
        KERNEL_TEST(test_refusals),
        KERNEL_TEST(test_elf_outside_memory_is_refused),
        KERNEL_TEST(test_elf_on_both_sides_of_the_hole),
        KERNEL_TEST(test_32_bit_elf_without_note_is_refused),
        KERNEL_TEST(test_bzimage_is_unpacked),
        KERNEL_TEST(test_bzimage_is_unpacked_again_where_the_cache_is_damaged),
        KERNEL_TEST(test_bzimage_unpacks_itself_where_we_cannot),
        KERNEL_TEST(test_bzimage_of_32_bits_is_entered_at_its_beginning),
        KERNEL_TEST(test_bzimage_of_32_bits_is_unpacked),
        KERNEL_TEST(test_bzimage_need_not_be_compressed),
        KERNEL_TEST(test_bzimage_command_line_limit_is_its_own),
        KERNEL_TEST(test_bzimage_refusals),
        KERNEL_TEST(test_every_truncation_is_survived),
        KERNEL_TEST(test_irregular_files_are_refused_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
