#include "fixture.h"

#include <unistd.h>

static void test_device_ends_the_vm_before_the_next_instruction(void **state)
{
    static const struct script_step steps[] = {
        SCRIPT_OUT(PORT_COUNT, 1, 0),
        SCRIPT_OUT(PORT_END, 1, 42),
        SCRIPT_OUT(PORT_COUNT, 1, 0),
        {SCRIPT_END},
    };
    struct vm_config config = script_config(1);
    struct vm *vm = vm_scripted(&config, steps);
    struct recorder *recorder = recorder_add(vm, 0x100);
    assert_int_equal(vm_start(vm, NULL), 0);
    struct vm_end end = vm_run(vm);
    assert_int_equal(end.reason, VM_END_DEBUG_EXIT);
    assert_int_equal(end.value, 42);
    assert_string_equal(end.message, "written");
    assert_int_equal(vm->status, VM_STOPPED);
    assert_int_equal(recorder->writes, 1);
    vm_free(vm);
}

static void test_first_end_wins(void **state)
{
    struct vm_config config = script_config(2);
    struct vm *vm = vm_scripted(&config, (const struct script_step[]){{SCRIPT_END}});
    vm_request_end(vm, VM_END_REQUEST, 15, "a signal");
    vm_request_end(vm, VM_END_POWEROFF, 0, NULL);
    vm_request_reset(vm);
    assert_int_equal(vm_start(vm, NULL), 0);
    struct vm_end end = vm_run(vm);
    assert_int_equal(end.reason, VM_END_REQUEST);
    assert_int_equal(end.value, 15);
    vm_request_end(vm, VM_END_ERROR, 0, "too late");
    vm_request_reset(vm);
    vm_pause(vm);
    vm_resume(vm);
    assert_int_equal(vm->end.reason, VM_END_REQUEST);
    vm_free(vm);
}

static void test_triple_fault_without_reboot_is_a_crash(void **state)
{
    static const struct script_step steps[] = {{SCRIPT_SHUTDOWN}};
    struct vm_config config = script_config(1);
    config.no_reboot = true;
    struct vm *vm = vm_scripted(&config, steps);
    assert_int_equal(vm_start(vm, NULL), 0);
    struct vm_end end = vm_run(vm);
    assert_int_equal(end.reason, VM_END_CRASH);
    assert_string_equal(end.message, "vCPU 0: triple fault at f000:0xfff0");
    vm_free(vm);
}

static void test_reset_without_reboot_is_an_end(void **state)
{
    static const struct script_step steps[] = {SCRIPT_OUT(PORT_RESET, 1, 6),
                                               {SCRIPT_END}};
    struct vm_config config = script_config(2);
    config.no_reboot = true;
    struct vm *vm = vm_scripted(&config, steps);
    recorder_add(vm, 0x100);
    assert_int_equal(vm_start(vm, NULL), 0);
    assert_int_equal(vm_run(vm).reason, VM_END_RESET);
    vm_free(vm);
}

/* Counts boots; the second one finds devices and vCPUs reset, the third one fails. */
struct boots {
    unsigned count;
    struct recorder *first, *second;
    unsigned vcpu_resets;
};

static int boot(void *opaque, struct vm *vm, struct error *err)
{
    struct boots *boots = opaque;
    boots->count++;
    if (boots->count == 2) {
        assert_int_equal(boots->first->resets, 1);
        assert_true(boots->first->sequence < boots->second->sequence);
        assert_int_equal(script_resets(vm->vcpu[1]->engine), 1);
    }
    return boots->count < 3 ? 0 : fail_plain(err, EIO, "image is gone");
}

static void check_reset(const struct script_step *steps)
{
    struct vm_config config = script_config(2);
    struct vm *vm = vm_scripted(&config, (const struct script_step[]){{SCRIPT_END}});
    script_set(vm->vcpu[0]->engine, steps);
    _Atomic unsigned order = 0;
    struct boots boots = {.first = recorder_add(vm, 0x100),
                          .second = recorder_add(vm, 0x200)};
    boots.first->order = boots.second->order = &order;
    vm->boot = boot;
    vm->boot_opaque = &boots;
    assert_int_equal(vm_start(vm, NULL), 0);
    struct vm_end end = vm_run(vm);
    assert_int_equal(boots.count, 3);
    assert_int_equal(boots.first->resets, 2);
    assert_int_equal(boots.first->writes, 2);
    assert_int_equal(end.reason, VM_END_ERROR);
    assert_string_equal(end.message, "image is gone");
    vm_free(vm);
}

static void test_device_resets_the_vm(void **state)
{
    static const struct script_step steps[] = {
        SCRIPT_OUT(PORT_COUNT, 1, 0),
        SCRIPT_OUT(PORT_RESET, 1, 6),
        SCRIPT_OUT(PORT_COUNT, 1, 0),
        {SCRIPT_END},
    };
    check_reset(steps);
}

static void test_triple_fault_resets_the_vm(void **state)
{
    static const struct script_step steps[] = {
        SCRIPT_OUT(PORT_COUNT, 1, 0),
        {SCRIPT_SHUTDOWN},
    };
    check_reset(steps);
}

static void test_pause_stops_a_busy_guest_and_its_clock(void **state)
{
    static const struct script_step busy[] = {
        SCRIPT_OUT(PORT_COUNT, 1, 0),
        {SCRIPT_SPIN},
        SCRIPT_BACK_TO(0),
    };
    static const struct script_step loop[] = {
        SCRIPT_OUT(PORT_COUNT, 1, 0),
        SCRIPT_BACK_TO(0),
    };
    struct vm_config config = script_config(3);
    struct vm *vm = vm_scripted(&config, (const struct script_step[]){{SCRIPT_END}});
    script_set(vm->vcpu[0]->engine, busy);
    script_set(vm->vcpu[1]->engine, loop);
    struct recorder *recorder = recorder_add(vm, 0x100);
    struct runner runner;
    runner_start(&runner, vm);
    await(recorder->writes > 2);

    vm_pause(vm);
    assert_int_equal(vm->status, VM_PAUSED);
    assert_int_equal(vm->parked_vcpus, 3);
    unsigned writes = recorder->writes;
    uint64_t now_ns = clock_now(&vm->clock);
    vm_pause(vm); /* once more changes nothing */
    sleep_ms(5);
    assert_int_equal(recorder->writes, writes);
    assert_int_equal(clock_now(&vm->clock), now_ns);

    vm_resume(vm);
    await(recorder->writes > writes);
    assert_true(clock_now(&vm->clock) > now_ns);
    assert_true(clock_now(&vm->clock) < now_ns + 10 * NS_PER_SECOND);
    vm_request_end(vm, VM_END_REQUEST, 0, NULL);
    assert_int_equal(runner_join(&runner).reason, VM_END_REQUEST);
    vm_free(vm);
}

static void test_reset_while_paused_stays_paused(void **state)
{
    static const struct script_step steps[] = {SCRIPT_OUT(PORT_COUNT, 1, 0),
                                               {SCRIPT_END}};
    struct vm_config config = script_config(1);
    struct vm *vm = vm_scripted(&config, steps);
    struct recorder *recorder = recorder_add(vm, 0x100);
    struct runner runner;
    runner_start(&runner, vm);
    await(recorder->writes == 1);
    vm_pause(vm);
    vm_request_reset(vm);
    await(recorder->resets == 1);
    sleep_ms(2);
    assert_int_equal(recorder->writes, 1);
    vm_resume(vm);
    await(recorder->writes == 2);
    vm_pause(vm);
    vm_request_end(vm, VM_END_POWEROFF, 0, NULL);
    assert_int_equal(runner_join(&runner).reason, VM_END_POWEROFF);
    vm_free(vm);
}

static void test_frees_a_running_vm(void **state)
{
    static const struct script_step steps[] = {{SCRIPT_SPIN}, SCRIPT_BACK_TO(0)};
    struct vm_config config = script_config(VM_CPUS_MAX);
    struct vm *vm = vm_scripted(&config, steps);
    recorder_add(vm, 0x100);
    assert_int_equal(vm_start(vm, NULL), 0);
    assert_true(vm_start(vm, NULL) < 0);
    vm_free(vm);
    vm_free(NULL);
}

static struct engine *open_fails(const struct engine_config *config, struct error *err)
{
    fail_plain(err, EIO, "out of order");
    return NULL;
}

static struct engine_vcpu *
second_fails(struct engine *engine, const struct vcpu_config *config, struct error *err)
{
    if (config->index == 1) {
        fail_plain(err, EIO, "no second one");
        return NULL;
    }
    return engine_script.vcpu_open(engine, config, err);
}

static void test_half_made(void **state)
{
    struct error err;
    struct vm_config config = script_config(0);
    assert_null(vm_new(&config, &err));
    config = script_config(VM_CPUS_MAX + 1);
    assert_null(vm_new(&config, NULL));

    struct engine_ops broken = engine_script;
    config = script_config(2);
    config.engine = &broken;
    broken.open = open_fails;
    assert_null(vm_new(&config, &err));
    assert_string_equal(err.message, "engine script: out of order");
    broken = engine_script;
    broken.vcpu_open = second_fails;
    assert_null(vm_new(&config, &err));
    assert_string_equal(err.message, "engine script: no second one");
}

static enum run_result run_fails(struct engine_vcpu *vcpu)
{
    return RUN_FAILED;
}

static void say_why(struct engine_vcpu *vcpu, struct error *err)
{
    fail_plain(err, EIO, "exit 99 (strange) has no handler");
}

/* The user is told the reason and, whatever --verbose, the registers. */
static void test_an_engine_that_fails(void **state)
{
    struct engine_ops failing = engine_script;
    struct vm_config config = script_config(1);
    char said[8192];
    int ends[2], before = dup(STDERR_FILENO);
    config.engine = &failing;
    failing.run = run_fails;
    failing.failure = say_why;
    struct vm *vm = vm_made(&config);
    assert_int_equal(pipe(ends), 0);
    dup2(ends[1], STDERR_FILENO);
    assert_int_equal(vm_start(vm, NULL), 0);
    struct vm_end end = vm_run(vm);
    dup2(before, STDERR_FILENO);
    close(before);
    close(ends[1]);
    ssize_t size = read(ends[0], said, sizeof(said) - 1);
    close(ends[0]);
    assert_true(size > 0);
    said[size] = '\0';
    assert_int_equal(end.reason, VM_END_ERROR);
    assert_string_equal(end.message, "engine script: exit 99 (strange) has no handler");
    assert_non_null(strcasestr(said, "rip"));
    assert_non_null(strcasestr(said, "cr3"));
    vm_free(vm);
}

static int boot_fails(void *opaque, struct vm *vm, struct error *err)
{
    return fail_plain(err, ENOENT, "no kernel");
}

static void test_boot_that_fails(void **state)
{
    struct vm_config config = script_config(1);
    struct vm *vm = vm_made(&config);
    vm->boot = boot_fails;
    struct error err;
    assert_int_equal(vm_start(vm, &err), -ENOENT);
    assert_string_equal(err.message, "no kernel");
    vm_free(vm);
}

static void test_takes_devices_it_has_no_room_for(void **state)
{
    struct vm_config config = script_config(1);
    struct vm *vm = vm_made(&config);
    for (unsigned i = 0; i < sizeof(vm->device) / sizeof(vm->device[0]); i++) {
        recorder_add(vm, 0x100 + 4 * i);
    }
    struct recorder *last = calloc(1, sizeof(*last));
    device_init(&last->device, &recorder_type, "last");
    struct error err;
    assert_int_equal(vm_add_device(vm, &last->device, &err), -ENOSPC);
    assert_non_null(strstr(err.message, "last"));
    vm_free(vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_device_ends_the_vm_before_the_next_instruction),
        cmocka_unit_test(test_first_end_wins),
        cmocka_unit_test(test_triple_fault_without_reboot_is_a_crash),
        cmocka_unit_test(test_reset_without_reboot_is_an_end),
        cmocka_unit_test(test_device_resets_the_vm),
        cmocka_unit_test(test_triple_fault_resets_the_vm),
        cmocka_unit_test(test_pause_stops_a_busy_guest_and_its_clock),
        cmocka_unit_test(test_reset_while_paused_stays_paused),
        cmocka_unit_test(test_frees_a_running_vm),
        cmocka_unit_test(test_half_made),
        cmocka_unit_test(test_an_engine_that_fails),
        cmocka_unit_test(test_boot_that_fails),
        cmocka_unit_test(test_takes_devices_it_has_no_room_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
