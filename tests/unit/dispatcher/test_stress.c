#include "fixture.h"

/*
 * Four vCPUs send each other interrupts, sleep, write to a device and have a periodic
 * timer, while another thread pauses, resumes and resets the VM. Nothing may hang, nobody
 * may run while paused, and afterwards everybody still makes progress. Made for
 * -Db_sanitize=thread.
 */

enum { CPUS = 4, STEPS = 12 };

static void write_steps(struct script_step *steps, unsigned index)
{
    uint32_t next = (index + 1) % CPUS;
    const struct script_step program[STEPS] = {
        SCRIPT_APIC_ON,
        /* In case the neighbour's interrupt came before the APIC was on. */
        SCRIPT_APIC_SET(APIC_DIVIDE, 0xb),
        SCRIPT_APIC_SET(APIC_LVT, LVT_PERIODIC | 0x51),
        SCRIPT_APIC_SET(APIC_COUNT, 500000),
        SCRIPT_APIC_SET(APIC_ICR2, next << 24),
        SCRIPT_APIC_SET(APIC_ICR, 0x4040),
        SCRIPT_OUT(PORT_COUNT, 1, 0),
        {.op = SCRIPT_HLT},
        {.op = SCRIPT_MESSAGE,
         .message = {.shorthand = APIC_DEST_OTHERS, .vector = 0x41, .is_assert = true}},
        {.op = SCRIPT_HLT},
        {.op = SCRIPT_REPEAT, .address = 4},
        {SCRIPT_END},
    };
    memcpy(steps, program, sizeof(program));
}

static unsigned interrupts(struct vm *vm)
{
    unsigned sum = 0;
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        for (unsigned vector = 0x40; vector < 0x60; vector++) {
            sum += script_interrupts(vm->vcpu[i]->engine, (uint8_t)vector);
        }
    }
    return sum;
}

static void pause_for_a_moment(struct vm *vm, struct recorder *recorder)
{
    vm_pause(vm);
    unsigned writes = recorder->writes;
    unsigned before = interrupts(vm);
    sched_yield();
    assert_int_equal(recorder->writes, writes);
    assert_int_equal(interrupts(vm), before);
    vm_resume(vm);
}

static void *pause_thread(void *opaque)
{
    struct vm *vm = opaque;
    for (unsigned i = 0; i < 100; i++) {
        vm_pause(vm);
        sched_yield();
        vm_resume(vm);
    }
    return NULL;
}

static void test_messages_pauses_and_resets(void **state)
{
    struct script_step steps[CPUS][STEPS];
    struct vm_config config = script_config(CPUS);
    struct vm *vm = vm_made(&config);
    struct recorder *recorder = recorder_add(vm, 0x100);
    for (unsigned i = 0; i < CPUS; i++) {
        write_steps(steps[i], i);
        script_set(vm->vcpu[i]->engine, steps[i]);
    }
    struct runner runner;
    runner_start(&runner, vm);
    for (unsigned i = 0; i < 100; i++) {
        unsigned before = interrupts(vm);
        await(interrupts(vm) > before + 20);
        if (i % 3 == 0) {
            vm_request_reset(vm);
        }
        pause_for_a_moment(vm, recorder);
    }
    await(recorder->resets > 0);

    /* Two who pause, and resets in between. */
    pthread_t other;
    assert_int_equal(pthread_create(&other, NULL, pause_thread, vm), 0);
    for (unsigned i = 0; i < 100; i++) {
        vm_pause(vm);
        vm_request_reset(vm);
        vm_resume(vm);
    }
    pthread_join(other, NULL);
    unsigned before = interrupts(vm);
    await(interrupts(vm) > before + 100);
    vm_request_end(vm, VM_END_POWEROFF, 0, NULL);
    assert_int_equal(runner_join(&runner).reason, VM_END_POWEROFF);
    vm_free(vm);
}

/* Ends at every moment of a VM's life leave nothing behind and do not hang. */
static void test_ends_at_any_moment(void **state)
{
    struct script_step steps[CPUS][STEPS];
    struct vm_config config = script_config(CPUS);
    for (unsigned i = 0; i < 60; i++) {
        struct vm *vm = vm_made(&config);
        recorder_add(vm, 0x100);
        for (unsigned j = 0; j < CPUS; j++) {
            write_steps(steps[j], j);
            script_set(vm->vcpu[j]->engine, steps[j]);
        }
        struct runner runner;
        runner_start(&runner, vm);
        nanosleep(&(struct timespec){.tv_nsec = i * 10000}, NULL);
        if (i % 2) {
            vm_request_reset(vm);
        }
        if (i % 3 == 0) {
            vm_pause(vm);
        }
        vm_request_end(vm, VM_END_REQUEST, (int)i, NULL);
        assert_int_equal(runner_join(&runner).value, i);
        vm_free(vm);
    }
}

/* Two vCPUs wake each other in turn, with nothing else that could wake them. */
static void test_no_wake_up_is_lost(void **state)
{
    enum { ROUNDS = 5000 };
    static const struct script_step ping[] = {
        SCRIPT_APIC_SET(APIC_ICR2, 1u << 24),
        SCRIPT_APIC_SET(APIC_ICR, 0x4040),
        {.op = SCRIPT_HLT},
        {.op = SCRIPT_REPEAT, .address = 1, .value = ROUNDS - 1},
        SCRIPT_OUT(PORT_END, 1, 1),
        {SCRIPT_END},
    };
    static const struct script_step pong[] = {
        SCRIPT_APIC_SET(APIC_ICR2, 0),
        {.op = SCRIPT_HLT},
        SCRIPT_APIC_SET(APIC_ICR, 0x4041),
        SCRIPT_BACK_TO(1),
    };
    struct vm_config config = script_config(2);
    struct vm *vm = vm_made(&config);
    recorder_add(vm, 0x100);
    script_set(vm->vcpu[0]->engine, ping);
    script_set(vm->vcpu[1]->engine, pong);
    for (unsigned i = 0; i < 2; i++) {
        struct lapic_effect effect = {0};
        lapic_mmio_write(&vm->vcpu[i]->lapic, 0, APIC_SVR, 0x1ff, &effect);
    }
    assert_int_equal(vm_start(vm, NULL), 0);
    assert_int_equal(vm_run(vm).reason, VM_END_DEBUG_EXIT);
    assert_int_equal(script_interrupts(vm->vcpu[0]->engine, 0x41), ROUNDS);
    assert_int_equal(script_interrupts(vm->vcpu[1]->engine, 0x40), ROUNDS);
    vm_free(vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_wake_up_is_lost),
        cmocka_unit_test(test_messages_pauses_and_resets),
        cmocka_unit_test(test_ends_at_any_moment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
