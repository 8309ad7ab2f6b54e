/*
 * The timers against one another: APIC timer (one-shot, periodic, TSC deadline), 8254,
 * real-time clock, PM timer, TSC; interrupts of the 8259s and of the I/O APIC. Bounds are
 * wide above, since the host may be late; nothing may ever come early.
 */
#include "apic.h"
#include "cpu.h"
#include "guest.h"
#include "trap.h"

#define VECTOR   0x51
#define PIC_BASE 0x30
#define LATE_MS  400

static volatile uint64_t ticks;
static bool is_pic;

static void tick(struct trap_frame *frame)
{
    ticks++;
    if (is_pic) {
        if (frame->vector >= PIC_BASE + 8) {
            port_write8(0xa0, 0x20);
        }
        port_write8(0x20, 0x20);
    } else {
        apic_eoi();
    }
}

static uint64_t tsc_of_ms(uint64_t ms)
{
    return tsc_rate() / 1000 * ms;
}

/* When it was last looked at: the timer in question was set behind that. */
static uint64_t looked_at;

/* Milliseconds until `wanted` more ticks have come; fails after LATE_MS beyond `ms`. Time
 * counts from before the timer was set: a host that is busy may take a break there. */
static void expect_ticks(uint64_t wanted, uint64_t ms)
{
    uint64_t start = tsc_read(), passed;
    ticks = 0;
    interrupts_enable();
    while (ticks < wanted) {
        pause();
        if (tsc_read() - start > tsc_of_ms(ms + LATE_MS)) {
            FAIL("%lu of %lu interrupts came within %lu ms", ticks, wanted, ms + LATE_MS);
        }
    }
    passed = tsc_read() - looked_at;
    interrupts_disable();
    looked_at = tsc_read();
    /* A hundredth is granted to the measurement of the rates. */
    if (passed < tsc_of_ms(ms) * 99 / 100) {
        FAIL("%lu interrupts came in %lu us, %lu ms were due", wanted,
             passed * 1000000 / tsc_rate(), ms);
    }
}

static void expect_quiet(uint64_t ms)
{
    uint64_t start = tsc_read();
    ticks = 0;
    interrupts_enable();
    while (tsc_read() - start < tsc_of_ms(ms)) {
        pause();
    }
    interrupts_disable();
    ASSERT_EQ(ticks, 0);
    looked_at = tsc_read();
}

static void try_rates(void)
{
    case_begin("TSC and PM timer agree");
    uint64_t rate = tsc_rate();
    looked_at = tsc_read();
    struct cpuid hypervisor = cpuid(0x40000010, 0);
    ASSERT_BETWEEN(rate / 1000, hypervisor.eax / 100ull * 99,
                   hypervisor.eax / 100ull * 101);
    uint32_t pm = port_read32(PM_TIMER_PORT);
    for (unsigned i = 0; i < 1000; i++) {
        uint32_t next = port_read32(PM_TIMER_PORT);
        ASSERT(next - pm < 1u << 31);
        pm = next;
    }
}

static void try_apic_timer(void)
{
    uint32_t clock = cpuid(0x40000010, 0).ebx; /* kHz */

    case_begin("APIC timer: one-shot");
    apic_write(APIC_LVT_TIMER, VECTOR);
    apic_write(APIC_TIMER_DIVIDE, 0xb); /* by 1 */
    apic_write(APIC_TIMER_COUNT, clock * 5);
    ASSERT(apic_read(APIC_TIMER_NOW) <= clock * 5 && apic_read(APIC_TIMER_NOW) > 0);
    expect_ticks(1, 5);
    ASSERT_EQ(apic_read(APIC_TIMER_NOW), 0);
    expect_quiet(7);
    case_begin("APIC timer: dividers");
    static const uint8_t dividers[] = {0, 1, 2, 3, 8, 9, 10};
    for (unsigned i = 0; i < COUNT_OF(dividers); i++) {
        apic_write(APIC_TIMER_DIVIDE, dividers[i]);
        apic_write(APIC_TIMER_COUNT, clock * 2 >> (i + 1));
        expect_ticks(1, 2);
    }
    case_begin("APIC timer: stopped by a count of 0, silent when masked");
    apic_write(APIC_TIMER_COUNT, clock);
    apic_write(APIC_TIMER_COUNT, 0);
    expect_quiet(5);
    apic_write(APIC_LVT_TIMER, VECTOR | LVT_MASKED);
    apic_write(APIC_TIMER_COUNT, 1000);
    expect_quiet(5);
    case_begin("APIC timer: periodic");
    apic_write(APIC_TIMER_DIVIDE, 0xb);
    apic_write(APIC_LVT_TIMER, VECTOR | LVT_PERIODIC);
    apic_write(APIC_TIMER_COUNT, clock * 2);
    expect_ticks(1, 0);
    expect_ticks(10, 18);
    case_begin("APIC timer: a period of one count leaves the program time to go on");
    apic_write(APIC_TIMER_COUNT, 1);
    expect_ticks(50, 0);
    apic_write(APIC_TIMER_COUNT, 0);
    interrupts_window(); /* one may wait already */
}

static void try_deadline(void)
{
    case_begin("TSC deadline");
    apic_write(APIC_LVT_TIMER, VECTOR | LVT_DEADLINE);
    msr_write(MSR_DEADLINE, tsc_read() + tsc_of_ms(5));
    ASSERT(msr_read(MSR_DEADLINE) > tsc_read() - tsc_of_ms(5));
    expect_ticks(1, 5);
    ASSERT_EQ(msr_read(MSR_DEADLINE), 0);
    case_begin("TSC deadline in the past");
    msr_write(MSR_DEADLINE, 1);
    expect_ticks(1, 0);
    msr_write(MSR_DEADLINE, tsc_read() - 1);
    expect_ticks(1, 0);
    case_begin("TSC deadline: 0 disarms, and so does another mode");
    msr_write(MSR_DEADLINE, tsc_read() + tsc_of_ms(2));
    msr_write(MSR_DEADLINE, 0);
    expect_quiet(4);
    msr_write(MSR_DEADLINE, tsc_read() + tsc_of_ms(2));
    apic_write(APIC_LVT_TIMER, VECTOR);
    apic_write(APIC_LVT_TIMER, VECTOR | LVT_DEADLINE);
    expect_quiet(4);
    case_begin("TSC deadline: never");
    msr_write(MSR_DEADLINE, UINT64_MAX);
    expect_quiet(2);
    msr_write(MSR_DEADLINE, 1ull << 63);
    expect_quiet(2);
    case_begin("HLT sleeps until the deadline");
    for (unsigned i = 0; i < 5; i++) {
        uint64_t deadline = tsc_read() + tsc_of_ms(2);
        ticks = 0;
        msr_write(MSR_DEADLINE, deadline);
        while (!ticks) {
            __asm__ volatile("sti; hlt; cli" : : : "memory");
        }
        ASSERT(tsc_read() >= deadline);
        ASSERT(tsc_read() - deadline < tsc_of_ms(LATE_MS));
    }
    apic_write(APIC_LVT_TIMER, LVT_MASKED);
}

/* Line 0 of the 8259 through LINT0 as ExtINT. */
static void try_pic(void)
{
    case_begin("8254 through the 8259 and LINT0");
    is_pic = true;
    pic_setup(PIC_BASE);
    trap_set_handler(PIC_BASE, tick);
    trap_set_handler(PIC_BASE + 8, tick);
    apic_write(APIC_LVT_LINT0, LVT_EXTINT);
    pit_set(2, 11932); /* 10 ms */
    expect_quiet(15);  /* masked */
    port_write8(0x21, 0xfe);
    interrupts_window();
    expect_ticks(3, 15);
    case_begin("8254: one-shot");
    pit_set(0, 5966); /* 5 ms */
    expect_ticks(1, 4);
    expect_quiet(10);
    case_begin("8254: a count of 1 leaves the program time to go on");
    pit_set(2, 2);
    expect_ticks(20, 0);
    pit_set(0, 0);
    port_write8(0x21, 0xff);
    case_begin("8259: no EOI, no next one");
    pit_set(2, 1193);
    port_write8(0x21, 0xfe);
    expect_ticks(1, 0);
    port_write8(0x20, 0x0b);
    ASSERT_EQ(port_read8(0x20), 0); /* nothing in service */
    pit_set(0, 0);
    port_write8(0x21, 0xff);

    case_begin("real-time clock: periodic, by the second 8259");
    port_write8(0x70, 0x0a);
    port_write8(0x71, 0x26); /* 1024 a second */
    port_write8(0x70, 0x0b);
    port_write8(0x71, 0x42);
    port_write8(0x70, 0x0c);
    port_read8(0x71);
    port_write8(0x21, 0xfb);
    port_write8(0xa1, 0xfe);
    expect_ticks(1, 0);
    expect_quiet(5); /* until C is read */
    uint64_t start = tsc_read();
    for (unsigned i = 0; i < 8; i++) {
        port_write8(0x70, 0x0c);
        ASSERT(port_read8(0x71) & 0xc0);
        expect_ticks(1, 0);
    }
    ASSERT(tsc_read() - start > tsc_of_ms(5));
    port_write8(0x70, 0x0b);
    port_write8(0x71, 0x02);
    port_write8(0x70, 0x0c);
    port_read8(0x71);
    pic_setup(PIC_BASE);
    apic_write(APIC_LVT_LINT0, LVT_MASKED);
    is_pic = false;
}

/* The serial port's line is level: the transmitter being empty holds it up. */
static uint64_t level_seen;

static void on_level(struct trap_frame *frame)
{
    (void)frame;
    level_seen++;
    ASSERT(ioapic_read(0x10 + 2 * 4) & IOAPIC_REMOTE_IRR);
    ASSERT(apic_bit(0x180, VECTOR + 1));
    if (level_seen == 3) {
        port_write8(0x3f9, 0); /* the line falls */
    }
    apic_eoi();
    /* The EOI clears it; a line that is still up sets it again. */
    ASSERT_EQ(!!(ioapic_read(0x10 + 2 * 4) & IOAPIC_REMOTE_IRR), level_seen < 3);
}

static void try_ioapic(void)
{
    case_begin("I/O APIC: registers");
    ASSERT_EQ(ioapic_read(1) >> 16 & 0xff, 23);
    for (unsigned i = 0; i < 24; i++) {
        ioapic_write(0x10 + 2 * i, 0xffffffff);
        /* Delivery status and remote IRR are read-only (82093AA 3.2.4). */
        ASSERT_EQ(ioapic_read(0x10 + 2 * i), 0x1ffff & ~(1u << 12 | IOAPIC_REMOTE_IRR));
        ioapic_write(0x10 + 2 * i, IOAPIC_MASKED);
    }
    case_begin("I/O APIC: 8254 by edges");
    ioapic_route(2, VECTOR, apic_id());
    pit_set(2, 2386);
    expect_ticks(1, 0);
    expect_ticks(5, 8);
    ioapic_route(2, IOAPIC_MASKED, 0);
    pit_set(0, 0);
    expect_quiet(5);
    case_begin("I/O APIC: level-triggered until the line falls, remote IRR until EOI");
    trap_set_handler(VECTOR + 1, on_level);
    ioapic_route(4, (VECTOR + 1) | IOAPIC_LEVEL | IOAPIC_MASKED, apic_id());
    port_write8(0x3fc, 0x08); /* OUT2 lets the interrupt out */
    port_write8(0x3f9, 0x02); /* transmitter empty */
    interrupts_window();
    ASSERT_EQ(level_seen, 0);
    ioapic_write(0x10 + 2 * 4, (VECTOR + 1) | IOAPIC_LEVEL);
    interrupts_enable();
    for (unsigned i = 0; i < 1000; i++) {
        pause();
    }
    interrupts_disable();
    ASSERT_EQ(level_seen, 3);
    ioapic_route(4, IOAPIC_MASKED, 0);
}

void guest_test(void)
{
    apic_enable(false);
    pic_setup(PIC_BASE);
    trap_set_handler(VECTOR, tick);
    try_rates();
    try_apic_timer();
    try_deadline();
    try_pic();
    try_ioapic();
    apic_enable(true);
    try_apic_timer();
    try_deadline();
}
