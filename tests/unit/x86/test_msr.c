/* MSRs: which exist, what may be written, what a write does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#undef fail /* cmocka has one, too */

#include <string.h>

#include "base/scope.h"
#include "x86/msr.h"

static struct cpuid_policy policy;
static struct x86_state state;
static uint64_t now;
static unsigned effects;

/* A policy with every feature, on either vendor. */
static int setup(void **unused)
{
    memset(&policy, 0, sizeof(policy));
    memset(&state, 0, sizeof(state));
    memset(policy.features, 0xff, sizeof(policy.features));
    policy.features[CPU_FXSR_OPT / 64] &= ~(1ull << (CPU_FXSR_OPT % 64));
    policy.vendor = CPU_VENDOR_AMD;
    policy.physical_bits = 40;
    policy.tsc_khz = 2400000;
    state.pat = 0x0007040600070406;
    state.misc_enable = 1;
    now = 1000000;
    effects = 99;
    return 0;
}

static uint64_t get(uint32_t index)
{
    uint64_t value = 0;
    assert_int_equal(msr_read(&policy, &state, now, index, &value), MSR_OK);
    return value;
}

static enum msr_result set(uint32_t index, uint64_t value)
{
    return msr_write(&policy, &state, now, index, value, &effects);
}

/* A refused write leaves everything as it was. */
static void refuses(uint32_t index, uint64_t value)
{
    struct x86_state before = state;
    assert_int_equal(set(index, value), MSR_FAULT);
    assert_memory_equal(&before, &state, sizeof(state));
    assert_int_equal(effects, 0);
}

static void accepts(uint32_t index, uint64_t value)
{
    assert_int_equal(set(index, value), MSR_OK);
    assert_true(get(index) == value);
}

static void test_unknown_and_foreign_registers(void **unused)
{
    uint64_t value;
    static const uint32_t unknown[] = {
        0,          1,         0x48,          0x400,
        0x17b,      MSR_XSS,   MSR_APIC_BASE, MSR_TSC_DEADLINE,
        0x800,      0x8ff,     0x210,         0xc0000104,
        0xc0011020, 0xffffffff};
    for (unsigned i = 0; i < array_size(unknown); i++) {
        assert_int_equal(msr_read(&policy, &state, now, unknown[i], &value), MSR_UNKNOWN);
        assert_int_equal(set(unknown[i], 0), MSR_UNKNOWN);
        assert_int_equal(effects, 0);
    }
}

static void test_immunities_are_shown_where_the_model_has_them(void **unused)
{
    uint64_t value;
    const struct cpuid_policy before = policy;
    const unsigned feature = CPU_ARCH_CAPABILITIES;
    policy.immunities = 0x21;
    policy.features[feature / 64] &= ~(1ull << feature % 64);
    assert_int_equal(msr_read(&policy, &state, now, MSR_ARCH_CAPABILITIES, &value),
                     MSR_UNKNOWN);
    policy.features[feature / 64] |= 1ull << feature % 64;
    assert_int_equal(get(MSR_ARCH_CAPABILITIES), 0x21);
    refuses(MSR_ARCH_CAPABILITIES, 0); /* it is read-only */
    policy = before;
}

static void test_what_kernels_probe_for_is_absent_without_a_message(void **unused)
{
    uint64_t value;
    static const uint32_t probed[] = {MSR_PRED_CMD, MSR_AMD_EVNTSEL0};
    for (unsigned i = 0; i < array_size(probed); i++) {
        assert_int_equal(msr_read(&policy, &state, now, probed[i], &value), MSR_FAULT);
        assert_int_equal(set(probed[i], 0), MSR_FAULT);
    }
}

static void test_vendors_have_their_own(void **unused)
{
    uint64_t value;
    assert_int_equal(get(MSR_AMD_HWCR), 1 << 24);
    assert_int_equal(get(MSR_AMD_SYSCFG), 0);
    assert_int_equal(get(MSR_AMD_DE_CFG), 2);
    assert_int_equal(msr_read(&policy, &state, now, MSR_MISC_ENABLE, &value),
                     MSR_UNKNOWN);
    refuses(MSR_UCODE_REV, 0);
    refuses(MSR_AMD_HWCR, 0);
    /* Accepted, without effect: configuration space by I/O ports is the machine's. */
    assert_int_equal(set(MSR_AMD_NB_CFG, 1ull << 46), MSR_OK);
    assert_int_equal(get(MSR_AMD_NB_CFG), 0);

    policy.vendor = CPU_VENDOR_INTEL;
    assert_int_equal(msr_read(&policy, &state, now, MSR_AMD_HWCR, &value), MSR_UNKNOWN);
    assert_int_equal(get(MSR_PLATFORM_ID), 0);
    assert_int_equal(get(MSR_FEATURE_CONTROL), 1);
    refuses(MSR_FEATURE_CONTROL, 5);
    assert_int_equal(get(MSR_PLATFORM_INFO), 24 << 8);
    assert_int_equal(set(MSR_UCODE_REV, 0), MSR_OK);
    assert_true(get(MSR_UCODE_REV) == 1ull << 32);
}

static void test_misc_enable_keeps_what_is_not_there(void **unused)
{
    policy.vendor = CPU_VENDOR_INTEL;
    const uint64_t no_bts = 1 << 11, no_pebs = 1 << 12;
    assert_int_equal(get(MSR_MISC_ENABLE), 1 | no_bts | no_pebs);
    accepts(MSR_MISC_ENABLE, no_bts | no_pebs);
    accepts(MSR_MISC_ENABLE, 1 | no_bts | no_pebs);
    refuses(MSR_MISC_ENABLE, 1);
    refuses(MSR_MISC_ENABLE, 1 | no_bts | no_pebs | 1ull << 33);
}

static void test_misc_enable_takes_away_execute_disable(void **unused)
{
    policy.vendor = CPU_VENDOR_INTEL;
    accepts(MSR_EFER, X86_EFER_NXE);
    accepts(MSR_EFER, 0);
    accepts(MSR_MISC_ENABLE, get(MSR_MISC_ENABLE) | X86_MISC_XD_DISABLE);
    refuses(MSR_EFER, X86_EFER_NXE);
}

static void test_features_bring_their_registers(void **unused)
{
    uint64_t value;
    memset(policy.features, 0, sizeof(policy.features));
    policy.features[0] = 1ull << CPU_FPU;
    static const uint32_t gone[] = {MSR_TSC_ADJUST,   MSR_TSC_AUX, MSR_MTRRCAP,
                                    MSR_SYSENTER_EIP, MSR_LSTAR,   MSR_PAT};
    for (unsigned i = 0; i < array_size(gone); i++) {
        assert_int_equal(msr_read(&policy, &state, now, gone[i], &value), MSR_UNKNOWN);
    }
    refuses(MSR_EFER, X86_EFER_SCE);
    refuses(MSR_EFER, X86_EFER_NXE);
}

static void test_addresses_must_be_canonical(void **unused)
{
    static const uint32_t rows[] = {MSR_LSTAR,       MSR_CSTAR,          MSR_FS_BASE,
                                    MSR_GS_BASE,     MSR_KERNEL_GS_BASE, MSR_SYSENTER_ESP,
                                    MSR_SYSENTER_EIP};
    for (unsigned i = 0; i < array_size(rows); i++) {
        accepts(rows[i], 0x00007fffffffffff);
        accepts(rows[i], 0xffff800000000000);
        refuses(rows[i], 0x0000800000000000);
        refuses(rows[i], 0xffff7fffffffffff);
    }
    assert_int_equal(set(MSR_FS_BASE, 0x1000), MSR_OK);
    assert_int_equal(effects, MSR_EFFECT_BASES);
    assert_int_equal(state.seg[X86_FS].base, 0x1000);
    assert_int_equal(set(MSR_KERNEL_GS_BASE, 0x2000), MSR_OK);
    assert_int_equal(effects, 0);
}

static void test_narrow_registers(void **unused)
{
    static const uint32_t rows[] = {MSR_TSC_AUX, MSR_SFMASK, MSR_SYSENTER_CS};
    for (unsigned i = 0; i < array_size(rows); i++) {
        accepts(rows[i], 0xffffffff);
        refuses(rows[i], 1ull << 32);
    }
    accepts(MSR_STAR, UINT64_MAX);
    accepts(MSR_MCG_STATUS, 7);
    refuses(MSR_MCG_STATUS, 8);
    accepts(MSR_DEBUGCTL, 3);
    refuses(MSR_DEBUGCTL, 4);
}

static void test_read_only_registers(void **unused)
{
    assert_int_equal(get(MSR_MTRRCAP), 0x508);
    refuses(MSR_MTRRCAP, 0);
    refuses(MSR_MTRRCAP, 0x508); /* SDM 3A 12.11.1 */
    assert_int_equal(get(MSR_MCG_CAP), 0);
    refuses(MSR_MCG_CAP, 1);
    refuses(MSR_MCG_CAP, 0);
}

static void test_efer(void **unused)
{
    assert_int_equal(set(MSR_EFER, X86_EFER_SCE | X86_EFER_LME | X86_EFER_NXE), MSR_OK);
    assert_int_equal(effects, MSR_EFFECT_PAGING);
    /* LMA tells what is; it is not written. */
    assert_int_equal(set(MSR_EFER, X86_EFER_LME | X86_EFER_LMA), MSR_OK);
    assert_int_equal(state.efer, X86_EFER_LME);
    state.cr0 = X86_CR0_PE | X86_CR0_PG;
    state.efer |= X86_EFER_LMA;
    refuses(MSR_EFER, X86_EFER_NXE);
    assert_int_equal(set(MSR_EFER, X86_EFER_LME | X86_EFER_SCE), MSR_OK);
    assert_int_equal(state.efer, X86_EFER_LME | X86_EFER_LMA | X86_EFER_SCE);
    refuses(MSR_EFER, state.efer | X86_EFER_FFXSR);
    refuses(MSR_EFER, state.efer | 1ull << 12);
    refuses(MSR_EFER, state.efer | 1ull << 63);
}

static void test_memory_types(void **unused)
{
    accepts(MSR_PAT, 0x0706050401000706);
    refuses(MSR_PAT, 0x0007040600070402);
    refuses(MSR_PAT, 0x0307040600070406);
    refuses(MSR_PAT, 0x0007040608070406);
    accepts(MSR_MTRR_DEF_TYPE, 0xc06);
    refuses(MSR_MTRR_DEF_TYPE, 0xc07);
    refuses(MSR_MTRR_DEF_TYPE, 0x1c06);
    accepts(MSR_MTRR_FIX64K, 0x0606060606060606);
    refuses(MSR_MTRR_FIX64K, 0x0606060206060606);
    accepts(0x200, 0x00000000fff00006);
    accepts(0x201, 0x000000fffff00800);
    refuses(0x200, 0x00000000fff00106); /* reserved bits */
    refuses(0x200, 0x0000010000000006); /* beyond 40 bits */
    refuses(0x201, 0x0000010000000800);
    refuses(0x201, 0x000000fffff00806);
    accepts(0x20f, 0x800);
    assert_int_equal(state.mtrr.variable[7].mask, 0x800);
}

static void test_fixed_ranges_keep_apart(void **unused)
{
    static const uint32_t rows[] = {0x250, 0x258, 0x259, 0x268, 0x269, 0x26a,
                                    0x26b, 0x26c, 0x26d, 0x26e, 0x26f};
    uint64_t value[array_size(rows)];
    for (unsigned i = 0; i < array_size(rows); i++) {
        value[i] = (i & 1 ? 0x06ull : 0x05ull) << (8 * (i % 8));
        accepts(rows[i], value[i]);
    }
    for (unsigned i = 0; i < array_size(rows); i++) {
        assert_true(get(rows[i]) == value[i]);
        assert_true(state.mtrr.fixed[i] == value[i]);
    }
}

/* SDM 3B 18.17.3. */
static void test_tsc_and_tsc_adjust_move_together(void **unused)
{
    state.tsc_offset = 500;
    assert_int_equal(get(MSR_TSC), now + 500);
    assert_int_equal(set(MSR_TSC, 42), MSR_OK);
    assert_int_equal(effects, MSR_EFFECT_TSC);
    assert_int_equal(get(MSR_TSC), 42);
    assert_true(get(MSR_TSC_ADJUST) == 42 - (now + 500));
    now += 1000;
    assert_int_equal(get(MSR_TSC), 1042);
    assert_int_equal(set(MSR_TSC_ADJUST, 0), MSR_OK);
    assert_int_equal(effects, MSR_EFFECT_TSC);
    assert_int_equal(get(MSR_TSC), now + 500);
    assert_int_equal(set(MSR_TSC_ADJUST, UINT64_MAX), MSR_OK);
    assert_int_equal(get(MSR_TSC), now + 499);
}

#define TEST(name) cmocka_unit_test_setup(name, setup)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_unknown_and_foreign_registers),
        TEST(test_immunities_are_shown_where_the_model_has_them),
        TEST(test_what_kernels_probe_for_is_absent_without_a_message),
        TEST(test_vendors_have_their_own),
        TEST(test_misc_enable_keeps_what_is_not_there),
        TEST(test_misc_enable_takes_away_execute_disable),
        TEST(test_features_bring_their_registers),
        TEST(test_addresses_must_be_canonical),
        TEST(test_narrow_registers),
        TEST(test_read_only_registers),
        TEST(test_efer),
        TEST(test_memory_types),
        TEST(test_fixed_ranges_keep_apart),
        TEST(test_tsc_and_tsc_adjust_move_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
