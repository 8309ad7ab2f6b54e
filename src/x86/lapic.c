/*
 * The register file: what each register lets through, reset states, priorities, and the
 * acceptance of interrupts by the processor (SDM 3A 11.4, 11.5, 11.8). Messages are in
 * lapic_delivery.c, the timer in lapic_timer.c, the MSRs in lapic_msr.c.
 */

#include "x86/lapic.h"

#include "x86/lapic_registers.h"

#define BASE_ADDRESS   0xfee00000ull
#define VERSION        0x00050014u /* an integrated APIC with six LVT entries */
#define RESET_DFR      0xffffffffu
#define RESET_SVR      0xffu
#define DFR_RESERVED   0x0fffffffu /* read as ones */
#define WORDS          8           /* of ISR, TMR and IRR */
#define LVT_STATUS     0x1000u     /* delivery status: always idle here */
#define LVT_REMOTE_IRR 0x4000u

#define RO             (LAPIC_MMIO_READ | LAPIC_MSR_READ)
#define WO             (LAPIC_MMIO_WRITE | LAPIC_MSR_WRITE)
#define RW             (RO | WO)
#define X_RO           LAPIC_MMIO_READ
#define X_RW           (LAPIC_MMIO_READ | LAPIC_MMIO_WRITE)
#define X2_WO          LAPIC_MSR_WRITE

static const struct lapic_rule rules[0x400 / 16] = {
    [LAPIC_ID / 16] = {RO},
    [LAPIC_VERSION / 16] = {RO},
    [LAPIC_TPR / 16] = {RW, 0xff},
    [LAPIC_APR / 16] = {X_RO},
    [LAPIC_PPR / 16] = {RO},
    [LAPIC_EOI / 16] = {WO},
    [LAPIC_RRD / 16] = {X_RO},
    [LAPIC_LDR / 16] = {X_RW | LAPIC_MSR_READ, 0xff000000},
    [LAPIC_DFR / 16] = {X_RW, 0xf0000000},
    /* Bit 9 turned focus checking off on processors that had it. */
    [LAPIC_SVR / 16] = {RW, 0x3ff},
    [LAPIC_ISR / 16 ... LAPIC_ISR / 16 + 7] = {RO},
    [LAPIC_TMR / 16 ... LAPIC_TMR / 16 + 7] = {RO},
    [LAPIC_IRR / 16 ... LAPIC_IRR / 16 + 7] = {RO},
    [LAPIC_ESR / 16] = {RW},
    [LAPIC_ICR / 16] = {RW, 0x000ccfff, LVT_STATUS},
    [LAPIC_ICR_HIGH / 16] = {X_RW, 0xff000000},
    [LAPIC_LVT_TIMER / 16] = {RW, 0x700ff, LVT_STATUS},
    [LAPIC_LVT_THERMAL / 16] = {RW, 0x107ff, LVT_STATUS},
    [LAPIC_LVT_PERFORMANCE / 16] = {RW, 0x107ff, LVT_STATUS},
    [LAPIC_LVT_LINT0 / 16] = {RW, 0x1a7ff, LVT_STATUS | LVT_REMOTE_IRR},
    [LAPIC_LVT_LINT1 / 16] = {RW, 0x1a7ff, LVT_STATUS | LVT_REMOTE_IRR},
    [LAPIC_LVT_ERROR / 16] = {RW, 0x100ff, LVT_STATUS},
    [LAPIC_TIMER_INITIAL / 16] = {RW, 0xffffffff},
    [LAPIC_TIMER_CURRENT / 16] = {RO},
    [LAPIC_TIMER_DIVIDE / 16] = {RW, 0xb},
    [LAPIC_SELF_IPI / 16] = {X2_WO, 0xff},
};

const struct lapic_rule *lapic_register_rule(unsigned offset)
{
    return &rules[offset / 16 % (sizeof(rules) / sizeof(rules[0]))];
}

void lapic_show_ids(struct lapic *lapic)
{
    bool is_x2apic = lapic_is_x2apic(lapic);

    lapic_put(lapic, LAPIC_ID, is_x2apic ? lapic->id : lapic->id << 24);
    /* SDM 3A 11.12.10.2: the logical x2APIC ID follows from the ID. */
    lapic_put(lapic, LAPIC_LDR,
              is_x2apic ? (lapic->id >> 4) << 16 | 1u << (lapic->id & 15) : 0);
}

void lapic_reset_registers(struct lapic *lapic)
{
    for (unsigned offset = 0; offset < 0x400; offset += 16) {
        lapic_put(lapic, offset, 0);
    }
    lapic_show_ids(lapic);
    lapic_put(lapic, LAPIC_VERSION, VERSION);
    lapic_put(lapic, LAPIC_DFR, RESET_DFR);
    lapic_put(lapic, LAPIC_SVR, RESET_SVR);
    for (unsigned lvt = LAPIC_LVT_TIMER; lvt <= LAPIC_LVT_ERROR; lvt += 16) {
        lapic_put(lapic, lvt, LAPIC_LVT_MASKED);
    }
    lapic->timer_deadline_ns = LAPIC_TIMER_STOPPED;
    lapic->tsc_deadline = 0;
    lapic->esr_pending = 0;
}

void lapic_reset(struct lapic *lapic, uint32_t id, uint32_t tsc_khz)
{
    lapic->id = id;
    lapic->tsc_khz = tsc_khz;
    lapic->base = BASE_ADDRESS | LAPIC_BASE_ENABLE | (id == 0 ? LAPIC_BASE_BSP : 0);
    lapic->signals = 0;
    lapic->sipi_vector = 0;
    lapic_reset_registers(lapic);
}

void lapic_init_signal(struct lapic *lapic)
{
    atomic_fetch_and(&lapic->signals, ~(LAPIC_SIGNAL_NMI | LAPIC_SIGNAL_NMI_AGAIN |
                                        LAPIC_SIGNAL_SMI | LAPIC_SIGNAL_EXTINT_MESSAGE));
    lapic_reset_registers(lapic);
}

void lapic_set_virtual_wire(struct lapic *lapic)
{
    lapic_put(lapic, LAPIC_SVR, RESET_SVR | LAPIC_SVR_ENABLE);
    lapic_put(lapic, LAPIC_LVT_LINT0, (uint32_t)APIC_EXTINT << LAPIC_LVT_MODE_SHIFT);
    lapic_put(lapic, LAPIC_LVT_LINT1, (uint32_t)APIC_NMI << LAPIC_LVT_MODE_SHIFT);
}

/* The highest vector in ISR or IRR, or -1. */
static int highest(const struct lapic *lapic, unsigned offset)
{
    for (int word = WORDS - 1; word >= 0; word--) {
        uint32_t bits = lapic_get(lapic, offset + 16 * (unsigned)word);

        if (bits) {
            return word * 32 + 31 - __builtin_clz(bits);
        }
    }
    return -1;
}

static _Atomic uint32_t *bit_word(struct lapic *lapic, unsigned offset, uint8_t vector)
{
    return &lapic->regs[(offset + 16u * (vector / 32)) / 4];
}

/* SDM 3A 11.8.3.1 */
uint8_t lapic_processor_priority(const struct lapic *lapic)
{
    uint8_t task = (uint8_t)lapic_get(lapic, LAPIC_TPR);
    int in_service = highest(lapic, LAPIC_ISR);

    if (in_service < 0 || task >> 4 >= in_service >> 4) {
        return task;
    }
    return (uint8_t)(in_service & 0xf0);
}

int lapic_pending(const struct lapic *lapic)
{
    uint32_t signals = atomic_load_explicit(&lapic->signals, memory_order_acquire);
    uint32_t lint0 = lapic_get(lapic, LAPIC_LVT_LINT0);
    bool is_enabled = lapic_is_enabled(lapic);

    /* Without an APIC, LINT0 is the processor's INTR pin (SDM 3A 11.4.3). */
    if (signals & LAPIC_SIGNAL_EXTINT &&
        (!is_enabled ||
         (lint0 & (LAPIC_LVT_MASKED | LAPIC_LVT_MODE)) == LAPIC_LVT_MODE)) {
        return LAPIC_EXTINT;
    }
    if (!is_enabled) {
        return LAPIC_NONE;
    }
    if (signals & LAPIC_SIGNAL_EXTINT_MESSAGE) {
        return LAPIC_EXTINT;
    }
    int vector = highest(lapic, LAPIC_IRR);
    if (vector < 0 || vector >> 4 <= lapic_processor_priority(lapic) >> 4) {
        return LAPIC_NONE;
    }
    return vector;
}

uint8_t lapic_acknowledge(struct lapic *lapic, int vector)
{
    uint8_t spurious = (uint8_t)lapic_get(lapic, LAPIC_SVR);

    if (vector < 0) {
        atomic_fetch_and(&lapic->signals, ~LAPIC_SIGNAL_EXTINT_MESSAGE);
        return spurious;
    }
    uint32_t bit = 1u << (vector & 31);
    uint32_t before = atomic_fetch_and(bit_word(lapic, LAPIC_IRR, (uint8_t)vector), ~bit);
    if (!(before & bit)) {
        return spurious; /* SDM 3A 11.9: and no bit in ISR */
    }
    atomic_fetch_or(bit_word(lapic, LAPIC_ISR, (uint8_t)vector), bit);
    return (uint8_t)vector;
}

static void end_of_interrupt(struct lapic *lapic, struct lapic_effect *effect)
{
    int vector = highest(lapic, LAPIC_ISR);

    if (vector < 0) {
        return;
    }
    uint32_t bit = 1u << (vector & 31);
    atomic_fetch_and(bit_word(lapic, LAPIC_ISR, (uint8_t)vector), ~bit);
    if (*bit_word(lapic, LAPIC_TMR, (uint8_t)vector) & bit) {
        effect->what |= LAPIC_EFFECT_EOI;
        effect->eoi_vector = (uint8_t)vector;
    }
}

bool lapic_has_request(const struct lapic *lapic)
{
    return highest(lapic, LAPIC_IRR) >= 0;
}

bool lapic_ends_silently(const struct lapic *lapic)
{
    int vector = highest(lapic, LAPIC_ISR);

    return vector >= 0 && !lapic_has_request(lapic) &&
           !(lapic_get(lapic, LAPIC_TMR + 16u * ((unsigned)vector / 32)) >> vector % 32 &
             1);
}

void lapic_end_silently(struct lapic *lapic)
{
    struct lapic_effect effect = {0};

    end_of_interrupt(lapic, &effect);
}

static void set_spurious(struct lapic *lapic, uint32_t value)
{
    lapic_put(lapic, LAPIC_SVR, value);
    if (value & LAPIC_SVR_ENABLE) {
        return;
    }
    /* SDM 3A 11.4.7.2: masked, and kept so while disabled. */
    for (unsigned lvt = LAPIC_LVT_TIMER; lvt <= LAPIC_LVT_ERROR; lvt += 16) {
        lapic_put(lapic, lvt, lapic_get(lapic, lvt) | LAPIC_LVT_MASKED);
    }
}

static void set_lvt(struct lapic *lapic, uint64_t now_ns, unsigned offset, uint32_t value)
{
    if (!lapic_is_software_enabled(lapic)) {
        value |= LAPIC_LVT_MASKED;
    }
    if (offset == LAPIC_LVT_TIMER) {
        lapic_timer_set_lvt(lapic, now_ns, value);
    }
    lapic_put(lapic, offset, value);
}

uint32_t lapic_register_read(struct lapic *lapic, uint64_t now_ns, unsigned offset)
{
    switch (offset) {
    case LAPIC_PPR:
        return lapic_processor_priority(lapic);
    case LAPIC_TIMER_CURRENT:
        return lapic_timer_current(lapic, now_ns);
    default:
        return lapic_get(lapic, offset);
    }
}

void lapic_register_write(struct lapic *lapic, uint64_t now_ns, unsigned offset,
                          uint32_t value, struct lapic_effect *effect)
{
    uint64_t deadline_ns = lapic->timer_deadline_ns;
    uint32_t destination;

    switch (offset) {
    case LAPIC_EOI:
        end_of_interrupt(lapic, effect);
        break;
    case LAPIC_DFR:
        lapic_put(lapic, offset, value | DFR_RESERVED);
        break;
    case LAPIC_SVR:
        set_spurious(lapic, value);
        break;
    case LAPIC_ESR:
        lapic_put(lapic, offset, atomic_exchange(&lapic->esr_pending, 0));
        break;
    case LAPIC_ICR:
        lapic_put(lapic, offset, value);
        destination = lapic_get(lapic, LAPIC_ICR_HIGH);
        lapic_send(lapic, value, lapic_is_x2apic(lapic) ? destination : destination >> 24,
                   effect);
        break;
    case LAPIC_LVT_TIMER ... LAPIC_LVT_ERROR:
        set_lvt(lapic, now_ns, offset, value);
        break;
    case LAPIC_TIMER_INITIAL:
        lapic_timer_set_initial(lapic, now_ns, value);
        break;
    case LAPIC_TIMER_DIVIDE:
        lapic_timer_set_divide(lapic, now_ns, value);
        break;
    case LAPIC_SELF_IPI:
        lapic_request(lapic, (uint8_t)value, false);
        break;
    default:
        lapic_put(lapic, offset, value);
        break;
    }
    if (lapic->timer_deadline_ns != deadline_ns) {
        effect->what |= LAPIC_EFFECT_TIMER;
    }
    if (lapic_pending(lapic) != LAPIC_NONE) {
        effect->what |= LAPIC_EFFECT_RECHECK;
    }
}

uint32_t lapic_mmio_read(struct lapic *lapic, uint64_t now_ns, uint32_t offset)
{
    if (!lapic_has_mmio(lapic)) {
        return 0xffffffff;
    }
    if (offset % 16 || offset >= LAPIC_MMIO_SIZE) {
        return 0;
    }
    if (offset >= 0x400 || !(lapic_register_rule(offset)->access & LAPIC_MMIO_READ)) {
        /* EOI is write-only rather than reserved. */
        if (offset != LAPIC_EOI) {
            lapic_error(lapic, LAPIC_ERROR_REGISTER);
        }
        return 0;
    }
    return lapic_register_read(lapic, now_ns, offset);
}

void lapic_mmio_write(struct lapic *lapic, uint64_t now_ns, uint32_t offset,
                      uint32_t value, struct lapic_effect *effect)
{
    *effect = (struct lapic_effect){0};
    if (!lapic_has_mmio(lapic) || offset % 16 || offset >= LAPIC_MMIO_SIZE) {
        return;
    }
    const struct lapic_rule *rule = lapic_register_rule(offset);
    if (offset >= 0x400 || !(rule->access & (LAPIC_MMIO_READ | LAPIC_MMIO_WRITE))) {
        lapic_error(lapic, LAPIC_ERROR_REGISTER);
        effect->what |= LAPIC_EFFECT_RECHECK;
    } else if (rule->access & LAPIC_MMIO_WRITE) {
        lapic_register_write(lapic, now_ns, offset, value & rule->writable, effect);
    }
}

uint64_t lapic_get_cr8(const struct lapic *lapic)
{
    return lapic_get(lapic, LAPIC_TPR) >> 4;
}

void lapic_set_cr8(struct lapic *lapic, uint64_t value, struct lapic_effect *effect)
{
    *effect = (struct lapic_effect){0};
    lapic_register_write(lapic, 0, LAPIC_TPR, (uint32_t)(value & 15) << 4, effect);
}
