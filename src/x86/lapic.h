#pragma once
/*
 * The local APIC as a state machine (SDM 3A chapter 11; x2APIC 11.12). No I/O and no
 * clock of its own: times come in as guest nanoseconds, requests to the outside go out as
 * return values. Registers have KVM's layout (struct kvm_lapic_state): register at offset
 * n (0..0x3f0) is the 32-bit word regs[n / 4].
 *
 * Threads: the vCPU's own thread calls everything; lapic_post, lapic_accepts,
 * lapic_set_extint are called by any thread and touch only IRR, TMR and `signals`,
 * atomically. The caller kicks the vCPU afterwards.
 */

#include <stdbool.h>
#include <stdint.h>

#include "x86/cpuid.h"
#include "x86/state.h"

#define LAPIC_MMIO_SIZE 0x1000u

enum apic_delivery_mode {
    APIC_FIXED = 0,
    APIC_LOWEST = 1,
    APIC_SMI = 2,
    APIC_NMI = 4,
    APIC_INIT = 5,
    APIC_STARTUP = 6,
    APIC_EXTINT = 7,
};

/* A message on the APIC bus: an IPI, an I/O APIC interrupt or an MSI. */
struct apic_message {
    uint32_t destination; /* 8 bits in xAPIC format, 32 in x2APIC format */
    bool is_logical;
    bool is_x2apic; /* sent by an x2APIC: destination has 32 bits */
    enum { APIC_DEST_FIELD, APIC_DEST_SELF, APIC_DEST_ALL, APIC_DEST_OTHERS } shorthand;
    enum apic_delivery_mode mode;
    uint8_t vector;
    bool is_level; /* trigger mode; for INIT: level */
    bool is_assert;
};

#define LAPIC_SIGNAL_NMI    1u
#define LAPIC_SIGNAL_INIT   2u
#define LAPIC_SIGNAL_SIPI   4u
#define LAPIC_SIGNAL_SMI    8u
#define LAPIC_SIGNAL_EXTINT 16u /* level of the 8259's INTR output, wired to LINT0 */

/* What the caller has to do after a register write. */
#define LAPIC_EFFECT_IPI \
    1u /* send *message (all but self-only fixed IPIs, which are done) */
#define LAPIC_EFFECT_EOI \
    2u /* broadcast the EOI of a level-triggered *vector to the I/O APICs */
#define LAPIC_EFFECT_TIMER   4u /* the timer's deadline changed: lapic_timer_deadline */
#define LAPIC_EFFECT_RECHECK 8u /* something may have become deliverable */
#define LAPIC_EFFECT_BASE \
    16u /* IA32_APIC_BASE changed: MMIO page moved, enabled or disabled */

struct lapic_effect {
    unsigned what; /* LAPIC_EFFECT_* */
    struct apic_message message;
    uint8_t eoi_vector;
};

struct lapic {
    uint32_t id;   /* the initial, 32-bit APIC ID = vCPU index */
    uint64_t base; /* IA32_APIC_BASE */
    uint32_t tsc_khz;
    _Atomic uint32_t regs[0x400 / 4];
    _Atomic uint32_t signals; /* LAPIC_SIGNAL_* */
    _Atomic uint8_t sipi_vector;
    /* Timer: mode and counts are in regs; these give them a place in time. */
    uint64_t timer_start_ns;    /* when the current count began */
    uint64_t timer_deadline_ns; /* TIMER_NEVER (UINT64_MAX) when not running */
    uint64_t tsc_deadline;      /* IA32_TSC_DEADLINE, 0 when disarmed */
    uint8_t esr_pending;
};

/* Power-up: enabled at 0xfee00000 in xAPIC mode, software-disabled (SPURIOUS), LVTs
 * masked. */
void lapic_reset(struct lapic *lapic, uint32_t id, uint32_t tsc_khz);
/* INIT keeps the APIC ID, IA32_APIC_BASE. */
void lapic_init_signal(struct lapic *lapic);

/* Register access by MMIO (xAPIC mode). Offsets are multiples of 16; others read as 0 and
 * ignore writes. */
uint32_t lapic_mmio_read(struct lapic *lapic, uint64_t now_ns, uint32_t offset);
void lapic_mmio_write(struct lapic *lapic, uint64_t now_ns, uint32_t offset,
                      uint32_t value, struct lapic_effect *effect);
/*
 * The MSRs: x2APIC range, IA32_APIC_BASE, IA32_TSC_DEADLINE. tsc is the guest's TSC now.
 * False: #GP (reserved bits, not in x2APIC mode, write-only or read-only, invalid
 * transition of the base MSR).
 */
bool lapic_msr_read(struct lapic *lapic, uint64_t now_ns, uint64_t tsc, uint32_t index,
                    uint64_t *value);
bool lapic_msr_write(struct lapic *lapic, uint64_t now_ns, uint64_t tsc, uint32_t index,
                     uint64_t value, struct lapic_effect *effect);
static inline bool lapic_owns_msr(uint32_t index)
{
    return (index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST) ||
           index == MSR_APIC_BASE || index == MSR_TSC_DEADLINE;
}

uint64_t lapic_get_cr8(const struct lapic *lapic);
void lapic_set_cr8(struct lapic *lapic, uint64_t value, struct lapic_effect *effect);

/* Does the message address this APIC? Thread-safe. Not for lowest priority: see
 * lapic_arbitrate. */
bool lapic_accepts(const struct lapic *lapic, const struct apic_message *message,
                   uint32_t sender_id);
/* Processor priority for lowest-priority delivery (smaller wins). Thread-safe. */
uint8_t lapic_priority(const struct lapic *lapic);
/* Records an accepted message (IRR and TMR bits, or a signal). Thread-safe. Returns true
 * if the vCPU has to look. */
bool lapic_post(struct lapic *lapic, const struct apic_message *message);
/* The 8259's INTR line. Thread-safe. */
void lapic_set_extint(struct lapic *lapic, bool level);
/* LINT1: an NMI edge. Thread-safe; true if the LVT lets it through. */
bool lapic_lint1_nmi(struct lapic *lapic);

/* The deadline of the timer in guest ns, or UINT64_MAX. */
static inline uint64_t lapic_timer_deadline(const struct lapic *lapic)
{
    return lapic->timer_deadline_ns;
}
/* Fires what is due at now_ns and re-arms a periodic timer without drift (missed periods
 * collapse into one interrupt, the phase is kept). True if the deadline or the IRR
 * changed. */
bool lapic_timer_run(struct lapic *lapic, uint64_t now_ns);

/*
 * The interrupt that would be delivered now with IF set: the vector, LAPIC_EXTINT if the
 * 8259 asks and LINT0 lets it through (the caller then acknowledges the 8259), or
 * LAPIC_NONE.
 */
#define LAPIC_NONE   (-1)
#define LAPIC_EXTINT (-2)
int lapic_pending(const struct lapic *lapic);
/* Moves a vector returned by lapic_pending from IRR to ISR (or yields the spurious
 * vector). */
uint8_t lapic_acknowledge(struct lapic *lapic, int vector);
