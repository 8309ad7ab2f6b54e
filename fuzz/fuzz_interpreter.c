/*
 * Arbitrary code on the interpreter, in every mode and ring, under damaged page and
 * descriptor tables, with ports, device memory and MSRs that answer anything. Whatever
 * the guest does, its instructions end, the processor stays in a state that exists, and
 * no frame that it has not been given changes.
 */

#include <assert.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include "base/log.h"
#include "input.h"
#include "interpreter/event.h"
#include "interpreter/run.h"
#include "x86/msr.h"
#include "x86/paging.h"
#include "x86/segment.h"

/* Frames: what the guest has is between two runs of frames that it has not. */
#define GUARD_FRAMES 4u
#define GUARD_BYTE   0xa5
#define RAM          0x28000u
#define ROM          0xfe000u

/* Tables of all kinds of paging lead to the same pages: RAM at 0, at the top of 4 GiB, of
 * the address space, and behind it some pages that are not RAM. */
#define PML4        0x1000u
#define PDPT        0x2000u
#define DIRECTORY   0x3000u
#define TABLE       0x4000u
#define PAE_PDPT    0x5000u
#define DIRECTORY32 0x6000u
#define TABLE32     0x7000u
#define TABLE_PAGES 64u

#define GDT         0x8000u
#define LDT         0x8800u
#define TSS         0x9000u
#define IDT         0xa000u
#define HANDLERS    0xb000u
#define CODE        0xc000u
#define DATA        0x10000u
#define STACK       0x20000u /* their tops: one for each ring */

#define GDT_ENTRIES 32u
#define ROUNDS      96u
#define CODE_MAX    512u

/* Free runs are ended by a clock: so little code loops if it takes half a millisecond. */
#define TICK_NS      250000
#define TICKS_OF_RUN 2u
#define TICKS_MAX    20000u /* of one round: then it hangs */

enum mode { REAL, PROTECTED16, PROTECTED32, COMPAT16, COMPAT32, LONG, VM86, MODES };

static struct memory *memory;
static struct cpuid_policy policy;
static struct cpu *cpu;
static uint8_t *ram;
static uint8_t image[RAM]; /* tables that are in order */
static struct input answers;
static const uint8_t *answers_start;
static size_t answers_size;
static uint64_t clock_ns;
static volatile sig_atomic_t ticks;
static volatile bool is_free; /* a tick ends the round */

/* ---- What the guest asks for ---- */

/* The input again and again, never the same twice. */
static uint64_t answer(void)
{
    if (answers.size < 8) {
        answers = (struct input){answers_start, answers_size};
    }
    clock_ns += 97;
    return input_u64(&answers) ^ clock_ns * 0x9e3779b97f4a7c15ull;
}

static void answer_bytes(uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        data[i] = (uint8_t)answer();
    }
}

static void hook_io(struct cpu *asking, uint16_t port, unsigned size, bool is_write,
                    uint32_t count, uint8_t *data)
{
    assert(size == 1 || size == 2 || size == 4);
    assert(count > 0);
    if (!is_write) {
        answer_bytes(data, (size_t)size * count);
    }
    if (port & 1) {
        cpu_set_attention(asking);
    }
}

static void hook_mmio(struct cpu *asking, gpa_t gpa, unsigned size, bool is_write,
                      uint8_t *data)
{
    bool is_writable;

    assert(size >= 1 && size <= 64);
    assert(gpa % FRAME_SIZE + size <= FRAME_SIZE);
    assert(memory_frame(memory, gpa, &is_writable) == FRAME_NONE ||
           (is_write && !is_writable));
    if (!is_write) {
        answer_bytes(data, size);
    }
}

static bool hook_msr_read(struct cpu *asking, uint32_t index, uint64_t *value)
{
    enum msr_result result = msr_read(&policy, &asking->state, clock_ns, index, value);

    *value = result == MSR_UNKNOWN ? answer() : *value;
    return result == MSR_OK || (result == MSR_UNKNOWN && *value & 1);
}

static bool hook_msr_write(struct cpu *asking, uint32_t index, uint64_t value)
{
    unsigned effects = 0;
    enum msr_result result =
        msr_write(&policy, &asking->state, clock_ns, index, value, &effects);

    if (effects & MSR_EFFECT_PAGING) {
        cpu_flush_all(asking);
        cpu_update_mode(asking);
    }
    return result == MSR_OK || (result == MSR_UNKNOWN && answer() & 1);
}

static uint64_t hook_get_cr8(struct cpu *asking)
{
    return answer() & 15;
}

static void hook_set_cr8(struct cpu *asking, uint64_t value)
{
    assert(value < 16);
    cpu_set_attention(asking);
}

static uint64_t hook_tsc(struct cpu *asking)
{
    return answer();
}

static uint64_t hook_now(struct cpu *asking)
{
    return clock_ns;
}

static bool hook_hypercall(struct cpu *asking)
{
    return answer() & 1;
}

static void hook_count(struct cpu *asking, enum exit_reason reason)
{
    assert(reason < EXIT_REASON_COUNT);
}

static void hook_exclusive(struct cpu *asking)
{
}

static const struct cpu_hooks hooks = {
    .io = hook_io,
    .mmio = hook_mmio,
    .msr_read = hook_msr_read,
    .msr_write = hook_msr_write,
    .get_cr8 = hook_get_cr8,
    .set_cr8 = hook_set_cr8,
    .tsc = hook_tsc,
    .now = hook_now,
    .hypercall = hook_hypercall,
    .count = hook_count,
    .exclusive_begin = hook_exclusive,
    .exclusive_end = hook_exclusive,
};

/* ---- The machine, made once ---- */

static void on_tick(int number)
{
    ticks++;
    if (is_free || ticks > (sig_atomic_t)TICKS_MAX) {
        cpu_set_attention(cpu);
    }
}

static void start_clock(void)
{
    const struct sigaction action = {.sa_handler = on_tick, .sa_flags = SA_RESTART};
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
    const struct itimerspec every = {{0, TICK_NS}, {0, TICK_NS}};
    timer_t timer;

    sigaction(SIGRTMIN, &action, NULL);
    int result = timer_create(CLOCK_MONOTONIC, &event, &timer);
    assert(result == 0);
    timer_settime(timer, 0, &every, NULL);
}

static void put(uint32_t at, uint64_t value, unsigned size)
{
    memcpy(image + at, &value, size);
}

static void make_tables(void)
{
    const uint64_t all = X86_PTE_P | X86_PTE_W | X86_PTE_U;

    put(PML4, PDPT | all, 8);
    put(PML4 + 511 * 8, PDPT | all, 8);
    for (unsigned i = 0; i < 4; i++) {
        put(PAE_PDPT + i * 8, DIRECTORY | X86_PTE_P, 8);
    }
    for (unsigned i = 0; i < 512; i += 511) {
        put(PDPT + i * 8, DIRECTORY | all, 8);
        put(DIRECTORY + i * 8, TABLE | all, 8);
    }
    put(DIRECTORY + 8, 0 | all | X86_PTE_PS, 8);
    put(DIRECTORY32, TABLE32 | all, 4);
    put(DIRECTORY32 + 4, 0 | all | X86_PTE_PS, 4);
    put(DIRECTORY32 + 1023 * 4, TABLE32 | all, 4);
    for (unsigned i = 0; i < TABLE_PAGES; i++) {
        put(TABLE + i * 8, i * FRAME_SIZE | all, 8);
        put(TABLE + (511 - i) * 8, i * FRAME_SIZE | all, 8);
        put(TABLE32 + i * 4, i * FRAME_SIZE | all, 4);
        put(TABLE32 + (1023 - i) * 4, i * FRAME_SIZE | all, 4);
    }
}

/* Selector n * 8: code and data of every width for rings 0 and 3, gates and TSSs. */
static const uint64_t descriptors[] = {
    0,
    0x00af9b000000ffff, /* 08: code, 64 bits */
    0x00cf93000000ffff, /* 10: data */
    0x00cf9b000000ffff, /* 18: code, 32 bits */
    0x000f9b000000ffff, /* 20: code, 16 bits */
    0x00affb000000ffff, /* 28: the same for ring 3 */
    0x00cff3000000ffff, /* 30 */
    0x00cffb000000ffff, /* 38 */
    0x000ffb000000ffff, /* 40 */
    0x0000890090000067, /* 48: TSS, available; 16 bytes in long mode */
    0,
    0x00008b0090000067, /* 58: TSS, busy */
    0,
    0x0000820088000007, /* 68: LDT */
    0,
    0x0000ec000018b000, /* 78: call gate to 18:b000 */
    0x0000ec000008b000, /* 80: call gate to 08:b000, long mode */
    0,
    0x0000e50000480000, /* 90: task gate */
    0x0000e40300206000, /* 98: call gate of 16 bits, 3 words */
    0x00cff7000000000f, /* a0: data, expand-down */
    0x00cf9f000000ffff, /* a8: code, conforming */
    0x0000810090800067, /* b0: TSS of 16 bits */
    0x00c0f30100000003, /* b8: data, 16K, not at 0 */
};

static void make_segments(void)
{
    memcpy(image + GDT, descriptors, sizeof(descriptors));
    memcpy(image + LDT, descriptors + 6, 16);
    put(TSS + 4, STACK, 4);
    put(TSS + 36, STACK + 0x6000, 8);
    put(TSS + 28, PAE_PDPT, 4);
    put(TSS + 32, CODE, 4);
    put(TSS + 102, 104, 2);
}

static void prepare(void)
{
    struct error err = {0};
    const struct cpuid_config config = {.cpus = 1};
    const uint64_t guard = GUARD_FRAMES * FRAME_SIZE;

    log_set_level(LOG_ERROR);
    int result = cpuid_policy_init(&policy, &config, &err);
    assert(result == 0);
    memory = memory_new(RAM + 2 * guard + FRAME_SIZE, &err);
    assert(memory);
    int64_t first = memory_add_frames(memory, RAM + 2 * guard + FRAME_SIZE, &err);
    assert(first == 0);
    memset(memory->base, GUARD_BYTE, RAM + 2 * guard + FRAME_SIZE);
    result = memory_map(memory, 0, RAM, GUARD_FRAMES, SLOT_RAM, &err);
    assert(result == 0);
    result = memory_map(memory, ROM, FRAME_SIZE, 2 * GUARD_FRAMES + RAM / FRAME_SIZE,
                        SLOT_ROM, &err);
    assert(result == 0);
    ram = memory_host(memory, GUARD_FRAMES);
    cpu = cpu_new(memory, &policy, NULL, &hooks, NULL, &err);
    assert(cpu);
    make_tables();
    make_segments();
    start_clock();
}

/* ---- One input's start ---- */

static bool is_wide_mode(enum mode mode)
{
    return mode == LONG || mode == COMPAT16 || mode == COMPAT32;
}

static void make_idt(uint8_t *to, enum mode mode, uint8_t kind)
{
    for (unsigned vector = 0; vector < 256; vector++) {
        uint64_t target = HANDLERS + vector % 32 * 8;
        bool is_wide = is_wide_mode(mode);
        uint64_t type = kind & 1 ? 0xee : 0x8e;
        uint64_t selector = is_wide                           ? 0x08
                            : kind & 2 && mode == PROTECTED16 ? 0x20
                                                              : 0x18;
        uint64_t gate = target | selector << 16 | type << 40;

        if (mode == REAL) {
            gate = target | (uint64_t)target << 32; /* two vectors: 0:target */
            memcpy(to - IDT + vector * 4, &gate, 4);
        }
        memcpy(to + vector * (is_wide ? 16 : 8), &gate, 8);
    }
    for (unsigned i = 0; i < 32; i++) {
        static const uint8_t bodies[4][8] = {
            {0xf4},                               /* HLT */
            {0x83, 0xc4, 0x04, 0xcf},             /* ADD ESP, 4; IRET */
            {0x48, 0x83, 0xc4, 0x08, 0x48, 0xcf}, /* ADD RSP, 8; IRETQ */
            {0xcf},
        };
        memcpy(to - IDT + HANDLERS + i * 8, bodies[kind >> 2 & 3], 8);
    }
    /* SS0 of a 32-bit TSS is the upper half of a 64-bit TSS's RSP0. */
    (to - IDT)[TSS + 8] = is_wide_mode(mode) ? 0 : 0x10;
}

/* Bits flipped, or whole words, where the tables are. */
static void damage(struct input *input, uint8_t *to)
{
    static const uint32_t places[] = {PML4,     PDPT,        DIRECTORY, TABLE,
                                      PAE_PDPT, DIRECTORY32, TABLE32,   GDT,
                                      LDT,      TSS,         IDT,       IDT + 8 * 14};

    for (unsigned left = input_u8(input) % 6; left > 0; left--) {
        uint8_t where = input_u8(input), offset = input_u8(input);
        uint64_t value = input_u64(input);
        uint32_t at =
            places[where % 12] + (where & 0x80 ? offset * 16u : offset % 64u * 8u);

        if (where & 0x40) {
            memcpy(to + at, &value, 8);
        } else {
            to[at + (value & 7)] ^= (uint8_t)(1u << (value >> 3 & 7));
        }
    }
}

static uint64_t read_value(struct input *input)
{
    static const uint64_t edges[] = {
        0,
        1,
        0xffff,
        0xffffffff,
        0x80000000,
        0x8000000000000000,
        0x00007fffffffffff,
        0xffffffffffffffff,
        0xfffffffffffffff0,
        CODE,
        GDT,
        TABLE,
        ROM - 4,
        RAM - 4,
        DATA + FRAME_SIZE - 3,
        0x3fffff,
    };
    uint8_t kind = input_u8(input);

    switch (kind >> 6) {
    case 0:
        return edges[kind % 16];
    case 1:
        return DATA + (uint64_t)(kind & 63) * 64 + input_u8(input);
    case 2:
        return kind & 63;
    default:
        return input_u64(input);
    }
}

static struct x86_segment read_segment(struct input *input, enum mode mode, unsigned ring)
{
    struct x86_segment segment = x86_segment_flat_data(ring ? 0x33 : 0x10, ring);
    uint8_t kind = input_u8(input);

    if (mode == REAL || mode == VM86) {
        segment = x86_segment_real(kind & 1 ? (uint16_t)(kind << 5) : 0);
        segment.access |= mode == VM86 ? 3u << X86_ACCESS_DPL_SHIFT : 0;
        return segment;
    }
    if (kind & 1 && mode != LONG) {
        segment.limit = (uint32_t)read_value(input);
    }
    if (kind & 2) {
        segment.base = mode == LONG ? 0 : (uint32_t)read_value(input);
    }
    segment.access ^= kind & 4 ? X86_ACCESS_EXPAND : 0;
    segment.access ^= kind & 8 ? X86_ACCESS_DB : 0;
    segment.access |= (kind & 0x30) == 0x30 ? X86_ACCESS_UNUSABLE : 0;
    return segment;
}

static void set_control(struct input *input, struct x86_state *state, enum mode mode)
{
    uint64_t bits = input_u64(input);
    bool is_wide = is_wide_mode(mode);

    state->cr0 = X86_CR0_ET | X86_CR0_NE | X86_CR0_MP | (mode == REAL ? 0 : X86_CR0_PE) |
                 (bits & 1 ? X86_CR0_WP : 0) | (bits & 2 ? X86_CR0_AM : 0) |
                 ((bits & 0x1c) == 0x1c ? X86_CR0_TS : 0) |
                 ((bits & 0xe0) == 0xe0 ? X86_CR0_EM : 0);
    state->cr4 = X86_CR4_OSFXSR | X86_CR4_OSXSAVE | X86_CR4_OSXMMEXCPT |
                 (bits >> 8 & (X86_CR4_VME | X86_CR4_PVI | X86_CR4_TSD | X86_CR4_DE |
                               X86_CR4_PSE | X86_CR4_PAE | X86_CR4_PGE | X86_CR4_PCE |
                               X86_CR4_UMIP | X86_CR4_FSGSBASE));
    state->efer = X86_EFER_SCE | (bits & 1ull << 40 ? X86_EFER_NXE : 0);
    state->xcr0 = X86_XCR0_X87 | X86_XCR0_SSE | (bits & 1ull << 41 ? X86_XCR0_AVX : 0);
    if (is_wide) {
        state->cr0 |= X86_CR0_PG;
        state->cr4 |= X86_CR4_PAE | (bits & 1ull << 42 ? X86_CR4_SMEP | X86_CR4_SMAP : 0);
        state->efer |= X86_EFER_LME | X86_EFER_LMA;
        state->cr3 = PML4;
    } else if (mode != REAL && bits & 1ull << 43) {
        state->cr0 |= X86_CR0_PG;
        state->cr3 = state->cr4 & X86_CR4_PAE ? PAE_PDPT : DIRECTORY32;
    }
    state->dr7 = 0x400;
    state->star = 0x0028001800000000;
    state->lstar = state->cstar = state->sysenter_eip = HANDLERS;
    state->sysenter_cs = 0x18;
    state->sysenter_esp = STACK;
    state->gdtr = (struct x86_table){GDT, GDT_ENTRIES * 8 - 1};
    state->idtr = (struct x86_table){mode == REAL ? 0 : IDT, 0xfff};
    x86_segment_unpack(&state->tr, 0x58, descriptors[0x58 / 8], 0);
    x86_segment_unpack(&state->ldtr, 0x68, descriptors[0x68 / 8], 0);
}

static struct x86_segment code_segment(enum mode mode, unsigned ring)
{
    static const uint16_t selectors[] = {0, 0x20, 0x18, 0x20, 0x18, 0x08, 0};
    uint16_t selector = (uint16_t)(selectors[mode] + (ring ? 0x20 : 0));
    struct x86_segment segment;

    if (mode == REAL || mode == VM86) {
        segment = x86_segment_real(0);
        segment.access |= mode == VM86 ? 3u << X86_ACCESS_DPL_SHIFT : 0;
        return segment;
    }
    x86_segment_unpack(&segment, (uint16_t)(selector | ring), descriptors[selector / 8],
                       0);
    return segment;
}

static void read_fpu(struct input *input, struct x86_state *state)
{
    uint64_t bits = input_u64(input);

    state->fpu = (struct x86_fpu){.fcw = (uint16_t)((bits & 0xf3f) | 0x40),
                                  .fsw = (uint16_t)(bits >> 16 & 0x3f00),
                                  .ftw = (uint8_t)(bits >> 32),
                                  .mxcsr = (uint32_t)(bits >> 40 & 0xffff)};
    for (unsigned i = 0; i < 8; i++) {
        memcpy(state->fpu.st[i], &bits, 8);
        state->fpu.st[i][9] = (uint8_t)bits;
        memcpy(&state->vec[i], &bits, 8);
        bits = bits * 0x9e3779b97f4a7c15ull + i;
    }
}

static void start(struct input *input)
{
    static uint8_t prepared[RAM];
    struct x86_state state;
    uint8_t first = input_u8(input), tables = input_u8(input);
    enum mode mode = first % MODES;
    unsigned ring = mode == VM86 || (mode != REAL && first & 0x40) ? 3 : 0;
    uint64_t flags = input_u64(input);

    x86_state_reset(&state, true);
    set_control(input, &state, mode);
    for (unsigned i = 0; i < X86_SEGMENT_COUNT; i++) {
        state.seg[i] = read_segment(input, mode, ring);
    }
    state.seg[X86_CS] = code_segment(mode, ring);
    for (unsigned i = 0; i < X86_GPR_COUNT; i++) {
        state.gpr[i] = read_value(input);
    }
    state.gpr[X86_RSP] = tables & 0x80 ? state.gpr[X86_RSP] : DATA + 0x800;
    read_fpu(input, &state);
    state.rflags = X86_FLAG_1 | (flags & (X86_FLAGS_ARITH | X86_FLAG_DF | X86_FLAG_IF |
                                          X86_FLAG_AC | X86_FLAG_ID));
    state.rflags |= flags >> 32 & X86_FLAG_IOPL;
    state.rflags |= (flags >> 56) >= 0xf0 ? X86_FLAG_TF : 0;
    state.rflags |= mode == VM86 ? X86_FLAG_VM : 0;
    state.rip = CODE + (tables & 0x40 ? FRAME_SIZE - 16 : tables & 15);

    memcpy(prepared, image, RAM);
    make_idt(prepared + IDT, mode, tables >> 2);
    damage(input, prepared);
    size_t length = input->size < CODE_MAX ? input->size : CODE_MAX;
    if (length) {
        memcpy(prepared + state.rip, input->data, length);
    }
    bool is_done = ram_write(memory, 0, prepared, RAM);
    assert(is_done);
    cpu_sync_in(cpu, &state);
}

/* ---- Running ---- */

static void deliver(uint64_t what)
{
    bool is_nmi = what & 0x100;
    struct x86_event event = {.pending = true,
                              .vector = is_nmi ? X86_NMI : (uint8_t)(what | 0x20),
                              .type = is_nmi ? X86_EVENT_NMI : X86_EVENT_EXTERNAL};

    if (is_nmi ? !cpu->state.nmi_blocked : (cpu->state.rflags & X86_FLAG_IF) != 0) {
        cpu->state.activity = X86_RUNNING;
        event_deliver(cpu, &event, 0);
    }
}

static void check_state(void)
{
    const struct x86_state *state = &cpu->state;

    assert(cpu->reg[REG_ZERO] == 0);
    assert(!cpu->has_fault);
    assert(!(state->cr0 & X86_CR0_PG) || state->cr0 & X86_CR0_PE);
    assert(!(state->efer & X86_EFER_LMA) ==
           !(state->cr0 & X86_CR0_PG && state->efer & X86_EFER_LME));
    assert(!cpu->is_long || state->cr4 & X86_CR4_PAE);
    assert(state->xcr0 & X86_XCR0_X87);
    assert((cpu_rflags(cpu) & ~(uint64_t)X86_FLAGS_VALID & ~X86_FLAG_1) == 0);
    assert(cpu->is_long64 || cpu->rip <= UINT32_MAX);
    assert(!cpu->is_long64 || x86_canonical(cpu->rip));
    assert(cpu->cpl <= 3);
}

static void check_guards(void)
{
    const uint8_t *guards[] = {memory->base,
                               ram + RAM,
                               ram + RAM + FRAME_SIZE,
                               ram + RAM + 2 * FRAME_SIZE,
                               ram + RAM + 3 * FRAME_SIZE,
                               ram + RAM + 4 * FRAME_SIZE /* the ROM */};
    static uint8_t intact[FRAME_SIZE];

    if (!intact[0]) {
        memset(intact, GUARD_BYTE, sizeof(intact));
    }
    assert(memcmp(ram - FRAME_SIZE, intact, FRAME_SIZE) == 0);
    for (unsigned i = 0; i < sizeof(guards) / sizeof(guards[0]); i++) {
        assert(memcmp(guards[i], intact, FRAME_SIZE) == 0);
    }
}

/* Until the next look at events. */
static void run_round(bool is_stepped)
{
    ticks = 0;
    if (is_stepped) {
        cpu_step(cpu);
    } else {
        is_free = true;
        atomic_store(&cpu->attention, 0);
        cpu_run(cpu);
        is_free = false;
    }
    assert(ticks < (sig_atomic_t)TICKS_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {data, size};

    if (!memory) {
        prepare();
    }
    answers = (struct input){data, size};
    answers_start = data;
    answers_size = size;
    clock_ns = 0;
    uint8_t how = input_u8(&input);
    uint64_t events = input_u64(&input);
    unsigned spent = 0;

    start(&input);
    for (unsigned i = 0; i < ROUNDS && spent < TICKS_OF_RUN; i++) {
        if (cpu->state.activity == X86_HALTED || (events >> 16 && i % 16 == (how & 15))) {
            deliver(events >> (how & 7) & 0x1ff);
        }
        if (cpu->state.activity != X86_RUNNING) {
            break;
        }
        run_round(how & 0x10 || (how & 0x20 && i % 4));
        spent += (unsigned)ticks;
        check_state();
    }
    check_guards();

    struct x86_state state;
    cpu_sync_out(cpu, &state);
    assert(state.rflags & X86_FLAG_1);
    return 0;
}
