#include "processor.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define RAM_BYTES (16u << 20)
#define PML4      0x1000u
#define PDPT      0x2000u
#define DIRECTORY 0x3000u
#define TABLE     0x4000u /* maps the 2 MiB of the data page */
#define IDT       0x5000u
#define GDT       0x6000u
#define HANDLERS  0x100000u
#define STACK     0x80000u

uint8_t *processor_memory(struct processor *processor, uint64_t address)
{
    return memory_host(processor->memory, 0) + address;
}

static void put64(struct processor *processor, uint64_t address, uint64_t value)
{
    memcpy(processor_memory(processor, address), &value, 8);
}

static void make_tables(struct processor *processor)
{
    const uint64_t flags = X86_PTE_P | X86_PTE_W | X86_PTE_A | X86_PTE_D;
    put64(processor, PML4, PDPT | flags);
    put64(processor, PDPT, DIRECTORY | flags);
    for (unsigned i = 0; i < RAM_BYTES >> 21; i++) {
        put64(processor, DIRECTORY + i * 8, (uint64_t)i << 21 | flags | X86_PTE_PS);
    }
    put64(processor, DIRECTORY + (DATA_PAGE >> 21) * 8, TABLE | flags);
    put64(processor, TABLE, DATA_PAGE | flags);
    for (unsigned vector = 0; vector < 32; vector++) {
        uint64_t target = HANDLERS + vector * 16;
        put64(processor, IDT + vector * 16,
              (target & 0xffff) | 0x08ull << 16 | 0x8e00ull << 32 |
                  (target >> 16 & 0xffff) << 48);
    }
    put64(processor, GDT + 8, 0x00209b0000000000ull);
    put64(processor, GDT + 16, 0x00cf93000000ffffull);
}

static void make_state(struct processor *processor)
{
    struct x86_state state;
    x86_state_reset(&state, true);
    state.cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_NE | X86_CR0_ET | X86_CR0_WP;
    state.cr3 = PML4;
    state.cr4 =
        X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE | X86_CR4_PGE;
    state.efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE;
    state.xcr0 = processor->policy.xcr0_valid | X86_XCR0_X87;
    state.idtr = (struct x86_table){IDT, 32 * 16 - 1};
    state.gdtr = (struct x86_table){GDT, 23};
    state.seg[X86_CS] = (struct x86_segment){0x08, 0xa09b, UINT32_MAX, 0};
    for (unsigned i = 0; i < X86_SEGMENT_COUNT; i++) {
        if (i != X86_CS) {
            state.seg[i] = (struct x86_segment){0x10, 0xc093, UINT32_MAX, 0};
        }
    }
    state.gpr[X86_RSP] = STACK;
    state.rflags = X86_FLAG_1;
    state.activity = X86_RUNNING;
    cpu_sync_in(processor->cpu, &state);
}

static void ignore_count(struct cpu *cpu, unsigned reason)
{
}

void processor_init(struct processor *processor)
{
    struct error err = {0};
    static const struct cpu_hooks hooks = {.count = ignore_count};
    static struct lapic lapic;
    struct cpuid_config config = {.cpus = 1};
    memset(processor, 0, sizeof(*processor));
    int failed = cpuid_policy_init(&processor->policy, &config, &err);
    assert(failed == 0);
    processor->memory = memory_new(RAM_BYTES, &err);
    assert(processor->memory != NULL);
    int64_t first = memory_add_frames(processor->memory, RAM_BYTES, &err);
    assert(first == 0);
    failed = memory_map(processor->memory, 0, RAM_BYTES, 0, SLOT_RAM, &err);
    assert(failed == 0);
    processor->cpu =
        cpu_new(processor->memory, &processor->policy, &lapic, &hooks, NULL, &err);
    assert(processor->cpu != NULL);
    ZydisDecoderInit(&processor->decoder, ZYDIS_MACHINE_MODE_LONG_64,
                     ZYDIS_STACK_WIDTH_64);
    make_tables(processor);
    make_state(processor);
}

void processor_fini(struct processor *processor)
{
    cpu_free(processor->cpu);
    memory_free(processor->memory);
}

static bool has_ended;

static const struct insn *end(struct cpu *cpu, const struct insn *insn)
{
    has_ended = true;
    return NULL;
}

bool processor_decode(struct processor *processor, struct prepared *prepared,
                      const uint8_t *bytes, unsigned size)
{
    return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&processor->decoder, bytes, size,
                                               &prepared->decoded, prepared->operand));
}

bool processor_bind(struct processor *processor, struct prepared *prepared,
                    const uint8_t *bytes)
{
    struct insn blank = {.length = prepared->decoded.length,
                         .base = REG_OFFSET(REG_ZERO),
                         .index = REG_OFFSET(REG_ZERO)};
    struct binding binding = {processor->cpu, &prepared->decoded, prepared->operand,
                              bytes, processor->cpu->blocks};
    for (unsigned i = 0;
         (prepared->row = insn_find_row(prepared->decoded.mnemonic, i)) != NULL; i++) {
        prepared->insn[0] = blank;
        if (prepared->row->bind(&binding, prepared->row, &prepared->insn[0])) {
            prepared->insn[1] = (struct insn){.exec = end};
            return true;
        }
    }
    return false;
}

enum outcome processor_execute(struct processor *processor, struct prepared *prepared)
{
    struct cpu *cpu = processor->cpu;
    const struct insn *insn = prepared->insn;
    has_ended = false;
    cpu->has_fault = false;
    cpu->reg[REG_CODE_BASE] = 0x10000;
    cpu->reg[X86_RSP] = STACK;
    while (insn != NULL) {
        insn = insn->exec(cpu, insn);
    }
    if (has_ended) {
        return RAN;
    }
    switch (processor_vector(processor)) {
    case X86_PF:
    case X86_GP:
    case X86_SS_FAULT:
        return FAULTED_MEMORY;
    case X86_XM:
        return FAULTED_SIMD;
    case X86_UD:
        return FAULTED_OPCODE;
    default:
        return FAULTED_OTHER;
    }
}

unsigned processor_vector(const struct processor *processor)
{
    return (unsigned)(processor->cpu->rip - HANDLERS) / 16;
}
