#include "fixture.h"

#include <signal.h>
#include <stdio.h>

/* Runs until the steps of vCPU 0 write to PORT_END. */
static struct vm_end run(struct vm *vm)
{
    assert_int_equal(vm_start(vm, NULL), 0);
    return vm_run(vm);
}

static void expect_no_failure(struct vm *vm)
{
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        struct script_failure failure = script_failed(vm->vcpu[i]->engine);
        if (failure.has_failed) {
            fail_msg("vCPU %u, step %u: expected %#llx, got %#llx", i, failure.step,
                     (unsigned long long)failure.expected,
                     (unsigned long long)failure.got);
        }
    }
}

static int acknowledge(void *opaque)
{
    return *(int *)opaque;
}

static void note_eoi(void *opaque, uint8_t vector)
{
    *(uint8_t *)opaque = vector;
}

static void test_every_exit_is_answered_and_counted(void **state)
{
    static const struct script_step steps[] = {
        SCRIPT_IN(0x80, 2, 0xffff),
        SCRIPT_LOAD(0xd0000000, 8, 0xffffffffffffffff),
        {.op = SCRIPT_INTACK, .value = 0x28},
        {.op = SCRIPT_EOI, .value = 0x31},
        {.op = SCRIPT_RDMSR, .address = 0x12345},
        {.op = SCRIPT_WRMSR, .address = 0x12345, .value = 1},
        {.op = SCRIPT_VMCALL},
        SCRIPT_OUT(PORT_END, 1, 1),
        {SCRIPT_END},
    };
    struct vm_config config = script_config(1);
    struct vm *vm = vm_scripted(&config, steps);
    recorder_add(vm, 0x100);
    int vector = 0x28;
    uint8_t ended = 0;
    vm->intack = acknowledge;
    vm->intack_opaque = &vector;
    vm->eoi = note_eoi;
    vm->eoi_opaque = &ended;
    assert_int_equal(run(vm).reason, VM_END_DEBUG_EXIT);
    expect_no_failure(vm);
    assert_int_equal(ended, 0x31);
    static const struct {
        enum exit_reason reason;
        unsigned count;
    } counts[] = {{EXIT_IO, 2},        {EXIT_MMIO, 1},     {EXIT_INTACK, 1},
                  {EXIT_EOI, 1},       {EXIT_MSR_READ, 1}, {EXIT_MSR_WRITE, 1},
                  {EXIT_HYPERCALL, 1}, {EXIT_IPI, 0}};
    for (unsigned i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        uint64_t count;
        uint64_t ns;
        vm_exit_totals(vm, counts[i].reason, &count, &ns);
        assert_int_equal(count, counts[i].count);
        assert_true(ns < NS_PER_SECOND);
    }
    vm_free(vm);
}

static void test_a_machine_without_8259_acknowledges_nothing(void **state)
{
    static const struct script_step steps[] = {
        {.op = SCRIPT_INTACK, .value = (uint64_t)-1},
        {.op = SCRIPT_EOI, .value = 0x31},
        SCRIPT_OUT(PORT_END, 1, 1),
        {SCRIPT_END},
    };
    struct vm_config config = script_config(1);
    struct vm *vm = vm_scripted(&config, steps);
    recorder_add(vm, 0x100);
    run(vm);
    expect_no_failure(vm);
    vm_free(vm);
}

/* vCPU 1 says that it is ready by an interrupt; both sleep in between. */
static void test_ipi_wakes_a_halted_vcpu(void **state)
{
    static const struct script_step first[] = {
        SCRIPT_APIC_ON,
        {.op = SCRIPT_HLT},
        SCRIPT_APIC_SET(APIC_ICR2, 1u << 24),
        SCRIPT_APIC_SET(APIC_ICR, 0x4041),
        {.op = SCRIPT_HLT},
        SCRIPT_OUT(PORT_END, 1, 1),
        {SCRIPT_END},
    };
    static const struct script_step answer[] = {
        SCRIPT_APIC_ON,
        SCRIPT_APIC_SET(APIC_ICR2, 0),
        SCRIPT_APIC_SET(APIC_ICR, 0x4040),
        {.op = SCRIPT_HLT},
        SCRIPT_APIC_SET(APIC_ICR, 0x4042),
        {SCRIPT_END},
    };
    struct vm_config config = script_config(2);
    struct vm *vm = vm_made(&config);
    script_set(vm->vcpu[0]->engine, first);
    script_set(vm->vcpu[1]->engine, answer);
    recorder_add(vm, 0x100);
    /* On before either runs, so that the first message cannot come too early. */
    struct lapic_effect effect = {0};
    lapic_mmio_write(&vm->vcpu[0]->lapic, 0, APIC_SVR, 0x1ff, &effect);
    assert_int_equal(run(vm).reason, VM_END_DEBUG_EXIT);
    assert_int_equal(script_interrupts(vm->vcpu[0]->engine, 0x40), 1);
    assert_int_equal(script_interrupts(vm->vcpu[1]->engine, 0x41), 1);
    assert_int_equal(script_interrupts(vm->vcpu[0]->engine, 0x42), 1);
    vm_free(vm);
}

/* One-shot timer of 20,000,000 ticks of the APIC's bus clock, divided by 1. */
static const struct script_step timer_steps[] = {
    SCRIPT_APIC_ON,
    SCRIPT_APIC_SET(APIC_LVT, 0x50),
    SCRIPT_APIC_SET(APIC_DIVIDE, 0xb),
    SCRIPT_APIC_SET(APIC_COUNT, 20000000),
    {.op = SCRIPT_HLT},
    SCRIPT_OUT(PORT_END, 1, 1),
    {SCRIPT_END},
};

static void test_apic_timer_wakes_a_halted_vcpu(void **state)
{
    struct vm_config config = script_config(1);
    struct vm *vm = vm_scripted(&config, timer_steps);
    recorder_add(vm, 0x100);
    assert_int_equal(run(vm).reason, VM_END_DEBUG_EXIT);
    assert_int_equal(script_interrupts(vm->vcpu[0]->engine, 0x50), 1);
    assert_true(clock_now(&vm->clock) >= 20000000);
    uint64_t count;
    uint64_t ns;
    vm_exit_totals(vm, EXIT_HLT, &count, &ns);
    assert_true(ns > 0);
    vm_free(vm);
}

static void test_virtual_clock_wakes_a_halted_vcpu(void **state)
{
    struct vm_config config = script_config(1);
    config.virtual_clock = true;
    struct vm *vm = vm_scripted(&config, timer_steps);
    recorder_add(vm, 0x100);
    struct runner runner;
    runner_start(&runner, vm);
    await(vm->vcpu[0]->is_sleeping);
    clock_advance(&vm->clock, 1000);
    sleep_ms(2);
    assert_int_equal(script_interrupts(vm->vcpu[0]->engine, 0x50), 0);
    clock_advance(&vm->clock, NS_PER_SECOND);
    assert_int_equal(runner_join(&runner).reason, VM_END_DEBUG_EXIT);
    assert_int_equal(script_interrupts(vm->vcpu[0]->engine, 0x50), 1);
    vm_free(vm);
}

/* A busy guest: only the kick at the deadline makes it look at its APIC. */
static void end_after_three(void *opaque, struct engine_vcpu *vcpu)
{
    if (script_interrupts(vcpu, 0x51) >= 3) {
        vm_request_end(opaque, VM_END_POWEROFF, 0, NULL);
    }
}

static void test_periodic_timer_reaches_a_busy_vcpu(void **state)
{
    struct vm_config config = script_config(1);
    struct vm *vm = vm_made(&config);
    struct script_step steps[] = {
        SCRIPT_APIC_ON,
        SCRIPT_APIC_SET(APIC_LVT, LVT_PERIODIC | 0x51),
        SCRIPT_APIC_SET(APIC_DIVIDE, 0xb),
        SCRIPT_APIC_SET(APIC_COUNT, 1000000),
        SCRIPT_DO(end_after_three, vm),
        SCRIPT_BACK_TO(4),
    };
    script_set(vm->vcpu[0]->engine, steps);
    assert_int_equal(run(vm).reason, VM_END_POWEROFF);
    vm_free(vm);
}

/* The timer kicks at the deadline, and a deadline that moved back is not kicked early. */
static void test_timer_follows_a_deadline_that_moves(void **state)
{
    struct vm_config config = script_config(1);
    config.virtual_clock = true;
    struct vm *vm = vm_made(&config);
    struct vcpu *vcpu = vm->vcpu[0];
    struct vcpu_exit exit = {.reason = EXIT_TIMER};
    clock_resume(&vm->clock);

    vcpu->lapic.timer_deadline_ns = 1000;
    vcpu_exit_handle(vcpu, &exit);
    assert_int_equal(timer_queue_next(vm->timers), 1000);
    vcpu->lapic.timer_deadline_ns = 3000;
    vcpu_exit_handle(vcpu, &exit);
    assert_int_equal(timer_queue_next(vm->timers), 1000); /* left alone */
    uint32_t kicks = vcpu->kick_sequence;
    clock_advance(&vm->clock, 1500);
    timer_queue_run(vm->timers);
    assert_int_equal(vcpu->kick_sequence, kicks);
    assert_int_equal(timer_queue_next(vm->timers), 3000);

    vcpu->lapic.timer_deadline_ns = 2000;
    vcpu_exit_handle(vcpu, &exit);
    assert_int_equal(timer_queue_next(vm->timers), 2000);
    clock_advance(&vm->clock, 500);
    timer_queue_run(vm->timers);
    assert_int_equal(vcpu->kick_sequence, kicks + 1);
    assert_int_equal(timer_queue_next(vm->timers), TIMER_NEVER);

    /* The same deadline again is one that has come: due at once. */
    vcpu_exit_handle(vcpu, &exit);
    timer_queue_run(vm->timers);
    assert_int_equal(vcpu->kick_sequence, kicks + 2);

    vcpu->lapic.timer_deadline_ns = 9000;
    vcpu_exit_handle(vcpu, &exit);
    vcpu->lapic.timer_deadline_ns = TIMER_NEVER;
    vcpu_exit_handle(vcpu, &exit);
    clock_advance(&vm->clock, 10000);
    timer_queue_run(vm->timers);
    assert_int_equal(vcpu->kick_sequence, kicks + 2);
    assert_int_equal(timer_queue_next(vm->timers), TIMER_NEVER);
    vm_free(vm);
}

static void look_around(void *opaque, struct engine_vcpu *vcpu)
{
    char *name = opaque;
    pthread_getname_np(pthread_self(), name, 16);
    sigset_t blocked;
    pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    name[16] = sigismember(&blocked, SIGINT) && sigismember(&blocked, SIGTERM) &&
               sigismember(&blocked, SIGHUP) && sigismember(&blocked, SIGWINCH) &&
               !sigismember(&blocked, SIGSEGV);
}

static void test_thread_has_a_name_and_no_signals(void **state)
{
    char found[17] = {0};
    struct script_step steps[] = {
        SCRIPT_DO(look_around, found),
        SCRIPT_OUT(PORT_END, 1, 1),
        {SCRIPT_END},
    };
    struct vm_config config = script_config(1);
    struct vm *vm = vm_scripted(&config, steps);
    recorder_add(vm, 0x100);
    run(vm);
    assert_string_equal(found, "cpu0");
    assert_int_equal(found[16], 1);
    vm_free(vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_exit_is_answered_and_counted),
        cmocka_unit_test(test_a_machine_without_8259_acknowledges_nothing),
        cmocka_unit_test(test_ipi_wakes_a_halted_vcpu),
        cmocka_unit_test(test_apic_timer_wakes_a_halted_vcpu),
        cmocka_unit_test(test_virtual_clock_wakes_a_halted_vcpu),
        cmocka_unit_test(test_periodic_timer_reaches_a_busy_vcpu),
        cmocka_unit_test(test_timer_follows_a_deadline_that_moves),
        cmocka_unit_test(test_thread_has_a_name_and_no_signals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
