/* The local APIC by memory (xAPIC) or MSR (x2APIC), the I/O APIC, the 8259s, and clocks.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define APIC_ID           0x020
#define APIC_VERSION      0x030
#define APIC_TPR          0x080
#define APIC_PPR          0x0a0
#define APIC_EOI          0x0b0
#define APIC_LDR          0x0d0
#define APIC_DFR          0x0e0
#define APIC_SVR          0x0f0
#define APIC_ISR          0x100
#define APIC_IRR          0x200
#define APIC_ESR          0x280
#define APIC_ICR          0x300
#define APIC_LVT_TIMER    0x320
#define APIC_LVT_LINT0    0x350
#define APIC_LVT_LINT1    0x360
#define APIC_LVT_ERROR    0x370
#define APIC_TIMER_COUNT  0x380
#define APIC_TIMER_NOW    0x390
#define APIC_TIMER_DIVIDE 0x3e0
#define APIC_SELF_IPI     0x3f0 /* x2APIC */

#define ICR_LOWEST        (1u << 8)
#define ICR_NMI           (4u << 8)
#define ICR_INIT          (5u << 8)
#define ICR_STARTUP       (6u << 8)
#define ICR_LOGICAL       (1u << 11)
#define ICR_ASSERT        (1u << 14)
#define ICR_LEVEL         (1u << 15)
#define ICR_TO_SELF       (1u << 18)
#define ICR_TO_ALL        (2u << 18)
#define ICR_TO_OTHERS     (3u << 18)

#define LVT_MASKED        (1u << 16)
#define LVT_PERIODIC      (1u << 17)
#define LVT_DEADLINE      (2u << 17)
#define LVT_EXTINT        (7u << 8)

/* Enables this processor's APIC, in xAPIC or x2APIC mode, spurious vector 0xff. */
void apic_enable(bool x2apic);
bool apic_is_x2(void);

uint32_t apic_read(uint32_t offset);
void apic_write(uint32_t offset, uint32_t value);
uint32_t apic_id(void);
void apic_eoi(void);

/* Sends a message, in the mode this processor is in; waits until it is sent. */
void apic_send(uint32_t command, uint32_t destination);

/* Is this vector's bit set in a 256-bit register (APIC_ISR, APIC_IRR, TMR 0x180)? */
bool apic_bit(uint32_t offset, uint8_t vector);

#define IOAPIC_MASKED     (1u << 16)
#define IOAPIC_LEVEL      (1u << 15)
#define IOAPIC_REMOTE_IRR (1u << 14)
#define IOAPIC_LOW        (1u << 13)

uint32_t ioapic_read(uint32_t index);
void ioapic_write(uint32_t index, uint32_t value);
void ioapic_route(uint32_t input, uint32_t low, uint32_t destination);

/* Sets both 8259s up with vectors from `base` (a multiple of 16) and everything masked.
 */
void pic_setup(uint8_t base);

/* Channel 0 of the 8254: its mode and count; 1193182 counts a second. */
void pit_set(uint8_t mode, uint16_t count);

#define PM_TIMER_PORT 0x608
#define PM_TIMER_RATE 3579545u

/* PM timer ticks go by, interrupts as they are. */
void pm_wait(uint32_t ticks);

/* TSC counts per second, measured once against the PM timer. */
uint64_t tsc_rate(void);
/* Is ring 0 interpreted at a few million instructions a second, as some hosts' KVM does?
 * What takes long has to do less then. Takes tsc_rate's 20 ms. */
bool cpu_is_slow(void);
