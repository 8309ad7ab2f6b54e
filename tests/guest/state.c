/*
 * State that has to outlive being saved and restored at any moment: registers of every
 * kind, memory, what counts down, what is pending, who is halted. Each case stretches a
 * moment of that kind; the runner saves and restores the VM all the time (hop).
 */
#include "apic.h"
#include "cpu.h"
#include "guest.h"
#include "smp.h"
#include "trap.h"

#define VECTOR   0x51
#define PIC_BASE 0x30
#define BUFFER   ((uint64_t *)0x2000000) /* identity-mapped, above the program */
#define COPY     ((uint64_t *)0x3000000)

/* How much each case does: more where instructions are executed quickly, so that it takes
 * a moment everywhere. There are hosts whose /dev/kvm interprets ring 0 at two million
 * instructions a second. */
static uint64_t words = 1u << 20, spin_rounds = 20000000, compute_rounds = 3000000;

static volatile uint64_t ticks;
static volatile uint64_t pit_ticks;

static void on_tick(struct trap_frame *frame)
{
    (void)frame;
    ticks++;
    apic_eoi();
}

static void on_pit(struct trap_frame *frame)
{
    (void)frame;
    pit_ticks++;
    port_write8(0x20, 0x20);
}

static void spin(uint64_t rounds)
{
    __asm__ volatile("1: dec %0; jnz 1b" : "+r"(rounds) : : "cc");
}

static void choose_amounts(void)
{
    if (cpu_is_slow()) {
        words /= 64;
        spin_rounds /= 64;
        compute_rounds /= 64;
    }
}

/* --- Registers --- */

static uint8_t image[2][4096] __attribute__((aligned(64)));
static uint64_t vectors[16][4] __attribute__((aligned(32)));

static bool enable_vectors(void)
{
    uint32_t features = cpuid(1, 0).ecx;
    cr0_write((cr0_read() & ~(CR0_EM | CR0_TS)) | CR0_MP);
    cr4_write(cr4_read() | CR4_OSFXSR | CR4_OSXMMEXCPT);
    if (!(features & 1u << 26) || !(features & 1u << 28)) {
        return false;
    }
    cr4_write(cr4_read() | 1u << 18); /* OSXSAVE */
    __asm__ volatile("xsetbv" : : "c"(0), "a"(7), "d"(0));
    return true;
}

static void fill_vectors(void)
{
    static const uint32_t mxcsr = 0x7f80; /* round to zero, all masked */
    static const uint16_t fcw = 0x0b7f;   /* round up, 64-bit precision */
    for (unsigned i = 0; i < 64; i++) {
        vectors[i / 4][i % 4] = 0x0123456789abcdefull * (i + 1);
    }
#define LOAD(n) "vmovdqa " #n "*32(%0), %%ymm" #n "\n"
    __asm__ volatile("ldmxcsr %1\nfninit\nfldcw %2\nfldpi\nfldl2e\nfldlg2\n" LOAD(0)
                         LOAD(1) LOAD(2) LOAD(3) LOAD(4) LOAD(5) LOAD(6) LOAD(7) LOAD(8)
                             LOAD(9) LOAD(10) LOAD(11) LOAD(12) LOAD(13) LOAD(14) LOAD(15)
                     :
                     : "r"(vectors), "m"(mxcsr), "m"(fcw)
                     : "memory");
}

static void xsave(uint8_t *to)
{
    __asm__ volatile("xsave (%0)" : : "r"(to), "a"(7), "d"(0) : "memory");
}

static void try_vectors(void)
{
    case_begin("x87, SSE and AVX registers");
    if (!enable_vectors()) {
        return;
    }
    fill_vectors();
    xsave(image[0]);
    spin(spin_rounds);
    xsave(image[1]);
    ASSERT_EQ(memcmp(image[0], image[1], 832), 0);
    ASSERT_EQ(memcmp(image[1] + 160, vectors[0], 16), 0);
}

static void try_general(void)
{
    case_begin("general registers, flags, FS and GS bases, debug registers, MSRs");
    msr_write(MSR_FS_BASE, 0x123456789abcull);
    msr_write(MSR_KERNEL_GS, 0xffff800012345678ull);
    msr_write(MSR_LSTAR, 0xffffffff81000000ull);
    __asm__ volatile("mov %0, %%dr0" : : "r"(0x5000ul));
    uint64_t rounds = spin_rounds, sum = 0, flags;
    __asm__ volatile("mov $0x1111, %%r8\nmov $0x2222, %%r9\nmov $0x3333, %%r12\n"
                     "mov $-4, %%r13\nstd\n"
                     "1: dec %0\njnz 1b\n"
                     "pushfq\npop %2\ncld\n"
                     "add %%r8, %1\nadd %%r9, %1\nadd %%r12, %1\nadd %%r13, %1"
                     : "+r"(rounds), "+r"(sum), "=r"(flags)
                     :
                     : "r8", "r9", "r12", "r13", "cc");
    ASSERT_EQ(sum, 0x1111 + 0x2222 + 0x3333 - 4);
    ASSERT_EQ(flags & (RFLAGS_DF | RFLAGS_ZF), RFLAGS_DF | RFLAGS_ZF);
    ASSERT_EQ(msr_read(MSR_FS_BASE), 0x123456789abcull);
    ASSERT_EQ(msr_read(MSR_KERNEL_GS), 0xffff800012345678ull);
    ASSERT_EQ(msr_read(MSR_LSTAR), 0xffffffff81000000ull);
    uint64_t dr0;
    __asm__ volatile("mov %%dr0, %0" : "=r"(dr0));
    ASSERT_EQ(dr0, 0x5000);
}

/* --- Memory --- */

static uint64_t next(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static void try_memory(void)
{
    case_begin("memory, written and read");
    for (unsigned round = 1; round <= 3; round++) {
        uint64_t seed = round;
        for (unsigned i = 0; i < words; i++) {
            BUFFER[i] = next(&seed);
        }
        seed = round;
        for (unsigned i = 0; i < words; i++) {
            ASSERT(BUFFER[i] == next(&seed));
        }
    }
    case_begin("a string move that is interrupted");
    memcpy(COPY, BUFFER, words * 8ul);
    for (unsigned i = 0; i < words; i++) {
        ASSERT(COPY[i] == BUFFER[i]);
    }
    case_begin("memory that is zero, and becomes so");
    memset(COPY, 0, words * 8ul);
    spin(spin_rounds / 4);
    for (unsigned i = 0; i < words; i++) {
        ASSERT(COPY[i] == 0);
    }
}

/* --- What is pending and what counts --- */

static void try_pending(void)
{
    case_begin("an interrupt that waits for IF");
    for (unsigned i = 0; i < 5; i++) {
        ticks = 0;
        apic_send(VECTOR | ICR_TO_SELF, 0);
        spin(spin_rounds / 8);
        ASSERT_EQ(ticks, 0);
        ASSERT(apic_bit(APIC_IRR, VECTOR));
        interrupts_window();
        ASSERT_EQ(ticks, 1);
        interrupts_window();
        ASSERT_EQ(ticks, 1);
    }
}

/* Interrupts of both timers over a time, by the guest's own clock: none lost but those
 * that the host was too late for, none twice. */
static void try_timers(void)
{
    uint32_t khz = cpuid(0x40000010, 0).ebx;
    case_begin("APIC timer and 8254 side by side");
    port_write8(0x21, 0xfe);
    apic_write(APIC_LVT_LINT0, LVT_EXTINT);
    apic_write(APIC_TIMER_DIVIDE, 0xb);
    apic_write(APIC_LVT_TIMER, VECTOR | LVT_PERIODIC);
    ticks = pit_ticks = 0;
    uint64_t start = tsc_read(), ms = tsc_rate() / 1000;
    apic_write(APIC_TIMER_COUNT, khz * 2); /* 2 ms */
    pit_set(2, 2386);                      /* 2 ms */
    interrupts_enable();
    while (tsc_read() - start < 300 * ms) {
        pause();
    }
    interrupts_disable();
    uint64_t passed = (tsc_read() - start) / ms;
    ASSERT_BETWEEN(ticks, 1, passed / 2 + 1);
    ASSERT_BETWEEN(pit_ticks, 1, passed / 2 + 1);
    apic_write(APIC_TIMER_COUNT, 0);
    port_write8(0x21, 0xff);
    interrupts_window();
}

struct reading {
    uint64_t before, after; /* the TSC: the host may do something else in between */
    uint32_t pm;
};

static struct reading read_clocks(void)
{
    struct reading now = {.before = tsc_read(), .pm = port_read32(PM_TIMER_PORT)};
    now.after = tsc_read();
    return now;
}

/* The time from arming to the interrupt, measured by the TSC and the PM timer: saving
 * stops both. */
static void try_countdown(void)
{
    uint32_t khz = cpuid(0x40000010, 0).ebx;
    uint64_t mhz = tsc_rate() / 1000000; /* takes its time when it is first asked for */
    case_begin("a countdown of 40 ms, the processor halted");
    for (unsigned i = 0; i < 5; i++) {
        apic_write(APIC_LVT_TIMER, VECTOR);
        apic_write(APIC_TIMER_DIVIDE, 0xb);
        ticks = 0;
        struct reading start = read_clocks();
        apic_write(APIC_TIMER_COUNT, khz * 40);
        while (ticks == 0) {
            __asm__ volatile("sti\nhlt\ncli");
        }
        struct reading end = read_clocks();
        uint64_t least = (end.before - start.after) / mhz;
        uint64_t most = (end.after - start.before) / mhz;
        uint64_t pm_us = (end.pm - start.pm) * 1000000ull / PM_TIMER_RATE;
        ASSERT_BETWEEN(least, 39600, 440000);
        ASSERT_BETWEEN(pm_us, least * 95 / 100 - 2000, most * 105 / 100 + 2000);
    }
}

/* --- The other processors --- */

static volatile uint64_t results[CPU_MAX];

static void compute(void *argument)
{
    uint64_t seed = cpu_self()->index + 1;
    for (unsigned i = 0; i < compute_rounds; i++) {
        next(&seed);
    }
    results[cpu_self()->index] = seed;
    (void)argument;
}

static void try_processors(void)
{
    unsigned count = smp_count();
    case_begin("processors that wait to be started, are halted, and compute");
    spin(spin_rounds);
    smp_start(false);
    spin(spin_rounds / 2);
    smp_call_all(compute, 0);
    for (unsigned i = 0; i < count; i++) {
        uint64_t seed = i + 1;
        for (unsigned n = 0; n < compute_rounds; n++) {
            next(&seed);
        }
        ASSERT_EQ(results[i], seed);
    }
}

void guest_test(void)
{
    choose_amounts();
    apic_enable(false);
    pic_setup(PIC_BASE);
    trap_set_handler(VECTOR, on_tick);
    trap_set_handler(PIC_BASE, on_pit);
    try_general();
    try_vectors();
    try_memory();
    try_pending();
    try_countdown();
    try_timers();
    try_processors();
}
