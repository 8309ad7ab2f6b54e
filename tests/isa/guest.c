#include "guest.h"

#include <assert.h>
#include <cpuid.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "host.h"
#include "monitor.h"
#include "x86/paging.h"
#include "x86/segment.h"

/* Page tables, in physical memory. */
#define PML4      (PAGE_TABLES + 0x0000u)
#define LOW_PDPT  (PAGE_TABLES + 0x1000u)
#define LOW_PD    (PAGE_TABLES + 0x2000u)
#define CODE_PT   (PAGE_TABLES + 0x3000u)
#define DATA_PT   (PAGE_TABLES + 0x4000u)
#define STACK_PT  (PAGE_TABLES + 0x5000u)
#define TOP_PDPT  (PAGE_TABLES + 0x6000u)
#define TOP_PD    (PAGE_TABLES + 0x7000u)

#define STEPS_MAX 4000u /* of a case that is stepped */
#define TICKS_MAX 10    /* of the watchdog, without a new case */

extern const uint8_t isa_monitor[], isa_monitor_handlers[], isa_monitor_end[];

/* Where the monitor is; at CONTROL. */
struct control {
    _Atomic uint64_t current; /* case of the batch */
    uint64_t count;
    uint64_t input, result, memory; /* linear addresses for the current case */
    uint64_t code, length;          /* of the case before, in the code pages */
};

#define AT(type, field, offset) \
    _Static_assert(offsetof(struct type, field) == (offset), "see monitor.h")
AT(control, current, CONTROL_CURRENT);
AT(control, count, CONTROL_COUNT);
AT(control, input, CONTROL_INPUT);
AT(control, result, CONTROL_RESULT);
AT(control, memory, CONTROL_MEMORY);
AT(control, code, CONTROL_CODE);
AT(control, length, CONTROL_LENGTH);
AT(isa_input, rip, INPUT_RIP);
AT(isa_input, flags, INPUT_FLAGS);
AT(isa_input, selector, INPUT_SELECTOR);
AT(isa_input, data_selector, INPUT_DATA);
AT(isa_input, stack_selector, INPUT_STACK);
AT(isa_input, test.gpr, INPUT_GPR);
AT(isa_input, test.image, INPUT_IMAGE);
AT(isa_input, test.is_stepped, INPUT_STEPPED);
AT(isa_input, test.code_length, INPUT_LENGTH);
AT(isa_input, test.code_offset, INPUT_OFFSET);
AT(isa_input, test.code, INPUT_CODE);
AT(isa_result, gpr, RESULT_GPR);
AT(isa_result, rip, RESULT_RIP);
AT(isa_result, flags, RESULT_FLAGS);
AT(isa_result, address, RESULT_ADDRESS);
AT(isa_result, fs_base, RESULT_FS_BASE);
AT(isa_result, gs_base, RESULT_GS_BASE);
AT(isa_result, end, RESULT_END);
AT(isa_result, exception, RESULT_EXCEPTION);
AT(isa_result, error, RESULT_ERROR);
AT(isa_result, selector, RESULT_SELECTOR);
_Static_assert(sizeof(struct isa_input) == INPUT_SIZE, "see monitor.h");
_Static_assert(((KERNEL + KERNEL_STACK - 8) & 0xffff0000) == ISA_STACK16_HIGH,
               "see layout.h");
_Static_assert(sizeof(struct isa_result) == RESULT_SIZE, "see monitor.h");
_Static_assert(INPUTS + ISA_BATCH * INPUT_SIZE <= RESULTS &&
                   RESULTS + ISA_BATCH * RESULT_SIZE <= MEMORIES &&
                   MEMORIES + ISA_BATCH * ISA_MEMORY_SIZE <= RAM &&
                   PAGES + ISA_PAGES * ISA_PAGE <= IMAGES &&
                   IMAGES + ISA_IMAGE_COUNT * ISA_MEMORY_SIZE <= INPUTS,
               "the places of physical memory do not overlap");

struct guest {
    bool is_deterministic;
    const struct engine_ops *ops;
    struct memory *memory;
    struct clock clock;
    struct cpuid_policy policy;
    struct lapic lapic;
    struct vcpu_stats stats;
    struct engine *engine;
    struct engine_vcpu *vcpu;
    uint8_t *ram;
    struct x86_state state; /* the monitor's start */
};

static struct control *control_of(const struct guest *guest)
{
    return (struct control *)(void *)(guest->ram + CONTROL);
}

/* ---- The watchdog: looks on every tick of processor time whether a case has ended. ----
 */

static const struct guest *watched;
static volatile uint64_t runs; /* each with cases from 0 on */
static struct {
    uint64_t run, current;
    unsigned ticks;
} watch;

static void on_tick(int number)
{
    const struct guest *guest = watched;
    if (!guest) {
        return;
    }
    uint64_t current = atomic_load(&control_of(guest)->current);
    bool is_same = watch.run == runs && watch.current == current;
    watch.ticks = is_same ? watch.ticks + 1 : 0;
    watch.run = runs;
    watch.current = current;
    if (watch.ticks > TICKS_MAX) {
        watch.ticks = 0;
        guest->ops->kick(guest->vcpu, true);
    }
}

static void watch_start(void)
{
    const struct sigaction action = {.sa_handler = on_tick, .sa_flags = SA_RESTART};
    const struct itimerval tick = {{0, 20000}, {0, 20000}};

    sigaction(SIGPROF, &action, NULL);
    setitimer(ITIMER_PROF, &tick, NULL);
}

/* ---- Making the guest ---- */

static void put(struct guest *guest, uint64_t at, uint64_t value)
{
    memcpy(guest->ram + at, &value, 8);
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
        map(guest, CODE_PT, ISA_CODE + i * ISA_PAGE, 12, PAGES + i * ISA_PAGE,
            X86_PTE_U | (i < ISA_FIXED_CODE ? 0 : X86_PTE_W));
    }
    for (unsigned i = 0; i < ISA_DATA_PAGES; i++) {
        map(guest, DATA_PT, ISA_DATA + i * ISA_PAGE, 12,
            PAGES + (ISA_CODE_PAGES + i) * ISA_PAGE,
            X86_PTE_NX | X86_PTE_U | (i + 1 < ISA_DATA_PAGES ? X86_PTE_W : 0));
    }
    map(guest, STACK_PT, ISA_STACK, 12,
        PAGES + (ISA_CODE_PAGES + ISA_DATA_PAGES) * ISA_PAGE, X86_PTE_NX | all);
    map(guest, PML4, KERNEL, 39, TOP_PDPT, X86_PTE_W);
    map(guest, TOP_PDPT, KERNEL, 30, TOP_PD, X86_PTE_W);
    for (uint64_t page = 0; page < RAM; page += 1 << 21) {
        map(guest, TOP_PD, KERNEL + page, 21, page, X86_PTE_W | X86_PTE_PS);
    }
}

static void make_gate(struct guest *guest, unsigned vector)
{
    uint64_t target =
        KERNEL + MONITOR + (uint64_t)(isa_monitor_handlers - isa_monitor) + vector * 16;
    bool is_for_all = vector == X86_BP || vector == X86_OF; /* as Linux has it */

    put(guest, IDT + vector * 16,
        (target & 0xffff) | SELECTOR_KERNEL << 16 |
            (is_for_all ? 0xeeull : 0x8eull) << 40 | (target >> 16 & 0xffff) << 48);
    put(guest, IDT + vector * 16 + 8, target >> 32);
}

static uint64_t segment16(uint64_t base, uint64_t access)
{
    return ISA_LIMIT16 | (base & 0xffffff) << 16 | access << 40 | base >> 24 << 56;
}

/* The descriptors are those of Linux, which programs can see by their selectors. */
static void make_tables(struct guest *guest)
{
    static const uint64_t segments[] = {
        [1] = 0x00cf9b000000ffff, /* 32-bit code, ring 0 */
        [SELECTOR_KERNEL / 8] = 0x00af9b000000ffff,
        [3] = 0x00cf93000000ffff,
        [ISA_CODE32 / 8] = 0x00cffb000000ffff,
        [ISA_DATA32 / 8] = 0x00cff3000000ffff,
        [ISA_CODE64 / 8] = 0x00affb000000ffff,
    };

    for (unsigned i = 0; i < sizeof(segments) / sizeof(segments[0]); i++) {
        put(guest, GDT + i * 8, segments[i]);
    }
    put(guest, GDT + 15 * 8, host_processor_segment());
    put(guest, LDT + (ISA_CODE16 & ~7u), segment16(ISA_CODE, 0xfb));
    put(guest, LDT + (ISA_DATA16 & ~7u), segment16(ISA_DATA16_BASE, 0xf3));
    put(guest, LDT + (ISA_STACK16 & ~7u), segment16(ISA_STACK16_BASE, 0xf3));
    put(guest, LDT + (ISA_DATA16_END & ~7u), segment16(ISA_DATA16_TOP, 0xf3));
    put(guest, LDT + (ISA_STACK16_END & ~7u), segment16(ISA_STACK16_TOP, 0xf3));
    put(guest, TSS + 4, KERNEL + KERNEL_STACK);
    put(guest, TSS + 96, 0x68ull << 48); /* no I/O permission bitmap */
    for (unsigned vector = 0; vector < 256; vector++) {
        make_gate(guest, vector);
    }
    memcpy(guest->ram + MONITOR, isa_monitor, (size_t)(isa_monitor_end - isa_monitor));
    memcpy(guest->ram + IMAGES, isa_images, sizeof(isa_images));
    memset(guest->ram + PAGES, ISA_OP_INT3, ISA_CODE_PAGES * ISA_PAGE);
}

static void make_state(struct guest *guest)
{
    struct x86_state *state = &guest->state;
    bool has_bases = cpuid_has(&guest->policy, CPU_FSGSBASE);
    bool has_umip = cpuid_has(&guest->policy, CPU_UMIP);

    x86_state_reset(state, true);
    state->rip = KERNEL + MONITOR;
    state->gpr[X86_RSP] = KERNEL + KERNEL_STACK;
    state->cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_WP | X86_CR0_NE | X86_CR0_ET |
                 X86_CR0_MP | X86_CR0_AM;
    state->cr3 = PML4;
    state->cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE |
                 (has_bases ? X86_CR4_FSGSBASE : 0) | (has_umip ? X86_CR4_UMIP : 0);
    state->efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE | X86_EFER_SCE;
    state->xcr0 = X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX;
    state->gdtr = (struct x86_table){KERNEL + GDT, 0x7f};
    state->idtr = (struct x86_table){KERNEL + IDT, 0xfff};
    x86_segment_unpack(&state->tr, SELECTOR_TSS,
                       0x00008b0000000067 | (uint64_t)TSS << 16 |
                           (KERNEL & 0xff000000) << 32,
                       KERNEL >> 32);
    x86_segment_unpack(&state->ldtr, SELECTOR_LDT,
                       0x0000820000000027 | (uint64_t)LDT << 16 |
                           (KERNEL & 0xff000000) << 32,
                       KERNEL >> 32);
    for (unsigned i = 0; i < X86_SEGMENT_COUNT; i++) {
        state->seg[i] = x86_segment_flat_data(ISA_DATA32, 3);
    }
    state->seg[X86_CS] = x86_segment_flat_code(SELECTOR_KERNEL, true, 0);
    state->seg[X86_SS] = x86_segment_flat_data(SELECTOR_KERNEL + 8, 0);
}

/* Ring 3 code reaches nothing outside of the processor. */
static void answer_exit(void *opaque, struct vcpu_exit *exit)
{
    if (exit->reason == EXIT_MSR_READ || exit->reason == EXIT_MSR_WRITE) {
        exit->msr.is_fault = true;
    } else if (exit->reason == EXIT_IO && !exit->io.is_write) {
        memset(exit->io.data, 0xff, (size_t)exit->io.size * exit->io.count);
    } else if (exit->reason == EXIT_MMIO && !exit->mmio.is_write) {
        memset(exit->mmio.data, 0xff, exit->mmio.size);
    } else if (exit->reason == EXIT_HYPERCALL) {
        exit->hypercall.is_undefined = true;
    }
}

/* What CPU models leave out, but the host's MXCSR_MASK shows. */
static void offer_host_only(struct cpuid_policy *policy)
{
    unsigned eax, ebx, ecx, edx;

    if (__get_cpuid(0x80000001, &eax, &ebx, &ecx, &edx) && ecx >> 7 & 1) {
        policy->features[CPU_MISALIGNSSE / 64] |= 1ull << CPU_MISALIGNSSE % 64;
    }
}

static int make_memory(struct guest *guest, struct error *err)
{
    guest->memory = memory_new(RAM, err);
    if (!guest->memory || memory_add_frames(guest->memory, RAM, err) < 0 ||
        memory_map(guest->memory, 0, RAM, 0, SLOT_RAM, err) < 0) {
        return -1;
    }
    guest->ram = memory_host(guest->memory, 0);
    make_pages(guest);
    make_tables(guest);
    return 0;
}

static int make_processor(struct guest *guest, struct error *err)
{
    const struct engine_config config = {.memory = guest->memory,
                                         .clock = &guest->clock,
                                         .cpuid = &guest->policy,
                                         .cpus = 1,
                                         .is_deterministic = guest->is_deterministic};
    const struct vcpu_config vcpu = {.is_bootstrap = true,
                                     .lapic = &guest->lapic,
                                     .sink = {answer_exit, guest},
                                     .stats = &guest->stats};

    clock_init(&guest->clock);
    lapic_reset(&guest->lapic, 0, guest->policy.tsc_khz);
    guest->engine = guest->ops->open(&config, err);
    guest->vcpu = guest->engine ? guest->ops->vcpu_open(guest->engine, &vcpu, err) : NULL;
    return guest->vcpu ? 0 : -1;
}

struct guest *guest_new(const struct engine_ops *engine, bool is_deterministic)
{
    struct guest *guest = calloc(1, sizeof(*guest));
    struct error err = {0};
    const struct cpuid_config config = {.cpus = 1};

    if (!guest) {
        return NULL;
    }
    guest->ops = engine;
    if (cpuid_policy_init(&guest->policy, &config, &err) < 0) {
        fprintf(stderr, "isa: no processor: %s\n", err.message);
        guest_free(guest);
        return NULL;
    }
    guest->is_deterministic = is_deterministic;
    offer_host_only(&guest->policy);
    const struct cpuid_policy asked = guest->policy;
    const struct engine_config use = {.cpuid = &asked, .cpus = 1};
    if (engine->probe(&err) < 0 ||
        (engine->fit && engine->fit(&use, &guest->policy, &err) < 0)) {
        fprintf(stderr, "isa: engine %s has no processor here: %s\n", engine->name,
                err.message);
        guest_free(guest);
        return NULL;
    }
    if (make_memory(guest, &err) < 0 || make_processor(guest, &err) < 0) {
        fprintf(stderr, "isa: no guest on engine %s: %s\n", engine->name, err.message);
        guest_free(guest);
        return NULL;
    }
    make_state(guest);
    control_of(guest)->code = KERNEL + PAGES;
    guest->ops->set_state(guest->vcpu, &guest->state);
    watch_start();
    return guest;
}

void guest_free(struct guest *guest)
{
    if (!guest) {
        return;
    }
    watched = NULL;
    if (guest->vcpu) {
        guest->ops->vcpu_close(guest->vcpu);
    }
    if (guest->engine) {
        guest->ops->close(guest->engine);
    }
    memory_free(guest->memory);
    free(guest);
}

const struct cpuid_policy *guest_policy(const struct guest *guest)
{
    return &guest->policy;
}

bool guest_steps(const struct guest *guest)
{
    return guest->ops->debug && strcmp(guest->ops->name, "kvm") != 0;
}

/* ---- Running ---- */

static void give(struct guest *guest, const struct isa_input *inputs, unsigned count)
{
    struct control *control = control_of(guest);
    struct isa_input *input = (struct isa_input *)(void *)(guest->ram + INPUTS);
    struct isa_result *result = (struct isa_result *)(void *)(guest->ram + RESULTS);

    memcpy(input, inputs, count * sizeof(*inputs));
    for (unsigned i = 0; i < count; i++) {
        result[i].end = ISA_NOT_RUN;
        memset(result[i].vector.header, 0, sizeof(result[i].vector.header));
        input[i].test.is_stepped &= guest_steps(guest);
    }
    atomic_store(&control->current, 0);
    control->count = count;
    control->input = KERNEL + INPUTS;
    control->result = KERNEL + RESULTS;
    control->memory = KERNEL + MEMORIES;
}

/* From the start of the monitor. */
static void restart(struct guest *guest)
{
    guest->ops->set_state(guest->vcpu, &guest->state);
}

/* Gives up the current case. */
static void skip(struct guest *guest, enum isa_end end)
{
    struct control *control = control_of(guest);
    uint64_t current = atomic_load(&control->current);

    if (current < control->count) {
        ((struct isa_result *)(void *)(guest->ram + control->result - KERNEL))->end = end;
        control->input += INPUT_SIZE;
        control->result += RESULT_SIZE;
        control->memory += ISA_MEMORY_SIZE;
        atomic_store(&control->current, current + 1);
    }
    restart(guest);
}

/* The monitor has halted before the case: goes on until the case is over. */
static enum run_result step(struct guest *guest)
{
    static struct x86_state state;
    struct debug_control control = {.step = true};
    struct error err;
    enum run_result result = RUN_KICKED;
    bool has_begun = false;

    guest->ops->get_state(guest->vcpu, &state);
    state.activity = X86_RUNNING;
    guest->ops->set_state(guest->vcpu, &state);
    if (guest->ops->debug(guest->vcpu, &control, &err) < 0) {
        return RUN_FAILED;
    }
    for (unsigned i = 0; i < STEPS_MAX; i++) {
        result = guest->ops->run(guest->vcpu);
        if (result != RUN_DEBUG) {
            break;
        }
        guest->ops->get_state(guest->vcpu, &state);
        has_begun |= x86_cpl(&state) == 3;
        if (has_begun && x86_cpl(&state) == 0) {
            break;
        }
    }
    guest->ops->debug(guest->vcpu, NULL, &err);
    return result;
}

static bool report_failure(struct guest *guest)
{
    struct error err = {.message = "no reason given"};

    if (guest->ops->failure) {
        guest->ops->failure(guest->vcpu, &err);
    }
    fprintf(stderr, "isa: engine %s has failed: %s\n", guest->ops->name, err.message);
    return false;
}

static bool run_until_done(struct guest *guest)
{
    struct control *control = control_of(guest);
    enum run_result result = guest->ops->run(guest->vcpu);

    for (;;) {
        uint64_t current = atomic_load(&control->current);
        bool is_stepped = result == RUN_HALTED && current < control->count;

        if (result == RUN_HALTED && !is_stepped) {
            restart(guest);
            return true;
        }
        if (is_stepped) {
            result = step(guest);
            if (result == RUN_DEBUG) { /* in the middle of the case, or behind it */
                result = guest->ops->run(guest->vcpu);
            }
            continue;
        }
        if (result == RUN_FAILED) {
            return report_failure(guest);
        }
        skip(guest, result == RUN_SHUTDOWN ? ISA_DIED : ISA_HUNG);
        result = guest->ops->run(guest->vcpu);
    }
}

bool guest_run(struct guest *guest, const struct isa_input *inputs, unsigned count)
{
    assert(count <= ISA_BATCH);
    give(guest, inputs, count);
    runs++;
    watched = guest;
    bool ok = run_until_done(guest);
    watched = NULL;
    return ok;
}

const struct isa_result *guest_result(const struct guest *guest, unsigned index)
{
    return (const struct isa_result *)(const void *)(guest->ram + RESULTS) + index;
}

const uint8_t *guest_memory(const struct guest *guest, unsigned index)
{
    return guest->ram + MEMORIES + (size_t)index * ISA_MEMORY_SIZE;
}
