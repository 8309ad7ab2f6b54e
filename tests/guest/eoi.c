/*
 * The end of an interrupt by a bit in memory (Documentation/virt/kvm/x86/msr.rst).
 *
 * The bit may always be clear: then the APIC's register is to be written. So each ending
 * is done as a kernel does it, and what is asserted is that no interrupt is lost, comes
 * twice or out of order; and in the end that the service was of use at all.
 */
#include "apic.h"
#include "cpu.h"
#include "guest.h"
#include "smp.h"
#include "trap.h"

#define LOW         0x41
#define HIGH        0x61
#define MSR_EOI     0x4b564d04u
#define FEATURE_EOI (1u << 6)
#define ROUNDS      200u

static struct {
    volatile uint32_t word;
} __attribute__((aligned(64))) eoi_words[CPU_MAX];
static volatile uint32_t by_bit, by_register, seen[256];
static volatile uint64_t order;

/* One instruction that tells whether it was set, as the interface asks. */
static bool clear_bit(volatile uint32_t *word)
{
    bool was_set;
    __asm__ volatile("btrl $0, %1" : "=@ccc"(was_set), "+m"(*word) : : "memory");
    return was_set;
}

static void end_interrupt(void)
{
    if (clear_bit(&eoi_words[cpu_self()->index].word)) {
        __atomic_fetch_add(&by_bit, 1, __ATOMIC_RELAXED);
    } else {
        __atomic_fetch_add(&by_register, 1, __ATOMIC_RELAXED);
        apic_eoi();
    }
}

static void on_interrupt(struct trap_frame *frame)
{
    order = order << 8 | frame->vector;
    seen[frame->vector]++;
    end_interrupt();
}

static void send_self(uint8_t vector)
{
    apic_send(ICR_TO_SELF | ICR_ASSERT | vector, 0);
}

/* Until one comes; hosts whose KVM interprets look for it now and then only. */
static void wait_for(const volatile uint32_t *count, uint32_t expected)
{
    uint32_t start = port_read32(PM_TIMER_PORT);
    interrupts_enable();
    while (*count != expected && port_read32(PM_TIMER_PORT) - start < PM_TIMER_RATE) {
        pause();
    }
    interrupts_disable();
    ASSERT_EQ(*count, expected);
}

static void take_one(uint8_t vector)
{
    uint32_t before = seen[vector];
    send_self(vector);
    wait_for(&seen[vector], before + 1);
}

static void enable_eoi(void *unused)
{
    (void)unused;
    unsigned index = cpu_self()->index;
    eoi_words[index].word = 0;
    msr_write(MSR_EOI, (uint64_t)&eoi_words[index] | 1);
}

static void disable_eoi(void *unused)
{
    (void)unused;
    msr_write(MSR_EOI, 0);
}

static uint64_t write_eoi_msr(uint64_t value)
{
    msr_write(MSR_EOI, value);
    return 0;
}

static void try_one_at_a_time(void)
{
    case_begin("an interrupt that was ended by the bit is not in service");
    for (unsigned i = 0; i < ROUNDS; i++) {
        take_one(LOW);
        if (i % 8 == 0) {
            ASSERT(!apic_bit(APIC_ISR, LOW));
        }
    }
    case_begin("the next one comes without anybody looking at the APIC");
    order = 0;
    for (unsigned i = 0; i < 4; i++) {
        take_one(i % 2 ? LOW : HIGH);
    }
    ASSERT_EQ(order, (uint64_t)HIGH << 24 | LOW << 16 | HIGH << 8 | LOW);
}

static void hold(struct trap_frame *frame)
{
    uint32_t before = seen[LOW];
    order = order << 8 | HIGH;
    send_self(LOW);
    interrupts_window(); /* of a lower class: it waits */
    order = order << 8 | 1;
    ASSERT(apic_bit(APIC_ISR, HIGH));
    ASSERT_EQ(eoi_words[cpu_self()->index].word, 0); /* LOW waits for the register */
    end_interrupt();
    wait_for(&seen[LOW], before + 1);
    order = order << 8 | 2;
    seen[frame->vector]++;
}

static void try_nesting(void)
{
    case_begin("one that comes meanwhile waits for the end");
    order = 0;
    trap_set_handler(HIGH, hold);
    take_one(HIGH);
    ASSERT_EQ(order, (uint64_t)HIGH << 24 | 1 << 16 | LOW << 8 | 2);
    trap_set_handler(HIGH, on_interrupt);
    ASSERT(!apic_bit(APIC_ISR, HIGH));
}

static void end_by_register(struct trap_frame *frame)
{
    seen[frame->vector]++;
    apic_eoi();
    ASSERT_EQ(eoi_words[cpu_self()->index].word, 0);
    ASSERT(!apic_bit(APIC_ISR, HIGH));
}

static void leave_in_service(struct trap_frame *frame)
{
    seen[frame->vector]++;
    disable_eoi(NULL);
    ASSERT(apic_bit(APIC_ISR, HIGH));
    apic_eoi();
    ASSERT(!apic_bit(APIC_ISR, HIGH));
    enable_eoi(NULL);
}

static void try_otherwise(void)
{
    case_begin("the register may be written although the bit is set");
    trap_set_handler(HIGH, end_by_register);
    take_one(HIGH);
    case_begin("switched off between an interrupt and its end");
    trap_set_handler(HIGH, leave_in_service);
    take_one(HIGH);
    trap_set_handler(HIGH, on_interrupt);
    ASSERT_EQ(msr_read(MSR_EOI), (uint64_t)&eoi_words[cpu_self()->index] | 1);
    case_begin("bit 1 of the register is reserved");
    ASSERT(trap_try(write_eoi_msr, (uint64_t)&eoi_words[0] | 3));
    ASSERT_EQ(cpu_self()->trap.vector, VECTOR_GP);
    case_begin("a word outside of memory does no harm");
    if (!trap_try(write_eoi_msr, 0xfee00000ull | 1)) {
        for (unsigned i = 0; i < 3; i++) {
            take_one(LOW);
        }
        ASSERT(!apic_bit(APIC_ISR, LOW));
    }
    enable_eoi(NULL);
}

/* Waits for them with interrupts enabled, without a halt. */
static volatile uint32_t received, wanted;

static void on_message(struct trap_frame *frame)
{
    (void)frame;
    end_interrupt();
    __atomic_fetch_add(&received, 1, __ATOMIC_RELEASE);
}

static void receive(void *unused)
{
    (void)unused;
    interrupts_enable();
    while (__atomic_load_n(&received, __ATOMIC_ACQUIRE) < wanted) {
        pause();
    }
    interrupts_disable();
}

/* Two vectors at a time, so that one comes while the other is being ended. */
static void try_messages(unsigned index)
{
    case_begin("no message to processor %u is lost", index);
    uint32_t destination = cpus[index].index;
    received = 0;
    wanted = ROUNDS * 2;
    trap_set_handler(LOW, on_message);
    trap_set_handler(HIGH, on_message);
    smp_call(index, receive, NULL);
    for (unsigned i = 0; i < ROUNDS; i++) {
        apic_send(ICR_ASSERT | (i % 2 ? LOW : HIGH), destination);
        apic_send(ICR_ASSERT | (i % 2 ? HIGH : LOW), destination);
        while (__atomic_load_n(&received, __ATOMIC_ACQUIRE) < 2 * (i + 1)) {
            pause();
        }
    }
    smp_wait(index);
    trap_set_handler(LOW, on_interrupt);
    trap_set_handler(HIGH, on_interrupt);
}

void guest_test(void)
{
    if (!(cpuid(0x40000001, 0).eax & FEATURE_EOI) && guest_option("may-lack")) {
        guest_skip("this KVM does not have the service");
    }
    apic_enable(true);
    smp_start(true);
    case_begin("the service is offered");
    ASSERT(cpuid(0x40000001, 0).eax & FEATURE_EOI);
    trap_set_handler(LOW, on_interrupt);
    trap_set_handler(HIGH, on_interrupt);
    enable_eoi(NULL);
    try_one_at_a_time();
    try_nesting();
    try_otherwise();
    for (unsigned i = 1; i < smp_count(); i++) {
        smp_call(i, enable_eoi, NULL);
        smp_wait(i);
        try_messages(i);
        smp_call(i, disable_eoi, NULL);
        smp_wait(i);
    }
    case_begin("some were ended by the bit");
    print("# %u by the bit, %u by the register\n", by_bit, by_register);
    ASSERT(by_bit > 0);
    disable_eoi(NULL);
}
