/*
 * The page walk against a second model of it, written from the manual bit by bit without
 * regard for speed, over random tables in every mode: results, error codes and the tables
 * afterwards must be the same.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "x86/paging.h"

/* Last: cmocka defines fail() as a macro. */
#include <cmocka.h>

#define PAGES  8
#define ROUNDS 12000

static uint64_t arena[PAGES * 512], model_arena[PAGES * 512];
static uint64_t random_state = 0x853c49e6748fea9bull;

static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state * 0x2545f4914f6cdd1dull;
}

static bool one_in(unsigned n)
{
    return next_random() % n == 0;
}

static bool bit(uint64_t value, unsigned number)
{
    return value >> number & 1;
}

/* One way of cutting a linear address; the topmost level first. */
struct mode {
    unsigned levels, entry_size;
    struct {
        unsigned shift, index_bits;
    } level[4];
};

static const struct mode legacy = {2, 4, {{22, 10}, {12, 10}}};
static const struct mode pae = {3, 8, {{30, 2}, {21, 9}, {12, 9}}};
static const struct mode long_mode = {4, 8, {{39, 9}, {30, 9}, {21, 9}, {12, 9}}};

struct result {
    bool ok;
    uint32_t error;
    gpa_t gpa;
    uint64_t size;
    bool read, write, execute, user, global;
};

static uint64_t model_read(gpa_t gpa, unsigned size)
{
    uint64_t value = 0;

    if (gpa >= sizeof(model_arena)) {
        return size == 8 ? UINT64_MAX : UINT32_MAX;
    }
    memcpy(&value, (uint8_t *)model_arena + gpa, size);
    return value;
}

static void model_set(gpa_t gpa, unsigned number)
{
    if (gpa < sizeof(model_arena)) {
        ((uint8_t *)model_arena)[gpa] |= (uint8_t)(1u << number);
    }
}

static bool any_bit(uint64_t entry, unsigned from, unsigned to)
{
    for (unsigned i = from; i <= to; i++) {
        if (bit(entry, i)) {
            return true;
        }
    }
    return false;
}

/* shift names the level: 39, 30, 21, 12, or 22 and 12. */
static bool model_reserved(const struct x86_walk_context *context,
                           const struct mode *mode, unsigned shift, bool is_large,
                           uint64_t entry)
{
    unsigned width = context->physical_bits;

    if (mode == &legacy) {
        if (!is_large) {
            return false;
        }
        /* bits 20:13 hold address bits 39:32 */
        return bit(entry, 21) || (width < 40 && any_bit(entry, width - 32 + 13, 20));
    }
    if (width < 52 && any_bit(entry, width, 51)) {
        return true;
    }
    if (bit(entry, 63) && !(mode == &pae && shift == 30) &&
        !(context->efer & X86_EFER_NXE)) {
        return true;
    }
    if (mode == &pae && any_bit(entry, 52, 62)) {
        return true;
    }
    if (mode == &pae && shift == 30) {
        return any_bit(entry, 1, 2) || any_bit(entry, 5, 8) || bit(entry, 63) ||
               any_bit(entry, 52, 62);
    }
    if (shift == 39) {
        return bit(entry, 7);
    }
    return is_large && any_bit(entry, 13, shift - 1);
}

static bool model_is_large(const struct x86_walk_context *context,
                           const struct mode *mode, unsigned shift, uint64_t entry)
{
    if (!bit(entry, 7) || shift == 12 || shift == 39) {
        return false;
    }
    if (mode == &legacy) {
        return context->cr4 & X86_CR4_PSE;
    }
    return !(mode == &pae && shift == 30);
}

static gpa_t model_frame(const struct mode *mode, unsigned shift, bool is_large,
                         uint64_t entry)
{
    gpa_t frame = 0;

    for (unsigned i = shift; i < (mode == &legacy ? 32 : 52); i++) {
        frame |= (uint64_t)bit(entry, i) << i;
    }
    for (unsigned i = 0; mode == &legacy && is_large && i < 8; i++) {
        frame |= (uint64_t)bit(entry, 13 + i) << (32 + i);
    }
    return frame;
}

static void model_rights(const struct x86_walk_context *context, bool user_page,
                         bool writable, bool no_execute, struct result *result)
{
    bool is_user = context->cpl == 3 && !context->implicit;

    result->user = user_page;
    if (is_user) {
        result->read = user_page;
        result->write = user_page && writable;
        result->execute = user_page && !no_execute;
        return;
    }
    bool blocked = false;
    if (user_page && (context->cr4 & X86_CR4_SMAP)) {
        blocked = context->implicit ? true : !context->ac;
    }
    result->read = !blocked;
    result->write = writable || !(context->cr0 & X86_CR0_WP);
    if (blocked) {
        result->write = false;
    }
    result->execute = !no_execute;
    if (user_page && (context->cr4 & X86_CR4_SMEP)) {
        result->execute = false;
    }
}

static struct result model_fault(const struct x86_walk_context *context,
                                 const struct mode *mode, enum x86_access access,
                                 uint32_t found)
{
    struct result result = {.error = found};

    result.error |= access == X86_WRITE ? 2 : 0;
    result.error |= context->cpl == 3 && !context->implicit ? 4 : 0;
    if (access == X86_FETCH) {
        bool nx = mode != &legacy && (context->efer & X86_EFER_NXE);

        result.error |= nx || (context->cr4 & X86_CR4_SMEP) ? 16 : 0;
    }
    return result;
}

/* What the key of a user page denies. */
static bool model_key_denies(const struct x86_walk_context *context, uint64_t entry,
                             bool user_page, bool is_write)
{
    unsigned key =
        bit(entry, 59) + 2 * bit(entry, 60) + 4 * bit(entry, 61) + 8 * bit(entry, 62);
    bool is_user = context->cpl == 3 && !context->implicit;

    if (!(context->cr4 & X86_CR4_PKE) || !user_page) {
        return false;
    }
    if (bit(context->pkru, 2 * key)) {
        return true;
    }
    return is_write && bit(context->pkru, 2 * key + 1) &&
           (is_user || context->cr0 & X86_CR0_WP);
}

static struct result model_walk(const struct x86_walk_context *context,
                                const struct mode *mode, gva_t gva,
                                enum x86_access access)
{
    bool user_page = true, writable = true, no_execute = false;
    gpa_t table = context->cr3 & ~0xfffull;
    gpa_t used[4];
    unsigned used_count = 0;

    for (unsigned i = 0;; i++) {
        unsigned shift = mode->level[i].shift;
        uint64_t index = gva >> shift & ((1u << mode->level[i].index_bits) - 1);
        gpa_t gpa = table + index * mode->entry_size;
        uint64_t entry = model_read(gpa, mode->entry_size);

        if (!bit(entry, 0)) {
            return model_fault(context, mode, access, 0);
        }
        bool is_large = model_is_large(context, mode, shift, entry);
        if (model_reserved(context, mode, shift, is_large, entry)) {
            return model_fault(context, mode, access, 9);
        }
        bool has_rights = !(mode == &pae && shift == 30);
        if (has_rights) {
            writable = writable && bit(entry, 1);
            user_page = user_page && bit(entry, 2);
            no_execute = no_execute || bit(entry, 63);
        }
        if (!is_large && i + 1 < mode->levels) {
            if (has_rights) {
                used[used_count++] = gpa;
            }
            table = model_frame(mode, 12, false, entry);
            continue;
        }
        struct result result = {.ok = true, .size = 1ull << shift};
        model_rights(context, user_page, writable, no_execute, &result);
        bool is_denied = mode == &long_mode && access != X86_FETCH &&
                         model_key_denies(context, entry, user_page, access == X86_WRITE);
        if (mode == &long_mode) {
            result.read &= !model_key_denies(context, entry, user_page, false);
            result.write &= !model_key_denies(context, entry, user_page, true);
        }
        if (!(access == X86_READ    ? result.read
              : access == X86_WRITE ? result.write
                                    : result.execute)) {
            return model_fault(context, mode, access, is_denied ? 33 : 1);
        }
        for (unsigned j = 0; j < used_count; j++) {
            model_set(used[j], 5);
        }
        model_set(gpa, 5);
        if (access == X86_WRITE) {
            model_set(gpa, 6);
        }
        result.gpa = model_frame(mode, shift, is_large, entry) + gva % result.size;
        result.write = result.write && (access == X86_WRITE || bit(entry, 6));
        result.global = bit(entry, 8) && (context->cr4 & X86_CR4_PGE);
        return result;
    }
}

static void *arena_entry(void *opaque, gpa_t gpa)
{
    return gpa < sizeof(arena) ? (uint8_t *)arena + gpa : NULL;
}

static const struct x86_walk_memory memory = {.entry = arena_entry};

/* Entries that mostly lead on, with now and then a bit that should not be there. */
static uint64_t random_entry(const struct mode *mode, unsigned width)
{
    uint64_t entry = next_random() & 0xffe;

    entry |= one_in(16) ? 0 : X86_PTE_P;
    entry &= one_in(6) ? ~0ull : ~X86_PTE_PS;
    entry |= next_random() % 3 ? X86_PTE_W | X86_PTE_U : 0;
    entry |= (next_random() % (PAGES + (one_in(32) ? 8 : 0))) << 12;
    if (entry & X86_PTE_PS && !one_in(4)) {
        /* What is an address of a table is reserved in a large page. */
        entry &= ~0x1fe000ull;
    }
    if (mode == &legacy) {
        return entry | (one_in(8) ? (next_random() & 0x3ff) << 12 : 0);
    }
    entry |= one_in(6) ? X86_PTE_NX : 0;
    entry |= one_in(40) ? 1ull << (next_random() % 51 + 12) : 0;
    entry |= one_in(40) && width < 52 ? 1ull << width : 0;
    entry |= mode == &long_mode ? (next_random() & 15) << 59 : 0;
    return entry;
}

static void fill(const struct mode *mode, unsigned width)
{
    for (unsigned page = 0; page < PAGES; page++) {
        for (unsigned i = 0; i < 8; i++) {
            uint64_t entry = random_entry(mode, width);

            if (mode == &legacy) {
                entry |= random_entry(mode, width) << 32;
            } else if (mode == &pae && page == 0) {
                entry &= one_in(16) ? ~0ull : ~0x80000000000001e6ull;
            }
            arena[page * 512 + i] = entry;
        }
    }
    memcpy(model_arena, arena, sizeof(arena));
}

static struct x86_walk_context random_context(const struct mode *mode)
{
    uint64_t random = next_random();
    struct x86_walk_context context = {
        .cr0 = X86_CR0_PE | X86_CR0_PG | (bit(random, 0) ? X86_CR0_WP : 0),
        .cr4 = (bit(random, 1) ? X86_CR4_SMEP : 0) | (bit(random, 2) ? X86_CR4_SMAP : 0) |
               (bit(random, 3) ? X86_CR4_PGE : 0) | (bit(random, 4) ? X86_CR4_PSE : 0),
        .efer = bit(random, 5) || bit(random, 6) ? X86_EFER_NXE : 0,
        .ac = bit(random, 7),
        .implicit = bit(random, 8) && bit(random, 9),
        .cpl = bit(random, 10) ? 3 : 0,
        .physical_bits = (uint8_t)(32 + (random >> 16) % 21),
        .pkru = (uint32_t)next_random() & (uint32_t)next_random(),
    };

    context.cr4 |= bit(random, 11) ? X86_CR4_PKE : 0;

    if (mode != &legacy) {
        context.cr4 |= X86_CR4_PAE;
    }
    if (mode == &long_mode) {
        context.efer |= X86_EFER_LMA | X86_EFER_LME;
    }
    return context;
}

/* The four entries are loaded, all or none. */
static bool load_pdptes(struct x86_walk_context *context)
{
    static uint64_t registers[4];
    bool is_good = true;

    for (unsigned i = 0; i < 4; i++) {
        uint64_t entry = model_read(context->cr3 + 8 * i, 8);
        is_good = is_good &&
                  !(bit(entry, 0) && model_reserved(context, &pae, 30, false, entry));
    }
    context->pdpte = registers;
    assert_int_equal(
        x86_pdptes_load(&memory, context->cr3, context->physical_bits, registers),
        is_good);
    return is_good;
}

static unsigned compare(const struct mode *mode)
{
    struct x86_walk_context context = random_context(mode);
    enum x86_access access = next_random() % 3;
    struct x86_translation translation = {0};
    struct x86_exception fault = {0};
    gva_t gva = next_random() & 0xfff;

    for (unsigned i = 0; i < mode->levels; i++) {
        gva |= next_random() % (mode == &pae && i == 0 ? 4 : 8) << mode->level[i].shift;
    }
    if (mode == &pae && !load_pdptes(&context)) {
        return 2;
    }
    struct result expected = model_walk(&context, mode, gva, access);
    bool ok = x86_walk(&context, &memory, gva, access, &translation, &fault);

    assert_int_equal(ok, expected.ok);
    assert_memory_equal(arena, model_arena, sizeof(arena));
    if (!ok) {
        assert_int_equal(fault.error, expected.error);
        return expected.error & X86_PF_RSVD ? 2 : expected.error & X86_PF_P ? 1 : 0;
    }
    assert_int_equal(translation.gpa, expected.gpa);
    assert_int_equal(translation.page_size, expected.size);
    assert_int_equal(translation.readable, expected.read);
    assert_int_equal(translation.writable, expected.write);
    assert_int_equal(translation.executable, expected.execute);
    assert_int_equal(translation.readable_user, expected.user);
    assert_int_equal(translation.global, expected.global);
    return expected.size == 4096 ? 3 : 4;
}

static void run(const struct mode *mode)
{
    unsigned outcomes[5] = {0};

    for (unsigned i = 0; i < ROUNDS; i++) {
        if (i % 8 == 0) {
            fill(mode, 32 + (unsigned)(next_random() % 21));
        }
        outcomes[compare(mode)]++;
    }
    /* Not present, forbidden, reserved, small and large pages: all have been seen. */
    for (unsigned i = 0; i < 5; i++) {
        assert_true(outcomes[i] > ROUNDS / 500);
    }
}

static void test_legacy(void **unused)
{
    run(&legacy);
}

static void test_pae(void **unused)
{
    run(&pae);
}

static void test_long_mode(void **unused)
{
    run(&long_mode);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_legacy),
        cmocka_unit_test(test_pae),
        cmocka_unit_test(test_long_mode),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
