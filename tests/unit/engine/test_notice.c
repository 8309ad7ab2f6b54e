/* Calls for attention of the translator's code that come when all has been looked at: a
 * head is left for each, for nothing, with the guest's state as it was. */
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

/* Rotated 65 times through CF, which the loop's head has in the host's flags. */
static const uint8_t rotating[] = {
    0xb9, 0x41, 0x00, 0x00, 0x00,                         /* mov $65, %ecx */
    0xbf, 0x00, 0x00, 0x00, 0x80,                         /* mov $0x80000000, %edi */
    0x48, 0xbb, 0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, /* mov $..., %rbx */
    0x01, 0xf9,                                           /* stc */
    0x48, 0xd1, 0xd3,                                     /* 1: rcl %rbx */
    0x88, 0x07,                                           /* mov %al, (%rdi) */
    0xff, 0xc9,                                           /* dec %ecx */
    0x75, 0xf7,                                           /* jnz 1b */
    0xf4,                                                 /* hlt */
};

/* The same where the head asks for vectors, too, by a compare. */
static const uint8_t rotating_vector[] = {
    0xb9, 0x41, 0x00, 0x00, 0x00,                         /* mov $65, %ecx */
    0xbf, 0x00, 0x00, 0x00, 0x80,                         /* mov $0x80000000, %edi */
    0x48, 0xbb, 0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, /* mov $..., %rbx */
    0x01, 0xf9,                                           /* stc */
    0x48, 0xd1, 0xd3,                                     /* 1: rcl %rbx */
    0x66, 0x0f, 0x6f, 0xc8,                               /* movdqa %xmm0, %xmm1 */
    0x88, 0x07,                                           /* mov %al, (%rdi) */
    0xff, 0xc9,                                           /* dec %ecx */
    0x75, 0xf3,                                           /* jnz 1b */
    0xf4,                                                 /* hlt */
};

#define ROTATED 0x0123456789abcdefull
#define ROUNDS  65

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

/* Runs a program until it halts; the rig is open then. */
static void run_program(struct machine *machine, const uint8_t *code, size_t size)
{
    struct error err;
    engine_rig_open(&machine->rig, &engine_translator, RAM_SIZE, NULL,
                    (struct vcpu_sink){sink, machine});
    struct engine_rig *rig = &machine->rig;
    struct x86_state state;
    assert_int_equal(entry_long_mode(&state, rig->memory, CODE_AT, 0, &err), 0);
    state.cr4 |= X86_CR4_OSFXSR;
    assert_true(ram_write(rig->memory, CODE_AT, code, size));
    engine_translator.set_state(rig->vcpu, &state);

    alarm(SECONDS);
    assert_int_equal(engine_translator.run(rig->vcpu), RUN_HALTED);
    alarm(0);
}

static void test_late_notice(void **unused)
{
    struct machine machine = {0};
    run_program(&machine, program, sizeof(program));
    assert_int_equal(machine.exits, 10);
    engine_rig_close(&machine.rig);
}

static void check_rotating(const uint8_t *code, size_t size)
{
    struct machine machine = {0};
    run_program(&machine, code, size);
    const struct translator_cpu *translator = machine.rig.vcpu->opaque;
    struct x86_state state;
    engine_translator.get_state(machine.rig.vcpu, &state);

    assert_int_equal(machine.exits, ROUNDS);
    assert_true(state.gpr[X86_RBX] == ROTATED);
    assert_true(state.rflags & X86_FLAG_CF);
    /* The first round is in the block that leads there, and the last has no head. */
    assert_true(translator->stats.left[LEAVE_HEAD] >= ROUNDS - 2);
    engine_rig_close(&machine.rig);
}

static void test_flags(void **unused)
{
    check_rotating(rotating, sizeof(rotating));
}

static void test_flags_and_vectors(void **unused)
{
    check_rotating(rotating_vector, sizeof(rotating_vector));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_late_notice),
        cmocka_unit_test(test_flags),
        cmocka_unit_test(test_flags_and_vectors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
