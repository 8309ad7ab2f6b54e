#include "fixture.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "interpreter/run.h"

#define STEPS_MAX 100000
#define OP_HLT    0xf4

static struct fixture *of(struct cpu *cpu)
{
    return cpu->opaque;
}

static void hook_io(struct cpu *cpu, uint16_t port, unsigned size, bool is_write,
                    uint32_t count, uint8_t *data)
{
    struct fixture *fixture = of(cpu);
    fixture->port = port;
    fixture->port_count = count;
    fixture->port_is_write = is_write;
    for (unsigned i = 0; i < size * count; i++) {
        if (is_write) {
            fixture->port_data[i] = data[i];
        } else {
            data[i] = fixture->port_is_steady ? (uint8_t)port : (uint8_t)(i + 1);
        }
    }
}

static void hook_mmio(struct cpu *cpu, gpa_t gpa, unsigned size, bool is_write,
                      uint8_t *data)
{
    uint8_t *device = of(cpu)->device;
    bool is_device = gpa >= FIXTURE_DEVICE && gpa + size <= FIXTURE_DEVICE + 4096;
    if (is_device && is_write) {
        memcpy(device + (gpa - FIXTURE_DEVICE), data, size);
    } else if (!is_write && is_device) {
        memcpy(data, device + (gpa - FIXTURE_DEVICE), size);
    } else if (!is_write) {
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

void fixture_write(struct fixture *fixture, uint64_t gpa, unsigned size, uint64_t value)
{
    memcpy(fixture->ram + gpa, &value, size);
}

uint64_t fixture_read(const struct fixture *fixture, uint64_t gpa, unsigned size)
{
    uint64_t value = 0;
    memcpy(&value, fixture->ram + gpa, size);
    return value;
}

uint64_t fixture_frame(const struct fixture *fixture, unsigned n)
{
    return fixture_read(fixture, fixture->cpu->reg[X86_RSP] + n * 8, 8);
}

void fixture_map(struct fixture *fixture, uint64_t gva, uint64_t flags)
{
    uint64_t page = gva & ~0xfffull;
    fixture_write(fixture, FIXTURE_PAGES + (page >> 12) * 8, 8, flags ? page | flags : 0);
    cpu_flush_all(fixture->cpu);
}

void fixture_gate(struct fixture *fixture, uint8_t vector, uint64_t offset, unsigned type,
                  unsigned dpl, unsigned ist)
{
    uint64_t at = FIXTURE_IDT + vector * 16u;
    uint64_t access = 0x80 | dpl << 5 | type;
    fixture_write(fixture, at, 8,
                  (offset & 0xffff) | (uint64_t)SEL_CODE64 << 16 | (uint64_t)ist << 32 |
                      access << 40 | (offset >> 16 & 0xffff) << 48);
    fixture_write(fixture, at + 8, 8, offset >> 32);
}

static void make_tables(struct fixture *fixture)
{
    static const uint64_t gdt[] = {
        0,
        0x00af9b000000ffff, /* ring 0 code, 64-bit */
        0x00cf93000000ffff, /* ring 0 data */
        0x00cffb000000ffff, /* ring 3 code, 32-bit */
        0x00cff3000000ffff, /* ring 3 data */
        0x00affb000000ffff, /* ring 3 code, 64-bit */
        0x0000890070000067, /* TSS at 0x7000, 104 bytes */
        0,
        0x00cf9b000000ffff, /* ring 0 code, 32-bit */
        0x00cf13000000ffff, /* data, not present */
        0x00af9f000000ffff, /* conforming code, 64-bit */
    };
    memcpy(fixture->ram + FIXTURE_GDT, gdt, sizeof(gdt));
    fixture_write(fixture, 0x1000, 8, 0x2007);
    fixture_write(fixture, 0x2000, 8, 0x3007);
    fixture_write(fixture, 0x3000, 8, FIXTURE_PAGES | 7);
    for (unsigned page = 0; page < 512; page++) {
        fixture_write(fixture, FIXTURE_PAGES + page * 8, 8, page << 12 | 7);
    }
    fixture_write(fixture, FIXTURE_TSS + 4, 8, FIXTURE_RSP0);
    fixture_write(fixture, FIXTURE_TSS + 36, 8, FIXTURE_IST1);
    for (unsigned vector = 0; vector < 256; vector++) {
        fixture->ram[FIXTURE_HANDLERS + vector * 16] = OP_HLT;
        fixture_gate(fixture, (uint8_t)vector, FIXTURE_HANDLERS + vector * 16,
                     X86_TYPE_INTERRUPT_GATE, 0, 0);
    }
}

static struct fixture *fixture_new(const char *model)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    struct error err;
    const struct cpuid_config config = {.model = model, .cpus = 1, .tsc_khz = 1000000};
    fixture->memory = memory_new(FIXTURE_RAM, &err);
    assert(fixture->memory);
    int64_t frame = memory_add_frames(fixture->memory, FIXTURE_RAM, &err);
    assert(frame >= 0);
    int status =
        memory_map(fixture->memory, 0, FIXTURE_RAM, (frame_t)frame, SLOT_RAM, &err);
    assert(status == 0);
    fixture->ram = memory_host(fixture->memory, (frame_t)frame);
    status = cpuid_policy_init(&fixture->cpuid, &config, &err);
    assert(status == 0);
    fixture->cpu = cpu_new(fixture->memory, &fixture->cpuid, NULL, &hooks, fixture, &err);
    assert(fixture->cpu);
    return fixture;
}

static void start(struct fixture *fixture, const struct x86_state *state)
{
    cpu_sync_in(fixture->cpu, state);
}

struct fixture *fixture_long_model(const char *model)
{
    struct fixture *fixture = fixture_new(model);
    make_tables(fixture);
    struct x86_state state;
    x86_state_reset(&state, true);
    state.cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_WP | X86_CR0_ET | X86_CR0_NE;
    state.cr3 = 0x1000;
    state.cr4 = X86_CR4_PAE;
    state.efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_SCE;
    state.gdtr = (struct x86_table){FIXTURE_GDT, 11 * 8 - 1};
    state.idtr = (struct x86_table){FIXTURE_IDT, 0xfff};
    state.seg[X86_CS] = x86_segment_flat_code(SEL_CODE64, true, 0);
    static const enum x86_segment_register data[] = {X86_SS, X86_DS, X86_ES, X86_FS,
                                                     X86_GS};
    for (unsigned i = 0; i < 5; i++) {
        state.seg[data[i]] = x86_segment_flat_data(SEL_DATA, 0);
    }
    x86_segment_unpack(&state.tr, SEL_TSS, 0x00008b0070000067, 0);
    state.rip = FIXTURE_CODE;
    state.rflags = X86_FLAG_1;
    state.gpr[X86_RSP] = FIXTURE_STACK;
    start(fixture, &state);
    return fixture;
}

struct fixture *fixture_long(void)
{
    return fixture_long_model(NULL);
}

struct fixture *fixture_protected(void)
{
    struct fixture *fixture = fixture_long();
    struct x86_state state;
    cpu_sync_out(fixture->cpu, &state);
    state.cr0 &= ~(uint64_t)X86_CR0_PG;
    state.cr4 = 0;
    state.efer = 0;
    state.seg[X86_CS] = x86_segment_flat_code(SEL_CODE32, false, 0);
    for (unsigned vector = 0; vector < 256; vector++) {
        uint64_t offset = FIXTURE_HANDLERS + vector * 16;
        fixture_write(fixture, FIXTURE_IDT + vector * 8, 8,
                      offset | (uint64_t)SEL_CODE32 << 16 | 0x8eull << 40);
    }
    fixture_write(fixture, FIXTURE_TSS + 4, 4, FIXTURE_RSP0);
    fixture_write(fixture, FIXTURE_TSS + 8, 4, SEL_DATA);
    start(fixture, &state);
    return fixture;
}

struct fixture *fixture_real(void)
{
    struct fixture *fixture = fixture_new(NULL);
    struct x86_state state;
    for (unsigned vector = 0; vector < 256; vector++) {
        fixture->ram[FIXTURE_HANDLERS + vector * 16] = OP_HLT;
        fixture_write(fixture, vector * 4, 4, FIXTURE_HANDLERS + vector * 16);
    }
    x86_state_reset(&state, true);
    state.seg[X86_CS] = x86_segment_real(FIXTURE_CODE >> 4);
    state.seg[X86_CS].access = 0x9b;
    state.seg[X86_SS] = x86_segment_real(0x3000);
    state.rip = 0;
    state.gpr[X86_RSP] = 0xfff0;
    start(fixture, &state);
    return fixture;
}

void fixture_free(struct fixture *fixture)
{
    cpu_free(fixture->cpu);
    memory_free(fixture->memory);
    free(fixture);
}

void fixture_go(struct fixture *fixture)
{
    struct cpu *cpu = fixture->cpu;
    for (unsigned i = 0; cpu->state.activity == X86_RUNNING; i++) {
        assert(i < STEPS_MAX);
        /* Nothing from outside asks for attention here. */
        atomic_store(&cpu->attention, 0);
        cpu_run(cpu);
    }
}

void fixture_run(struct fixture *fixture, const void *code, size_t size)
{
    bool copied = ram_write(fixture->memory, FIXTURE_CODE, code, size);
    assert(copied);
    fixture_go(fixture);
}

int fixture_vector(const struct fixture *fixture)
{
    uint64_t offset = fixture->cpu->rip - 1 - FIXTURE_HANDLERS;
    return offset % 16 == 0 && offset < 256 * 16 ? (int)(offset / 16) : -1;
}
