/*
 * The image loader over damaged kernels. The input is either a file as it is, or a list
 * of changes to a small valid image of one of the protocols, so that random bytes get
 * past the first check. Whatever a file says, loading ends with an entry state in RAM or
 * with a message, and refuses or accepts the same file again.
 */

#include <assert.h>
#include <elf.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/log.h"
#include "input.h"
#include "machine/kernel.h"
#include "machine/memory_map.h"

#define RAM        (4ull << 20)
#define LOAD       (2ull << 20)
#define IMAGE_SIZE 8192u
#define SETUP      1024u
#define PAYLOAD    0x400u
#define CHANGES    4 /* at most, less one; more hit a check of the header every time */

struct elf_file {
    Elf64_Ehdr header;
    Elf64_Phdr program[3];
    struct {
        Elf64_Nhdr header;
        char owner[4];
        uint64_t entry;
    } note;
    char code[64];
};

static struct memory *memory;
static uint8_t elf_image[IMAGE_SIZE], pvh_image[IMAGE_SIZE], linux_image[IMAGE_SIZE],
    multiboot_image[IMAGE_SIZE];

static void add_ram(uint64_t start, uint64_t end)
{
    int64_t frame = memory_add_frames(memory, end - start, NULL);
    assert(frame >= 0);
    int result = memory_map(memory, start, end - start, (frame_t)frame, SLOT_RAM, NULL);
    assert(result == 0);
}

static void make_elf(uint8_t *image, unsigned segments)
{
    const struct elf_file file = {
        .header = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, 1},
                   .e_type = ET_EXEC,
                   .e_machine = EM_X86_64,
                   .e_entry = LOAD,
                   .e_phoff = offsetof(struct elf_file, program),
                   .e_phentsize = sizeof(Elf64_Phdr),
                   .e_phnum = (uint16_t)segments},
        .program = {{.p_type = PT_LOAD,
                     .p_offset = offsetof(struct elf_file, code),
                     .p_paddr = LOAD,
                     .p_filesz = 32,
                     .p_memsz = 0x1000},
                    {.p_type = PT_LOAD,
                     .p_offset = offsetof(struct elf_file, code) + 32,
                     .p_paddr = LOAD + 0x1000,
                     .p_filesz = 32,
                     .p_memsz = 0x2000},
                    {.p_type = PT_NOTE,
                     .p_offset = offsetof(struct elf_file, note),
                     .p_filesz = sizeof(file.note)}},
        .note = {{4, 8, 18}, "Xen", LOAD + 16},
    };
    memcpy(image, &file, sizeof(file));
}

static void put(uint8_t *image, unsigned offset, uint64_t value, unsigned size)
{
    memcpy(image + offset, &value, size);
}

static void make_linux(uint8_t *image)
{
    z_stream stream = {.next_in = elf_image,
                       .avail_in = sizeof(struct elf_file),
                       .next_out = image + SETUP + PAYLOAD,
                       .avail_out = IMAGE_SIZE - SETUP - PAYLOAD};
    deflateInit2(&stream, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
    deflate(&stream, Z_FINISH);
    deflateEnd(&stream);
    put(image, 0x1f1, 1, 1);
    put(image, 0x1f4, (IMAGE_SIZE - SETUP) / 16, 4);
    put(image, 0x1fe, 0xaa55, 2);
    put(image, 0x200, 0x6aeb, 2);
    put(image, 0x202, 0x53726448, 4);
    put(image, 0x206, 0x20f, 2);
    put(image, 0x211, 1, 1);
    put(image, 0x22c, 0x7fffffff, 4);
    put(image, 0x236, 1, 2);
    put(image, 0x238, 2047, 4);
    put(image, 0x248, PAYLOAD, 4);
    put(image, 0x24c, stream.total_out, 4);
    put(image, 0x258, LOAD, 8);
    put(image, 0x260, 0x10000, 4);
}

/* With addresses: it is loaded whole. */
static void make_multiboot(uint8_t *image)
{
    put(image, 0x00, 0x1badb002, 4);
    put(image, 0x04, 1u << 16, 4);
    put(image, 0x08, 0u - 0x1badb002u - (1u << 16), 4);
    put(image, 0x0c, LOAD, 4);
    put(image, 0x10, LOAD, 4);
    put(image, 0x18, LOAD + 2 * IMAGE_SIZE, 4);
    put(image, 0x1c, LOAD + 0x20, 4);
}

static void prepare(void)
{
    log_set_level(LOG_ERROR);
    memory = memory_new(RAM, NULL);
    assert(memory);
    add_ram(0, MAP_VGA);
    add_ram(MAP_KERNEL, RAM);
    make_elf(elf_image, 2);
    make_elf(pvh_image, 3);
    make_linux(linux_image);
    make_multiboot(multiboot_image);
}

static bool is_ram(uint64_t gpa)
{
    return memory_find(memory, gpa) != NULL;
}

static int load(const struct image *image, struct x86_state *entry)
{
    static const char initrd_data[] = "initrd";
    struct image initrd;
    struct error err = {0};
    image_init_memory(&initrd, initrd_data, sizeof(initrd_data));
    const struct boot_target target = {
        .memory = memory,
        .ram = RAM,
        .kernel_name = "fuzz",
        .command_line = "console=ttyS0",
        .initrd = &initrd,
        .rsdp = MAP_BIOS_AREA,
    };
    int result = kernel_load(image, &target, entry, &err);
    if (result < 0) {
        assert(err.code > 0 && err.message[0]);
        return result;
    }
    enum x86_mode mode = x86_state_mode(entry);
    assert(mode == X86_MODE_LONG64 || mode == X86_MODE_PROTECTED32);
    assert(!(entry->rflags & X86_FLAG_IF));
    assert(is_ram(entry->gdtr.base));
    assert(mode != X86_MODE_LONG64 || is_ram(entry->cr3));
    assert(mode != X86_MODE_PROTECTED32 || is_ram(entry->rip));
    return 0;
}

/* A value that is often near a limit. */
static uint64_t interesting(struct input *input)
{
    uint64_t raw = input_u64(input);
    switch (raw >> 61) {
    case 0:
        return UINT64_MAX - (raw & 0xffff);
    case 1:
        return UINT32_MAX - (raw & 0xffff);
    case 2:
        return RAM - 0x1000 + (raw & 0x1fff);
    case 3:
        return raw & 0xffff;
    case 4:
        return 1ull << (raw & 63);
    default:
        return raw;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t *const templates[] = {elf_image, pvh_image, linux_image,
                                               multiboot_image};
    static const uint8_t sizes[] = {1, 2, 4, 8};
    uint8_t bytes[IMAGE_SIZE];
    struct image image;
    struct x86_state first, second;
    if (!memory) {
        prepare();
    }
    struct input input = {data, size};
    unsigned kind = input_u8(&input);
    bool is_multiboot = kind & 0x80; /* a file of any bytes, or one of the templates */
    if (kind % 4 == 3 && !is_multiboot) {
        image_init_memory(&image, input.data, input.size);
    } else {
        memcpy(bytes, templates[is_multiboot ? 3 : kind % 4], sizeof(bytes));
        for (unsigned left = kind >> 2 & (CHANGES - 1); left > 0; left--) {
            unsigned where = input_u8(&input) | (unsigned)input_u8(&input) << 8;
            /* Mostly the headers: the first 256 bytes, or the setup header. */
            unsigned offset = where & 0x4000  ? where % (IMAGE_SIZE - 8)
                              : kind % 4 == 2 ? 0x1f0 + where % 0x80
                                              : where % 0x100;
            uint64_t value = interesting(&input);
            memcpy(bytes + offset, &value, sizes[where >> 8 & 3]);
        }
        image_init_memory(&image, bytes,
                          kind & 0x40 ? input_u64(&input) % IMAGE_SIZE : IMAGE_SIZE);
    }
    int result = load(&image, &first);
    assert(load(&image, &second) == result);
    assert(result < 0 || first.rip == second.rip);
    return 0;
}
