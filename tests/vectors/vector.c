#include "vector.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "interpreter/run.h"
#include "x86/segment.h"

#define WRAP      0x100000u
#define WRAP_SIZE 0x10000u
#define STEPS_MAX 0x20000u

/* Bits 12 to 15: always set on the 8086, always clear in real mode of the 80286; IOPL and
 * NT since the 80386. Bit 1 is set. */
#define FLAGS_TESTED 0x0fd5u

/* ---- The machine ---- */

static void hook_io(struct cpu *cpu, uint16_t port, unsigned size, bool is_write,
                    uint32_t count, uint8_t *data)
{
    if (!is_write) {
        memset(data, 0xff, size * count); /* nothing drives the bus */
    }
}

static void hook_mmio(struct cpu *cpu, gpa_t gpa, unsigned size, bool is_write,
                      uint8_t *data)
{
    if (!is_write) {
        memset(data, 0xff, size);
    }
}

static bool hook_msr_read(struct cpu *cpu, uint32_t index, uint64_t *value)
{
    return false;
}

static bool hook_msr_write(struct cpu *cpu, uint32_t index, uint64_t value)
{
    return false;
}

static uint64_t hook_zero(struct cpu *cpu)
{
    return 0;
}

static void hook_set_cr8(struct cpu *cpu, uint64_t value)
{
}

static bool hook_hypercall(struct cpu *cpu)
{
    return false;
}

static void hook_count(struct cpu *cpu, enum exit_reason reason)
{
}

static void hook_exclusive(struct cpu *cpu)
{
}

static const struct cpu_hooks hooks = {
    .io = hook_io,
    .mmio = hook_mmio,
    .msr_read = hook_msr_read,
    .msr_write = hook_msr_write,
    .get_cr8 = hook_zero,
    .set_cr8 = hook_set_cr8,
    .tsc = hook_zero,
    .now = hook_zero,
    .hypercall = hook_hypercall,
    .count = hook_count,
    .exclusive_begin = hook_exclusive,
    .exclusive_end = hook_exclusive,
};

static int map_memory(struct vector_machine *machine, struct error *err)
{
    machine->memory = memory_new(VECTOR_RAM, err);
    if (!machine->memory) {
        return -ENOMEM;
    }
    int64_t frame = memory_add_frames(machine->memory, VECTOR_RAM, err);
    if (frame < 0) {
        return (int)frame;
    }
    machine->ram = memory_host(machine->memory, (frame_t)frame);
    if (machine->family == FAMILY_80286) {
        return memory_map(machine->memory, 0, VECTOR_RAM, (frame_t)frame, SLOT_RAM, err);
    }
    int status = memory_map(machine->memory, 0, WRAP, (frame_t)frame, SLOT_RAM, err);
    return status < 0 ? status
                      : memory_map(machine->memory, WRAP, WRAP_SIZE, (frame_t)frame,
                                   SLOT_RAM, err);
}

int vector_machine_init(struct vector_machine *machine, enum vector_family family,
                        struct error *err)
{
    const struct cpuid_config config = {.cpus = 1, .tsc_khz = 1000000};
    *machine = (struct vector_machine){.family = family};
    int status = map_memory(machine, err);
    if (status == 0) {
        status = cpuid_policy_init(&machine->cpuid, &config, err);
    }
    machine->expected = calloc(1, VECTOR_RAM);
    if (status == 0 && machine->expected) {
        machine->cpu =
            cpu_new(machine->memory, &machine->cpuid, NULL, &hooks, machine, err);
    }
    return machine->cpu ? 0 : status < 0 ? status : -ENOMEM;
}

void vector_machine_fini(struct vector_machine *machine)
{
    cpu_free(machine->cpu);
    memory_free(machine->memory);
    free(machine->expected);
}

/* ---- Before ---- */

static uint32_t place_of(const struct vector_machine *machine, uint32_t address)
{
    return machine->family == FAMILY_8086 ? address % WRAP : address % VECTOR_RAM;
}

static void put_memory(struct vector_machine *machine, const struct moo_state *state)
{
    for (uint32_t i = 0; i < state->ram_count; i++) {
        struct moo_byte byte = moo_ram(state, i);
        uint32_t place = place_of(machine, byte.address);
        ram_write(machine->memory, place, &byte.value, 1);
        machine->expected[place] = byte.value;
    }
}

static void put_registers(struct vector_machine *machine, const uint16_t *reg)
{
    static const enum moo_register gpr[] = {MOO_AX, MOO_CX, MOO_DX, MOO_BX,
                                            MOO_SP, MOO_BP, MOO_SI, MOO_DI};
    struct x86_state state;
    x86_state_reset(&state, true);
    for (unsigned i = 0; i < 8; i++) {
        state.gpr[i] = reg[gpr[i]];
    }
    state.seg[X86_ES] = x86_segment_real(reg[MOO_ES]);
    state.seg[X86_CS] = x86_segment_real(reg[MOO_CS]);
    state.seg[X86_SS] = x86_segment_real(reg[MOO_SS]);
    state.seg[X86_DS] = x86_segment_real(reg[MOO_DS]);
    state.rip = reg[MOO_IP];
    state.rflags = (reg[MOO_FLAGS] & FLAGS_TESTED) | X86_FLAG_1;
    cpu_sync_in(machine->cpu, &state);
}

/* ---- After ---- */

static void get_registers(const struct vector_machine *machine, uint16_t *reg)
{
    struct x86_state state;
    cpu_sync_out(machine->cpu, &state);
    reg[MOO_AX] = (uint16_t)state.gpr[X86_RAX];
    reg[MOO_BX] = (uint16_t)state.gpr[X86_RBX];
    reg[MOO_CX] = (uint16_t)state.gpr[X86_RCX];
    reg[MOO_DX] = (uint16_t)state.gpr[X86_RDX];
    reg[MOO_SP] = (uint16_t)state.gpr[X86_RSP];
    reg[MOO_BP] = (uint16_t)state.gpr[X86_RBP];
    reg[MOO_SI] = (uint16_t)state.gpr[X86_RSI];
    reg[MOO_DI] = (uint16_t)state.gpr[X86_RDI];
    reg[MOO_CS] = state.seg[X86_CS].selector;
    reg[MOO_SS] = state.seg[X86_SS].selector;
    reg[MOO_DS] = state.seg[X86_DS].selector;
    reg[MOO_ES] = state.seg[X86_ES].selector;
    reg[MOO_IP] = (uint16_t)state.rip;
    reg[MOO_FLAGS] = (uint16_t)state.rflags;
}

static bool compare_registers(const struct vector_machine *machine,
                              const struct moo_test *test, uint16_t undefined,
                              char *difference, unsigned size)
{
    uint16_t reg[MOO_REGISTER_COUNT];
    get_registers(machine, reg);
    for (unsigned i = 0; i < MOO_REGISTER_COUNT; i++) {
        bool has_changed = test->final.present >> i & 1;
        uint16_t expected = has_changed ? test->final.reg[i] : test->initial.reg[i];
        uint16_t mask = i == MOO_FLAGS ? FLAGS_TESTED & ~undefined : 0xffff;
        if ((reg[i] ^ expected) & mask) {
            snprintf(difference, size, "%s: captured %04x, ours %04x",
                     moo_register_name[i], expected & mask, reg[i] & mask);
            return false;
        }
    }
    return true;
}

/* Where flags were pushed, those that do not count take our value. */
static void excuse_flags(struct vector_machine *machine, uint32_t address,
                         uint16_t undefined)
{
    uint16_t excused = (uint16_t)~FLAGS_TESTED | undefined;
    for (unsigned i = 0; i < 2; i++) {
        uint32_t place = place_of(machine, address + i);
        uint8_t mask = (uint8_t)(excused >> i * 8);
        machine->expected[place] =
            (uint8_t)((machine->expected[place] & ~mask) | (machine->ram[place] & mask));
    }
}

/* The pages that matter: named by the vector, or touched, which the TLB tells, since it
 * was empty before and has room for all of them. */
static void mark_pages(struct vector_machine *machine, const struct moo_test *test)
{
    const struct moo_state *states[] = {&test->initial, &test->final};
    memset(machine->is_touched, 0, sizeof(machine->is_touched));
    for (unsigned s = 0; s < 2; s++) {
        for (uint32_t i = 0; i < states[s]->ram_count; i++) {
            uint32_t place = place_of(machine, moo_ram(states[s], i).address);
            machine->is_touched[place / FRAME_SIZE] = true;
        }
    }
    for (unsigned i = 0; i < TLB_SIZE; i++) {
        const struct tlb_entry *entry = &machine->cpu->tlb[i];
        if (entry->read >> FRAME_SHIFT == i) {
            machine->is_touched[place_of(machine, (uint32_t)entry->read) / FRAME_SIZE] =
                true;
        }
    }
}

static bool compare_memory(const struct vector_machine *machine, char *difference,
                           unsigned size)
{
    for (uint32_t page = 0; page < VECTOR_PAGES; page++) {
        const uint8_t *ours = machine->ram + page * FRAME_SIZE;
        const uint8_t *expected = machine->expected + page * FRAME_SIZE;
        if (!machine->is_touched[page] || !memcmp(ours, expected, FRAME_SIZE)) {
            continue;
        }
        uint32_t i = 0;
        while (ours[i] == expected[i]) {
            i++;
        }
        snprintf(difference, size, "memory at %05x: captured %02x, ours %02x",
                 (unsigned)(page * FRAME_SIZE + i), expected[i], ours[i]);
        return false;
    }
    return true;
}

/* All zeros again; what was decoded from there is dropped. */
static void clear_memory(struct vector_machine *machine)
{
    static const uint8_t zeros[FRAME_SIZE];
    for (uint32_t page = 0; page < VECTOR_PAGES; page++) {
        if (machine->is_touched[page]) {
            ram_write(machine->memory, page * FRAME_SIZE, zeros, FRAME_SIZE);
            memset(machine->expected + page * FRAME_SIZE, 0, FRAME_SIZE);
        }
    }
}

/* A repeated instruction is executed in parts: on until one has retired it. */
static void execute(struct vector_machine *machine)
{
    struct cpu *cpu = machine->cpu;
    for (unsigned i = 0; i < STEPS_MAX; i++) {
        cpu_step(cpu);
        if (!cpu_resumes(cpu)) {
            break;
        }
    }
    /* Then the HLT that ends the test, wherever the instruction went. */
    if (machine->family == FAMILY_80286 && cpu->state.activity == X86_RUNNING) {
        cpu->rip = (uint16_t)(cpu->rip + 1);
    }
}

/* PUSHF and interrupts leave their flags at the new top of the stack, or above the
 * return address. */
static void excuse_pushed_flags(struct vector_machine *machine,
                                const struct moo_test *test, uint16_t undefined)
{
    uint32_t ss = machine->cpu->state.seg[X86_SS].selector;
    uint16_t sp = (uint16_t)machine->cpu->reg[X86_RSP];
    uint16_t pushed = (uint16_t)(test->initial.reg[MOO_SP] - sp);
    if (pushed == 2 || pushed == 6) {
        excuse_flags(machine, (ss << 4) + (uint16_t)(sp + pushed - 2), undefined);
    }
}

bool vector_run(struct vector_machine *machine, const struct moo_test *test,
                uint16_t undefined, bool pushes_flags, char *difference, unsigned size)
{
    put_memory(machine, &test->initial);
    put_registers(machine, test->initial.reg);
    execute(machine);
    for (uint32_t i = 0; i < test->final.ram_count; i++) {
        struct moo_byte byte = moo_ram(&test->final, i);
        machine->expected[place_of(machine, byte.address)] = byte.value;
    }
    if (pushes_flags || test->has_exception) {
        excuse_pushed_flags(machine, test, undefined);
    }
    mark_pages(machine, test);
    bool is_same = compare_registers(machine, test, undefined, difference, size) &&
                   compare_memory(machine, difference, size);
    clear_memory(machine);
    return is_same;
}
