#include "fixture.h"

#include "engine/interp/interp.h"

/* The life cycle over the interpreter: guest code that gives no opening must be got out
 * of all the same. Real mode at 0000:1000. */

#define CODE_AT 0x1000

struct program {
    const uint8_t *code;
    unsigned size;
    unsigned boots;
};

static int boot(void *opaque, struct vm *vm, struct error *err)
{
    struct program *program = opaque;
    assert_true(ram_write(vm->memory, CODE_AT, program->code, program->size));
    struct x86_state state;
    x86_state_reset(&state, true);
    state.seg[X86_CS].selector = 0;
    state.seg[X86_CS].base = 0;
    state.rip = CODE_AT;
    vm->engine_ops->set_state(vm->vcpu[0]->engine, &state);
    program->boots++;
    return 0;
}

static struct vm *vm_running_code(struct program *program, unsigned cpus, bool no_reboot)
{
    struct vm_config config = script_config(cpus);
    config.engine = &engine_interp;
    config.no_reboot = no_reboot;
    struct cpuid_config cpuid = {.cpus = cpus};
    assert_int_equal(cpuid_policy_init(&config.cpuid, &cpuid, NULL), 0);
    struct vm *vm = vm_made(&config);
    int64_t frame = memory_add_frames(vm->memory, 1 << 16, NULL);
    assert_true(frame >= 0);
    assert_int_equal(memory_map(vm->memory, 0, 1 << 16, (frame_t)frame, SLOT_RAM, NULL),
                     0);
    recorder_add(vm, 0x100);
    vm->boot = boot;
    vm->boot_opaque = program;
    return vm;
}

static void test_port_write_ends_the_vm(void **state)
{
    /* mov dx, PORT_END; mov al, 7; out dx, al; ud2 */
    static const uint8_t code[] = {0xba, 0x01, 0x01, 0xb0, 0x07, 0xee, 0x0f, 0x0b};
    struct program program = {code, sizeof(code), 0};
    struct vm *vm = vm_running_code(&program, 1, true);
    assert_int_equal(vm_start(vm, NULL), 0);
    struct vm_end end = vm_run(vm);
    assert_int_equal(end.reason, VM_END_DEBUG_EXIT);
    assert_int_equal(end.value, 7);
    assert_int_equal(vm->vcpu[0]->stats.retired, 3);
    vm_free(vm);
}

static void pause_and_end(const uint8_t *code, unsigned size, unsigned cpus)
{
    struct program program = {code, size, 0};
    struct vm *vm = vm_running_code(&program, cpus, false);
    struct runner runner;
    runner_start(&runner, vm);
    for (unsigned i = 0; i < 20; i++) {
        vm_pause(vm);
        assert_int_equal(vm->parked_vcpus, cpus);
        vm_resume(vm);
        vm_request_reset(vm);
    }
    vm_request_end(vm, VM_END_REQUEST, 2, NULL);
    assert_int_equal(runner_join(&runner).value, 2);
    vm_free(vm);
}

static void test_loop_with_interrupts_off(void **state)
{
    static const uint8_t code[] = {0xfa, 0xeb, 0xfe}; /* cli; jmp $ */
    pause_and_end(code, sizeof(code), 1);
}

static void test_halt_with_interrupts_off(void **state)
{
    static const uint8_t code[] = {0xfa, 0xf4, 0xeb, 0xfd}; /* cli; hlt; jmp -1 */
    pause_and_end(code, sizeof(code), 4);
}

/* lidt [1100h], where there are zeros; int3 */
static const uint8_t triple_fault[] = {0x0f, 0x01, 0x1e, 0x00, 0x11, 0xcc};

static void test_triple_fault_is_a_crash(void **state)
{
    struct program program = {triple_fault, sizeof(triple_fault), 0};
    struct vm *vm = vm_running_code(&program, 2, true);
    assert_int_equal(vm_start(vm, NULL), 0);
    struct vm_end end = vm_run(vm);
    assert_int_equal(end.reason, VM_END_CRASH);
    assert_string_equal(end.message, "vCPU 0: triple fault at 0000:0x1005");
    assert_int_equal(vm->vcpu[0]->stats.exit[EXIT_TRIPLE_FAULT].count, 1);
    vm_free(vm);
}

static int boot_three_times(void *opaque, struct vm *vm, struct error *err)
{
    struct program *program = opaque;
    if (program->boots == 3) {
        vm_request_end(vm, VM_END_POWEROFF, 0, NULL);
    }
    return boot(opaque, vm, err);
}

static void test_triple_fault_reboots(void **state)
{
    struct program program = {triple_fault, sizeof(triple_fault), 0};
    struct vm *vm = vm_running_code(&program, 2, false);
    vm->boot = boot_three_times;
    assert_int_equal(vm_start(vm, NULL), 0);
    assert_int_equal(vm_run(vm).reason, VM_END_POWEROFF);
    assert_int_equal(program.boots, 4);
    vm_free(vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_port_write_ends_the_vm),
        cmocka_unit_test(test_loop_with_interrupts_off),
        cmocka_unit_test(test_halt_with_interrupts_off),
        cmocka_unit_test(test_triple_fault_is_a_crash),
        cmocka_unit_test(test_triple_fault_reboots),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
