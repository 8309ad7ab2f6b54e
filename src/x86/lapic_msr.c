/*
 * The MSRs of the local APIC: IA32_APIC_BASE with its state machine (SDM 3A 11.12.1,
 * 11.12.5), IA32_TSC_DEADLINE and the x2APIC registers.
 */

#include "x86/lapic_registers.h"

#define BASE_KNOWN \
    (LAPIC_BASE_ADDRESS | LAPIC_BASE_ENABLE | LAPIC_BASE_X2APIC | LAPIC_BASE_BSP)
#define BASE_MODE (LAPIC_BASE_ENABLE | LAPIC_BASE_X2APIC)

/* SDM 3A figure 11-27: into x2APIC mode only from xAPIC mode, out of it only to disabled.
 */
static bool is_valid_transition(uint64_t from, uint64_t to)
{
    switch (to & BASE_MODE) {
    case 0:
        return true;
    case LAPIC_BASE_ENABLE:
        return !(from & LAPIC_BASE_X2APIC);
    case LAPIC_BASE_ENABLE | LAPIC_BASE_X2APIC:
        return from & LAPIC_BASE_ENABLE;
    default:
        return false;
    }
}

static bool write_base(struct lapic *lapic, uint64_t value, struct lapic_effect *effect)
{
    uint64_t before = lapic->base;

    if (value & ~BASE_KNOWN || !is_valid_transition(before, value)) {
        return false;
    }
    if (value == before) {
        return true;
    }
    lapic->base = value;
    effect->what |= LAPIC_EFFECT_BASE;
    if (!(value & LAPIC_BASE_ENABLE)) {
        /* SDM 3A 11.4.3: it comes back as after a reset. */
        lapic_reset_registers(lapic);
        effect->what |= LAPIC_EFFECT_TIMER;
    } else if ((before ^ value) & LAPIC_BASE_X2APIC) {
        lapic_show_ids(lapic);
        lapic_put(lapic, LAPIC_ICR_HIGH, 0);
    }
    if (lapic_pending(lapic) != LAPIC_NONE) {
        effect->what |= LAPIC_EFFECT_RECHECK;
    }
    return true;
}

static bool write_deadline(struct lapic *lapic, uint64_t now_ns, uint64_t tsc,
                           uint64_t value, struct lapic_effect *effect)
{
    uint64_t before_ns = lapic->timer_deadline_ns;

    lapic_timer_set_tsc_deadline(lapic, now_ns, tsc, value);
    if (lapic->timer_deadline_ns != before_ns) {
        effect->what |= LAPIC_EFFECT_TIMER;
    }
    if (lapic_pending(lapic) != LAPIC_NONE) {
        effect->what |= LAPIC_EFFECT_RECHECK;
    }
    return true;
}

static unsigned msr_offset(uint32_t index)
{
    return (index - MSR_X2APIC_FIRST) * 16;
}

static bool is_allowed(const struct lapic *lapic, unsigned offset, unsigned access)
{
    return lapic_is_x2apic(lapic) && offset < 0x400 &&
           (lapic_register_rule(offset)->access & access);
}

bool lapic_msr_read(struct lapic *lapic, uint64_t now_ns, uint64_t tsc, uint32_t index,
                    uint64_t *value)
{
    if (index == MSR_APIC_BASE) {
        *value = lapic->base;
        return true;
    }
    if (index == MSR_TSC_DEADLINE) {
        /* It reads as 0 from the moment it is due, even if nobody has run the timer. */
        *value = lapic->tsc_deadline > tsc ? lapic->tsc_deadline : 0;
        return true;
    }
    unsigned offset = msr_offset(index);
    if (!is_allowed(lapic, offset, LAPIC_MSR_READ)) {
        return false;
    }
    *value = lapic_register_read(lapic, now_ns, offset);
    if (offset == LAPIC_ICR) {
        *value |= (uint64_t)lapic_get(lapic, LAPIC_ICR_HIGH) << 32;
    }
    return true;
}

bool lapic_msr_write(struct lapic *lapic, uint64_t now_ns, uint64_t tsc, uint32_t index,
                     uint64_t value, struct lapic_effect *effect)
{
    *effect = (struct lapic_effect){0};
    if (index == MSR_APIC_BASE) {
        return write_base(lapic, value, effect);
    }
    if (index == MSR_TSC_DEADLINE) {
        return write_deadline(lapic, now_ns, tsc, value, effect);
    }
    unsigned offset = msr_offset(index);
    if (!is_allowed(lapic, offset, LAPIC_MSR_WRITE)) {
        return false;
    }
    const struct lapic_rule *rule = lapic_register_rule(offset);
    if ((uint32_t)value & ~(rule->writable | rule->ignored) ||
        (value >> 32 && offset != LAPIC_ICR)) {
        return false;
    }
    if (offset == LAPIC_ICR) {
        lapic_put(lapic, LAPIC_ICR_HIGH, (uint32_t)(value >> 32));
    }
    lapic_register_write(lapic, now_ns, offset, (uint32_t)value & rule->writable, effect);
    return true;
}
