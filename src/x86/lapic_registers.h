#pragma once
/* The local APIC's registers and the few operations its files share; not for other layers
 * (SDM 3A 11.4.1, table 11-1). */

#include "x86/lapic.h"

enum lapic_register {
    LAPIC_ID = 0x20,
    LAPIC_VERSION = 0x30,
    LAPIC_TPR = 0x80,
    LAPIC_APR = 0x90,
    LAPIC_PPR = 0xa0,
    LAPIC_EOI = 0xb0,
    LAPIC_RRD = 0xc0,
    LAPIC_LDR = 0xd0,
    LAPIC_DFR = 0xe0,
    LAPIC_SVR = 0xf0,
    LAPIC_ISR = 0x100, /* eight words each, one every 16 bytes */
    LAPIC_TMR = 0x180,
    LAPIC_IRR = 0x200,
    LAPIC_ESR = 0x280,
    LAPIC_ICR = 0x300,
    LAPIC_ICR_HIGH = 0x310,
    LAPIC_LVT_TIMER = 0x320,
    LAPIC_LVT_THERMAL = 0x330,
    LAPIC_LVT_PERFORMANCE = 0x340,
    LAPIC_LVT_LINT0 = 0x350,
    LAPIC_LVT_LINT1 = 0x360,
    LAPIC_LVT_ERROR = 0x370,
    LAPIC_TIMER_INITIAL = 0x380,
    LAPIC_TIMER_CURRENT = 0x390,
    LAPIC_TIMER_DIVIDE = 0x3e0,
    LAPIC_SELF_IPI = 0x3f0,
};

#define LAPIC_SVR_ENABLE     (1u << 8)

#define LAPIC_LVT_VECTOR     0xffu
#define LAPIC_LVT_MODE       (7u << 8) /* enum apic_delivery_mode */
#define LAPIC_LVT_MODE_SHIFT 8
#define LAPIC_LVT_MASKED     (1u << 16)
#define LAPIC_LVT_TIMER_MODE (3u << 17)
#define LAPIC_TIMER_ONE_SHOT (0u << 17)
#define LAPIC_TIMER_PERIODIC (1u << 17)
#define LAPIC_TIMER_TSC      (2u << 17)

/* ESR, SDM 3A 11.5.3 */
#define LAPIC_ERROR_SEND_VECTOR    (1u << 5)
#define LAPIC_ERROR_RECEIVE_VECTOR (1u << 6)
#define LAPIC_ERROR_REGISTER       (1u << 7)

static inline uint32_t lapic_get(const struct lapic *lapic, unsigned offset)
{
    return atomic_load_explicit(&lapic->regs[offset / 4], memory_order_acquire);
}

static inline void lapic_put(struct lapic *lapic, unsigned offset, uint32_t value)
{
    atomic_store_explicit(&lapic->regs[offset / 4], value, memory_order_release);
}

static inline bool lapic_is_enabled(const struct lapic *lapic)
{
    return lapic->base & LAPIC_BASE_ENABLE;
}

static inline bool lapic_is_x2apic(const struct lapic *lapic)
{
    return lapic->base & LAPIC_BASE_X2APIC;
}

static inline bool lapic_is_software_enabled(const struct lapic *lapic)
{
    return lapic_get(lapic, LAPIC_SVR) & LAPIC_SVR_ENABLE;
}

/* lapic.c */

/* Back to the state of 11.4.7.1, in the mode that IA32_APIC_BASE says. */
void lapic_reset_registers(struct lapic *lapic);
/* Called after IA32_APIC_BASE has changed its mode: ID and LDR look different. */
void lapic_show_ids(struct lapic *lapic);
uint8_t lapic_processor_priority(const struct lapic *lapic);
/* One register access by either interface, already checked to be one. value of a write
 * has only bits that may be written. */
uint32_t lapic_register_read(struct lapic *lapic, uint64_t now_ns, unsigned offset);
void lapic_register_write(struct lapic *lapic, uint64_t now_ns, unsigned offset,
                          uint32_t value, struct lapic_effect *effect);

#define LAPIC_MMIO_READ  1u
#define LAPIC_MMIO_WRITE 2u
#define LAPIC_MSR_READ   4u
#define LAPIC_MSR_WRITE  8u

/* What an interface may do with a register, and the bits that a write may change. Bits
 * that are neither writable nor ignored are reserved: #GP by MSR, ignored by MMIO. */
struct lapic_rule {
    uint8_t access;
    uint32_t writable, ignored;
};
const struct lapic_rule *lapic_register_rule(unsigned offset);

/* lapic_delivery.c; thread-safe */

/* Requests an interrupt: into IRR, or an error if the vector is one of the illegal 16.
 * True if the IRR bit is new. */
bool lapic_request(struct lapic *lapic, uint8_t vector, bool is_level);
/* Notes errors in the pending ESR and raises the LVT's error interrupt with the first. */
void lapic_error(struct lapic *lapic, uint8_t errors);
/* An event at a local interrupt source: what its LVT entry makes of it. */
bool lapic_local_event(struct lapic *lapic, unsigned lvt);
/* The ICR was written. */
void lapic_send(struct lapic *lapic, uint32_t low, uint32_t destination,
                struct lapic_effect *effect);

/* lapic_timer.c */

uint32_t lapic_timer_divisor(const struct lapic *lapic);
uint32_t lapic_timer_current(const struct lapic *lapic, uint64_t now_ns);
void lapic_timer_set_initial(struct lapic *lapic, uint64_t now_ns, uint32_t count);
void lapic_timer_set_divide(struct lapic *lapic, uint64_t now_ns, uint32_t divide);
void lapic_timer_set_lvt(struct lapic *lapic, uint64_t now_ns, uint32_t value);
void lapic_timer_set_tsc_deadline(struct lapic *lapic, uint64_t now_ns, uint64_t tsc,
                                  uint64_t deadline);
