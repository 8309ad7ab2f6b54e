#include "guest.h"

#include <cpuid.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "interpreter/cpu.h"
#include "interpreter/run.h"
#include "x86/segment.h"

/* Physical memory. */
#define RAM      0x40000u
#define PML4     0x1000u
#define LOW_PDPT 0x2000u
#define LOW_PD   0x3000u
#define CODE_PT  0x4000u
#define DATA_PT  0x5000u
#define STACK_PT 0x6000u
#define TOP_PDPT 0x7000u
#define TOP_PD   0x8000u
#define TOP_PT   0x9000u
#define CODE     0x10000u
#define MEMORY   0x20000u /* data pages, then the stack */

/* The kernel: physical pages again, from here on, for ring 0 only. */
#define KERNEL          0xffffffff80000000u
#define GDT             0x30000u
#define IDT             0x31000u
#define TSS             0x32000u
#define HANDLERS        0x33000u /* 16 bytes a vector */
#define KERNEL_STACK    0x35000u /* its top */

#define SELECTOR_KERNEL 0x08u
#define SELECTOR_CODE32 0x23u
#define SELECTOR_DATA   0x2bu
#define SELECTOR_CODE64 0x33u
#define SELECTOR_TSS    0x40u

#define OP_HLT          0xf4
#define STEPS_MAX       20000u /* rounds of the run loop */
#define TICKS_MAX       3      /* of the watchdog */

struct guest {
    struct memory *memory;
    struct cpuid_policy policy;
    struct cpu *cpu;
    uint8_t *ram;
    struct x86_state state; /* what every case starts from */
};

/* The watchdog: every second it makes the interpreter return. */
static struct cpu *watched;
static volatile sig_atomic_t ticks;

static void on_alarm(int number)
{
    ticks++;
    cpu_set_attention(watched);
}

static void watch(struct cpu *cpu)
{
    const struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    const struct itimerval second = {{1, 0}, {1, 0}};

    watched = cpu;
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &second, NULL);
}

static void put(struct guest *guest, uint64_t at, uint64_t value)
{
    memcpy(guest->ram + at, &value, 8);
}

static uint64_t get(const struct guest *guest, uint64_t at)
{
    uint64_t value;

    memcpy(&value, guest->ram + at, 8);
    return value;
}

static void map(struct guest *guest, uint64_t table, uint64_t address, unsigned shift,
                uint64_t to, uint64_t flags)
{
    put(guest, table + (address >> shift & 511) * 8,
        to | flags | X86_PTE_P | X86_PTE_A | X86_PTE_D);
}

static void make_pages(struct guest *guest)
{
    const uint64_t all = X86_PTE_W | X86_PTE_U;
    static const struct {
        uint64_t address, table;
    } regions[] = {{ISA_CODE, CODE_PT}, {ISA_DATA, DATA_PT}, {ISA_STACK, STACK_PT}};

    map(guest, PML4, 0, 39, LOW_PDPT, all);
    map(guest, LOW_PDPT, 0, 30, LOW_PD, all);
    for (unsigned i = 0; i < 3; i++) {
        map(guest, LOW_PD, regions[i].address, 21, regions[i].table, all);
    }
    for (unsigned i = 0; i < ISA_CODE_PAGES; i++) {
        map(guest, CODE_PT, ISA_CODE + i * ISA_PAGE, 12, CODE + i * ISA_PAGE, X86_PTE_U);
    }
    for (unsigned i = 0; i < ISA_DATA_PAGES; i++) {
        map(guest, DATA_PT, ISA_DATA + i * ISA_PAGE, 12, MEMORY + i * ISA_PAGE,
            X86_PTE_NX | X86_PTE_U | (i + 1 < ISA_DATA_PAGES ? X86_PTE_W : 0));
    }
    map(guest, STACK_PT, ISA_STACK, 12, MEMORY + ISA_DATA_PAGES * ISA_PAGE,
        X86_PTE_NX | all);
    map(guest, PML4, KERNEL, 39, TOP_PDPT, X86_PTE_W);
    map(guest, TOP_PDPT, KERNEL, 30, TOP_PD, X86_PTE_W);
    map(guest, TOP_PD, KERNEL, 21, TOP_PT, X86_PTE_W);
    for (uint64_t page = 0; page < RAM; page += ISA_PAGE) {
        map(guest, TOP_PT, KERNEL + page, 12, page, X86_PTE_W);
    }
}

static void make_gate(struct guest *guest, unsigned vector)
{
    uint64_t target = KERNEL + HANDLERS + vector * 16;
    bool is_for_all = vector == X86_BP || vector == X86_OF; /* as Linux has it */

    guest->ram[HANDLERS + vector * 16] = OP_HLT;
    put(guest, IDT + vector * 16,
        (target & 0xffff) | SELECTOR_KERNEL << 16 |
            (is_for_all ? 0xeeull : 0x8eull) << 40 | (target >> 16 & 0xffff) << 48);
    put(guest, IDT + vector * 16 + 8, target >> 32);
}

static void make_tables(struct guest *guest)
{
    static const struct {
        unsigned selector;
        uint64_t descriptor;
    } segments[] = {
        {SELECTOR_KERNEL, 0x00af9b000000ffff},
        {SELECTOR_CODE32, 0x00cffb000000ffff},
        {SELECTOR_DATA, 0x00cff3000000ffff},
        {SELECTOR_CODE64, 0x00affb000000ffff},
    };

    for (unsigned i = 0; i < 4; i++) {
        put(guest, GDT + (segments[i].selector & ~7u), segments[i].descriptor);
    }
    put(guest, TSS + 4, KERNEL + KERNEL_STACK);
    put(guest, TSS + 96, 0x68ull << 48); /* no I/O permission bitmap */
    for (unsigned vector = 0; vector < 256; vector++) {
        make_gate(guest, vector);
    }
}

static void make_state(struct guest *guest)
{
    struct x86_state *state = &guest->state;

    x86_state_reset(state, true);
    state->cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_WP | X86_CR0_NE | X86_CR0_ET |
                 X86_CR0_MP | X86_CR0_AM;
    state->cr3 = PML4;
    state->cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE |
                 X86_CR4_FSGSBASE | X86_CR4_UMIP;
    state->efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE | X86_EFER_SCE;
    state->xcr0 = X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX;
    state->gdtr = (struct x86_table){KERNEL + GDT, 0x7f};
    state->idtr = (struct x86_table){KERNEL + IDT, 0xfff};
    x86_segment_unpack(&state->tr, SELECTOR_TSS,
                       0x00008b0000000067 | (uint64_t)TSS << 16 |
                           (KERNEL & 0xff000000) << 32,
                       KERNEL >> 32);
    for (unsigned i = 0; i < X86_SEGMENT_COUNT; i++) {
        state->seg[i] = x86_segment_flat_data(SELECTOR_DATA, 3);
    }
    state->seg[X86_FS].selector = state->seg[X86_GS].selector =
        0; /* as in a Linux program */
    state->seg[X86_FS].base = ISA_FS_BASE;
    state->seg[X86_GS].base = ISA_GS_BASE;
}

static void hook_mmio(struct cpu *cpu, gpa_t gpa, unsigned size, bool is_write,
                      uint8_t *data)
{
    if (!is_write) {
        memset(data, 0xff, size);
    }
}

static bool hook_false(struct cpu *cpu)
{
    return false;
}

static void hook_count(struct cpu *cpu, enum exit_reason reason)
{
}

static void hook_exclusive(struct cpu *cpu)
{
}

/* Ring 3 code needs no more of them. */
static const struct cpu_hooks hooks = {
    .mmio = hook_mmio,
    .hypercall = hook_false,
    .count = hook_count,
    .exclusive_begin = hook_exclusive,
    .exclusive_end = hook_exclusive,
};

/* What CPU models leave out, but the host's MXCSR_MASK shows. */
static void offer_host_only(struct cpuid_policy *policy)
{
    unsigned eax, ebx, ecx, edx;

    if (__get_cpuid(0x80000001, &eax, &ebx, &ecx, &edx) && ecx >> 7 & 1) {
        policy->features[CPU_MISALIGNSSE / 64] |= 1ull << CPU_MISALIGNSSE % 64;
    }
}

struct guest *guest_new(void)
{
    struct guest *guest = calloc(1, sizeof(*guest));
    struct error err = {0};
    const struct cpuid_config config = {.cpus = 1};

    if (!guest || cpuid_policy_init(&guest->policy, &config, &err) < 0) {
        fprintf(stderr, "isa: no processor: %s\n", err.message);
        free(guest);
        return NULL;
    }
    offer_host_only(&guest->policy);
    guest->memory = memory_new(RAM, &err);
    if (!guest->memory || memory_add_frames(guest->memory, RAM, &err) < 0 ||
        memory_map(guest->memory, 0, RAM, 0, SLOT_RAM, &err) < 0) {
        fprintf(stderr, "isa: no memory: %s\n", err.message);
        guest_free(guest);
        return NULL;
    }
    guest->ram = memory_host(guest->memory, 0);
    guest->cpu = cpu_new(guest->memory, &guest->policy, NULL, &hooks, guest, &err);
    if (!guest->cpu) {
        fprintf(stderr, "isa: no interpreter: %s\n", err.message);
        guest_free(guest);
        return NULL;
    }
    make_pages(guest);
    make_tables(guest);
    make_state(guest);
    memset(guest->ram + CODE, ISA_OP_INT3, ISA_CODE_PAGES * ISA_PAGE);
    watch(guest->cpu);
    return guest;
}

void guest_free(struct guest *guest)
{
    if (guest) {
        setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
        cpu_free(guest->cpu);
        memory_free(guest->memory);
        free(guest);
    }
}

const struct cpuid_policy *guest_policy(const struct guest *guest)
{
    return &guest->policy;
}

const uint8_t *guest_memory(const struct guest *guest)
{
    return guest->ram + MEMORY;
}

static void load(struct guest *guest, const struct isa_case *test)
{
    struct x86_state *state = &guest->state;
    struct isa_vector vector;
    bool is_wide = test->bits == 64;

    isa_vector_fill(&vector, test);
    memcpy(state->gpr, test->gpr, sizeof(state->gpr));
    state->rip = ISA_CODE + test->code_offset;
    state->rflags = test->flags | X86_FLAG_1 | X86_FLAG_IF;
    state->seg[X86_CS] =
        x86_segment_flat_code(is_wide ? SELECTOR_CODE64 : SELECTOR_CODE32, is_wide, 3);
    state->fpu = (struct x86_fpu){.fcw = vector.fx.fcw,
                                  .fsw = vector.fx.fsw,
                                  .ftw = vector.fx.ftw,
                                  .mxcsr = vector.fx.mxcsr};
    memcpy(state->fpu.st, vector.fx.st, sizeof(vector.fx.st));
    for (unsigned i = 0; i < 16; i++) {
        memcpy(&state->vec[i].u8[0], vector.fx.xmm[i], 16);
        memcpy(&state->vec[i].u8[16], vector.ymm_high[i], 16);
    }
    cpu_sync_in(guest->cpu, state);
}

/* Until the processor halts in a handler. */
static bool run(struct guest *guest, bool is_stepped)
{
    struct cpu *cpu = guest->cpu;

    sig_atomic_t first = ticks;

    for (unsigned i = 0;
         i < STEPS_MAX && ticks - first < TICKS_MAX && cpu->state.activity == X86_RUNNING;
         i++) {
        if (is_stepped) {
            cpu_step(cpu);
        } else {
            atomic_store(&cpu->attention, 0);
            cpu_run(cpu);
        }
    }
    return cpu->state.activity == X86_HALTED;
}

/* What the handler finds on its stack and in the registers. */
static void save(struct guest *guest, struct isa_result *result)
{
    const struct cpu *cpu = guest->cpu;
    const struct x86_state *state = &cpu->state;
    uint64_t frame = cpu->reg[X86_RSP] - KERNEL;

    result->vector = (uint32_t)(cpu->rip - 1 - HANDLERS - KERNEL) / 16;
    result->error = 0;
    if (x86_exception_has_error((uint8_t)result->vector)) {
        result->error = (uint32_t)get(guest, frame);
        frame += 8;
    }
    memcpy(result->gpr, cpu->reg, sizeof(result->gpr));
    result->rip = get(guest, frame);
    result->flags = get(guest, frame + 16);
    result->gpr[X86_RSP] = get(guest, frame + 24);
    result->address = state->cr2;
    memset(&result->state, 0, sizeof(result->state));
    result->state.fx.fcw = state->fpu.fcw;
    result->state.fx.fsw = state->fpu.fsw;
    result->state.fx.ftw = state->fpu.ftw;
    result->state.fx.fop = state->fpu.fop;
    result->state.fx.fip = state->fpu.fip;
    result->state.fx.fdp = state->fpu.fdp;
    result->state.fx.mxcsr = state->fpu.mxcsr;
    memcpy(result->state.fx.st, state->fpu.st, sizeof(state->fpu.st));
    for (unsigned i = 0; i < 16; i++) {
        memcpy(result->state.fx.xmm[i], &state->vec[i].u8[0], 16);
        memcpy(result->state.ymm_high[i], &state->vec[i].u8[16], 16);
    }
    result->memory = 0;
    for (unsigned i = 0; i < ISA_MEMORY_PAGES; i++) {
        result->memory = isa_hash(result->memory, guest->ram + MEMORY + i * ISA_PAGE);
    }
}

void guest_run(struct guest *guest, const struct isa_case *test,
               struct isa_result *result)
{
    uint8_t rest[ISA_CODE_MAX];
    gpa_t code = CODE + test->code_offset;

    memcpy(guest->ram + MEMORY, isa_images[test->image], ISA_MEMORY_SIZE);
    ram_write(guest->memory, code, test->code, test->code_length);
    load(guest, test);
    if (run(guest, test->is_stepped)) {
        result->end = ISA_EXCEPTION;
        save(guest, result);
    } else {
        result->end = ISA_HUNG;
    }
    memset(rest, ISA_OP_INT3, test->code_length);
    ram_write(guest->memory, code, rest, test->code_length);
}
