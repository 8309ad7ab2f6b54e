/* Loads small multiboot images and looks at what is in guest memory then. */

#include <elf.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "machine/kernel.h"
#include "machine/memory_map.h"

#include <cmocka.h>

#define RAM   (32ull << 20)
#define MAGIC 0x1badb002u
#define LOAD  0x400000u

static struct memory *memory;
static struct boot_target target;
static struct x86_state entry;
static struct error err;
static struct image image;

static struct file {
    Elf32_Ehdr header;
    Elf32_Phdr program;
    uint32_t multiboot[8];
    char code[16];
} file;

static struct flat {
    char before[16];
    uint32_t multiboot[8];
    char code[16];
} flat;

static void set_header(uint32_t *header, uint32_t flags)
{
    header[0] = MAGIC;
    header[1] = flags;
    header[2] = 0u - MAGIC - flags;
}

static int setup(void **state)
{
    memory = memory_new(RAM, NULL);
    static const uint64_t ranges[][2] = {{0, MAP_VGA}, {MAP_KERNEL, RAM}};
    for (unsigned i = 0; i < 2; i++) {
        uint64_t start = ranges[i][0], size = ranges[i][1] - start;
        int64_t frame = memory_add_frames(memory, size, NULL);
        assert_int_equal(memory_map(memory, start, size, (frame_t)frame, SLOT_RAM, NULL),
                         0);
    }
    target = (struct boot_target){.memory = memory,
                                  .ram = RAM,
                                  .kernel_name = "test.elf",
                                  .command_line = "one two",
                                  .rsdp = 0xe0000};
    memset(&entry, 0xcc, sizeof(entry));
    file = (struct file){
        .header = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, 1},
                   .e_type = ET_EXEC,
                   .e_machine = EM_386,
                   .e_entry = LOAD + 4,
                   .e_phoff = offsetof(struct file, program),
                   .e_phentsize = sizeof(Elf32_Phdr),
                   .e_phnum = 1},
        .program = {.p_type = PT_LOAD,
                    .p_offset = offsetof(struct file, code),
                    .p_paddr = LOAD,
                    .p_vaddr = LOAD,
                    .p_filesz = 16,
                    .p_memsz = 0x2000},
        .code = "some machine co",
    };
    set_header(file.multiboot, 0);
    image_init_memory(&image, &file, sizeof(file));
    flat = (struct flat){.before = "in front of it", .code = "flat code here."};
    set_header(flat.multiboot, 1u << 16);
    flat.multiboot[3] = LOAD + 0x20; /* the header */
    flat.multiboot[4] = LOAD + 0x20; /* loading begins with it */
    flat.multiboot[5] = 0;           /* up to the end of the file */
    flat.multiboot[6] = LOAD + 0x1000;
    flat.multiboot[7] = LOAD + 0x40;
    return 0;
}

static int teardown(void **state)
{
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

static void assert_text(gpa_t gpa, const char *text)
{
    char found[64] = {0};
    assert_true(ram_read(memory, gpa, found, sizeof(found) - 1));
    assert_string_equal(found, text);
}

static void test_elf_is_loaded_and_entered(void **state)
{
    uint32_t rest = 0xffffffff;
    ram_write(memory, LOAD + 0x1000, &rest, 4);
    load();
    assert_int_equal(guest(LOAD, 4), 0x656d6f73);
    assert_int_equal(guest(LOAD + 0x1000, 4), 0); /* BSS */
    assert_int_equal(entry.rip, LOAD + 4);
    assert_int_equal(entry.gpr[X86_RAX], 0x2badb002);
    assert_int_equal(entry.cr0 & (X86_CR0_PE | X86_CR0_PG), X86_CR0_PE);
    assert_int_equal(entry.rflags & X86_FLAG_IF, 0);
    assert_int_equal(entry.seg[X86_CS].base, 0);
    assert_int_equal(entry.seg[X86_CS].limit, 0xffffffff);
}

static void test_information(void **state)
{
    load();
    gpa_t info = entry.gpr[X86_RBX];
    assert_int_equal(guest(info, 4), 0x24d);
    assert_int_equal(guest(info + 4, 4), MAP_EBDA >> 10);
    assert_int_equal(guest(info + 8, 4), (RAM - MAP_KERNEL) >> 10);
    assert_text(guest(info + 16, 4), "test.elf one two");
    assert_int_equal(guest(info + 20, 4), 0); /* no module */
    assert_text(guest(info + 64, 4), "Doppel");
    /* The memory map's first entry, and its end. */
    gpa_t map = guest(info + 48, 4);
    assert_int_equal(guest(map, 4), 20);
    assert_int_equal(guest(map + 4, 8), 0);
    assert_int_equal(guest(map + 12, 8), MAP_EBDA);
    assert_int_equal(guest(map + 20, 4), 1);
    assert_int_equal(guest(info + 44, 4) % 24, 0);
}

static void test_initrd_is_a_module(void **state)
{
    struct image initrd;
    image_init_memory(&initrd, "the module", 10);
    target.initrd = &initrd;
    load();
    gpa_t info = entry.gpr[X86_RBX], module = guest(info + 24, 4);
    assert_int_equal(guest(info + 20, 4), 1);
    assert_int_equal(guest(module, 4) % 4096, 0);
    assert_int_equal(guest(module + 4, 4), guest(module, 4) + 10);
    assert_text(guest(module, 4), "the module");
    assert_text(guest(module + 8, 4), " one two");
}

static void test_low_memory_is_the_image_s(void **state)
{
    file.program.p_paddr = file.program.p_vaddr = 0x4000;
    file.header.e_entry = 0x4000;
    load();
    assert_int_equal(entry.rip, 0x4000);
    assert_int_equal(guest(0x4000, 4), 0x656d6f73);
    file.program.p_memsz = 0x90000;
    assert_refused("below 1M only 0x1000-0x8fc00");
}

static void test_addresses_in_the_header(void **state)
{
    image_init_memory(&image, &flat, sizeof(flat));
    load();
    assert_int_equal(entry.rip, LOAD + 0x40);
    assert_int_equal(guest(LOAD + 0x20, 4), MAGIC);
    assert_text(LOAD + 0x40, "flat code here.");
    flat.multiboot[4] = LOAD + 0x10; /* from the file's begin */
    load();
    assert_text(LOAD + 0x10, "in front of it");
    flat.multiboot[5] = LOAD + 0x20; /* and only that */
    load();
    assert_int_equal(guest(LOAD + 0x40, 4), 0);
}

static void test_bad_addresses(void **state)
{
    image_init_memory(&image, &flat, sizeof(flat));
    flat.multiboot[4] = LOAD + 0x0f;
    assert_refused("before the file's begin");
    flat.multiboot[4] = LOAD + 0x30;
    assert_refused("before the file's begin");
    flat.multiboot[4] = LOAD + 0x20;
    flat.multiboot[5] = LOAD + 0x1000;
    assert_refused("more than the file has");
    flat.multiboot[5] = LOAD + 0x1f;
    assert_refused("more than the file has");
    flat.multiboot[5] = 0;
    flat.multiboot[6] = 0x80000000;
    assert_refused("--memory");
}

static void test_what_cannot_be_given(void **state)
{
    set_header(file.multiboot, 1u << 2);
    assert_refused("video mode");
    set_header(file.multiboot, 1u << 7);
    assert_refused("features 0x80");
    set_header(file.multiboot, 3);
    load();
}

static void test_entry_point(void **state)
{
    file.header.e_entry = LOAD + 0x2000;
    assert_refused("entry point 0x402000 is outside");
    image_init_memory(&image, &flat, sizeof(flat));
    flat.multiboot[7] = LOAD;
    assert_refused("entry point 0x400000 is outside");
}

static void test_command_line_too_long(void **state)
{
    static char line[0x10000];
    memset(line, 'x', sizeof(line) - 1);
    target.command_line = line;
    assert_refused("--append");
}

static void test_others_are_not_taken(void **state)
{
    file.multiboot[2]++; /* the checksum */
    assert_refused("32-bit ELF file without a PVH entry note");
    set_header(file.multiboot, 0);
    file.header.e_ident[EI_CLASS] = ELFCLASS64;
    assert_refused("ELF");
    /* Behind the first 8 KiB it does not count. */
    static uint8_t far[8192 + 64];
    memcpy(far + 8192, file.multiboot, sizeof(file.multiboot));
    image_init_memory(&image, far, sizeof(far));
    assert_refused("not a kernel");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_elf_is_loaded_and_entered, setup, teardown),
        cmocka_unit_test_setup_teardown(test_information, setup, teardown),
        cmocka_unit_test_setup_teardown(test_initrd_is_a_module, setup, teardown),
        cmocka_unit_test_setup_teardown(test_low_memory_is_the_image_s, setup, teardown),
        cmocka_unit_test_setup_teardown(test_addresses_in_the_header, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_addresses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_cannot_be_given, setup, teardown),
        cmocka_unit_test_setup_teardown(test_entry_point, setup, teardown),
        cmocka_unit_test_setup_teardown(test_command_line_too_long, setup, teardown),
        cmocka_unit_test_setup_teardown(test_others_are_not_taken, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
