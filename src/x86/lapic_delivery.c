/*
 * Messages: whom they address, what they leave behind, and what a write to the ICR sends
 * (SDM 3A 11.6, 11.12.9, 11.12.10).
 */

#include "x86/lapic_registers.h"

#define XAPIC_BROADCAST     0xffu
#define X2APIC_BROADCAST    0xffffffffu
#define ICR_LOGICAL         (1u << 11)
#define ICR_ASSERT          (1u << 14)
#define ICR_LEVEL           (1u << 15)
#define ICR_SHORTHAND_SHIFT 18
#define DFR_FLAT            0xfu
#define DFR_CLUSTER         0u

void lapic_error(struct lapic *lapic, uint8_t errors)
{
    uint32_t entry = lapic_get(lapic, LAPIC_LVT_ERROR);

    /* SDM 3A 11.5.3: a write to ESR re-arms the interrupt. */
    if (atomic_fetch_or(&lapic->esr_pending, errors) == 0 &&
        !(entry & LAPIC_LVT_MASKED)) {
        lapic_request(lapic, (uint8_t)entry, false);
    }
}

bool lapic_request(struct lapic *lapic, uint8_t vector, bool is_level)
{
    uint32_t bit = 1u << vector % 32;
    unsigned word = 16u * (vector / 32);

    if (vector < 16) {
        lapic_error(lapic, LAPIC_ERROR_RECEIVE_VECTOR);
        return true;
    }
    if (is_level) {
        atomic_fetch_or(&lapic->regs[(LAPIC_TMR + word) / 4], bit);
    } else {
        atomic_fetch_and(&lapic->regs[(LAPIC_TMR + word) / 4], ~bit);
    }
    return !(atomic_fetch_or(&lapic->regs[(LAPIC_IRR + word) / 4], bit) & bit);
}

static bool signal_one(struct lapic *lapic, uint32_t signal)
{
    return !(atomic_fetch_or(&lapic->signals, signal) & signal);
}

static bool signal_nmi(struct lapic *lapic)
{
    uint32_t before = lapic->signals, added;
    do {
        added = before & LAPIC_SIGNAL_NMI ? LAPIC_SIGNAL_NMI_AGAIN : LAPIC_SIGNAL_NMI;
    } while (!atomic_compare_exchange_weak(&lapic->signals, &before, before | added));
    return !(before & added);
}

bool lapic_take_nmi(struct lapic *lapic, bool is_blocked)
{
    uint32_t before = lapic->signals;
    if (!(before & LAPIC_SIGNAL_NMI)) { /* nearly always: no locked instruction then */
        return false;
    }
    if (is_blocked) {
        atomic_fetch_and(&lapic->signals, ~LAPIC_SIGNAL_NMI_AGAIN);
        return false;
    }
    uint32_t taken;
    do {
        taken = before & LAPIC_SIGNAL_NMI_AGAIN ? LAPIC_SIGNAL_NMI_AGAIN
                                                : before & LAPIC_SIGNAL_NMI;
    } while (!atomic_compare_exchange_weak(&lapic->signals, &before, before & ~taken));
    return taken != 0;
}

/* INIT overtakes a SIPI that waits: the processor is to wait for one sent afterwards. */
static bool signal_init(struct lapic *lapic)
{
    uint32_t before = lapic->signals;

    while (!atomic_compare_exchange_weak(
        &lapic->signals, &before, (before & ~LAPIC_SIGNAL_SIPI) | LAPIC_SIGNAL_INIT)) {
    }
    return true;
}

bool lapic_post(struct lapic *lapic, const struct apic_message *message)
{
    if (!lapic_is_enabled(lapic)) {
        return false;
    }
    switch (message->mode) {
    case APIC_FIXED:
    case APIC_LOWEST:
        /* SDM 3A 11.4.7.2: software-disabled, it still takes the other kinds. */
        return lapic_is_software_enabled(lapic) &&
               lapic_request(lapic, message->vector, message->is_level);
    case APIC_SMI:
        return signal_one(lapic, LAPIC_SIGNAL_SMI);
    case APIC_NMI:
        return signal_nmi(lapic);
    case APIC_INIT:
        /* The level de-assert message synchronised arbitration IDs once. */
        return (!message->is_level || message->is_assert) && signal_init(lapic);
    case APIC_STARTUP:
        lapic->sipi_vector = message->vector;
        return signal_one(lapic, LAPIC_SIGNAL_SIPI);
    case APIC_EXTINT:
        return signal_one(lapic, LAPIC_SIGNAL_EXTINT_MESSAGE);
    }
    return false;
}

bool lapic_is_waiting(const struct lapic *lapic, const struct apic_message *message)
{
    unsigned word = LAPIC_IRR / 4 + message->vector / 32 * 4;
    bool has_vector = message->mode == APIC_FIXED || message->mode == APIC_LOWEST;
    return has_vector && lapic_is_software_enabled(lapic) &&
           atomic_load(&lapic->regs[word]) >> message->vector % 32 & 1;
}

bool lapic_local_event(struct lapic *lapic, unsigned lvt)
{
    uint32_t entry = lapic_get(lapic, lvt);
    struct apic_message message = {
        .mode = (entry & LAPIC_LVT_MODE) >> LAPIC_LVT_MODE_SHIFT,
        .vector = (uint8_t)entry,
        .is_assert = true,
    };

    if (entry & LAPIC_LVT_MASKED || message.mode == APIC_STARTUP ||
        message.mode == APIC_LOWEST) {
        return false;
    }
    /* ExtINT is a level, which lapic_pending looks at. */
    return message.mode == APIC_EXTINT || lapic_post(lapic, &message);
}

void lapic_set_extint(struct lapic *lapic, bool level)
{
    if (!level) {
        atomic_fetch_and(&lapic->signals, ~LAPIC_SIGNAL_EXTINT);
    } else if (signal_one(lapic, LAPIC_SIGNAL_EXTINT)) {
        /* A rising edge, for an LVT entry that takes LINT0 as an ordinary interrupt. */
        lapic_local_event(lapic, LAPIC_LVT_LINT0);
    }
}

bool lapic_lint1_nmi(struct lapic *lapic)
{
    if (!lapic_is_enabled(lapic)) {
        return signal_nmi(lapic); /* the pin is NMI then */
    }
    return lapic_local_event(lapic, LAPIC_LVT_LINT1);
}

/* SDM 3A 11.6.2.2; the 8 bits of an xAPIC's LDR against the DFR's model. */
static bool matches_logical_xapic(const struct lapic *lapic, uint32_t destination)
{
    uint32_t own = lapic_get(lapic, LAPIC_LDR) >> 24;

    if (destination > XAPIC_BROADCAST) {
        return false;
    }
    switch (lapic_get(lapic, LAPIC_DFR) >> 28) {
    case DFR_FLAT:
        return own & destination;
    case DFR_CLUSTER:
        return destination == XAPIC_BROADCAST ||
               (own >> 4 == destination >> 4 && (own & destination & 0xf));
    default:
        return false;
    }
}

static bool matches_logical_x2apic(const struct lapic *lapic, uint32_t destination)
{
    uint32_t own = lapic_get(lapic, LAPIC_LDR);

    return own >> 16 == destination >> 16 && (own & destination & 0xffff);
}

static bool matches_destination(const struct lapic *lapic,
                                const struct apic_message *message)
{
    uint32_t broadcast = message->is_x2apic ? X2APIC_BROADCAST : XAPIC_BROADCAST;
    bool is_x2apic = lapic_is_x2apic(lapic);

    if (!message->is_logical) {
        return message->destination == broadcast || message->destination == lapic->id;
    }
    if (message->is_x2apic || is_x2apic) {
        if (message->destination == broadcast) {
            return true;
        }
    }
    return is_x2apic ? matches_logical_x2apic(lapic, message->destination)
                     : matches_logical_xapic(lapic, message->destination);
}

bool lapic_accepts(const struct lapic *lapic, const struct apic_message *message,
                   uint32_t sender_id)
{
    bool is_ordinary = message->mode == APIC_FIXED || message->mode == APIC_LOWEST;

    if (!lapic_is_enabled(lapic) || (is_ordinary && !lapic_is_software_enabled(lapic))) {
        return false;
    }
    switch (message->shorthand) {
    case APIC_DEST_SELF:
        return lapic->id == sender_id;
    case APIC_DEST_ALL:
        return true;
    case APIC_DEST_OTHERS:
        return lapic->id != sender_id;
    default:
        return matches_destination(lapic, message);
    }
}

uint8_t lapic_priority(const struct lapic *lapic)
{
    return lapic_processor_priority(lapic);
}

/* Modes that exist but may not reach the sender itself by shorthand (SDM 3A table 11-3),
 * and modes that do not exist in an ICR. */
static bool is_sendable(const struct apic_message *message)
{
    bool to_self =
        message->shorthand == APIC_DEST_SELF || message->shorthand == APIC_DEST_ALL;

    switch (message->mode) {
    case APIC_FIXED:
    case APIC_LOWEST:
    case APIC_SMI:
    case APIC_NMI:
        return true;
    case APIC_INIT:
        /* Level de-assert has had no meaning since the Pentium 4. */
        return !to_self && (!message->is_level || message->is_assert);
    case APIC_STARTUP:
        return !to_self;
    default:
        return false;
    }
}

void lapic_send(struct lapic *lapic, uint32_t low, uint32_t destination,
                struct lapic_effect *effect)
{
    struct apic_message message = {
        .destination = destination,
        .is_logical = low & ICR_LOGICAL,
        .is_x2apic = lapic_is_x2apic(lapic),
        .shorthand = low >> ICR_SHORTHAND_SHIFT & 3,
        .mode = low >> 8 & 7,
        .vector = (uint8_t)low,
        .is_assert = low & ICR_ASSERT,
    };
    bool is_ordinary = message.mode == APIC_FIXED || message.mode == APIC_LOWEST;

    /* All but INIT are edges, whatever the trigger mode says (SDM 3A 11.6.1). */
    message.is_level = message.mode == APIC_INIT && (low & ICR_LEVEL);
    if (!is_sendable(&message)) {
        return;
    }
    if (is_ordinary && message.vector < 16) {
        lapic_error(lapic, LAPIC_ERROR_SEND_VECTOR);
        return;
    }
    if (is_ordinary && message.shorthand == APIC_DEST_SELF) {
        lapic_post(lapic, &message);
        return;
    }
    effect->what |= LAPIC_EFFECT_IPI;
    effect->message = message;
}
