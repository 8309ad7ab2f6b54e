/*
 * Blocks of instructions do what the same instructions do one by one: random bytes as
 * guest code, run both ways from the same state. What either does to the outside is not
 * looked at here; see fuzz_interpreter.c.
 */

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>

#include "../tests/unit/interpreter/fixture.h"
#include "input.h"
#include "interpreter/run.h"

#define CODE_MAX   512
#define STEPS_MAX  400 /* a program that takes longer is left there */
#define ROUNDS_MAX 4000

enum mode { MODE_LONG, MODE_USER, MODE_PROTECTED, MODE_REAL, MODES };

struct machine {
    struct fixture *fixture;
    struct x86_state start;
    uint8_t ram[FIXTURE_RAM];
};

static struct machine machines[MODES];

/* What differs from one time to the next. */
static void hide_chance(struct cpuid_policy *policy)
{
    static const enum cpu_feature chance[] = {CPU_RDRAND, CPU_RDSEED};
    for (unsigned i = 0; i < sizeof(chance) / sizeof(chance[0]); i++) {
        policy->features[chance[i] / 64] &= ~(1ull << chance[i] % 64);
    }
}

static struct machine *machine_of(enum mode mode)
{
    struct machine *machine = &machines[mode];
    if (machine->fixture) {
        return machine;
    }
    struct fixture *fixture = mode == MODE_REAL        ? fixture_real()
                              : mode == MODE_PROTECTED ? fixture_protected()
                                                       : fixture_long();
    hide_chance(&fixture->cpuid);
    cpu_sync_out(fixture->cpu, &machine->start);
    /* Vector units on, as every system has them. */
    machine->start.cr4 |= X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT;
    if (mode == MODE_USER) {
        machine->start.seg[X86_CS] = x86_segment_flat_code(SEL_USER_CODE64, true, 3);
        machine->start.seg[X86_SS] = x86_segment_flat_data(SEL_USER_DATA, 3);
        machine->start.gpr[X86_RSP] = FIXTURE_USER;
    }
    memcpy(machine->ram, fixture->ram, FIXTURE_RAM);
    fixture->port_is_steady = true; /* how REP INS is divided is nobody's business */
    machine->fixture = fixture;
    return machine;
}

/* Everything as it was; only pages that differ are written, the way devices write. */
static void rewind_machine(struct machine *machine, const struct x86_state *state)
{
    struct fixture *fixture = machine->fixture;
    for (gpa_t page = 0; page < FIXTURE_RAM; page += FRAME_SIZE) {
        if (memcmp(fixture->ram + page, machine->ram + page, FRAME_SIZE) != 0) {
            bool is_ram =
                ram_write(fixture->memory, page, machine->ram + page, FRAME_SIZE);
            assert(is_ram);
        }
    }
    cpu_sync_in(fixture->cpu, state);
}

/* Small numbers, addresses that are mapped, or anything. */
static uint64_t plausible(uint64_t raw)
{
    switch (raw >> 61) {
    case 0:
    case 1:
        return raw & 0xff;
    case 2:
        return raw;
    default:
        return FIXTURE_DATA + (raw & 0xffff);
    }
}

static void check_state(const struct cpu *cpu)
{
    const struct x86_state *state = &cpu->state;
    assert(cpu->reg[REG_ZERO] == 0);
    assert(state->activity <= X86_SHUTDOWN);
    assert(!(state->cr0 & X86_CR0_PG) || state->cr0 & X86_CR0_PE);
    assert(!(state->efer & X86_EFER_LMA) ==
           !((state->efer & X86_EFER_LME) && (state->cr0 & X86_CR0_PG)));
    assert(!cpu->is_long64 || cpu->is_long);
    assert(cpu->is_long64 || cpu->rip >> 32 == 0);
}

/* True if the processor stopped by itself. */
static bool run_by_steps(struct cpu *cpu)
{
    for (unsigned i = 0; i < STEPS_MAX && cpu->state.activity == X86_RUNNING; i++) {
        cpu_step(cpu);
        check_state(cpu);
    }
    return cpu->state.activity != X86_RUNNING;
}

static void run_by_blocks(struct cpu *cpu)
{
    for (unsigned i = 0; cpu->state.activity == X86_RUNNING; i++) {
        assert(i < ROUNDS_MAX);
        atomic_store(&cpu->attention, 0);
        cpu_run(cpu);
    }
    check_state(cpu);
}

static void check_same(const struct x86_state *one, const struct x86_state *other)
{
    assert(memcmp(one->gpr, other->gpr, sizeof(one->gpr)) == 0);
    assert(one->rip == other->rip && one->rflags == other->rflags);
    assert(one->activity == other->activity);
    assert(one->cr0 == other->cr0 && one->cr2 == other->cr2 && one->cr4 == other->cr4);
    for (unsigned i = 0; i < X86_SEGMENT_COUNT; i++) {
        assert(one->seg[i].selector == other->seg[i].selector);
        assert(one->seg[i].base == other->seg[i].base);
    }
    assert(memcmp(one->vec, other->vec, sizeof(one->vec)) == 0);
    assert(memcmp(one->fpu.st, other->fpu.st, sizeof(one->fpu.st)) == 0);
    assert(one->fpu.mxcsr == other->fpu.mxcsr && one->fpu.fsw == other->fpu.fsw);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t ram_after[FIXTURE_RAM];
    struct input input = {data, size};
    struct machine *machine = machine_of(input_u8(&input) % MODES);
    struct cpu *cpu = machine->fixture->cpu;
    struct x86_state state = machine->start, by_steps, by_blocks;
    uint8_t code[CODE_MAX];

    for (unsigned i = 0; i < 16; i++) {
        if (i != X86_RSP) {
            state.gpr[i] = plausible(input_u64(&input));
        }
    }
    state.rflags ^= input_u8(&input) & (X86_FLAGS_ARITH & 0xff);
    size_t code_size = input.size < sizeof(code) ? input.size : sizeof(code);
    input_bytes(&input, code, code_size);

    rewind_machine(machine, &state);
    bool is_ram = ram_write(machine->fixture->memory, FIXTURE_CODE, code, code_size);
    assert(is_ram);
    if (!run_by_steps(cpu)) {
        return 0;
    }
    cpu_sync_out(cpu, &by_steps);
    memcpy(ram_after, machine->fixture->ram, FIXTURE_RAM);

    rewind_machine(machine, &state);
    ram_write(machine->fixture->memory, FIXTURE_CODE, code, code_size);
    run_by_blocks(cpu);
    cpu_sync_out(cpu, &by_blocks);
    check_same(&by_steps, &by_blocks);
    assert(memcmp(ram_after, machine->fixture->ram, FIXTURE_RAM) == 0);
    return 0;
}
