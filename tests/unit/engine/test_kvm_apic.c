/* The local APIC in KVM: where messages and end-of-interrupts go, and that guest time
 * alone moves its timer. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include "kvm_rig.h"
#include "x86/paravirt.h"

#include <cmocka.h>

enum {
    TIMER = 0x320,
    INITIAL = 0x380,
    CURRENT = 0x390,
    IRR_0X40 = 0x220,
    ISR_0X40 = 0x120
};

static int setup_apic(void **state)
{
    struct fixture *f = fixture_new();
    fake_kvm.has_apic = true;
    if (!fixture_open(f)) {
        fail_msg("%s", f->err.message);
    }
    *state = f;
    return 0;
}

static uint32_t kept(unsigned offset)
{
    uint32_t value;
    memcpy(&value, fake_kvm.lapic.regs + offset, sizeof(value));
    return value;
}

static void keep(unsigned offset, uint32_t value)
{
    memcpy(fake_kvm.lapic.regs + offset, &value, sizeof(value));
}

/* Each run does what the test says, then is interrupted. */
static void (*while_running)(void);
static int run_once(struct kvm_run *run)
{
    if (!run->immediate_exit) {
        while_running();
        engine_kvm.kick(current->vcpu, true);
    }
    return EINTR;
}

static void run(void (*during)(void))
{
    while_running = during;
    fake_kvm.run = run_once;
    assert_int_equal(engine_kvm.run(current->vcpu), RUN_KICKED);
}

static void test_messages_go_to_kvm(void **state)
{
    struct fixture *f = *state;
    const struct apic_message message = {
        .destination = 3, .is_logical = true, .mode = APIC_LOWEST, .vector = 0x41};
    assert_true(engine_kvm.send(f->engine, &message));
    assert_int_equal(fake_kvm.msi.address_lo, 0xfee03004);
    assert_int_equal(fake_kvm.msi.data, 0x141);
    /* The 8259s are ours. */
    const struct apic_message extint = {.mode = APIC_EXTINT};
    assert_false(engine_kvm.send(f->engine, &extint));
}

static void test_level_triggered_inputs_are_routed(void **state)
{
    struct fixture *f = *state;
    const struct apic_message level = {
        .destination = 1, .vector = 0x42, .is_level = true};
    assert_int_equal(fake_kvm.route_count, 0);
    engine_kvm.route(f->engine, 4, &level);
    assert_int_equal(fake_kvm.route_count, 1);
    assert_int_equal(fake_kvm.route.gsi, 4);
    assert_int_equal(fake_kvm.route.type, KVM_IRQ_ROUTING_MSI);
    assert_int_equal(fake_kvm.route.u.msi.address_lo, 0xfee01000);
    assert_int_equal(fake_kvm.route.u.msi.data, 0xc042);
    unsigned calls = fake_kvm.calls;
    engine_kvm.route(f->engine, 4, &level);
    engine_kvm.route(f->engine, 1000, &level);
    assert_int_equal(fake_kvm.calls, calls);
    engine_kvm.route(f->engine, 4, NULL);
    assert_int_equal(fake_kvm.route_count, 0);
}

static void expect_nothing_in_service(void)
{
    assert_int_equal(kept(ISR_0X40), 0);
}

static int run_eoi(struct kvm_run *run)
{
    if (fake_kvm.runs > 1) {
        engine_kvm.kick(current->vcpu, true);
        return EINTR;
    }
    run->exit_reason = KVM_EXIT_IOAPIC_EOI;
    run->eoi.vector = 0x42;
    return 0;
}

static void test_their_eoi_is_an_exit(void **state)
{
    struct fixture *f = *state;
    fake_kvm.run = run_eoi;
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_KICKED);
    assert_int_equal(f->exit.reason, EXIT_EOI);
    assert_int_equal(f->exit.eoi_vector, 0x42);
}

static void expect_running_timer(void)
{
    assert_int_equal(kept(INITIAL), 5000);
    assert_int_equal(kept(CURRENT), 3000);
    keep(CURRENT, 1000);      /* time passes */
    keep(IRR_0X40, 1u << 16); /* vector 0x50 comes */
}

static void test_timer_stands_still_outside_of_run(void **state)
{
    struct fixture *f = *state;
    struct x86_state saved;
    struct lapic_effect effect;
    clock_init_virtual(&f->clock);
    lapic_mmio_write(&f->lapic, 0, 0x3e0, 0xb, &effect);
    lapic_mmio_write(&f->lapic, 0, TIMER, 0x30, &effect);
    lapic_mmio_write(&f->lapic, 0, INITIAL, 5000, &effect);
    clock_advance(&f->clock, 2000);
    engine_kvm.get_state(f->vcpu, &saved);
    lapic_mmio_write(&f->lapic, 0, 0x3e0, 0xb, &effect);
    lapic_mmio_write(&f->lapic, 0, TIMER, 0x30, &effect);
    lapic_mmio_write(&f->lapic, 0, INITIAL, 5000, &effect);
    engine_kvm.set_state(f->vcpu, &saved);
    assert_int_equal(kept(INITIAL), 0);
    run(expect_running_timer);
    assert_int_equal(kept(INITIAL), 0);
    assert_int_equal(f->lapic.timer_deadline_ns, 3000);
    assert_int_equal(f->lapic.regs[IRR_0X40 / 4], 1u << 16);
    engine_kvm.get_state(f->vcpu, &saved);
    assert_int_equal(f->lapic.regs[INITIAL / 4], 5000);
    assert_int_equal(f->lapic.timer_deadline_ns, 3000);
}

static void test_activity_travels(void **state)
{
    struct fixture *f = *state;
    struct x86_state saved;
    fake_kvm.mp.mp_state = KVM_MP_STATE_HALTED;
    engine_kvm.get_state(f->vcpu, &saved);
    assert_int_equal(saved.activity, X86_HALTED);
    saved.activity = X86_WAIT_SIPI;
    engine_kvm.set_state(f->vcpu, &saved);
    assert_int_equal(fake_kvm.mp.mp_state, KVM_MP_STATE_INIT_RECEIVED);
    fake_kvm.mp.mp_state = KVM_MP_STATE_UNINITIALIZED;
    engine_kvm.get_state(f->vcpu, &saved);
    assert_int_equal(saved.activity, X86_WAIT_SIPI);
}

static int run_ready(struct kvm_run *run)
{
    if (fake_kvm.runs == 3) {
        engine_kvm.kick(current->vcpu, true);
        return EINTR;
    }
    assert_int_equal(run->request_interrupt_window, fake_kvm.runs != 3);
    run->exit_reason = KVM_EXIT_IRQ_WINDOW_OPEN;
    run->ready_for_interrupt_injection = fake_kvm.runs == 2;
    return 0;
}

/* What the rig answers to the acknowledge cycle is vector 0. */
static void test_8259_waits_for_its_window(void **state)
{
    struct fixture *f = *state;
    lapic_set_extint(&f->lapic, true);
    fake_kvm.run = run_ready;
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_KICKED);
    assert_int_equal(f->exit.reason, EXIT_INTACK);
    assert_int_equal(f->stats.exit[EXIT_INTERRUPT_WINDOW].count, 2);
}

static uint64_t kept_msr(uint32_t index)
{
    for (unsigned i = 0; i < fake_kvm.msr_count; i++) {
        if (fake_kvm.msr[i].index == index) {
            return fake_kvm.msr[i].data;
        }
    }
    fail_msg("KVM was not told MSR %#x", index);
    return 0;
}

static bool is_filtered(uint32_t index)
{
    for (unsigned i = 0; i < fake_kvm.filter.range_count; i++) {
        if (index - fake_kvm.filter.first[i] < fake_kvm.filter.count[i]) {
            return false;
        }
    }
    return true;
}

/* Steal time and ends of interrupts are KVM's then; their registers travel. */
static void test_services_of_the_apic(void **unused)
{
    struct fixture *f = fixture_new();
    struct x86_state saved;
    fake_kvm.has_apic = true;
    f->cpuid.paravirt = PARAVIRT_STEAL | PARAVIRT_EOI;
    f->paravirt.steal = 0x3001;
    assert_true(fixture_open(f));
    assert_false(is_filtered(MSR_PARAVIRT_STEAL));
    assert_false(is_filtered(MSR_PARAVIRT_EOI));
    assert_true(is_filtered(MSR_PARAVIRT_CLOCK));
    engine_kvm.get_state(f->vcpu, &saved);
    assert_int_equal(f->paravirt.steal, 0);
    f->paravirt = (struct paravirt_registers){.steal = 0x4001, .eoi = 0x5001};
    engine_kvm.set_state(f->vcpu, &saved);
    assert_int_equal(kept_msr(MSR_PARAVIRT_STEAL), 0x4001);
    assert_int_equal(kept_msr(MSR_PARAVIRT_EOI), 0x5001);
    f->paravirt = (struct paravirt_registers){0};
    engine_kvm.get_state(f->vcpu, &saved);
    assert_int_equal(f->paravirt.steal, 0x4001);
    assert_int_equal(f->paravirt.eoi, 0x5001);
    fixture_close(f);
    /* One that is not offered does not reach KVM. */
    f->cpuid.paravirt = PARAVIRT_STEAL;
    assert_true(fixture_open(f));
    assert_true(is_filtered(MSR_PARAVIRT_EOI));
    fixture_close(f);
    fixture_free(f);
}

static void test_services_that_kvm_lacks_are_not_offered(void **unused)
{
    struct fixture *f = fixture_new();
    struct engine_config use = {.cpuid = &f->cpuid};
    char names[100];
    fake_kvm.has_apic = true;
    fake_kvm.unsupported_services = PARAVIRT_EOI | PARAVIRT_TLB_FLUSH;
    f->cpuid.paravirt =
        PARAVIRT_CLOCK | PARAVIRT_STEAL | PARAVIRT_EOI | PARAVIRT_TLB_FLUSH;
    assert_int_equal(engine_kvm.missing(&use, names, sizeof(names)), 2);
    assert_string_equal(names, "paravirtual eoi, paravirtual tlb-flush");
    assert_false(fixture_open(f));
    assert_non_null(strstr(f->err.message, "paravirtual eoi"));
    assert_int_equal(engine_kvm.fit(&use, &f->cpuid, &f->err), 0);
    assert_int_equal(f->cpuid.paravirt, PARAVIRT_CLOCK | PARAVIRT_STEAL);
    assert_true(fixture_open(f));
    fixture_close(f);
    fixture_free(f);
}

static int run_without_end(struct kvm_run *run)
{
    return EINTR; /* the limit's signal */
}

static int run_late(struct kvm_run *run)
{
    run->exit_reason = KVM_EXIT_HLT;
    return fake_kvm.runs < 5 ? EINTR : 0;
}

static void test_hypercalls_that_never_end(void **unused)
{
    struct fixture *f = fixture_new();
    struct engine_config use = {.cpuid = &f->cpuid};
    char names[100];
    fake_kvm.has_apic = true;
    f->cpuid.paravirt = PARAVIRT_CLOCK | PARAVIRT_IPI | PARAVIRT_YIELD;
    assert_int_equal(engine_kvm.missing(&use, names, sizeof(names)), 0);
    fake_kvm.run = run_late; /* a slow host's end */
    assert_int_equal(engine_kvm.missing(&use, names, sizeof(names)), 0);
    fake_kvm.run = run_without_end;
    assert_int_equal(engine_kvm.missing(&use, names, sizeof(names)), 2);
    assert_string_equal(names, "paravirtual ipi, paravirtual yield");
    fixture_free(f);
}

/* An engine of software had let the guest end the interrupt by the bit, and it did. */
static void test_an_offered_end_is_taken(void **unused)
{
    struct fixture *f = fixture_new();
    struct lapic_effect effect;
    struct x86_state saved;
    fake_kvm.has_apic = true;
    f->cpuid.paravirt = PARAVIRT_EOI;
    assert_true(fixture_open(f));
    engine_kvm.get_state(f->vcpu, &saved);
    lapic_mmio_write(&f->lapic, 0, 0xf0, 0x1ff, &effect);
    const struct apic_message message = {.mode = APIC_FIXED, .vector = 0x51};
    lapic_post(&f->lapic, &message);
    lapic_acknowledge(&f->lapic, 0x51);
    f->paravirt = (struct paravirt_registers){.eoi = 0x1001, .eoi_is_offered = 1};
    engine_kvm.set_state(f->vcpu, &saved);
    assert_int_equal(kept(ISR_0X40), 1u << 0x11);
    run(expect_nothing_in_service);
    assert_int_equal(f->paravirt.eoi_is_offered, 0);
    fixture_close(f);
    fixture_free(f);
}

/* A debugger's processors are interpreted, and so are their APICs. */
static void test_debugger_has_apics_of_ours(void **unused)
{
    struct fixture *f = fixture_new();
    fake_kvm.has_apic = true;
    f->is_debugged = true;
    assert_true(fixture_open(f));
    const struct apic_message message = {.vector = 0x41};
    assert_false(engine_kvm.send(f->engine, &message));
    fixture_close(f);
    char names[100];
    struct engine_config use = {.cpuid = &f->cpuid};
    f->cpuid.paravirt = PARAVIRT_CLOCK | PARAVIRT_IPI;
    assert_int_equal(engine_kvm.missing(&use, names, sizeof(names)), 0);
    use.is_debugged = true;
    assert_int_equal(engine_kvm.missing(&use, names, sizeof(names)), 1);
    assert_string_equal(names, "paravirtual ipi");
    fixture_free(f);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_apic, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_messages_go_to_kvm),
        TEST(test_level_triggered_inputs_are_routed),
        TEST(test_their_eoi_is_an_exit),
        TEST(test_timer_stands_still_outside_of_run),
        TEST(test_activity_travels),
        TEST(test_8259_waits_for_its_window),
        cmocka_unit_test(test_services_of_the_apic),
        cmocka_unit_test(test_services_that_kvm_lacks_are_not_offered),
        cmocka_unit_test(test_hypercalls_that_never_end),
        cmocka_unit_test(test_an_offered_end_is_taken),
        cmocka_unit_test(test_debugger_has_apics_of_ours),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
