#include "base/symbols.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* An ELF file of a header, a symbol table, names and three section headers. */
struct image {
    Elf64_Ehdr header;
    Elf64_Sym symbol[8];
    char names[64];
    Elf64_Shdr section[3];
};

#define FUNCTION ELF64_ST_INFO(STB_GLOBAL, STT_FUNC)
#define LOCAL    ELF64_ST_INFO(STB_LOCAL, STT_FUNC)
#define DATA     ELF64_ST_INFO(STB_GLOBAL, STT_OBJECT)
#define UNTYPED  ELF64_ST_INFO(STB_GLOBAL, STT_NOTYPE)

/* Offsets in names. */
enum { ALPHA = 1, BETA = 7, GAMMA = 12, LATER = 18, THING = 24 };

static void image_init(struct image *image)
{
    *image = (struct image){
        .header = {.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64,
                               ELFDATA2LSB, EV_CURRENT},
                   .e_type = ET_EXEC,
                   .e_machine = EM_X86_64,
                   .e_shoff = offsetof(struct image, section),
                   .e_shentsize = sizeof(Elf64_Shdr),
                   .e_shnum = 3},
        .symbol =
            {
                {0},
                {BETA, FUNCTION, 0, 1, 0x2000, 0x10},
                {ALPHA, LOCAL, 0, 1, 0x1000, 0},
                {THING, DATA, 0, 1, 0x1800, 8},
                {LATER, LOCAL, 0, 1, 0x2000, 0x10},
                {GAMMA, UNTYPED, 0, 1, 0xffffffff81000000, 0},
                {ALPHA, FUNCTION, 0, SHN_UNDEF, 0x3000, 0},
                {ALPHA, FUNCTION, 0, SHN_ABS, 0x4000, 0},
            },
        .names = "\0alpha\0beta\0gamma\0later\0thing",
        .section = {{0},
                    {.sh_type = SHT_SYMTAB,
                     .sh_offset = offsetof(struct image, symbol),
                     .sh_size = sizeof(image->symbol),
                     .sh_link = 2},
                    {.sh_type = SHT_STRTAB,
                     .sh_offset = offsetof(struct image, names),
                     .sh_size = sizeof(image->names)}},
    };
}

static struct symbols *load(const struct image *image, size_t size, struct error *err)
{
    char path[] = "/tmp/doppel-symbols-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, image, size), size);
    close(fd);
    struct symbols *symbols = symbols_load(path, err);
    unlink(path);
    return symbols;
}

static void test_names_addresses(void **state)
{
    struct image image;
    image_init(&image);
    struct symbols *symbols = load(&image, sizeof(image), NULL);
    assert_non_null(symbols);
    static const struct {
        uint64_t address;
        const char *name;
        uint64_t offset;
    } cases[] = {
        {0xfff, NULL, 0},
        {0x1000, "alpha", 0},
        {0x1fff, "alpha", 0xfff}, /* without a size it goes on to the next */
        {0x2000, "beta", 0},      /* the global one of two */
        {0x200f, "beta", 0xf},
        {0x2010, NULL, 0},
        {0x3000, NULL, 0}, /* not defined here */
        {0xffffffff81000000, "gamma", 0},
        {0xffffffff81000001, NULL, 0}, /* the last one's size is not known */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint64_t offset = 0;
        const char *name = symbols_find(symbols, cases[i].address, &offset);
        if (!cases[i].name) {
            assert_null(name);
            continue;
        }
        assert_non_null(name);
        assert_string_equal(name, cases[i].name);
        assert_int_equal(offset, cases[i].offset);
    }
    symbols_free(symbols);
}

static void test_finds_ranges_by_name(void **state)
{
    struct image image;
    image_init(&image);
    struct symbols *symbols = load(&image, sizeof(image), NULL);
    uint64_t start, end;
    assert_int_equal(symbols_range(symbols, "later", &start, &end), 0);
    assert_int_equal(start, 0x2000);
    assert_int_equal(end, 0x2010);
    assert_int_equal(symbols_range(symbols, "nobody", &start, &end), -1);
    assert_int_equal(symbols_range(NULL, "later", &start, &end), -1);
    assert_null(symbols_find(NULL, 0x1000, &start));
    symbols_free(symbols);
}

static void expect_refused(const struct image *image, size_t size, const char *why)
{
    struct error err;
    assert_null(load(image, size, &err));
    if (!strstr(err.message, why)) {
        fail_msg("'%s' does not say '%s'", err.message, why);
    }
}

static void test_refuses_what_is_wrong(void **state)
{
    struct image image;
    struct error err;
    assert_null(symbols_load("/nonexistent/symbols", &err));
    assert_int_equal(err.code, ENOENT);
    assert_null(symbols_load("/dev/zero", &err));
    image_init(&image);
    expect_refused(&image, 10, "no ELF file");
    image.header.e_ident[0] = 'X';
    expect_refused(&image, sizeof(image), "no ELF file");
    image_init(&image);
    image.header.e_machine = EM_AARCH64;
    expect_refused(&image, sizeof(image), "x86-64");
    image_init(&image);
    expect_refused(&image, sizeof(image) - 1, "damaged");
    image.section[1].sh_size = UINT64_MAX - 100;
    expect_refused(&image, sizeof(image), "damaged");
    image_init(&image);
    image.section[2].sh_offset = UINT64_MAX;
    expect_refused(&image, sizeof(image), "damaged");
    image_init(&image);
    image.section[1].sh_link = 3;
    expect_refused(&image, sizeof(image), "no symbols");
    image_init(&image);
    image.section[1].sh_type = SHT_PROGBITS;
    expect_refused(&image, sizeof(image), "no symbols");
    image_init(&image);
    image.section[1].sh_size = sizeof(Elf64_Sym); /* the empty first one */
    expect_refused(&image, sizeof(image), "no symbols");
    image_init(&image);
    for (unsigned i = 0; i < 8; i++) {
        image.symbol[i].st_name = 1000; /* outside the names */
    }
    expect_refused(&image, sizeof(image), "no symbols");
    image_init(&image);
    image.header.e_shnum = 0;
    expect_refused(&image, sizeof(image), "no symbols");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_addresses),
        cmocka_unit_test(test_finds_ranges_by_name),
        cmocka_unit_test(test_refuses_what_is_wrong),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
