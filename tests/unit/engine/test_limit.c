/* Deterministic runs: every engine that counts stops exactly where it is told to, gets
 * there by one way or another with the same state, and tells the same count at each exit.
 */

#include "engine_rig.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define RAM_SIZE  0x10000u
#define CODE_AT   0x1000u
#define STEPS_MAX 200u
#define EXITS_MAX 64u
#define APIC_EOI  0xb0
#define APIC_SVR  0xf0

/* Real mode, so that a segment reaches what is not RAM (A0000). */
static const uint8_t program[] = {
    0xb9, 0x05, 0x00,             /* mov $5, %cx */
    0xbf, 0x00, 0x30,             /* mov $0x3000, %di */
    0xb0, 0x41,                   /* mov $0x41, %al */
    0xf3, 0xaa,                   /* rep stosb: 5 steps */
    0xbe, 0xfa, 0x2f,             /* mov $0x2ffa, %si */
    0xbf, 0x00, 0x31,             /* mov $0x3100, %di */
    0xb9, 0x0c, 0x00,             /* mov $12, %cx */
    0xf3, 0xa4,                   /* rep movsb, across a page: 12 steps */
    0xe3, 0x00,                   /* jcxz .+0 */
    0xf3, 0xa4,                   /* rep movsb, none left: 1 step */
    0xb8, 0x00, 0xa0,             /* mov $0xa000, %ax */
    0x8e, 0xc0,                   /* mov %ax, %es */
    0xb3, 0x03,                   /* mov $3, %bl */
    0x26, 0xa2, 0x00, 0x00,       /* 1: mov %al, %es:0 */
    0x26, 0x8a, 0x0e, 0x04, 0x00, /* mov %es:4, %cl */
    0xfe, 0xc0,                   /* inc %al */
    0xe4, 0x60,                   /* in $0x60, %al */
    0x0f, 0x31,                   /* rdtsc */
    0xa3, 0x00, 0x40,             /* mov %ax, 0x4000 */
    0xfe, 0xcb,                   /* dec %bl */
    0x75, 0xea,                   /* jnz 1b */
    0x31, 0xc0,                   /* xor %ax, %ax */
    0x8e, 0xc0,                   /* mov %ax, %es */
    0xba, 0x70, 0x00,             /* mov $0x70, %dx */
    0xb9, 0x04, 0x00,             /* mov $4, %cx */
    0xf3, 0x6c,                   /* rep insb: 4 steps */
    0xf4,                         /* hlt */
};

struct noted {
    enum exit_reason reason;
    uint64_t retired;
    uint64_t place; /* port or address */
    uint32_t count;
};

struct machine {
    struct engine_rig rig;
    unsigned exits;
    struct noted exit[EXITS_MAX];
    uint64_t lower_at, lower_to; /* in the sink: set_limit, once */
};

static void sink(void *opaque, struct vcpu_exit *exit)
{
    struct machine *m = opaque;
    struct noted noted = {.reason = exit->reason, .retired = m->rig.stats.retired};
    if (exit->reason == EXIT_IO) {
        noted.place = exit->io.port;
        noted.count = exit->io.count;
        memset(exit->io.data, (int)m->rig.stats.retired, exit->io.size * exit->io.count);
    } else if (exit->reason == EXIT_MMIO) {
        noted.place = exit->mmio.gpa;
        if (!exit->mmio.is_write) {
            memset(exit->mmio.data, (int)m->rig.stats.retired, exit->mmio.size);
        }
    }
    assert_true(m->exits < EXITS_MAX);
    m->exit[m->exits++] = noted;
    if (m->lower_to && m->rig.stats.retired >= m->lower_at) {
        m->rig.ops->set_limit(m->rig.vcpu, m->lower_to);
        m->lower_to = 0;
    }
}

static struct machine *machine_of(const struct engine_ops *ops, bool is_deterministic)
{
    struct machine *m = calloc(1, sizeof(*m));
    assert_non_null(m);
    const struct engine_config options = {.is_deterministic = is_deterministic};
    engine_rig_open(&m->rig, ops, RAM_SIZE, &options, (struct vcpu_sink){sink, m});
    return m;
}

static void machine_free(struct machine *m)
{
    engine_rig_close(&m->rig);
    free(m);
}

static struct machine *machine_with(const struct engine_ops *ops, const void *code,
                                    unsigned size)
{
    struct machine *m = machine_of(ops, true);
    assert_true(ram_write(m->rig.memory, CODE_AT, code, size));
    struct x86_state state;
    x86_state_reset(&state, true);
    state.seg[X86_CS].selector = 0;
    state.seg[X86_CS].base = 0;
    state.rip = CODE_AT;
    m->rig.ops->set_state(m->rig.vcpu, &state);
    return m;
}

static void run_to(struct machine *m, uint64_t retired)
{
    m->rig.ops->set_limit(m->rig.vcpu, retired);
    assert_int_equal(m->rig.ops->run(m->rig.vcpu), RUN_LIMIT);
    assert_int_equal(m->rig.stats.retired, retired);
}

static void assert_same(struct machine *a, struct machine *b)
{
    struct x86_state state[2];
    memset(state, 0, sizeof(state));
    a->rig.ops->get_state(a->rig.vcpu, &state[0]);
    b->rig.ops->get_state(b->rig.vcpu, &state[1]);
    assert_memory_equal(&state[0], &state[1], sizeof(state[0]));
    uint8_t memory[2][RAM_SIZE];
    assert_true(ram_read(a->rig.memory, 0, memory[0], RAM_SIZE));
    assert_true(ram_read(b->rig.memory, 0, memory[1], RAM_SIZE));
    assert_memory_equal(memory[0], memory[1], RAM_SIZE);
}

/* Calls the test for every engine that has the mode; there is one at least. */
static void for_each_engine(void (*test)(const struct engine_ops *ops))
{
    unsigned count = 0;
    for (unsigned i = 0; engine_table[i]; i++) {
        if (engine_table[i]->set_limit) {
            test(engine_table[i]);
            count++;
        }
    }
    assert_true(count > 0);
}

/* How many steps the program makes up to its HLT, which is one. */
static unsigned count_steps(const struct engine_ops *ops)
{
    struct machine *m = machine_with(ops, program, sizeof(program));
    assert_int_equal(m->rig.ops->run(m->rig.vcpu), RUN_HALTED);
    unsigned steps = (unsigned)m->rig.stats.retired;
    machine_free(m);
    return steps;
}

static void check_count(const struct engine_ops *ops)
{
    unsigned before_loop = 3 + 5 + 3 + 12 + 1 + 1 + 3;
    unsigned loop = 3 * 8;
    unsigned end = 4 + 4 + 1;
    assert_int_equal(count_steps(ops), before_loop + loop + end);
}

static void test_iterations_are_steps(void **state)
{
    for_each_engine(check_count);
}

/* From the beginning in one go is the same as step by step. */
static void check_every_limit(const struct engine_ops *ops)
{
    unsigned steps = count_steps(ops);
    assert_true(steps < STEPS_MAX);
    struct machine *slow = machine_with(ops, program, sizeof(program));
    for (unsigned n = 1; n < steps; n++) {
        run_to(slow, n);
        struct machine *fast = machine_with(ops, program, sizeof(program));
        run_to(fast, n);
        assert_same(slow, fast);
        machine_free(fast);
    }
    machine_free(slow);
}

static void test_every_limit(void **state)
{
    for_each_engine(check_every_limit);
}

static void check_exits(const struct engine_ops *ops)
{
    unsigned steps = count_steps(ops);
    struct machine *slow = machine_with(ops, program, sizeof(program));
    struct machine *fast = machine_with(ops, program, sizeof(program));
    for (unsigned n = 1; n <= steps; n++) {
        run_to(slow, n);
    }
    run_to(fast, steps - 5);
    run_to(fast, steps);
    /* Two to memory and one to a port each time round, 28 steps behind the beginning; and
     * four for the INS. */
    assert_int_equal(fast->exits, 3 * 3 + 4);
    assert_int_equal(slow->exits, 3 * 3 + 4);
    for (unsigned i = 0; i < 9; i++) {
        static const unsigned place[] = {0, 1, 3};
        assert_int_equal(fast->exit[i].retired, 28 + i / 3 * 8 + place[i % 3]);
    }
    for (unsigned i = 9; i < 13; i++) {
        assert_int_equal(fast->exit[i].retired, steps - 5 + (i - 9));
        assert_int_equal(fast->exit[i].count, 1);
    }
    for (unsigned i = 0; i < 13; i++) {
        assert_memory_equal(&fast->exit[i], &slow->exit[i], sizeof(struct noted));
    }
    assert_same(slow, fast);
    machine_free(slow);
    machine_free(fast);
}

static void test_exits_know_the_count(void **state)
{
    for_each_engine(check_exits);
}

/* Nothing happens at a limit that is behind, or reached. */
static void check_reached(const struct engine_ops *ops)
{
    struct machine *m = machine_with(ops, program, sizeof(program));
    struct machine *same = machine_with(ops, program, sizeof(program));
    run_to(m, 10);
    run_to(same, 10);
    assert_int_equal(m->rig.ops->run(m->rig.vcpu), RUN_LIMIT);
    m->rig.ops->set_limit(m->rig.vcpu, 3);
    assert_int_equal(m->rig.ops->run(m->rig.vcpu), RUN_LIMIT);
    assert_int_equal(m->rig.stats.retired, 10);
    assert_same(m, same);
    machine_free(m);
    machine_free(same);
}

static void test_limit_behind(void **state)
{
    for_each_engine(check_reached);
}

/* From within an exit: the instruction in progress retires, and no other. */
static void check_lowered(const struct engine_ops *ops)
{
    struct machine *m = machine_with(ops, program, sizeof(program));
    m->lower_at = 28; /* the first store to what is not memory */
    m->lower_to = 1;
    assert_int_equal(m->rig.ops->run(m->rig.vcpu), RUN_LIMIT);
    assert_int_equal(m->rig.stats.retired, 29);

    m->lower_at = 29; /* the load behind it */
    m->lower_to = 33;
    m->rig.ops->set_limit(m->rig.vcpu, UINT64_MAX);
    assert_int_equal(m->rig.ops->run(m->rig.vcpu), RUN_LIMIT);
    assert_int_equal(m->rig.stats.retired, 33);
    machine_free(m);
}

static void test_limit_lowered_within_an_exit(void **state)
{
    for_each_engine(check_lowered);
}

static void post(struct machine *m, uint8_t vector)
{
    struct apic_message message = {.vector = vector, .is_assert = true};
    lapic_mmio_write(&m->rig.lapic, 0, APIC_SVR, 0x1ff, &(struct lapic_effect){0});
    assert_true(lapic_post(&m->rig.lapic, &message));
    m->rig.ops->kick(m->rig.vcpu, false);
}

/* An interrupt that waits at the limit is taken by the next run, behind no instruction;
 * masked ones behind the one that lets them through (STI: behind the one after). */
static void check_interrupt(const struct engine_ops *ops)
{
    /* sti; nop; nop; cli; nop; sti; nop; nop; jmp . */
    static const uint8_t code[] = {0xfb, 0x90, 0x90, 0xfa, 0x90,
                                   0xfb, 0x90, 0x90, 0xeb, 0xfe};
    static const uint8_t handler[] = {0x43, 0xcf}; /* inc %bx; iret */
    static const uint16_t vector[2] = {0x2000, 0};
    struct machine *m = machine_with(ops, code, sizeof(code));
    assert_true(ram_write(m->rig.memory, 0x2000, handler, sizeof(handler)));
    assert_true(ram_write(m->rig.memory, 0x40 * 4, vector, sizeof(vector)));
    struct x86_state state;
    m->rig.ops->get_state(m->rig.vcpu, &state);
    state.gpr[X86_RSP] = 0x8000;
    m->rig.ops->set_state(m->rig.vcpu, &state);

    run_to(m, 3); /* sti, nop, nop */
    post(m, 0x40);
    assert_int_equal(m->rig.ops->run(m->rig.vcpu), RUN_LIMIT);
    m->rig.ops->get_state(m->rig.vcpu, &state);
    assert_int_equal(state.rip, CODE_AT + 3);
    run_to(m, 4); /* inc */
    m->rig.ops->get_state(m->rig.vcpu, &state);
    assert_int_equal(state.rip, 0x2001);
    run_to(m, 7); /* iret, cli, nop */
    lapic_mmio_write(&m->rig.lapic, 0, APIC_EOI, 0, &(struct lapic_effect){0});
    post(m, 0x40);
    run_to(m, 9); /* sti and the nop in its shadow */
    m->rig.ops->get_state(m->rig.vcpu, &state);
    assert_int_equal(state.rip, CODE_AT + 7);
    run_to(m, 10);
    m->rig.ops->get_state(m->rig.vcpu, &state);
    assert_int_equal(state.rip, 0x2001);
    assert_int_equal(state.gpr[X86_RBX], 2);
    machine_free(m);
}

static void test_interrupts_at_the_limit(void **state)
{
    for_each_engine(check_interrupt);
}

/* A loop of nothing but itself, and kicks that come meanwhile. */
static void check_tight_loop(const struct engine_ops *ops)
{
    static const uint8_t code[] = {0xeb, 0xfe};
    struct machine *m = machine_with(ops, code, sizeof(code));
    run_to(m, 1234567);
    m->rig.ops->kick(m->rig.vcpu, false);
    run_to(m, 1234568);
    m->rig.ops->kick(m->rig.vcpu, true);
    m->rig.ops->set_limit(m->rig.vcpu, 2000000);
    assert_int_equal(m->rig.ops->run(m->rig.vcpu), RUN_KICKED);
    run_to(m, 2000000);
    machine_free(m);
}

static void test_tight_loop(void **state)
{
    for_each_engine(check_tight_loop);
}

/* Without being asked to an engine counts as ever. */
static void check_not_deterministic(const struct engine_ops *ops)
{
    struct machine *m = machine_of(ops, false);
    assert_true(ram_write(m->rig.memory, CODE_AT, program, sizeof(program)));
    struct x86_state state;
    x86_state_reset(&state, true);
    state.seg[X86_CS].base = state.seg[X86_CS].selector = 0;
    state.rip = CODE_AT;
    m->rig.ops->set_state(m->rig.vcpu, &state);
    assert_int_equal(m->rig.ops->run(m->rig.vcpu), RUN_HALTED);
    assert_int_equal(m->rig.stats.retired, count_steps(ops));
    machine_free(m);
}

static void test_count_at_the_end(void **state)
{
    for_each_engine(check_not_deterministic);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_iterations_are_steps),
        cmocka_unit_test(test_every_limit),
        cmocka_unit_test(test_exits_know_the_count),
        cmocka_unit_test(test_limit_behind),
        cmocka_unit_test(test_limit_lowered_within_an_exit),
        cmocka_unit_test(test_interrupts_at_the_limit),
        cmocka_unit_test(test_tight_loop),
        cmocka_unit_test(test_count_at_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
