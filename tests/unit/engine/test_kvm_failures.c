#include "kvm_rig.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* Each call fails in turn: that is an error with a message, or has a way around; nothing
 * is left behind. */

static unsigned count_fake_mappings(void)
{
    char line[512];
    unsigned count = 0;
    FILE *maps = fopen("/proc/self/maps", "re");
    assert_non_null(maps);
    while (fgets(line, sizeof(line), maps)) {
        count += strstr(line, "fake-vcpu") != NULL;
    }
    fclose(maps);
    return count;
}

/* With APICs in KVM a halt is no exit, and a kick ends it. */
static int run_failure_and_kick(struct kvm_run *run)
{
    if (is_first()) {
        return run_emulation_failure(run);
    }
    engine_kvm.kick(current->vcpu, true);
    return EINTR;
}

/* And the processor takes what is injected. */
static int run_failure_and_wait(struct kvm_run *run)
{
    run->ready_for_interrupt_injection = 1;
    return run_emulation_failure(run);
}

/* For a model whose TSC runs at another rate than the host's if there is little else. */
static bool fit_and_open(struct fixture *f, bool has_apic)
{
    fake_kvm.has_apic = fake_kvm.has_ring = has_apic;
    const struct engine_config use = {.cpus = 1, .cpuid = &f->cpuid};
    if (engine_kvm.fit(&use, &f->cpuid, &f->err) < 0) {
        return false;
    }
    f->cpuid.tsc_khz *= has_apic ? 1 : 2;
    return fixture_open(f);
}

/* Opens, loads and saves state, runs, changes memory, interrupts. True: nothing failed.
 */
static bool use_everything(struct fixture *f, bool has_apic)
{
    if (!fit_and_open(f, has_apic)) {
        return false;
    }
    const struct apic_message level = {.vector = 0x40, .is_level = true};
    engine_kvm.route(f->engine, 4, &level);
    assert_int_equal(engine_kvm.send(f->engine, &level), engine_kvm.has_apics(f->engine));
    const struct engine_doorbell bell = {.gpa = 0xd0000050};
    if (engine_kvm.doorbell(f->engine, &bell, true, &f->err) < 0) {
        return false;
    }
    struct x86_state state;
    fill_state(&state);
    engine_kvm.set_state(f->vcpu, &state);
    memory_dirty_start(f->memory);
    if (fake_kvm.ring) {
        push_dirty(0, 0, 3);
    }
    fake_kvm.run = has_apic ? run_failure_and_kick : run_failure_and_wait;
    fake_kvm.runs = 0;
    struct lapic_effect effect;
    lapic_mmio_write(&f->lapic, 0, 0xf0, 0x1ff, &effect);
    struct apic_message nmi = {.mode = APIC_NMI, .is_assert = true};
    lapic_post(&f->lapic, &nmi);
    struct apic_message interrupt = {.vector = 0x50};
    lapic_post(&f->lapic, &interrupt);
    enum run_result result = engine_kvm.run(f->vcpu);
    engine_kvm.get_state(f->vcpu, &state);
    uint64_t dirty;
    memory_dirty_fetch(f->memory, 0, RAM_SIZE / 4096, &dirty);
    if (fake_kvm.failed_request == KVM_GET_DIRTY_LOG) {
        assert_int_equal(dirty, 0xffff); /* what cannot be told counts as dirty */
    }
    memory_dirty_stop(f->memory);
    if (result != RUN_FAILED) {
        engine_kvm.kick(f->vcpu, true);
        result = engine_kvm.run(f->vcpu);
    }
    if (result == RUN_FAILED) {
        engine_kvm.failure(f->vcpu, &f->err);
        return false;
    }
    return true;
}

/* Calls whose failure has a way around: a register that this KVM does not have, the older
 * way to set the TSC, a log that then counts everything as dirty, an optional
 * capability. */
static bool may_fail(unsigned long request)
{
    return request == KVM_SET_DEVICE_ATTR || request == KVM_GET_MSRS ||
           request == KVM_SET_MSRS || request == KVM_GET_DIRTY_LOG ||
           request == KVM_CHECK_EXTENSION;
}

static bool has_failed[64]; /* as fake_requests */

static void fail_call(unsigned at, bool has_apic)
{
    struct fixture *f = fixture_new();
    unsigned descriptors = count_entries("/proc/self/fd");
    unsigned threads = count_entries("/proc/self/task");
    fake_kvm.fail_at = at;
    bool worked = use_everything(f, has_apic);
    assert_true(fake_kvm.calls >= at);
    if (!worked) {
        assert_int_not_equal(f->err.code, 0);
        assert_true(strlen(f->err.message) > 10);
    } else if (!may_fail(fake_kvm.failed_request)) {
        fail_msg("call %u (0x%lx) failed unnoticed", at, fake_kvm.failed_request);
    }
    if (fake_kvm.failed_request) {
        has_failed[fake_request_index(fake_kvm.failed_request)] = true;
    }
    fixture_close(f);
    assert_int_equal(count_entries("/proc/self/fd"), descriptors);
    assert_int_equal(count_entries("/proc/self/task"), threads);
    assert_int_equal(count_fake_mappings(), 0);
    assert_null(f->memory->listener);
    fixture_free(f);
}

static void fail_each(bool has_apic)
{
    struct fixture *f = fixture_new();
    assert_true(use_everything(f, has_apic));
    unsigned calls = fake_kvm.calls;
    fixture_close(f);
    fixture_free(f);
    assert_true(calls > 100);
    for (unsigned at = 1; at <= calls; at++) {
        fail_call(at, has_apic);
    }
}

static void test_every_call_fails_in_turn(void **unused)
{
    fail_each(false);
}

static void test_every_call_fails_in_turn_of_a_kvm_that_has_all(void **unused)
{
    fail_each(true);
}

/* None is left out: whoever makes a new one has to have it made above. */
static void test_every_request_was_among_them(void **unused)
{
    for (unsigned i = 0; fake_requests[i].name; i++) {
        /* test_kvm_debug.c fails this one. */
        if (!has_failed[i] && fake_requests[i].request != KVM_SET_GUEST_DEBUG) {
            fail_msg("%s was not made to fail", fake_requests[i].name);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_call_fails_in_turn),
        cmocka_unit_test(test_every_call_fails_in_turn_of_a_kvm_that_has_all),
        cmocka_unit_test(test_every_request_was_among_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
