#include "engine/script/script.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define APIC_SVR 0xf0
#define APIC_ICR 0x300

/* One vCPU without a dispatcher: exits are noted, and answered with a fixed byte. */
struct fixture {
    struct clock clock;
    struct engine *engine;
    struct engine_vcpu *vcpu;
    struct lapic lapic;
    struct vcpu_stats stats;
    unsigned count;
    enum exit_reason reason[16];
    uint8_t answer;
};

static void note(void *opaque, struct vcpu_exit *exit)
{
    struct fixture *f = opaque;
    assert_true(f->count < 16);
    f->reason[f->count++] = exit->reason;
    if (exit->reason == EXIT_IO && !exit->io.is_write) {
        memset(exit->io.data, f->answer, exit->io.size);
    }
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    clock_init_virtual(&f->clock);
    lapic_reset(&f->lapic, 0, 1000000);
    struct engine_config config = {.clock = &f->clock, .cpus = 1};
    f->engine = engine_script.open(&config, NULL);
    struct vcpu_config vcpu = {
        .is_bootstrap = true, .lapic = &f->lapic, .sink = {note, f}, .stats = &f->stats};
    f->vcpu = engine_script.vcpu_open(f->engine, &vcpu, NULL);
    assert_non_null(f->vcpu);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    engine_script.vcpu_close(f->vcpu);
    engine_script.close(f->engine);
    free(f);
    return 0;
}

static void test_halts_until_an_interrupt(void **state)
{
    static const struct script_step steps[] = {
        {.op = SCRIPT_APIC, .address = APIC_SVR, .value = 0x1ff},
        {.op = SCRIPT_HLT},
        {.op = SCRIPT_IO, .address = 0x60, .size = 1, .value = 0x5a},
        {.op = SCRIPT_END},
    };
    struct fixture *f = *state;
    f->answer = 0x5a;
    script_set(f->vcpu, steps);
    assert_int_equal(engine_script.run(f->vcpu), RUN_HALTED);
    assert_int_equal(engine_script.run(f->vcpu), RUN_HALTED);
    assert_int_equal(f->count, 0);
    struct apic_message message = {.vector = 0x44, .is_assert = true};
    assert_true(lapic_post(&f->lapic, &message));
    assert_int_equal(engine_script.run(f->vcpu), RUN_HALTED);
    assert_int_equal(script_interrupts(f->vcpu, 0x44), 1);
    assert_int_equal(f->count, 1);
    assert_false(script_failed(f->vcpu).has_failed);
}

static void test_reports_the_first_difference(void **state)
{
    static const struct script_step steps[] = {
        {.op = SCRIPT_IO, .address = 0x60, .size = 2, .value = 0x1111},
        {.op = SCRIPT_IO, .address = 0x60, .size = 1, .value = 0x22},
        {.op = SCRIPT_IO, .address = 0x60, .size = 1, .value = 0x33},
        {.op = SCRIPT_END},
    };
    struct fixture *f = *state;
    f->answer = 0x11;
    script_set(f->vcpu, steps);
    engine_script.run(f->vcpu);
    struct script_failure failure = script_failed(f->vcpu);
    assert_true(failure.has_failed);
    assert_int_equal(failure.step, 1);
    assert_int_equal(failure.expected, 0x22);
    assert_int_equal(failure.got, 0x11);
    assert_int_equal(f->count, 3);
}

static void test_kick_is_not_lost_before_run(void **state)
{
    static const struct script_step steps[] = {{SCRIPT_SPIN}, {SCRIPT_SHUTDOWN}};
    struct fixture *f = *state;
    script_set(f->vcpu, steps);
    engine_script.kick(f->vcpu, true);
    assert_int_equal(engine_script.run(f->vcpu), RUN_KICKED);
    struct x86_state state_set;
    x86_state_reset(&state_set, true);
    state_set.rip = 0x1234;
    engine_script.set_state(f->vcpu, &state_set);
    script_set(f->vcpu, steps + 1);
    assert_int_equal(engine_script.run(f->vcpu), RUN_SHUTDOWN);
    struct x86_state state_got;
    engine_script.get_state(f->vcpu, &state_got);
    assert_int_equal(state_got.rip, 0x1234);
    assert_int_equal(state_got.activity, X86_SHUTDOWN);
}

static void test_repeats_and_sends(void **state)
{
    static const struct script_step steps[] = {
        {.op = SCRIPT_APIC, .address = APIC_SVR, .value = 0x1ff},
        /* To all others. */
        {.op = SCRIPT_APIC, .address = APIC_ICR, .value = 0xc4055},
        {.op = SCRIPT_REPEAT, .address = 1, .value = 2},
        {.op = SCRIPT_END},
    };
    struct fixture *f = *state;
    script_set(f->vcpu, steps);
    assert_int_equal(engine_script.run(f->vcpu), RUN_HALTED);
    assert_int_equal(f->count, 3);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(f->reason[i], EXIT_IPI);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_halts_until_an_interrupt, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reports_the_first_difference, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_kick_is_not_lost_before_run, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_repeats_and_sends, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
