/* The software TLB: entries when they are empty, which jumps INVLPG drops, and whether it
 * looks for a large page. */
#include "fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* A check may ask where an access begins or where it ends (struct tlb_entry): an access
 * that comes to an entry by the page it begins in ends in that one or in the next. */
static void test_empty_entries_match_no_access(void **state)
{
    for (uint64_t i = 0; i < TLB_SIZE; i++) {
        uint64_t page = cpu_never((unsigned)i) >> FRAME_SHIFT;
        assert_int_not_equal(page % TLB_SIZE, i);
        assert_int_not_equal((page - 1) % TLB_SIZE, i);
    }
}

/* ---- jumps ------------------------------------------------------------------------- */

static const char missed, taken;

struct jumps {
    struct fixture *f;
    struct tlb_area *area; /* the view in force */
};

static struct jumps begin_jumps(void)
{
    struct fixture *f = fixture_long();
    cpu_switch_context(f->cpu, false);
    cpu_forget_jumps(f->cpu, &missed);
    return (struct jumps){f, (struct tlb_area *)f->cpu->tlb};
}

static void note(struct jumps *jumps, uint64_t rip, uint64_t tag_bits, unsigned other)
{
    bool lasts = rip % 2 && rip >> 63; /* some of the upper half's */
    cpu_note_jump(jumps->area, cpu_area_jump(rip) ^ other, rip | tag_bits, &taken, lasts);
}

static bool is_known(const struct jumps *jumps, uint64_t rip, uint64_t tag_bits,
                     unsigned other)
{
    const struct tlb_jump *jump = &jumps->area->jump[cpu_area_jump(rip) ^ other];
    const struct tlb_jump *pair =
        &jumps->area->jump[cpu_area_jump(rip) ^ other ^ AREA_JUMP_OTHER];
    uint64_t tag = rip | tag_bits;
    return (jump->tag == tag && jump->target == &taken) ||
           (pair->tag == tag && pair->target == &taken);
}

#define UPPER 0xffffffff81234000ull
#define LOWER 0x555555557000ull

static void test_invlpg_drops_each_jump_of_its_page(void **state)
{
    struct jumps jumps = begin_jumps();
    static const uint64_t pages[] = {UPPER, LOWER};
    for (unsigned p = 0; p < 2; p++) {
        for (unsigned offset = 0; offset < FRAME_SIZE; offset += 3) {
            note(&jumps, pages[p] + offset, 0, 0);
        }
    }
    cpu_flush_page(jumps.f->cpu, UPPER + 123);
    unsigned left = 0;
    for (unsigned offset = 0; offset < FRAME_SIZE; offset += 3) {
        assert_false(is_known(&jumps, UPPER + offset, 0, 0));
        left += is_known(&jumps, LOWER + offset, 0, 0);
    }
    assert_int_not_equal(left, 0);
    cpu_flush_page(jumps.f->cpu, LOWER);
    for (unsigned i = 0; i < AREA_JUMP_COUNT; i++) {
        assert_int_equal(jumps.area->jump[i].tag, 0);
        assert_ptr_equal(jumps.area->jump[i].target, &missed);
    }
    fixture_free(jumps.f);
}

/* Of pages that share a filter's bits, or words, each keeps what is its own. */
static void test_invlpg_leaves_other_pages_alone(void **state)
{
    struct jumps jumps = begin_jumps();
    for (unsigned i = 0; i < 3000; i++) {
        cpu_flush_page(jumps.f->cpu, UPPER + ((uint64_t)i << FRAME_SHIFT));
    }
    for (unsigned i = 0; i < 3000; i++) {
        uint64_t page = UPPER + ((uint64_t)i << FRAME_SHIFT);
        note(&jumps, page + i % FRAME_SIZE, 0, 0);
        cpu_flush_page(jumps.f->cpu, page - FRAME_SIZE);
        assert_true(is_known(&jumps, page + i % FRAME_SIZE, 0, 0));
    }
    fixture_free(jumps.f);
}

static void test_invlpg_drops_jumps_of_32_bit_code(void **state)
{
    struct jumps jumps = begin_jumps();
    note(&jumps, 0x8049123, 0, 1);
    note(&jumps, 0x8049ffe, AREA_JUMP_BASED_TAG, 1);
    cpu_flush_page(jumps.f->cpu, 0x8048000);
    assert_true(is_known(&jumps, 0x8049123, 0, 1));
    assert_true(is_known(&jumps, 0x8049ffe, AREA_JUMP_BASED_TAG, 1));
    cpu_flush_page(jumps.f->cpu, 0x8049000);
    assert_false(is_known(&jumps, 0x8049123, 0, 1));
    assert_false(is_known(&jumps, 0x8049ffe, AREA_JUMP_BASED_TAG, 1));
    fixture_free(jumps.f);
}

/* An instruction that begins so near the page may end in it. */
static void test_invlpg_drops_jumps_to_what_ends_in_its_page(void **state)
{
    struct jumps jumps = begin_jumps();
    note(&jumps, UPPER + FRAME_SIZE - INSN_BYTES_MAX + 1, 0, 0);
    note(&jumps, UPPER + FRAME_SIZE - 64, 0, 0);
    cpu_flush_page(jumps.f->cpu, UPPER + FRAME_SIZE);
    assert_false(is_known(&jumps, UPPER + FRAME_SIZE - INSN_BYTES_MAX + 1, 0, 0));
    assert_true(is_known(&jumps, UPPER + FRAME_SIZE - 64, 0, 0));
    fixture_free(jumps.f);
}

/* ---- large pages ------------------------------------------------------------------- */

/* INVLPG looks for a large page as long as one may be cached: a program's ends with a
 * load of CR3, wherever it lies, a kernel's does not. */
static void test_invlpg_forgets_large_pages_that_pass(void **state)
{
    struct fixture *f = fixture_long();
    struct cpu *cpu = f->cpu;
    cpu_switch_context(cpu, false);
    const uint64_t *dropped = (const uint64_t *)&cpu->counters.regions_dropped;
    static const uint64_t sizes[] = {1ull << 21, 1ull << 22, 1ull << 30};
    for (unsigned i = 0; i < 3; i++) {
        for (unsigned lasts = 0; lasts < 2; lasts++) {
            uint64_t before = *dropped;
            cpu_note_large_page(cpu->tlb_context, UPPER, sizes[i], lasts);
            cpu_flush_page(cpu, UPPER);
            assert_int_equal(*dropped, before + 1);
            cpu_switch_context(cpu, false);
            cpu_flush_page(cpu, UPPER);
            assert_int_equal(*dropped, before + 1 + lasts);
            cpu_flush_all(cpu);
            cpu_flush_page(cpu, UPPER);
            assert_int_equal(*dropped, before + 1 + lasts);
        }
    }
    fixture_free(f);
}

/* A program's pages are none of what lasts: however many large pages a kernel has. */
static void test_large_pages_that_last_are_the_upper_halfs(void **state)
{
    struct fixture *f = fixture_long();
    struct cpu *cpu = f->cpu;
    cpu_switch_context(cpu, false);
    const uint64_t *dropped = (const uint64_t *)&cpu->counters.regions_dropped;
    for (uint64_t i = 0; i < LARGE_FILTER_BITS; i++) {
        cpu_note_large_page(cpu->tlb_context, UPPER + (i << 21), 1ull << 21, true);
    }
    cpu_flush_page(cpu, LOWER);
    assert_int_equal(*dropped, 0);
    cpu_flush_page(cpu, UPPER);
    assert_int_equal(*dropped, 1);
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty_entries_match_no_access),
        cmocka_unit_test(test_invlpg_drops_each_jump_of_its_page),
        cmocka_unit_test(test_invlpg_leaves_other_pages_alone),
        cmocka_unit_test(test_invlpg_drops_jumps_of_32_bit_code),
        cmocka_unit_test(test_invlpg_drops_jumps_to_what_ends_in_its_page),
        cmocka_unit_test(test_invlpg_forgets_large_pages_that_pass),
        cmocka_unit_test(test_large_pages_that_last_are_the_upper_halfs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
