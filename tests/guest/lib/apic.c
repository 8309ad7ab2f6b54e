#include "apic.h"

#include "cpu.h"
#include "guest.h"
#include "trap.h"

#define XAPIC_BASE       0xfee00000ull
#define IOAPIC_BASE      0xfec00000ull
#define APIC_BASE_X2     (1ull << 10)
#define APIC_BASE_ENABLE (1ull << 11)
#define SVR_ENABLE       0x100u

bool apic_is_x2(void)
{
    return msr_read(MSR_APIC_BASE) & APIC_BASE_X2;
}

uint32_t apic_read(uint32_t offset)
{
    if (apic_is_x2()) {
        return (uint32_t)msr_read(0x800 + offset / 16);
    }
    return *(volatile uint32_t *)(XAPIC_BASE + offset);
}

void apic_write(uint32_t offset, uint32_t value)
{
    if (apic_is_x2()) {
        msr_write(0x800 + offset / 16, value);
    } else {
        *(volatile uint32_t *)(XAPIC_BASE + offset) = value;
    }
}

void apic_enable(bool x2apic)
{
    uint64_t base = msr_read(MSR_APIC_BASE);
    if (!x2apic && (base & APIC_BASE_X2)) {
        /* The way back leads through the disabled state (SDM 3A 11.12.5). */
        msr_write(MSR_APIC_BASE, base & ~(APIC_BASE_X2 | APIC_BASE_ENABLE));
        base &= ~APIC_BASE_X2;
    }
    msr_write(MSR_APIC_BASE, base | APIC_BASE_ENABLE);
    if (x2apic) {
        msr_write(MSR_APIC_BASE, base | APIC_BASE_ENABLE | APIC_BASE_X2);
    }
    apic_write(APIC_SVR, SVR_ENABLE | VECTOR_SPURIOUS);
    apic_write(APIC_TPR, 0);
}

uint32_t apic_id(void)
{
    uint32_t id = apic_read(APIC_ID);
    return apic_is_x2() ? id : id >> 24;
}

void apic_eoi(void)
{
    apic_write(APIC_EOI, 0);
}

void apic_send(uint32_t command, uint32_t destination)
{
    if (apic_is_x2()) {
        msr_write(0x800 + APIC_ICR / 16, (uint64_t)destination << 32 | command);
        return;
    }
    apic_write(APIC_ICR + 0x10, destination << 24);
    apic_write(APIC_ICR, command);
    while (apic_read(APIC_ICR) & (1u << 12)) {
        pause();
    }
}

bool apic_bit(uint32_t offset, uint8_t vector)
{
    return apic_read(offset + vector / 32 * 16) >> vector % 32 & 1;
}

uint32_t ioapic_read(uint32_t index)
{
    *(volatile uint32_t *)IOAPIC_BASE = index;
    return *(volatile uint32_t *)(IOAPIC_BASE + 0x10);
}

void ioapic_write(uint32_t index, uint32_t value)
{
    *(volatile uint32_t *)IOAPIC_BASE = index;
    *(volatile uint32_t *)(IOAPIC_BASE + 0x10) = value;
}

void ioapic_route(uint32_t input, uint32_t low, uint32_t destination)
{
    ioapic_write(0x10 + 2 * input, IOAPIC_MASKED);
    ioapic_write(0x11 + 2 * input, destination << 24);
    ioapic_write(0x10 + 2 * input, low);
}

void pic_setup(uint8_t base)
{
    const struct {
        uint16_t port;
        uint8_t value;
    } writes[] = {
        {0x20, 0x11}, {0x21, base}, {0x21, 4},
        {0x21, 1},    {0xa0, 0x11}, {0xa1, (uint8_t)(base + 8)},
        {0xa1, 2},    {0xa1, 1},    {0x21, 0xff},
        {0xa1, 0xff},
    };
    for (unsigned i = 0; i < COUNT_OF(writes); i++) {
        port_write8(writes[i].port, writes[i].value);
    }
}

void pit_set(uint8_t mode, uint16_t count)
{
    port_write8(0x43, (uint8_t)(0x30 | mode << 1));
    port_write8(0x40, (uint8_t)count);
    port_write8(0x40, (uint8_t)(count >> 8));
}

void pm_wait(uint32_t ticks)
{
    uint32_t start = port_read32(PM_TIMER_PORT);
    while (port_read32(PM_TIMER_PORT) - start < ticks) {
        pause();
    }
}

uint64_t tsc_rate(void)
{
    static uint64_t rate;
    if (!rate) {
        uint32_t pm = port_read32(PM_TIMER_PORT);
        uint64_t tsc = tsc_read();
        pm_wait(PM_TIMER_RATE / 50);
        uint64_t passed = tsc_read() - tsc;
        rate = passed * PM_TIMER_RATE / (port_read32(PM_TIMER_PORT) - pm);
    }
    return rate;
}

#define PROBE_ROUNDS 20000u

bool cpu_is_slow(void)
{
    uint64_t start = tsc_read(), rounds = PROBE_ROUNDS;
    __asm__ volatile("1: dec %0; jnz 1b" : "+r"(rounds) : : "cc");
    uint64_t us = (tsc_read() - start) / (tsc_rate() / 1000000);
    return us > PROBE_ROUNDS / 20; /* less than 20 rounds a microsecond */
}
