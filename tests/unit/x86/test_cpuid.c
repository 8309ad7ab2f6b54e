/* The CPU model, on hosts of both vendors and several ages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#undef fail /* cmocka has one, too */

#include <cpuid.h>
#include <errno.h>
#include <string.h>

#include "base/scope.h"
#include "x86/cpuid.h"
#include "x86/cpuid_host.h"
#include "x86/cpuid_table.h"
#include "x86/paravirt.h"

/* A host made of a table: what it lacks reads as zero. */
struct fake {
    struct cpuid_host host;
    const char *vendor; /* 12 characters, in the order EBX, EDX, ECX */
    uint32_t signature;
    uint32_t ecx1, edx1, ebx7, ecx7, edx7, eaxd1, ecx_ext, edx_ext;
};

#define EVERYTHING 0xffffffffu

static void fake_read(const struct cpuid_host *host, uint32_t leaf, uint32_t subleaf,
                      uint32_t out[4])
{
    const struct fake *fake = container_of(host, struct fake, host);
    memset(out, 0, 16);
    switch (leaf) {
    case 0:
        out[0] = 0x16;
        memcpy(&out[1], fake->vendor, 4);
        memcpy(&out[3], fake->vendor + 4, 4);
        memcpy(&out[2], fake->vendor + 8, 4);
        break;
    case 1:
        out[0] = fake->signature;
        out[1] = 0x55443322;
        out[2] = fake->ecx1;
        out[3] = fake->edx1;
        break;
    case 4: /* 32K data, 32K code, 1M, 32M; as shared as may be */
        if (subleaf < 4) {
            static const uint32_t level[] = {0x21, 0x22, 0x43, 0x63};
            out[0] = level[subleaf] | 0xffffc000u;
            out[1] = 0x01c0003f;
            out[2] = 63;
        }
        break;
    case 7:
        out[1] = fake->ebx7;
        out[2] = fake->ecx7;
        out[3] = fake->edx7;
        break;
    case 0xd:
        out[0] = subleaf == 1 ? fake->eaxd1 : 0;
        break;
    case 0x80000000:
        out[0] = 0x80000021;
        break;
    case 0x80000001:
        out[2] = fake->ecx_ext;
        out[3] = fake->edx_ext;
        break;
    case 0x80000002:
        memcpy(out, "Fake processor  ", 16);
        break;
    case 0x80000008:
        out[0] = 0x3028 + 6; /* 46 bits */
        out[1] = EVERYTHING;
        break;
    case 0x80000021:
        out[0] = EVERYTHING;
        break;
    default:
        break;
    }
}

static struct fake fake_new(const char *vendor)
{
    return (struct fake){
        .host = {.read = fake_read, .xcr0 = 0xe7},
        .vendor = vendor,
        .signature = 0x00a00f11,
        .ecx1 = EVERYTHING,
        .edx1 = EVERYTHING,
        .ebx7 = EVERYTHING,
        .ecx7 = EVERYTHING,
        .edx7 = EVERYTHING,
        .eaxd1 = EVERYTHING,
        .ecx_ext = EVERYTHING,
        .edx_ext = EVERYTHING,
    };
}

static struct fake amd_host(void)
{
    return fake_new("AuthenticAMD");
}

static struct fake intel_host(void)
{
    struct fake fake = fake_new("GenuineIntel");
    fake.signature = 0x000806f8;
    return fake;
}

static struct cpuid_policy policy;
static struct x86_state state;
static uint32_t out[4];

static int build(struct fake *fake, const char *model, unsigned cpus, struct error *err)
{
    const struct cpuid_config config = {.model = model, .cpus = cpus, .tsc_khz = 2445431};
    memset(&state, 0, sizeof(state));
    state.apic_base = 0xfee00800;
    state.xcr0 = 1;
    return cpuid_policy_init_from(&policy, &config, &fake->host, err);
}

static const uint32_t *execute(uint32_t leaf, uint32_t subleaf)
{
    cpuid_execute(&policy, &state, 3, leaf, subleaf, out);
    return out;
}

/* Does the guest see the feature where the manuals put it? */
static bool shows(enum cpu_feature feature)
{
    const struct cpuid_feature_row *row = &cpuid_features[feature];
    return execute(row->leaf, row->subleaf)[row->reg] >> row->bit & 1;
}

static void test_every_feature_has_a_row_of_its_own(void **unused)
{
    for (unsigned i = 0; i < CPU_FEATURE_COUNT; i++) {
        const struct cpuid_feature_row *row = &cpuid_features[i];
        assert_non_null(row->name);
        for (unsigned k = 0; k < i; k++) {
            const struct cpuid_feature_row *other = &cpuid_features[k];
            assert_false(row->leaf == other->leaf && row->subleaf == other->subleaf &&
                         row->reg == other->reg && row->bit == other->bit);
        }
    }
}

static void test_the_leaves_show_what_the_policy_has(void **unused)
{
    struct fake hosts[] = {amd_host(), intel_host()};
    for (unsigned h = 0; h < array_size(hosts); h++) {
        assert_int_equal(build(&hosts[h], NULL, 4, NULL), 0);
        for (unsigned i = 0; i < CPU_FEATURE_COUNT; i++) {
            assert_int_equal(shows((enum cpu_feature)i),
                             cpuid_has(&policy, (enum cpu_feature)i));
        }
        for (unsigned i = 1; i < policy.leaf_count; i++) {
            const struct cpuid_leaf *a = &policy.leaf[i - 1], *b = &policy.leaf[i];
            assert_true(a->leaf < b->leaf ||
                        (a->leaf == b->leaf && a->subleaf < b->subleaf));
        }
    }
}

static void test_nothing_beyond_the_engines_is_offered(void **unused)
{
    struct fake fake = intel_host();
    assert_int_equal(build(&fake, NULL, 1, NULL), 0);
    const uint32_t monitor = 1u << 3, vmx = 1u << 5;
    assert_int_equal(execute(1, 0)[2] & (monitor | vmx), 0);
    const uint32_t avx512f = 1u << 16, rtm = 1u << 11, mpx = 1u << 14;
    assert_int_equal(execute(7, 0)[1] & (avx512f | rtm | mpx), 0);
    const uint32_t cet_ss = 1u << 7, la57 = 1u << 16, pks = 1u << 31;
    assert_int_equal(out[2] & (cet_ss | la57 | pks), 0);
    const uint32_t ibrs = 1u << 26;
    assert_int_equal(out[3] & ibrs, 0);
    assert_int_equal(out[0], 0); /* no further subleaves */
    execute(0xa, 0);
    assert_int_equal(out[0] | out[1] | out[2] | out[3], 0);
    const uint32_t xsaves = 1u << 3;
    assert_int_equal(execute(0xd, 1)[0] & xsaves, 0);
}

static void test_privileged_features_do_not_depend_on_the_host(void **unused)
{
    static const enum cpu_feature ours[] = {
        CPU_SMEP,    CPU_SMAP,   CPU_UMIP,          CPU_PCID,         CPU_INVPCID,
        CPU_X2APIC,  CPU_NX,     CPU_FSGSBASE,      CPU_TSC_DEADLINE, CPU_TSC_ADJUST,
        CPU_PDPE1GB, CPU_RDTSCP, CPU_INVARIANT_TSC, CPU_HYPERVISOR,   CPU_ARAT};
    struct fake fake = amd_host();
    fake.ecx1 = fake.ebx7 = fake.ecx7 = fake.edx7 = fake.eaxd1 = fake.ecx_ext = 0;
    fake.host.xcr0 = 0;
    assert_int_equal(build(&fake, NULL, 1, NULL), 0);
    for (unsigned i = 0; i < array_size(ours); i++) {
        assert_true(shows(ours[i]));
    }
    assert_false(shows(CPU_SSE3));
    assert_false(shows(CPU_XSAVE));
    assert_int_equal(policy.xcr0_valid, 0);
    execute(0xd, 0);
    assert_int_equal(out[0] | out[1] | out[2] | out[3], 0);
}

static void test_features_fall_with_what_they_need(void **unused)
{
    struct fake fake = amd_host();
    fake.host.xcr0 = 3; /* the host's kernel does not keep AVX state */
    assert_int_equal(build(&fake, NULL, 1, NULL), 0);
    static const enum cpu_feature avx[] = {CPU_AVX,  CPU_AVX2, CPU_FMA,
                                           CPU_F16C, CPU_VAES, CPU_VPCLMULQDQ};
    for (unsigned i = 0; i < array_size(avx); i++) {
        assert_false(shows(avx[i]));
    }
    assert_true(shows(CPU_XSAVE));
    assert_int_equal(policy.xcr0_valid, X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_PKRU);
    assert_int_equal(execute(0xd, 0)[2], 2440);

    fake = amd_host();
    fake.ecx1 &= ~(1u << 0); /* no SSE3, and nothing that builds on it */
    assert_int_equal(build(&fake, NULL, 1, NULL), 0);
    assert_false(shows(CPU_SSSE3));
    assert_false(shows(CPU_SSE4_2));
}

static void test_portable_models_are_levels(void **unused)
{
    struct fake fake = intel_host();
    assert_int_equal(build(&fake, "x86-64-v1", 1, NULL), 0);
    assert_false(shows(CPU_SSE3));
    assert_false(shows(CPU_XSAVE));
    assert_int_equal(build(&fake, "x86-64-v2", 1, NULL), 0);
    assert_true(shows(CPU_SSE4_2));
    assert_false(shows(CPU_AVX));
    assert_false(shows(CPU_AES));
    assert_int_equal(build(&fake, "x86-64-v3", 1, NULL), 0);
    assert_true(shows(CPU_AVX2));
    assert_true(shows(CPU_ABM));
    assert_false(shows(CPU_SHA)); /* in no level */
    /* Kernels' features come where every processor and KVM of the level has them. */
    assert_true(shows(CPU_SMEP));
    assert_true(shows(CPU_RDTSCP));
    assert_true(shows(CPU_NX));
    assert_false(shows(CPU_SMAP));
    assert_false(shows(CPU_PCID));
    char brand[17] = "";
    memcpy(brand, execute(0x80000002, 0), 16);
    assert_string_equal(brand, "Doppel x86-64-v3");
}

/* On the host that the test runs on, since taking away reads its leaves again. */
static void test_removed_features_take_others_along(void **unused)
{
    struct cpuid_config config = {.cpus = 2, .paravirt = UINT32_MAX};
    assert_int_equal(cpuid_policy_init(&policy, &config, NULL), 0);
    struct cpuid_policy before = policy;
    struct cpuid_set removed = {0};
    removed.bits[CPU_SSE3 / 64] |= 1ull << CPU_SSE3 % 64;
    removed.bits[CPU_FXSR / 64] |= 1ull << CPU_FXSR % 64;
    cpuid_policy_remove(&policy, &removed, PARAVIRT_IPI);
    assert_false(shows(CPU_SSE3));
    assert_false(shows(CPU_SSSE3));
    assert_false(shows(CPU_XSAVE));
    assert_true(shows(CPU_NX));
    assert_int_equal(policy.xcr0_valid, 0);
    assert_int_equal(execute(0xd, 0)[0], 0);
    assert_int_equal(execute(0x40000001, 0)[0], UINT32_MAX & ~PARAVIRT_IPI);
    assert_int_equal(policy.tsc_khz, before.tsc_khz);
    for (uint32_t leaf = 0x80000002; leaf <= 0x80000004; leaf++) {
        uint32_t brand[4], same[4];
        memcpy(brand, execute(leaf, 0), 16);
        struct cpuid_policy reduced = policy;
        policy = before;
        memcpy(same, execute(leaf, 0), 16);
        policy = reduced;
        assert_memory_equal(brand, same, 16);
    }
}

static void test_what_is_missing_is_named(void **unused)
{
    struct error err;
    struct fake fake = amd_host();
    fake.ebx7 &= ~(1u << 8);
    assert_int_equal(build(&fake, "x86-64-v3", 1, &err), -ENOTSUP);
    assert_non_null(strstr(err.message, "x86-64-v3 needs BMI2"));
    assert_int_equal(build(&fake, "x86-64-v2", 1, &err), 0);
    assert_int_equal(build(&fake, "haswell", 1, &err), -EINVAL);
    assert_non_null(strstr(err.message, "'haswell'"));
    assert_non_null(strstr(err.message, "x86-64-v2"));
    assert_int_equal(build(&fake, NULL, 0, &err), -EINVAL);
    assert_int_equal(build(&fake, NULL, 1000, &err), -EINVAL);
    assert_non_null(strstr(err.message, "1000"));
}

static void test_topology_is_one_socket_of_cores(void **unused)
{
    struct fake fake = intel_host();
    assert_int_equal(build(&fake, NULL, 6, NULL), 0);
    assert_int_equal(execute(1, 0)[1], 3u << 24 | 8 << 16 | 8 << 8);
    assert_true(shows(CPU_HTT));
    assert_false(shows(CPU_CMP_LEGACY));
    /* Threads: one per core. Cores: 3 bits of the APIC ID. */
    assert_int_equal(execute(0xb, 0)[0], 0);
    assert_int_equal(out[1], 1);
    assert_int_equal(out[2], 0x100);
    assert_int_equal(out[3], 3);
    assert_int_equal(execute(0xb, 1)[0], 3);
    assert_int_equal(out[1], 6);
    assert_int_equal(out[2], 0x201);
    assert_int_equal(execute(0xb, 7)[2], 7);
    assert_int_equal(out[1], 0);
    assert_int_equal(out[3], 3);
    /* L1 belongs to a core, L3 to all; 8 core IDs. */
    assert_int_equal(execute(4, 0)[0] >> 14, 7u << 12 | 0);
    assert_int_equal(execute(4, 3)[0] >> 14, 7u << 12 | 7);
    assert_int_equal(execute(4, 4)[0], 0);

    fake = amd_host();
    assert_int_equal(build(&fake, NULL, 6, NULL), 0);
    assert_true(shows(CPU_CMP_LEGACY));
    assert_int_equal(execute(0x80000008, 0)[2], 3 << 12 | 5);
    assert_int_equal(execute(4, 0)[0], 0);
    assert_int_equal(build(&fake, NULL, 1, NULL), 0);
    assert_false(shows(CPU_HTT));
    assert_int_equal(execute(0x80000008, 0)[2], 0);
    assert_int_equal(execute(1, 0)[1] >> 16 & 0xff, 1);
}

static void test_state_shows_through(void **unused)
{
    struct fake fake = amd_host();
    assert_int_equal(build(&fake, NULL, 2, NULL), 0);
    const uint32_t osxsave = 1u << 27, apic = 1u << 9;
    assert_int_equal(execute(1, 0)[2] & osxsave, 0);
    assert_int_equal(out[3] & apic, apic);
    assert_int_equal(execute(0x80000001, 0)[3] & apic, apic);
    assert_int_equal(execute(0xd, 0)[1], 576);
    assert_int_equal(out[2], 2440); /* as AMD's processors have it */
    const uint32_t pku = 1u << 3, ospke = 1u << 4;
    assert_int_equal(execute(7, 0)[2] & (pku | ospke), pku);
    state.cr4 |= X86_CR4_PKE;
    assert_int_equal(execute(7, 0)[2] & (pku | ospke), pku | ospke);
    state.cr4 |= X86_CR4_OSXSAVE;
    state.xcr0 = policy.xcr0_valid;
    state.apic_base = 0;
    assert_int_equal(execute(1, 0)[2] & osxsave, osxsave);
    assert_int_equal(out[3] & apic, 0);
    assert_int_equal(execute(0x80000001, 0)[3] & apic, 0);
    assert_int_equal(execute(0xd, 0)[1], 2440);
    assert_int_equal(execute(0xd, 1)[1], 840); /* compacted */
    state.xcr0 &= ~(uint64_t)X86_XCR0_PKRU;
    assert_int_equal(execute(0xd, 0)[1], 832);
    assert_int_equal(execute(0xd, 1)[1], 832);
    assert_int_equal(execute(0xd, 2)[0], 256);
    assert_int_equal(out[1], 576);
    assert_int_equal(execute(0xd, 3)[0], 0);
    assert_int_equal(execute(0xd, 9)[0], 8);
    assert_int_equal(out[1], 2432);
    assert_int_equal(cpuid_pkru_offset(&policy), 2432);
    fake = intel_host();
    assert_int_equal(build(&fake, NULL, 2, NULL), 0);
    assert_int_equal(cpuid_pkru_offset(&policy), 2688);
}

static void test_misc_enable_shows_through(void **unused)
{
    struct fake fake = intel_host();
    assert_int_equal(build(&fake, NULL, 2, NULL), 0);
    const uint32_t nx = 1u << 20;
    assert_int_equal(execute(0x80000001, 0)[3] & nx, nx);
    uint32_t last_leaf = execute(0, 0)[0], features = execute(7, 0)[1];
    assert_true(last_leaf > 2 && features != 0);
    state.misc_enable = X86_MISC_LIMIT_CPUID | X86_MISC_XD_DISABLE;
    assert_int_equal(execute(0x80000001, 0)[3] & nx, 0);
    assert_int_equal(execute(0, 0)[0], 2);
    uint32_t cache = execute(2, 0)[0];
    assert_int_equal(execute(7, 0)[0], cache); /* as the last basic leaf */
    assert_int_equal(execute(0x80000000, 0)[0] >> 16, 0x8000);
    state.misc_enable = 0;
}

static void test_leaves_out_of_range(void **unused)
{
    struct fake fake = intel_host();
    assert_int_equal(build(&fake, NULL, 2, NULL), 0);
    static const uint32_t beyond[] = {0x17, 0xffff, 0x80000009, 0x20000000, 0xffffffff};
    for (unsigned i = 0; i < array_size(beyond); i++) {
        assert_int_equal(execute(beyond[i], 0)[0], 2445);
    }
    assert_int_equal(execute(0x40000011, 0)[0], 0);
    fake = amd_host();
    assert_int_equal(build(&fake, NULL, 2, NULL), 0);
    for (unsigned i = 0; i < array_size(beyond) + 1; i++) {
        execute(i == array_size(beyond) ? 0x80000022 : beyond[i], 0);
        assert_int_equal(out[0] | out[1] | out[2] | out[3], 0);
    }
}

static void test_identity(void **unused)
{
    struct fake fake = amd_host();
    assert_int_equal(build(&fake, "host", 2, NULL), 0);
    assert_int_equal(policy.vendor, CPU_VENDOR_AMD);
    assert_int_equal(policy.physical_bits, 46);
    assert_memory_equal(&execute(0, 0)[1], "Auth", 4);
    assert_int_equal(execute(1, 0)[0], 0x00a00f11);
    assert_int_equal(execute(0x80000001, 0)[0], 0x00a00f11);
    assert_int_equal(execute(0x80000008, 0)[0], 0x302e);
    char name[13] = "";
    memcpy(name, &execute(0x40000000, 0)[1], 12);
    assert_string_equal(name, "DoppelDoppel");
    assert_int_equal(out[0], 0x40000010);
    fake.vendor = "CentaurHauls";
    assert_int_equal(build(&fake, NULL, 2, NULL), 0);
    assert_int_equal(policy.vendor, CPU_VENDOR_OTHER);
}

/* A processor with AVX-512, which the guest has not, is not named as one that must have
 * it. */
static void test_the_model_promises_no_more_than_there_is(void **unused)
{
    struct fake fake = intel_host();
    assert_int_equal(build(&fake, "host", 1, NULL), 0);
    assert_int_equal(execute(1, 0)[0], 0x000506e3);
    fake.ebx7 &= ~(1u << 16);
    assert_int_equal(build(&fake, "host", 1, NULL), 0);
    assert_int_equal(execute(1, 0)[0], fake.signature);
    fake = amd_host();
    fake.signature = 0x00a60f12;
    assert_int_equal(build(&fake, "x86-64-v3", 1, NULL), 0);
    assert_int_equal(execute(1, 0)[0], 0x00a00f11);
    assert_int_equal(execute(0x80000001, 0)[0], 0x00a00f11);
    fake.ebx7 &= ~(1u << 16);
    assert_int_equal(build(&fake, "x86-64-v3", 1, NULL), 0);
    assert_int_equal(execute(0x80000001, 0)[0], fake.signature);
}

/* As a Linux guest computes: in kHz and 32 bits. */
static void test_frequencies_survive_the_guests_arithmetic(void **unused)
{
    static const uint32_t rates[] = {1000000, 1996249, 2445431,
                                     2599999, 3700000, 4893217};
    struct fake fake = intel_host();
    for (unsigned i = 0; i < array_size(rates); i++) {
        const struct cpuid_config config = {.cpus = 1, .tsc_khz = rates[i]};
        assert_int_equal(cpuid_policy_init_from(&policy, &config, &fake.host, NULL), 0);
        execute(0x15, 0);
        uint32_t crystal_khz = out[2] / 1000;
        assert_true((uint64_t)crystal_khz * out[1] <= UINT32_MAX);
        uint32_t khz = crystal_khz * out[1] / out[0];
        /* 1 part in a million. */
        assert_in_range(khz, rates[i] - rates[i] / 1000000 - 1,
                        rates[i] + rates[i] / 1000000 + 1);
        assert_int_equal(execute(0x40000010, 0)[0], rates[i]);
        assert_int_equal(out[1], CPUID_APIC_BUS_HZ / 1000);
    }
}

/* Of each leaf what it tells, in any order and as often as it is asked. */
static void test_this_host_is_what_cpuid_tells(void **unused)
{
    static const struct {
        uint32_t leaf, subleaf;
    } leaves[] = {{0, 0}, {7, 0}, {0xd, 0}, {0xd, 1}, {0xd, 2}, {0x80000001, 0}};
    struct cpuid_host host;
    cpuid_host_init(&host);
    for (unsigned i = 0; i < 3 * array_size(leaves); i++) {
        uint32_t leaf = leaves[i % array_size(leaves)].leaf;
        uint32_t subleaf = leaves[i % array_size(leaves)].subleaf, told[4], now[4];
        cpuid_host_read(&host, leaf, subleaf, told);
        __cpuid_count(leaf, subleaf, now[0], now[1], now[2], now[3]);
        assert_memory_equal(told, now, sizeof(now));
    }
}

static void test_this_host_can_be_modelled(void **unused)
{
    struct error err = {0};
    const struct cpuid_config config = {.cpus = 2};
    assert_int_equal(cpuid_policy_init(&policy, &config, &err), 0);
    assert_true(cpuid_has(&policy, CPU_SSE2));
    assert_in_range(policy.tsc_khz, 100000, 10000000);
    assert_int_equal(policy.tsc_khz, cpuid_host_tsc_khz());
}

static void lacks(const struct cpuid_policy *host, const char *what)
{
    struct error err = {0};
    assert_true(cpuid_policy_check(&policy, host, &err) < 0);
    assert_non_null(strstr(err.message, what));
}

static void test_a_foreign_policy_is_checked_against_the_host(void **unused)
{
    struct fake fake = intel_host();
    assert_int_equal(build(&fake, NULL, 2, NULL), 0);
    struct cpuid_policy host = policy;
    assert_int_equal(cpuid_policy_check(&policy, &host, NULL), 0);
    host.features[CPU_AVX2 / 64] &= ~(1ull << CPU_AVX2 % 64);
    lacks(&host, "AVX2");
    host = policy;
    host.vendor = CPU_VENDOR_AMD;
    lacks(&host, "vendor");
    host = policy;
    host.physical_bits--;
    lacks(&host, "addresses");
    host = policy;
    host.xcr0_valid &= ~4ull;
    lacks(&host, "XSAVE");
    host = policy;
    policy.tsc_khz = 0;
    lacks(&host, "TSC");
    policy.leaf_count = CPUID_LEAVES_MAX + 1;
    lacks(&host, "malformed");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_feature_has_a_row_of_its_own),
        cmocka_unit_test(test_the_leaves_show_what_the_policy_has),
        cmocka_unit_test(test_nothing_beyond_the_engines_is_offered),
        cmocka_unit_test(test_privileged_features_do_not_depend_on_the_host),
        cmocka_unit_test(test_features_fall_with_what_they_need),
        cmocka_unit_test(test_portable_models_are_levels),
        cmocka_unit_test(test_removed_features_take_others_along),
        cmocka_unit_test(test_what_is_missing_is_named),
        cmocka_unit_test(test_topology_is_one_socket_of_cores),
        cmocka_unit_test(test_state_shows_through),
        cmocka_unit_test(test_misc_enable_shows_through),
        cmocka_unit_test(test_leaves_out_of_range),
        cmocka_unit_test(test_identity),
        cmocka_unit_test(test_the_model_promises_no_more_than_there_is),
        cmocka_unit_test(test_frequencies_survive_the_guests_arithmetic),
        cmocka_unit_test(test_this_host_is_what_cpuid_tells),
        cmocka_unit_test(test_this_host_can_be_modelled),
        cmocka_unit_test(test_a_foreign_policy_is_checked_against_the_host),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
