/* A call for attention of the translator's code that comes when all has been looked at.
 */
#include "engine/translator/run.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/software.h"
#include "engine/translator/translator.h"
#include "machine/entry.h"
#include "machine/memory_map.h"
#include "engine_rig.h"

#define RAM_SIZE 0x400000u
#define CODE_AT  0x200000u
#define SECONDS  60 /* for the test as a whole, when it hangs */

static const uint8_t program[] = {
    0xb9, 0x05, 0x00, 0x00, 0x00, /* mov $5, %ecx */
    0xbf, 0x00, 0x00, 0x00, 0x80, /* mov $0x80000000, %edi: no RAM */
    0xe6, 0x80,                   /* 1: out %al, $0x80 */
    0x88, 0x07,                   /* mov %al, (%rdi) */
    0xff, 0xc9,                   /* dec %ecx */
    0x75, 0xf8,                   /* jnz 1b */
    0xf4,                         /* hlt */
};

struct machine {
    struct engine_rig rig;
    unsigned exits;
};

static void sink(void *opaque, struct vcpu_exit *exit)
{
    struct machine *machine = opaque;
    assert_true(exit->reason == EXIT_IO || exit->reason == EXIT_MMIO);
    machine->exits++;
    translator_notify(machine->rig.vcpu->opaque);
}

static void test_late_notice(void **unused)
{
    struct machine machine = {0};
    struct error err;
    engine_rig_open(&machine.rig, &engine_translator, RAM_SIZE, NULL,
                    (struct vcpu_sink){sink, &machine});
    struct engine_rig *rig = &machine.rig;
    struct x86_state state;
    assert_int_equal(entry_long_mode(&state, rig->memory, CODE_AT, 0, &err), 0);
    assert_true(ram_write(rig->memory, CODE_AT, program, sizeof(program)));
    engine_translator.set_state(rig->vcpu, &state);

    alarm(SECONDS);
    assert_int_equal(engine_translator.run(rig->vcpu), RUN_HALTED);
    alarm(0);
    assert_int_equal(machine.exits, 10);

    engine_rig_close(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_late_notice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
