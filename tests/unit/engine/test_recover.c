/* Flags that the translator computes anew. What code gets of it: tests/isa. */

#include "engine/translator/recover.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include "base/scope.h"

#include <cmocka.h>

static const uint64_t values[] = {
    0,           1,           2,
    0x0f,        0x10,        0x7f,
    0x80,        0xff,        0x100,
    0x7fff,      0x8000,      0xffff,
    0x7fffffff,  0x80000000,  0xffffffff,
    0x100000000, 1ull << 63,  INT64_MAX,
    UINT64_MAX,  0x123456789, UINT64_MAX - 1,
};

static uint32_t sign_zero_parity(uint64_t result, unsigned bits)
{
    uint64_t kept = bits == 64 ? result : result & ((1ull << bits) - 1);
    return (kept == 0 ? X86_FLAG_ZF : 0) | (kept >> (bits - 1) ? X86_FLAG_SF : 0) |
           (__builtin_parity((unsigned)kept & 0xff) ? 0 : X86_FLAG_PF);
}

/* SDM 1 3.4.3.1, from carries out of each bit. */
static uint32_t flags_of_sum(uint64_t a, uint64_t b, uint64_t sum, unsigned bits)
{
    uint64_t carries = (a & b) | ((a | b) & ~sum);
    uint64_t top = carries >> (bits - 1) & 1, next = carries >> (bits - 2) & 1;
    return sign_zero_parity(sum, bits) | (top ? X86_FLAG_CF : 0) |
           (carries & 8 ? X86_FLAG_AF : 0) | (top != next ? X86_FLAG_OF : 0);
}

/* A difference borrows where the sum of what is left and what was taken carries. */
static uint32_t flags_of_difference(uint64_t a, uint64_t b, unsigned bits)
{
    uint64_t difference = a - b;
    uint32_t sum = flags_of_sum(difference, b, a, bits);
    uint32_t kept = X86_FLAG_CF | X86_FLAG_AF | X86_FLAG_OF;
    return (sum & kept) | sign_zero_parity(difference, bits);
}

static uint32_t recovered(unsigned kind, unsigned bits, uint64_t first, uint64_t second)
{
    uint64_t gpr[16] = {[3] = first - 100, [11] = second + 5};
    struct recovery recovery = {
        .kind = (uint8_t)kind,
        .size = (uint8_t)(bits / 8),
        .reg = {3, 11},
        .add = {100, -5},
    };
    return arith_to_flags(recover_flags(&recovery, gpr));
}

static void test_of_registers(void **state)
{
    for (unsigned bits = 8; bits <= 64; bits *= 2) {
        for (unsigned i = 0; i < array_size(values); i++) {
            for (unsigned j = 0; j < array_size(values); j++) {
                uint64_t a = values[i], b = values[j];
                assert_int_equal(recovered(RECOVER_TEST, bits, a, b),
                                 sign_zero_parity(a & b, bits));
                assert_int_equal(recovered(RECOVER_COMPARE, bits, a, b),
                                 flags_of_difference(a, b, bits));
                assert_int_equal(recovered(RECOVER_SUB, bits, a - b, b),
                                 flags_of_difference(a, b, bits));
                assert_int_equal(recovered(RECOVER_ADD, bits, a + b, b),
                                 flags_of_sum(a, b, a + b, bits));
                assert_int_equal(recovered(RECOVER_NEG, bits, 0 - a, 0),
                                 flags_of_difference(0, a, bits));
            }
        }
    }
}

static void test_of_constants(void **state)
{
    static const uint64_t gpr[16] = {[2] = 7};
    const struct recovery compared = {RECOVER_COMPARE, 4, {2, RECOVER_CONSTANT}, {0, 7}};
    const struct recovery zero = {
        RECOVER_TEST, 8, {RECOVER_CONSTANT, RECOVER_CONSTANT}, {0, 0}};
    assert_int_equal(arith_to_flags(recover_flags(&compared, gpr)),
                     X86_FLAG_ZF | X86_FLAG_PF);
    assert_int_equal(arith_to_flags(recover_flags(&zero, gpr)),
                     X86_FLAG_ZF | X86_FLAG_PF);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_of_registers),
        cmocka_unit_test(test_of_constants),
    };
    return cmocka_run_group_tests_name("recover", tests, NULL, NULL);
}
