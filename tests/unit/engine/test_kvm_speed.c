#include "engine/kvm/speed.h"
#include "kvm_rig.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

/* The measurement that `auto` rests on. */

static int run_at_once(struct kvm_run *run)
{
    run->exit_reason = KVM_EXIT_IO;
    return 0;
}

static int run_without_end(struct kvm_run *run)
{
    return EINTR; /* the limit's signal */
}

static void test_measures_a_fast_host(void **state)
{
    struct kvm_speed speed;
    struct error err;
    char text[200];
    fake_kvm.run = run_at_once;
    assert_int_equal(kvm_speed_measure(&speed, &err), 0);
    assert_true(speed.ring0_mips >= KVM_WORTH_MIPS);
    assert_true(speed.ring3_mips >= KVM_WORTH_MIPS);
    assert_false(kvm_speed_is_interpreting(&speed));
    kvm_speed_describe(&speed, text, sizeof(text));
    assert_non_null(strstr(text, "executes ring 0"));
}

static void test_gives_up_on_a_host_that_hangs(void **state)
{
    struct kvm_speed speed;
    struct error err;
    char text[200];
    fake_kvm.run = run_without_end;
    assert_int_equal(kvm_speed_measure(&speed, &err), 0);
    assert_true(kvm_speed_is_interpreting(&speed));
    kvm_speed_describe(&speed, text, sizeof(text));
    assert_non_null(strstr(text, "does not finish"));
}

static void test_measures_nothing_when_kvm_fails(void **state)
{
    struct kvm_speed speed;
    for (unsigned at = 1; at <= 5; at++) {
        struct error err = {0};
        unsigned descriptors = count_entries("/proc/self/fd");
        fake_kvm.calls = 0;
        fake_kvm.fail_at = at;
        assert_true(kvm_speed_measure(&speed, &err) < 0);
        assert_true(err.message[0]);
        assert_int_equal(count_entries("/proc/self/fd"), descriptors);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_measures_a_fast_host),
        TEST(test_gives_up_on_a_host_that_hangs),
        TEST(test_measures_nothing_when_kvm_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
