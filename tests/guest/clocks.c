/*
 * All clocks against one another under load: TSC, clock page, PM timer, 8254, APIC timer
 * and real-time clock. Each reading is bracketed by two of the TSC, so what is asserted
 * does not depend on how late the host is: a clock that agrees lies in the bracket. No
 * reading may go backwards, on whichever processor it was made. Periodic ticks come at
 * most as often as they are due; how many were lost is told.
 *
 * The number of seconds is the command line, 1 without one; see docs/time.md. With the
 * word "exact" behind it no tick may be missing, as in a deterministic run.
 */
#include "apic.h"
#include "cpu.h"
#include "guest.h"
#include "smp.h"
#include "trap.h"

#define VECTOR_TICK      0x51
#define VECTOR_PIT       0x52
#define NS               1000000000ull
#define TOLERANCE_PPM    500
#define TICK_NS          1000000u
#define PIT_RATE         1193182u
#define PIT_TICK         1193u /* counts: 999.85 us */
#define MSR_CLOCK_PAGE   0x4b564d01u
#define PARAVIRT_CLOCK   (1u << 3)
#define ATTEMPTS         16
#define LONGEST_ATTEMPTS 1000000

/* Documentation/virt/kvm/x86/msr.rst */
struct clock_page {
    uint32_t version, reserved;
    uint64_t tsc, ns;
    uint32_t multiplier;
    int8_t shift;
    uint8_t flags, padding[2];
} __attribute__((aligned(64)));

struct reading {
    uint64_t before, after; /* TSC around it */
    uint64_t value;
};

struct source {
    const char *name;
    uint64_t (*read)(void);
    uint64_t rate;   /* counts a second */
    uint64_t period; /* counts after which it begins anew; 0: after 2^64 */
    struct reading first, last;
};

/* The greatest reading that any processor has made. */
struct latest {
    volatile uint64_t value;
    volatile uint64_t backwards, worst; /* readings before it, and by how much */
};

struct ticks {
    volatile uint64_t count, start, last, longest; /* start, last: TSC */
};

static uint64_t tsc_khz;
static struct clock_page pages[CPU_MAX];
static struct latest latest_tsc, latest_page, latest_pm;
static struct ticks apic_ticks[CPU_MAX], pit_ticks;
static volatile bool is_over;
static bool has_page;

/* value * multiplier / divisor, which has to fit. */
static uint64_t scale(uint64_t value, uint64_t multiplier, uint64_t divisor)
{
    uint64_t high;
    __asm__("mulq %2\n\tdivq %3"
            : "+&a"(value), "=&d"(high)
            : "r"(multiplier), "r"(divisor)
            : "cc");
    return value;
}

static uint64_t tsc_to_ns(uint64_t ticks)
{
    return scale(ticks, 1000000, tsc_khz);
}

static uint64_t page_read(void)
{
    const volatile struct clock_page *page = &pages[cpu_self()->index];
    uint64_t ns;
    uint32_t version;
    do {
        version = page->version;
        uint64_t ticks = tsc_read() - page->tsc;
        ticks = page->shift < 0 ? ticks >> -page->shift : ticks << page->shift;
        ns = page->ns + (uint64_t)((unsigned __int128)ticks * page->multiplier >> 32);
    } while (version & 1 || version != page->version);
    return ns;
}

static uint64_t pm_read(void)
{
    return port_read32(PM_TIMER_PORT);
}

/* Channel 2, as fast as it goes. */
static uint64_t pit_read(void)
{
    port_write8(0x43, 0x80);
    uint64_t low = port_read8(0x42);
    return 0x10000 - (low | (uint64_t)port_read8(0x42) << 8);
}

static uint64_t apic_count_read(void)
{
    return TICK_NS - apic_read(APIC_TIMER_NOW);
}

static struct source sources[] = {
    {.name = "clock page", .read = page_read, .rate = NS},
    {.name = "PM timer", .read = pm_read, .rate = PM_TIMER_RATE, .period = 1ull << 32},
    {.name = "8254", .read = pit_read, .rate = PIT_RATE, .period = 0x10000},
    {.name = "APIC timer", .read = apic_count_read, .rate = NS, .period = TICK_NS},
};
static struct source rtc = {.name = "real-time clock", .rate = 1, .period = 60};

/* The reading in the shortest bracket of several; longer ones than a quarter of the
 * clock's period would not tell anything. */
static struct reading take(const struct source *source)
{
    struct reading best = {.after = UINT64_MAX};
    uint64_t longest = source->period ? source->period * NS / source->rate / 4 : NS;
    for (unsigned i = 0; i < LONGEST_ATTEMPTS; i++) {
        struct reading now = {.before = tsc_read()};
        now.value = source->read();
        now.after = tsc_read();
        if (now.after - now.before < best.after - best.before) {
            best = now;
        }
        if (i >= ATTEMPTS && tsc_to_ns(best.after - best.before) < longest) {
            return best;
        }
    }
    FAIL("%s: no two readings of the TSC within %lu ns of each other", source->name,
         longest);
}

/* Counts that the clock has gone since its first reading lie between what the TSC allows;
 * one is granted for what is below a count. */
static void check(const struct source *source, const struct reading *now,
                  unsigned granted)
{
    const struct reading *first = &source->first;
    uint64_t khz = tsc_khz * 1000;
    uint64_t least = scale(now->before - first->after, source->rate, khz);
    uint64_t most = scale(now->after - first->before, source->rate, khz) + 1;
    uint64_t drift = scale(most, TOLERANCE_PPM, 1000000) + granted;
    uint64_t gone = now->value - first->value;
    least = least > drift ? least - drift : 0;
    most += drift;
    /* Whole periods are not seen. */
    uint64_t beyond =
        source->period ? (gone + source->period * (least / source->period + 2) - least) %
                             source->period
                       : gone - least;
    if (beyond > most - least) {
        FAIL("%s: %lu counts gone (modulo %lu), %lu to %lu are right", source->name, gone,
             source->period, least, most);
    }
}

static void look(struct latest *latest, uint64_t (*read)(void), unsigned bits)
{
    uint64_t seen = __atomic_load_n(&latest->value, __ATOMIC_ACQUIRE);
    uint64_t now = read();
    int64_t forward = (int64_t)((now - seen) << (64 - bits)) >> (64 - bits);
    if (forward < 0) {
        __atomic_fetch_add(&latest->backwards, 1, __ATOMIC_RELAXED);
        if ((uint64_t)-forward > latest->worst) {
            latest->worst = (uint64_t)-forward;
        }
        return;
    }
    __atomic_compare_exchange_n(&latest->value, &seen, now, false, __ATOMIC_RELEASE,
                                __ATOMIC_RELAXED);
}

static void expect_forward(const char *name, const struct latest *latest)
{
    case_begin("%s never goes backwards", name);
    if (latest->backwards) {
        FAIL("%lu readings came before an earlier one, by up to %lu counts",
             latest->backwards, latest->worst);
    }
}

/* To be called just before the clock is set. */
static void start_ticks(struct ticks *ticks)
{
    ticks->start = ticks->last = tsc_read();
}

static void note_tick(struct ticks *ticks)
{
    uint64_t now = tsc_read();
    ticks->count++;
    if (now - ticks->last > ticks->longest) {
        ticks->longest = now - ticks->last;
    }
    ticks->last = now;
}

static void on_apic_tick(struct trap_frame *frame)
{
    (void)frame;
    note_tick(&apic_ticks[cpu_self()->index]);
    apic_eoi();
}

static void on_pit_tick(struct trap_frame *frame)
{
    (void)frame;
    note_tick(&pit_ticks);
    apic_eoi();
}

static void start_clocks(void)
{
    unsigned index = cpu_self()->index;
    if (has_page) {
        msr_write(MSR_CLOCK_PAGE, (uint64_t)&pages[index] | 1);
    }
    apic_write(APIC_TIMER_DIVIDE, 0xb); /* by 1: nanoseconds */
    apic_write(APIC_LVT_TIMER, VECTOR_TICK | LVT_PERIODIC);
    start_ticks(&apic_ticks[index]);
    apic_write(APIC_TIMER_COUNT, TICK_NS);
}

static void stop_clocks(void)
{
    apic_write(APIC_TIMER_COUNT, 0);
    interrupts_window();
}

/* Memory, branches, a division, and now and then everybody's clocks. */
static void load_once(void)
{
    static uint64_t memory[CPU_MAX][512];
    uint64_t *own = memory[cpu_self()->index], x = own[0] | 1;
    for (unsigned i = 0; i < 512; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        own[i] = own[x >> 55] / (x | 1) + x;
    }
    look(&latest_tsc, tsc_read, 64);
    look(&latest_pm, pm_read, 32);
    if (has_page) {
        look(&latest_page, page_read, 64);
    }
}

static void load_processor(void *unused)
{
    (void)unused;
    start_clocks();
    interrupts_enable();
    while (!is_over) {
        load_once();
    }
    interrupts_disable();
    stop_clocks();
}

static uint64_t rtc_second(void)
{
    interrupts_disable();
    port_write8(0x70, 0);
    uint8_t value = port_read8(0x71);
    interrupts_enable();
    return (value >> 4) * 10u + (value & 15u);
}

static uint64_t width(const struct reading *reading)
{
    return reading->after - reading->before;
}

/* A second begins between two looks: then the real-time clock is as exact as any. The
 * rate is told by the narrowest brackets of the first and the last quarter of the time.
 */
static void watch_rtc(uint64_t start, uint64_t duration)
{
    static struct reading before;
    struct reading now = {.before = tsc_read()};
    now.value = rtc_second();
    now.after = tsc_read();
    struct reading edge = {before.before, now.after, now.value};
    bool is_edge = before.after && now.value != before.value;
    before = now;
    if (!is_edge) {
        return;
    }
    if (rtc.first.after) {
        check(&rtc, &edge, 0);
    }
    if (!rtc.first.after ||
        (now.after < start + duration / 4 && width(&edge) < width(&rtc.first))) {
        rtc.first = edge;
    } else if (now.after < start + duration / 4 * 3 || !rtc.last.after ||
               width(&edge) < width(&rtc.last)) {
        rtc.last = edge;
    }
}

static void measure(uint64_t seconds)
{
    uint64_t start = tsc_read(), duration = seconds * tsc_khz * 1000;
    start_clocks();
    for (unsigned i = !has_page; i < COUNT_OF(sources); i++) {
        sources[i].first = take(&sources[i]);
    }
    interrupts_enable();
    while (tsc_read() - start < duration) {
        load_once();
        watch_rtc(start, duration);
        for (unsigned i = !has_page; i < COUNT_OF(sources); i++) {
            interrupts_disable(); /* nobody else programs the ports */
            struct reading now = take(&sources[i]);
            interrupts_enable();
            check(&sources[i], &now, 1);
            sources[i].last = now;
        }
    }
    is_over = true;
    interrupts_disable();
    stop_clocks();
}

/* How far apart the two are in parts of a million, and by how much that may be wrong. */
static void tell_rate(const struct source *source)
{
    const struct reading *first = &source->first, *last = &source->last;
    if (first->after == 0 || last->before <= first->after) {
        print("# %s: not read twice\n", source->name);
        return;
    }
    uint64_t passed =
        tsc_to_ns((last->before + last->after) / 2 - (first->before + first->after) / 2);
    uint64_t unsure =
        tsc_to_ns((last->after - last->before) + (first->after - first->before)) / 2 +
        NS / source->rate * (source->rate != 1);
    uint64_t gone = last->value - first->value;
    if (source->period) {
        uint64_t expected = scale(passed, source->rate, NS);
        uint64_t half = source->period / 2;
        gone =
            expected - half +
            (gone + source->period * (expected / source->period + 2) - expected + half) %
                source->period;
    }
    int64_t difference = (int64_t)(scale(gone, NS, source->rate) - passed);
    print("# %s: %d ppm in %lu ms, certain within %lu\n", source->name,
          (int)(difference * 1000000 / (int64_t)passed), passed / 1000000,
          scale(unsure, 1000000, passed) + 1);
}

static void tell_ticks(const char *name, unsigned index, const struct ticks *ticks,
                       uint64_t period_ns)
{
    uint64_t due = tsc_to_ns(ticks->last - ticks->start) / period_ns;
    print("# %s of processor %u: %lu ticks, %ld missing, longest pause %lu us\n", name,
          index, ticks->count, (int64_t)(due - ticks->count),
          tsc_to_ns(ticks->longest) / 1000);
    ASSERT(ticks->count <= due);
    if (guest_option("exact")) {
        ASSERT_EQ(ticks->count, due);
    }
}

void guest_test(void)
{
    uint64_t seconds = guest_number(1);
    unsigned count = smp_count();

    tsc_khz = cpuid(0x40000010, 0).eax;
    has_page = cpuid(0x40000001, 0).eax & PARAVIRT_CLOCK;
    trap_set_handler(VECTOR_TICK, on_apic_tick);
    trap_set_handler(VECTOR_PIT, on_pit_tick);
    smp_start(false);
    pic_setup(0x30);
    case_begin("clocks agree for %lu s on %u processors", seconds, count);
    port_write8(0x61, 0x01); /* the gate of channel 2 */
    port_write8(0x43, 0xb4);
    port_write8(0x42, 0);
    port_write8(0x42, 0);
    start_ticks(&pit_ticks);
    pit_set(2, PIT_TICK);
    ioapic_route(2, VECTOR_PIT, apic_id());
    for (unsigned i = 1; i < count; i++) {
        smp_call(i, load_processor, NULL);
    }
    measure(seconds);
    pit_set(0, 0);
    ioapic_route(2, IOAPIC_MASKED, 0);
    for (unsigned i = 1; i < count; i++) {
        smp_wait(i);
    }
    for (unsigned i = !has_page; i < COUNT_OF(sources); i++) {
        tell_rate(&sources[i]);
    }
    tell_rate(&rtc);
    expect_forward("TSC", &latest_tsc);
    expect_forward("PM timer", &latest_pm);
    if (has_page) {
        expect_forward("clock page", &latest_page);
    }
    case_begin("no more ticks than are due");
    for (unsigned i = 0; i < count; i++) {
        tell_ticks("APIC timer", i, &apic_ticks[i], TICK_NS);
    }
    tell_ticks("8254", 0, &pit_ticks, scale(PIT_TICK, NS, PIT_RATE));
}
