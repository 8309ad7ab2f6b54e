#include "kvm_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

/* What of a CPU model this KVM can do, and what it shows beyond it. */

static bool is_subset(const struct cpuid_policy *part, const struct cpuid_policy *whole)
{
    return !((part->features[0] & ~whole->features[0]) |
             (part->features[1] & ~whole->features[1]));
}

static void test_model_is_fitted_to_what_kvm_has(void **state)
{
    struct fixture *f = fixture_new();
    const struct engine_config use = {.cpuid = &f->cpuid};
    char names[200];
    fake_kvm.unsupported_ebx7 = 1u << 7 | 1u << 20; /* SMEP, SMAP */
    assert_int_equal(engine_kvm.missing(&use, names, sizeof(names)), 2);
    assert_string_equal(names, "SMEP, SMAP");
    assert_false(fixture_open(f));
    assert_non_null(strstr(f->err.message, "SMEP, SMAP"));
    fixture_close(f);
    const struct cpuid_policy before = f->cpuid;
    assert_int_equal(engine_kvm.fit(&use, &f->cpuid, &f->err), 0);
    assert_false(cpuid_has(&f->cpuid, CPU_SMEP));
    assert_true(is_subset(&f->cpuid, &before));
    assert_true(fixture_open(f));
    fixture_close(f);
    fixture_free(f);
}

/* Shown whatever it is told: the guest has them, and they are not missing. */
static void test_model_knows_what_kvm_adds(void **state)
{
    struct fixture *f = fixture_new();
    const struct engine_config use = {.cpuid = &f->cpuid};
    char names[200];
    fake_kvm.unsupported_ebx7 = 1u << 7;
    fake_kvm.forced_ebx7 = 1u << 7 | 1u << 16;
    assert_int_equal(engine_kvm.missing(&use, names, sizeof(names)), 0);
    assert_int_equal(kvm_cpuid_excess(&f->cpuid, names, sizeof(names)), 1);
    assert_string_equal(names, "AVX-512 and others");
    fake_kvm.forced_ebx7 = 1u << 7;
    assert_int_equal(kvm_cpuid_excess(&f->cpuid, names, sizeof(names)), 0);
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_is_fitted_to_what_kvm_has),
        cmocka_unit_test(test_model_knows_what_kvm_adds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
