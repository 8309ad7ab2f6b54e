#include "base/scope.h"
#include "fixture.h"
#include "interpreter/isa.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static void policy_add(struct cpuid_policy *policy, enum cpu_feature feature)
{
    policy->features[feature / 64] |= 1ull << (feature % 64);
}

static bool offered(const struct cpuid_policy *policy, const char *bytes, size_t length)
{
    ZydisDecoder decoder;
    ZydisDecodedInstruction decoded;
    ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    assert_true(
        ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, length, &decoded, operand)));
    return native_isa_offered(policy, &decoded);
}

#define OFFERED(policy, bytes) offered(policy, bytes, sizeof(bytes) - 1)

static void test_base_needs_no_feature(void **state)
{
    struct cpuid_policy policy = {0};
    assert_true(OFFERED(&policy, "\x01\xc8"));         /* add */
    assert_true(OFFERED(&policy, "\x0f\xc8"));         /* bswap */
    assert_true(OFFERED(&policy, "\x0f\x20\xc0"));     /* mov cr0, rax */
    assert_true(OFFERED(&policy, "\x0f\x01\x16"));     /* lgdt */
    assert_true(OFFERED(&policy, "\x0f\x1f\x00"));     /* nop r/m */
    assert_true(OFFERED(&policy, "\xf3\x90"));         /* pause */
    assert_true(OFFERED(&policy, "\xf3\x0f\x1e\xfa")); /* endbr64 */
    assert_true(OFFERED(&policy, "\x0f\x0b"));         /* ud2 */
    assert_true(OFFERED(&policy, "\x0f\xa2"));         /* cpuid */
}

static void test_features_gate(void **state)
{
    static const struct {
        const char *bytes;
        size_t length;
        enum cpu_feature feature;
    } rows[] = {
        {"\x0f\xc7\x0e", 3, CPU_CX8},
        {"\x0f\x31", 2, CPU_TSC},
        {"\x0f\x01\xf8", 3, CPU_LM},
        {"\x0f\x01\xef", 3, CPU_PKU},
        {"\x0f\x58\xc1", 3, CPU_SSE},
        {"\x66\x0f\x58\xc1", 4, CPU_SSE2},
        {"\x0f\x6f\xc1", 3, CPU_MMX},
        {"\xd9\xe8", 2, CPU_FPU},
        {"\x0f\x44\xc1", 3, CPU_CMOV},
        {"\xc5\xf0\x58\xc2", 4, CPU_AVX},
        {"\xc5\xf5\xfe\xc2", 4, CPU_AVX2},
        {"\xc4\xe2\x69\x90\x04\x31", 6, CPU_AVX2},
        {"\xc4\xe2\x70\xf2\xc2", 5, CPU_BMI1},
        {"\xc4\xe2\xfb\xf6\xc1", 5, CPU_BMI2},
        {"\xf3\x0f\xb8\xc1", 4, CPU_POPCNT},
        {"\x0f\x38\xc8\xc1", 4, CPU_SHA},
        {"\xf2\x0f\x38\xf1\xc1", 5, CPU_SSE4_2},
        {"\x0f\x38\xf0\x01", 4, CPU_MOVBE},
        {"\x66\x0f\x38\xf6\xc1", 5, CPU_ADX},
        {"\x0f\xc7\xf0", 3, CPU_RDRAND},
        {"\x0f\x01\xca", 3, CPU_SMAP},
        {"\xf3\x48\x0f\xae\xc0", 5, CPU_FSGSBASE},
        {"\x0f\xae\x38", 3, CPU_CLFLUSH},
        {"\x0f\xae\x20", 3, CPU_XSAVE},
        {"\x0f\x01\xf9", 3, CPU_RDTSCP},
    };
    for (size_t i = 0; i < array_size(rows); i++) {
        struct cpuid_policy policy = {0};
        assert_false(offered(&policy, rows[i].bytes, rows[i].length));
        policy_add(&policy, rows[i].feature);
        assert_true(offered(&policy, rows[i].bytes, rows[i].length));
    }
}

static void test_extensions_without_feature_are_absent(void **state)
{
    struct cpuid_policy policy = {0};
    for (unsigned i = 0; i < CPU_FEATURE_COUNT; i++) {
        policy_add(&policy, i);
    }
    assert_false(OFFERED(&policy, "\x62\xf1\x74\x48\x58\xc2")); /* vaddps zmm */
    assert_false(OFFERED(&policy, "\x0f\x0f\xc1\x9e"));         /* pfadd */
    assert_false(OFFERED(&policy, "\x0f\x01\xc2"));             /* vmlaunch */
    assert_false(OFFERED(&policy, "\x0f\x01\xd8"));             /* vmrun */
    assert_false(OFFERED(&policy, "\xc7\xf8\x00\x00\x00\x00")); /* xbegin */
    assert_false(OFFERED(&policy, "\x8f\xe9\x78\x01\xc9"));     /* blcfill */
    assert_true(OFFERED(&policy, "\x0f\x01\xd9"));              /* vmmcall */
}

/* Linux executes TZCNT on all processors, where BSF will do. */
static void test_a_prefix_that_means_nothing_is_ignored(void **state)
{
    struct fixture *f = fixture_long_model("x86-64-v1");
    f->cpu->reg[X86_RCX] = 0x00f00000;
    RUN_BYTES(f, 0xf3, 0x0f, 0xbc, 0xc1, /* tzcnt %ecx, %eax: bsf */
              0xf3, 0x0f, 0xbd, 0xd1,    /* lzcnt %ecx, %edx: bsr */
              0xf3, 0x0f, 0x09,          /* wbnoinvd: wbinvd */
              0xf4);
    assert_int_equal(fixture_vector(f), -1);
    assert_int_equal(f->cpu->reg[X86_RAX], 20);
    assert_int_equal(f->cpu->reg[X86_RDX], 23);
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_base_needs_no_feature),
        cmocka_unit_test(test_features_gate),
        cmocka_unit_test(test_a_prefix_that_means_nothing_is_ignored),
        cmocka_unit_test(test_extensions_without_feature_are_absent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
