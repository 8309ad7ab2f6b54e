/* The page walk, case by case; test_paging_model.c compares it with a second model. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "x86/paging.h"

/* Last: cmocka defines fail() as a macro. */
#include <cmocka.h>

#define ARENA_PAGES 16
#define PW          (X86_PTE_P | X86_PTE_W)
#define PWU         (X86_PTE_P | X86_PTE_W | X86_PTE_U)
#define GVA         0x0000008080604123ull /* indices 1, 2, 3, 4 */

/* Guest memory of a few pages; tables at pages 1 to 4 for levels 4 to 1. */
static uint64_t arena[ARENA_PAGES * 512];
static unsigned written;
static gpa_t last_written;
/* Changes an entry under the walker's feet, once, when entry_race is looked up. */
static gpa_t race_gpa;
static uint64_t race_value;
static unsigned race_skip;

static void *arena_entry(void *opaque, gpa_t gpa)
{
    if (gpa >= sizeof(arena)) {
        return NULL;
    }
    return (uint8_t *)arena + gpa;
}

static void arena_written(void *opaque, gpa_t gpa)
{
    written++;
    last_written = gpa;
    if (race_gpa && written > race_skip) {
        memcpy((uint8_t *)arena + race_gpa, &race_value, 8);
        race_gpa = 0;
    }
}

static const struct x86_walk_memory memory = {.entry = arena_entry,
                                              .entry_written = arena_written};

static uint64_t *slot(unsigned level)
{
    static const unsigned index[] = {0, 4, 3, 2, 1};

    return &arena[(5 - level) * 512 + index[level]];
}

/* A 4-level map of GVA to gpa 0x9000, all permissions. */
static int setup(void **unused)
{
    memset(arena, 0, sizeof(arena));
    *slot(4) = 0x2000 | PWU;
    *slot(3) = 0x3000 | PWU;
    *slot(2) = 0x4000 | PWU;
    *slot(1) = 0x9000 | PWU;
    written = 0;
    race_gpa = 0;
    race_skip = 0;
    return 0;
}

static struct x86_walk_context long_context(uint8_t cpl)
{
    return (struct x86_walk_context){
        .cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_WP,
        .cr3 = 0x1000,
        .cr4 = X86_CR4_PAE | X86_CR4_PGE,
        .efer = X86_EFER_LMA | X86_EFER_LME | X86_EFER_NXE,
        .cpl = cpl,
        .physical_bits = 40,
    };
}

static struct x86_translation translation;

static void expect_ok(const struct x86_walk_context *context, enum x86_access access,
                      gpa_t gpa)
{
    struct x86_exception fault;

    assert_true(x86_walk(context, &memory, GVA, access, &translation, &fault));
    assert_int_equal(translation.gpa, gpa);
}

#define OK UINT32_MAX
static uint32_t walk_error(const struct x86_walk_context *context, enum x86_access access)
{
    struct x86_exception fault;

    if (x86_walk(context, &memory, GVA, access, &translation, &fault)) {
        return OK;
    }
    assert_int_equal(fault.vector, X86_PF);
    assert_true(fault.has_error);
    assert_int_equal(fault.address, GVA);
    return fault.error;
}

static void test_paging_off(void **unused)
{
    struct x86_walk_context context = {.cr0 = X86_CR0_PE, .cpl = 3};
    struct x86_exception fault;

    assert_true(x86_walk(&context, &memory, 0xfee00123, X86_WRITE, &translation, &fault));
    assert_int_equal(translation.gpa, 0xfee00123);
    assert_true(translation.readable && translation.writable && translation.executable);
    assert_int_equal(translation.page_size, X86_PAGING_OFF_SIZE);
}

static void test_walk_sets_accessed_and_dirty(void **unused)
{
    struct x86_walk_context context = long_context(3);

    expect_ok(&context, X86_READ, 0x9123);
    assert_int_equal(translation.page_size, 4096);
    assert_true(translation.readable && translation.executable);
    assert_false(translation.writable); /* D is still clear */
    assert_true(translation.readable_user);
    for (unsigned level = 1; level <= 4; level++) {
        assert_true(*slot(level) & X86_PTE_A);
        assert_false(*slot(level) & X86_PTE_D);
    }
    assert_int_equal(written, 4);

    expect_ok(&context, X86_READ, 0x9123);
    assert_int_equal(written, 4); /* nothing left to set */

    expect_ok(&context, X86_WRITE, 0x9123);
    assert_int_equal(written, 5);
    assert_int_equal(last_written, 0x4020);
    assert_true(*slot(1) & X86_PTE_D);
    assert_false(*slot(2) & X86_PTE_D);
    assert_true(translation.writable);
    assert_int_equal(translation.entry, *slot(1));

    expect_ok(&context, X86_READ, 0x9123);
    assert_true(translation.writable);
}

static bool only_the_leaf_is_ram(void *opaque, gpa_t gpa)
{
    return gpa >= 0x4000;
}

/* Tables in ROM: what would be set is lost, and nothing else comes of it. */
static void test_bits_of_rom_stay(void **unused)
{
    const struct x86_walk_memory rom = {.entry = arena_entry,
                                        .is_writable = only_the_leaf_is_ram};
    struct x86_walk_context context = long_context(3);
    struct x86_exception fault;

    assert_true(x86_walk(&context, &rom, GVA, X86_WRITE, &translation, &fault));
    assert_int_equal(translation.gpa, 0x9123);
    for (unsigned level = 2; level <= 4; level++) {
        assert_false(*slot(level) & X86_PTE_A);
    }
    assert_int_equal(*slot(1), 0x9000 | PWU | X86_PTE_A | X86_PTE_D);
}

static void test_not_present_at_each_level(void **unused)
{
    struct x86_walk_context context = long_context(3);

    for (unsigned level = 1; level <= 4; level++) {
        setup(NULL);
        *slot(level) &= ~X86_PTE_P;
        *slot(level) |= X86_PTE_NX | 0x7ull << 48; /* all ignored when not present */
        assert_int_equal(walk_error(&context, X86_READ), X86_PF_U);
        assert_int_equal(walk_error(&context, X86_WRITE), X86_PF_U | X86_PF_W);
        assert_int_equal(walk_error(&context, X86_FETCH), X86_PF_U | X86_PF_I);
        assert_false(*slot(level) & X86_PTE_A);
    }
}

static void test_large_pages(void **unused)
{
    struct x86_walk_context context = long_context(0);

    *slot(2) = 0x12345 * 0x200000ull | PW | X86_PTE_PS;
    expect_ok(&context, X86_READ, 0x12345 * 0x200000ull + (GVA & 0x1fffff));
    assert_int_equal(translation.page_size, 2 << 20);
    /* bit 12 is PAT, not address */
    *slot(2) |= 1 << 12;
    expect_ok(&context, X86_READ, 0x12345 * 0x200000ull + (GVA & 0x1fffff));
    *slot(2) |= 1 << 13;
    assert_int_equal(walk_error(&context, X86_READ), X86_PF_P | X86_PF_RSVD);
    *slot(2) = PW | X86_PTE_PS | 1 << 20;
    assert_int_equal(walk_error(&context, X86_READ), X86_PF_P | X86_PF_RSVD);

    *slot(3) = 7ull << 30 | PW | X86_PTE_PS | 1 << 12;
    expect_ok(&context, X86_WRITE, (7ull << 30) + (GVA & 0x3fffffff));
    assert_int_equal(translation.page_size, 1 << 30);
    assert_true(*slot(3) & X86_PTE_D);
    *slot(3) |= 1 << 29;
    assert_int_equal(walk_error(&context, X86_WRITE), X86_PF_P | X86_PF_RSVD | X86_PF_W);
}

static void test_reserved_bits(void **unused)
{
    struct x86_walk_context context = long_context(0);

    for (unsigned level = 1; level <= 4; level++) {
        for (unsigned bit = 36; bit < 63; bit++) {
            setup(NULL);
            *slot(level) |= 1ull << bit;
            uint32_t error = walk_error(&context, X86_READ);

            if (bit >= 40 && bit < 52) {
                assert_int_equal(error, X86_PF_P | X86_PF_RSVD);
            } else if (bit < 40) { /* tables outside RAM read as ones */
                assert_int_equal(error, level == 1 ? OK : X86_PF_P | X86_PF_RSVD);
            } else {
                assert_int_equal(error, OK);
            }
        }
        setup(NULL);
        *slot(level) |= X86_PTE_NX;
        assert_int_equal(walk_error(&context, X86_READ), OK);
        context.efer &= ~X86_EFER_NXE;
        assert_int_equal(walk_error(&context, X86_READ), X86_PF_P | X86_PF_RSVD);
        context.efer |= X86_EFER_NXE;
    }
    setup(NULL);
    *slot(4) |= X86_PTE_PS;
    assert_int_equal(walk_error(&context, X86_READ), X86_PF_P | X86_PF_RSVD);
}

static void test_permissions_over_levels(void **unused)
{
    for (unsigned level = 1; level <= 4; level++) {
        struct x86_walk_context user = long_context(3), kernel = long_context(0);

        setup(NULL);
        *slot(level) &= ~X86_PTE_W;
        assert_int_equal(walk_error(&user, X86_READ), OK);
        assert_int_equal(walk_error(&user, X86_WRITE), X86_PF_P | X86_PF_W | X86_PF_U);
        assert_int_equal(walk_error(&kernel, X86_WRITE), X86_PF_P | X86_PF_W);
        assert_false(*slot(1) & X86_PTE_D);
        kernel.cr0 &= ~X86_CR0_WP;
        user.cr0 &= ~X86_CR0_WP;
        assert_int_equal(walk_error(&user, X86_WRITE), X86_PF_P | X86_PF_W | X86_PF_U);
        assert_int_equal(walk_error(&kernel, X86_WRITE), OK);
        assert_true(*slot(1) & X86_PTE_D);
        assert_true(translation.writable);
        assert_int_equal(walk_error(&user, X86_READ), OK);
        assert_false(translation.writable);

        setup(NULL);
        *slot(level) &= ~X86_PTE_U;
        assert_int_equal(walk_error(&user, X86_READ), X86_PF_P | X86_PF_U);
        assert_int_equal(walk_error(&user, X86_FETCH), X86_PF_P | X86_PF_U | X86_PF_I);
        assert_false(*slot(1) & X86_PTE_A);
        assert_int_equal(walk_error(&kernel, X86_READ), OK);
        assert_false(translation.readable_user);
        /* the processor's own accesses are supervisor accesses at any CPL */
        user.implicit = true;
        assert_int_equal(walk_error(&user, X86_READ), OK);

        setup(NULL);
        user.implicit = false;
        *slot(level) |= X86_PTE_NX;
        assert_int_equal(walk_error(&user, X86_FETCH), X86_PF_P | X86_PF_U | X86_PF_I);
        assert_int_equal(walk_error(&kernel, X86_FETCH), X86_PF_P | X86_PF_I);
        assert_int_equal(walk_error(&user, X86_WRITE), OK);
        assert_false(translation.executable);
    }
}

static void test_smep_and_smap(void **unused)
{
    struct x86_walk_context kernel = long_context(0), user = long_context(3);

    kernel.cr4 |= X86_CR4_SMEP;
    user.cr4 |= X86_CR4_SMEP | X86_CR4_SMAP;
    assert_int_equal(walk_error(&kernel, X86_FETCH), X86_PF_P | X86_PF_I);
    assert_int_equal(walk_error(&kernel, X86_READ), OK);
    assert_false(translation.executable);
    assert_int_equal(walk_error(&user, X86_FETCH), OK);

    kernel.cr4 = (kernel.cr4 & ~X86_CR4_SMEP) | X86_CR4_SMAP;
    assert_int_equal(walk_error(&kernel, X86_READ), X86_PF_P);
    assert_int_equal(walk_error(&kernel, X86_WRITE), X86_PF_P | X86_PF_W);
    assert_int_equal(walk_error(&kernel, X86_FETCH), OK);
    assert_false(translation.readable || translation.writable);
    kernel.ac = true;
    assert_int_equal(walk_error(&kernel, X86_READ), OK);
    assert_int_equal(walk_error(&kernel, X86_WRITE), OK);
    kernel.implicit = true;
    assert_int_equal(walk_error(&kernel, X86_READ), X86_PF_P);
    /* WP=0 does not lift SMAP */
    kernel.cr0 &= ~X86_CR0_WP;
    assert_int_equal(walk_error(&kernel, X86_WRITE), X86_PF_P | X86_PF_W);
    /* one supervisor level makes it a supervisor page */
    *slot(3) &= ~X86_PTE_U;
    assert_int_equal(walk_error(&kernel, X86_READ), OK);
}

static void test_instruction_bit_of_the_error_code(void **unused)
{
    struct x86_walk_context context = long_context(0);

    *slot(1) = 0;
    assert_int_equal(walk_error(&context, X86_FETCH), X86_PF_I);
    context.efer &= ~X86_EFER_NXE;
    assert_int_equal(walk_error(&context, X86_FETCH), 0);
    context.cr4 |= X86_CR4_SMEP;
    assert_int_equal(walk_error(&context, X86_FETCH), X86_PF_I);
    assert_int_equal(walk_error(&context, X86_READ), 0);
}

static void test_global(void **unused)
{
    struct x86_walk_context context = long_context(0);

    expect_ok(&context, X86_READ, 0x9123);
    assert_false(translation.global);
    *slot(2) |= X86_PTE_G; /* ignored above the leaf */
    expect_ok(&context, X86_READ, 0x9123);
    assert_false(translation.global);
    *slot(1) |= X86_PTE_G;
    expect_ok(&context, X86_READ, 0x9123);
    assert_true(translation.global);
    context.cr4 &= ~X86_CR4_PGE;
    expect_ok(&context, X86_READ, 0x9123);
    assert_false(translation.global);
}

static void test_cr3_flags_are_not_address(void **unused)
{
    struct x86_walk_context context = long_context(0);

    context.cr3 |= 0xabc | X86_CR3_NOFLUSH; /* a PCID, PWT and PCD */
    expect_ok(&context, X86_READ, 0x9123);
}

static void test_tables_outside_ram(void **unused)
{
    struct x86_walk_context context = long_context(0);

    context.cr3 = 0xfee00000;
    assert_int_equal(walk_error(&context, X86_READ), X86_PF_P | X86_PF_RSVD);
    /* A last-level table outside RAM with 52 address bits: a page at the very top, not
     * executable, and nobody tries to write the entry. */
    context = long_context(0);
    context.physical_bits = 52;
    *slot(2) = 0xfee00000 | PWU;
    expect_ok(&context, X86_WRITE, 0xffffffffff123ull);
    assert_false(translation.executable);
    assert_true(translation.writable);
}

/* Between reading an entry and setting its bits, another processor changes it. */
static void test_entry_changed_underfoot(void **unused)
{
    struct x86_walk_context context = long_context(3);

    /* The leaf changes when its directory entry's A bit has been written. */
    race_gpa = 0x4020;
    race_value = 0xa000 | PWU;
    race_skip = 2;
    expect_ok(&context, X86_WRITE, 0xa123);
    assert_int_equal(*slot(1), 0xa000 | PWU | X86_PTE_A | X86_PTE_D);
}

static void test_null_entry_written(void **unused)
{
    struct x86_walk_context context = long_context(3);
    const struct x86_walk_memory quiet = {.entry = arena_entry};
    struct x86_exception fault;

    assert_true(x86_walk(&context, &quiet, GVA, X86_WRITE, &translation, &fault));
    assert_true(*slot(1) & X86_PTE_D);
}

static void test_peek_has_no_side_effects(void **unused)
{
    struct x86_walk_context context = long_context(3);
    uint64_t before[sizeof(arena) / 8];

    *slot(3) = 0x3000 | X86_PTE_P; /* supervisor, read-only */
    memcpy(before, arena, sizeof(arena));
    assert_true(x86_walk_peek(&context, &memory, GVA, &translation));
    assert_int_equal(translation.gpa, 0x9123);
    assert_memory_equal(before, arena, sizeof(arena));
    *slot(1) = 0;
    assert_false(x86_walk_peek(&context, &memory, GVA, &translation));
}

static struct x86_walk_context legacy_context(uint64_t cr4, uint8_t cpl)
{
    return (struct x86_walk_context){
        .cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_WP,
        .cr3 = 0x1000,
        .cr4 = cr4,
        .cpl = cpl,
        .physical_bits = 40,
    };
}

static void test_32_bit_paging(void **unused)
{
    struct x86_walk_context context = legacy_context(X86_CR4_PSE, 3);
    uint32_t *directory = (uint32_t *)&arena[512], *table = (uint32_t *)&arena[1024];
    const gva_t gva = 0xc0403210;
    struct x86_exception fault;

    directory[gva >> 22] = 0x2000 | PWU;
    table[gva >> 12 & 0x3ff] = 0x9000 | PWU;
    table[(gva >> 12 & 0x3ff) + 1] = 0x55555555; /* a neighbour that must survive */
    assert_true(x86_walk(&context, &memory, gva, X86_WRITE, &translation, &fault));
    assert_int_equal(translation.gpa, 0x9210);
    assert_int_equal(directory[gva >> 22], 0x2000 | PWU | X86_PTE_A);
    assert_int_equal(table[gva >> 12 & 0x3ff], 0x9000 | PWU | X86_PTE_A | X86_PTE_D);
    assert_int_equal(table[(gva >> 12 & 0x3ff) + 1], 0x55555555);

    /* EFER.NXE means nothing without PAE: no I bit, no NX */
    context.efer = X86_EFER_NXE;
    table[gva >> 12 & 0x3ff] = 0;
    assert_false(x86_walk(&context, &memory, gva, X86_FETCH, &translation, &fault));
    assert_int_equal(fault.error, X86_PF_U);

    /* 4 MiB pages, with PSE-36 */
    directory[gva >> 22] = 0x00c00000 | 0xa5 << 13 | 1 << 12 | PWU | X86_PTE_PS;
    assert_true(x86_walk(&context, &memory, gva, X86_READ, &translation, &fault));
    assert_int_equal(translation.gpa, 0xa500c00000ull + (gva & 0x3fffff));
    assert_int_equal(translation.page_size, 4 << 20);
    context.physical_bits = 36;
    assert_false(x86_walk(&context, &memory, gva, X86_READ, &translation, &fault));
    assert_int_equal(fault.error, X86_PF_P | X86_PF_U | X86_PF_RSVD);
    context.physical_bits = 40;
    directory[gva >> 22] |= 1 << 21;
    assert_false(x86_walk(&context, &memory, gva, X86_READ, &translation, &fault));
    assert_int_equal(fault.error, X86_PF_P | X86_PF_U | X86_PF_RSVD);
    /* without CR4.PSE the bit is ignored: a table */
    context.cr4 = 0;
    directory[gva >> 22] = 0x2000 | PWU | X86_PTE_PS;
    table[gva >> 12 & 0x3ff] = 0x9000 | PWU;
    assert_true(x86_walk(&context, &memory, gva, X86_READ, &translation, &fault));
    assert_int_equal(translation.gpa, 0x9210);
}

static void test_pae_paging(void **unused)
{
    struct x86_walk_context context = legacy_context(X86_CR4_PAE, 0);
    const gva_t gva = 0xc0403210;
    uint64_t *pdpte = &arena[512 + 4 + 3], *pde = &arena[1024 + 2],
             *pte = &arena[1536 + 3];
    struct x86_exception fault;
    uint64_t registers[4];

    context.cr3 = 0x1020;
    context.efer = X86_EFER_NXE;
    context.pdpte = registers;
    *pdpte = 0x2000 | X86_PTE_P | X86_PTE_PWT;
    assert_true(x86_pdptes_load(&memory, context.cr3, 40, registers));
    *pde = 0x3000 | PWU;
    *pte = 0xa000 | PWU | X86_PTE_NX;
    assert_true(x86_walk(&context, &memory, gva, X86_WRITE, &translation, &fault));
    assert_int_equal(translation.gpa, 0xa210);
    assert_int_equal(*pdpte, 0x2000 | X86_PTE_P | X86_PTE_PWT); /* has no A bit */
    assert_int_equal(*pde, 0x3000 | PWU | X86_PTE_A);
    assert_false(translation.executable);
    assert_false(x86_walk(&context, &memory, gva, X86_FETCH, &translation, &fault));
    assert_int_equal(fault.error, X86_PF_P | X86_PF_I);

    *pde = 0x00a00000 | PWU | X86_PTE_PS;
    assert_true(x86_walk(&context, &memory, gva, X86_READ, &translation, &fault));
    assert_int_equal(translation.gpa, 0x00a00000 + (gva & 0x1fffff));
    *pde |= 1ull << 52; /* ignored in 4-level paging, reserved here */
    assert_false(x86_walk(&context, &memory, gva, X86_READ, &translation, &fault));
    assert_int_equal(fault.error, X86_PF_P | X86_PF_RSVD);
    *pde &= ~(1ull << 52);
    /* A change of the table does not count until it is loaded again. */
    *pdpte = 0;
    assert_true(x86_walk(&context, &memory, gva, X86_READ, &translation, &fault));
    assert_true(x86_pdptes_load(&memory, context.cr3, 40, registers));
    assert_false(x86_walk(&context, &memory, gva, X86_READ, &translation, &fault));
    assert_int_equal(fault.error, 0);
}

/* SDM 3A table 4-8. */
static void test_pdptes_with_reserved_bits(void **unused)
{
    static const uint64_t reserved[] = {X86_PTE_W,  X86_PTE_U,  X86_PTE_A,  X86_PTE_D,
                                        X86_PTE_PS, X86_PTE_G,  1ull << 40, 1ull << 51,
                                        1ull << 52, 1ull << 62, X86_PTE_NX};
    uint64_t registers[4] = {1, 2, 3, 4};
    for (unsigned i = 0; i < 4; i++) {
        for (unsigned j = 0; j < sizeof(reserved) / sizeof(reserved[0]); j++) {
            memset(arena, 0, sizeof(arena));
            arena[i] = reserved[j]; /* not present: anything goes */
            assert_true(x86_pdptes_load(&memory, 0, 40, registers));
            assert_true(registers[i] == reserved[j]);
            arena[i] |= X86_PTE_P;
            registers[0] = 1;
            assert_false(x86_pdptes_load(&memory, 0, 40, registers));
            assert_int_equal(registers[0], 1);
        }
    }
    memset(arena, 0, sizeof(arena));
    arena[0] = 0x1000 | X86_PTE_P | X86_PTE_PWT | X86_PTE_PCD | 7u << 9 | 1ull << 39;
    assert_true(x86_pdptes_load(&memory, 0, 40, registers));
}

/* SDM 3A 4.6.2: every key, every pair of rights, every kind of access. */
static void test_protection_keys(void **unused)
{
    for (unsigned variant = 0; variant < 16 * 4 * 2 * 2 * 2 * 3; variant++) {
        unsigned key = variant % 16, rights = variant / 16 % 4;
        bool is_user_page = variant / 64 % 2, is_user = variant / 128 % 2;
        bool has_wp = variant / 256 % 2;
        enum x86_access access = variant / 512;
        struct x86_walk_context context = long_context(is_user ? 3 : 0);
        context.cr0 = (context.cr0 & ~(uint64_t)X86_CR0_WP) | (has_wp ? X86_CR0_WP : 0);
        context.cr4 |= X86_CR4_PKE;
        context.pkru = rights << key * 2;
        setup(NULL);
        *slot(1) = 0x9000 | PW | (is_user_page ? X86_PTE_U : 0) | X86_PTE_D |
                   (uint64_t)key << X86_PTE_KEY_SHIFT;
        bool is_denied =
            rights & X86_PKRU_AD ||
            (access == X86_WRITE && rights & X86_PKRU_WD && (is_user || has_wp));
        bool is_key = is_user_page && access != X86_FETCH && is_denied;
        bool is_mode = is_user && !is_user_page;
        uint32_t error = walk_error(&context, access);
        if (!is_key && !is_mode) {
            bool forbids_all = is_user_page && rights & X86_PKRU_AD;
            bool forbids_write =
                is_user_page && rights & X86_PKRU_WD && (is_user || has_wp);
            assert_int_equal(error, OK);
            assert_int_equal(translation.key, is_user_page ? key : 0);
            assert_int_equal(translation.readable, !forbids_all);
            assert_int_equal(translation.writable, !forbids_all && !forbids_write);
        } else {
            assert_int_equal(error & X86_PF_PK, is_key ? X86_PF_PK : 0);
            assert_true(error & X86_PF_P);
        }
        /* Without CR4.PKE the bits are ignored. */
        context.cr4 &= ~(uint64_t)X86_CR4_PKE;
        assert_int_equal(walk_error(&context, access) == OK, !is_mode);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_paging_off),
        cmocka_unit_test_setup(test_walk_sets_accessed_and_dirty, setup),
        cmocka_unit_test_setup(test_bits_of_rom_stay, setup),
        cmocka_unit_test_setup(test_not_present_at_each_level, setup),
        cmocka_unit_test_setup(test_large_pages, setup),
        cmocka_unit_test_setup(test_reserved_bits, setup),
        cmocka_unit_test_setup(test_permissions_over_levels, setup),
        cmocka_unit_test_setup(test_smep_and_smap, setup),
        cmocka_unit_test_setup(test_instruction_bit_of_the_error_code, setup),
        cmocka_unit_test_setup(test_global, setup),
        cmocka_unit_test_setup(test_cr3_flags_are_not_address, setup),
        cmocka_unit_test_setup(test_tables_outside_ram, setup),
        cmocka_unit_test_setup(test_entry_changed_underfoot, setup),
        cmocka_unit_test_setup(test_null_entry_written, setup),
        cmocka_unit_test_setup(test_peek_has_no_side_effects, setup),
        cmocka_unit_test_setup(test_32_bit_paging, setup),
        cmocka_unit_test_setup(test_pae_paging, setup),
        cmocka_unit_test_setup(test_pdptes_with_reserved_bits, setup),
        cmocka_unit_test_setup(test_protection_keys, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
