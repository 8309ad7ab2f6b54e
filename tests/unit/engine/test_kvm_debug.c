#include "kvm_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

/* A debugger's points and steps. */

/* While a debugger has points or steps KVM is not entered; afterwards it goes on from
 * where the interpreter stopped. */
static void test_debugger_runs_the_interpreter(void **unused)
{
    struct fixture *f = *unused;
    static const uint8_t code[] = {0x40, 0x40, 0x40, 0x40, 0xf4}; /* inc ax, hlt */
    struct debug_control control = {.count = 1, .point = {{DEBUG_EXECUTE, 0x1002, 1}}};
    struct debug_stop stop;
    struct x86_state state;
    assert_true(ram_write(f->memory, 0x1000, code, sizeof(code)));
    x86_state_reset(&state, true);
    state.seg[X86_CS].selector = 0;
    state.seg[X86_CS].base = 0;
    state.rip = 0x1000;
    state.gpr[X86_RAX] = 0;
    engine_kvm.set_state(f->vcpu, &state);
    assert_int_equal(engine_kvm.debug(f->vcpu, &control, NULL), 0);
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_DEBUG);
    engine_kvm.debug_stop(f->vcpu, &stop);
    assert_int_equal(stop.reason, DEBUG_POINT);
    engine_kvm.get_state(f->vcpu, &state);
    assert_int_equal(state.rip, 0x1002);
    assert_int_equal(state.gpr[X86_RAX], 2);
    control.step = true;
    assert_int_equal(engine_kvm.debug(f->vcpu, &control, NULL), 0);
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_DEBUG);
    engine_kvm.debug_stop(f->vcpu, &stop);
    assert_int_equal(stop.reason, DEBUG_STEPPED);
    engine_kvm.kick(f->vcpu, true);
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_KICKED);
    assert_int_equal(fake_kvm.runs, 0);
    assert_int_equal(fake_kvm.regs.rip, 0x1003);
    assert_int_equal(engine_kvm.debug(f->vcpu, NULL, NULL), 0);
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_HALTED);
    assert_int_equal(fake_kvm.runs, 1);
    assert_int_equal(fake_kvm.regs.rip, 0x1003);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_debugger_runs_the_interpreter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
