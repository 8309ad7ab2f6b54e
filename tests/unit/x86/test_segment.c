/* Descriptors, gates and limits. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "x86/segment.h"

/* Last: cmocka defines fail() as a macro. */
#include <cmocka.h>

static void test_unpack_flat_descriptors(void **unused)
{
    struct x86_segment segment;

    x86_segment_unpack(&segment, 0x10, 0x00af9b000000ffffull, 0);
    struct x86_segment flat = x86_segment_flat_code(0x10, true, 0);
    assert_memory_equal(&segment.access, &flat.access, sizeof(flat.access));
    assert_int_equal(segment.limit, 0xffffffffu);
    assert_int_equal(segment.base, 0);
    assert_int_equal(segment.selector, 0x10);
    assert_int_equal(flat.access & (X86_ACCESS_L | X86_ACCESS_DB), X86_ACCESS_L);
    assert_int_equal(x86_segment_pack(&flat), 0x00af9b000000ffffull);

    struct x86_segment code32 = x86_segment_flat_code(0x23, false, 3);
    assert_int_equal(x86_segment_pack(&code32), 0x00cffb000000ffffull);
    struct x86_segment data = x86_segment_flat_data(0x2b, 3);
    assert_int_equal(x86_segment_pack(&data), 0x00cff3000000ffffull);
}

static void test_unpack_byte_granularity(void **unused)
{
    struct x86_segment segment;

    /* base 0x12345678, limit 0xabcde bytes, 16-bit data, AVL */
    x86_segment_unpack(&segment, 7, 0x121a92345678bcdeull, 0);
    assert_int_equal(segment.base, 0x12345678);
    assert_int_equal(segment.limit, 0xabcde);
    assert_int_equal(segment.access, 0x1092);
    assert_int_equal(x86_segment_pack(&segment), 0x121a92345678bcdeull);
}

static void test_unpack_system_descriptor_of_16_bytes(void **unused)
{
    struct x86_segment tss;

    x86_segment_unpack(&tss, 0x40, 0x8000891234560067ull, 0x00000000ffff8881ull);
    assert_int_equal(tss.base, 0xffff888180123456ull);
    assert_int_equal(tss.limit, 0x67);
    assert_int_equal(tss.access, X86_ACCESS_P | X86_TYPE_TSS);
    assert_int_equal(x86_segment_pack(&tss), 0x8000891234560067ull);
}

static void test_pack_inverts_unpack(void **unused)
{
    uint64_t random = 88172645463325252ull;

    for (unsigned i = 0; i < 10000; i++) {
        struct x86_segment segment;

        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        x86_segment_unpack(&segment, 0, random, 0);
        assert_int_equal(x86_segment_pack(&segment), random);
    }
}

static void test_gates(void **unused)
{
    struct x86_gate gate;

    /* 64-bit interrupt gate, IST 3, DPL 3 */
    x86_gate_unpack(&gate, 0x8123ee0300104567ull, 0x00000000ffffffffull);
    assert_int_equal(gate.offset, 0xffffffff81234567ull);
    assert_int_equal(gate.selector, 0x10);
    assert_int_equal(gate.ist, 3);
    assert_int_equal(gate.access,
                     X86_ACCESS_P | X86_ACCESS_DPL | X86_TYPE_INTERRUPT_GATE);

    /* 32-bit call gate with 17 parameters */
    x86_gate_unpack(&gate, 0xdead8c110008beefull, 0);
    assert_int_equal(gate.offset, 0xdeadbeef);
    assert_int_equal(gate.parameter_count, 17);
    assert_int_equal(gate.access & X86_ACCESS_TYPE, X86_TYPE_CALL_GATE);

    /* 16-bit gates have 16-bit offsets */
    x86_gate_unpack(&gate, 0xffff86000008beefull, 0);
    assert_int_equal(gate.offset, 0xbeef);
    x86_gate_unpack(&gate, 0xdead8f0000081111ull, 0xffffffff00000000ull);
    assert_int_equal(gate.offset, 0xdead1111);
}

static void test_real_mode_segment(void **unused)
{
    struct x86_segment segment = x86_segment_real(0xb800);

    assert_int_equal(segment.base, 0xb8000);
    assert_true(x86_segment_allows(&segment, 0xffff, 1, true));
    assert_false(x86_segment_allows(&segment, 0xffff, 2, false));
    assert_true(x86_segment_allows(&segment, 0xfffe, 2, false));
}

static void test_limits(void **unused)
{
    enum { DATA = X86_ACCESS_S | X86_ACCESS_P | X86_ACCESS_WRITABLE };
    enum { DOWN = DATA | X86_ACCESS_EXPAND };
    static const struct {
        uint32_t access, limit;
        uint64_t offset;
        unsigned size;
        bool allowed;
    } cases[] = {
        {DATA, 0xfff, 0, 1, true},
        {DATA, 0xfff, 0xfff, 1, true},
        {DATA, 0xfff, 0xffe, 2, true},
        {DATA, 0xfff, 0xfff, 2, false},
        {DATA, 0xfff, 0x1000, 1, false},
        {DATA, 0xffffffff, 0xfffffffc, 4, true},
        /* What lies behind its end is its start. */
        {DATA, 0xffffffff, 0xfffffffd, 4, true},
        {DATA, 0, 0, 1, true},
        {DATA, 0, 0, 2, false},
        {DATA, 0xffffffff, UINT64_MAX, 2, false},
        {DOWN, 0xfff, 0xfff, 1, false},
        {DOWN, 0xfff, 0x1000, 1, true},
        {DOWN, 0xfff, 0xffe, 4, false},
        {DOWN, 0xfff, 0xffff, 1, true},
        {DOWN, 0xfff, 0xffff, 2, false},
        {DOWN | X86_ACCESS_DB, 0xfff, 0xffff, 2, true},
        {DOWN | X86_ACCESS_DB, 0xfff, 0xffffffff, 1, true},
        {DOWN | X86_ACCESS_DB, 0xfff, 0xffffffff, 2, false},
        /* conforming code is not expand-down */
        {X86_ACCESS_CODE | X86_ACCESS_EXPAND | X86_ACCESS_WRITABLE, 0xfff, 0x10, 4, true},
        {X86_ACCESS_UNUSABLE, 0xffffffff, 0, 1, false},
        {DATA | X86_ACCESS_UNUSABLE, 0xffffffff, 0, 1, false},
    };

    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct x86_segment segment = {.access = cases[i].access, .limit = cases[i].limit};

        assert_int_equal(
            x86_segment_allows(&segment, cases[i].offset, cases[i].size, false),
            cases[i].allowed);
    }
}

static void test_types(void **unused)
{
    struct x86_segment segment = {.limit = 0xffff, .access = X86_ACCESS_S};

    assert_true(x86_segment_allows(&segment, 0, 4, false));
    assert_false(x86_segment_allows(&segment, 0, 4, true));
    segment.access |= X86_ACCESS_WRITABLE;
    assert_true(x86_segment_allows(&segment, 0, 4, true));
    segment.access = X86_ACCESS_S | X86_ACCESS_CODE;
    assert_false(x86_segment_allows(&segment, 0, 4, false));
    assert_true(x86_segment_within(&segment, 0, 4));
    segment.access |= X86_ACCESS_WRITABLE;
    assert_true(x86_segment_allows(&segment, 0, 4, false));
    assert_false(x86_segment_allows(&segment, 0, 4, true));
    segment = x86_segment_null(3);
    assert_int_equal(segment.selector, 3);
    assert_false(x86_segment_allows(&segment, 0, 1, false));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unpack_flat_descriptors),
        cmocka_unit_test(test_unpack_byte_granularity),
        cmocka_unit_test(test_unpack_system_descriptor_of_16_bytes),
        cmocka_unit_test(test_pack_inverts_unpack),
        cmocka_unit_test(test_gates),
        cmocka_unit_test(test_real_mode_segment),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_types),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
