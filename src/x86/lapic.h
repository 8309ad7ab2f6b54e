#pragma once
/*
 * The local APIC as a state machine (SDM 3A chapter 11; x2APIC 11.12). No I/O and no
 * clock of its own: times come in as guest nanoseconds, requests to the outside go out as
 * return values. Registers have KVM's layout (struct kvm_lapic_state): register at offset
 * n (0..0x3f0) is the 32-bit word regs[n / 4].
 *
 * Threads: the vCPU's own thread calls everything; the functions marked thread-safe are
 * called by any thread and change only IRR, TMR, `signals` and `esr_pending`, atomically.
 * The caller kicks the vCPU afterwards.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "x86/cpuid.h"
#include "x86/state.h"

#define LAPIC_MMIO_SIZE     0x1000u
#define LAPIC_TIMER_STOPPED UINT64_MAX

/* IA32_APIC_BASE */
#define LAPIC_BASE_BSP     (1ull << 8)
#define LAPIC_BASE_X2APIC  (1ull << 10)
#define LAPIC_BASE_ENABLE  (1ull << 11)
#define LAPIC_BASE_ADDRESS 0x000ffffffffff000ull

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
#define LAPIC_SIGNAL_EXTINT_MESSAGE \
    32u /* an ExtINT message from an I/O APIC, until lapic_acknowledge */
#define LAPIC_SIGNAL_NMI_AGAIN 64u /* another NMI behind the one that waits */

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
    uint32_t id;           /* the initial, 32-bit APIC ID = vCPU index */
    _Atomic uint64_t base; /* IA32_APIC_BASE */
    uint32_t tsc_khz;
    _Atomic uint32_t regs[0x400 / 4];
    _Atomic uint32_t signals; /* LAPIC_SIGNAL_* */
    _Atomic uint8_t sipi_vector;
    /* Timer: mode, initial count and divisor are in regs; the deadline gives them a place
     * in time, from which the current count follows. */
    uint64_t timer_deadline_ns;  /* LAPIC_TIMER_STOPPED when not running */
    uint64_t tsc_deadline;       /* IA32_TSC_DEADLINE, 0 when disarmed */
    _Atomic uint8_t esr_pending; /* errors since the last write to ESR */
};

/* Power-up: enabled at 0xfee00000 in xAPIC mode, software-disabled (SPURIOUS), LVTs
 * masked. */
void lapic_reset(struct lapic *lapic, uint32_t id, uint32_t tsc_khz);
/* INIT keeps the APIC ID, IA32_APIC_BASE; a SIPI that followed stays pending. */
void lapic_init_signal(struct lapic *lapic);
/* Virtual wire mode (MP specification 3.6.2.2), as firmware leaves the bootstrap
 * processor: software-enabled, LINT0 = ExtINT, LINT1 = NMI. */
void lapic_set_virtual_wire(struct lapic *lapic);

/* Register access by MMIO; only in xAPIC mode (lapic_has_mmio), else all ones. Offsets
 * are multiples of 16; others read as 0 and ignore writes. Writes fill *effect. */
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

/* Does the page at LAPIC_BASE_ADDRESS answer? */
static inline bool lapic_has_mmio(const struct lapic *lapic)
{
    return (lapic->base & (LAPIC_BASE_ENABLE | LAPIC_BASE_X2APIC)) == LAPIC_BASE_ENABLE;
}

uint64_t lapic_get_cr8(const struct lapic *lapic);
/* value is 0 to 15. */
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
/* Has the processor yet to take an earlier message with the same vector, so that this one
 * would merge with it? Thread-safe. */
bool lapic_is_waiting(const struct lapic *lapic, const struct apic_message *message);
/* The 8259's INTR line. Thread-safe. */
void lapic_set_extint(struct lapic *lapic, bool level);
/* LINT1: an NMI edge. Thread-safe; true if the LVT lets it through. */
bool lapic_lint1_nmi(struct lapic *lapic);
/*
 * The NMI that is to be delivered now, which is thereby taken; false: none. A processor
 * takes an NMI at its next instruction and holds back one more while that is handled (SDM
 * 3A 6.7.1), so two that come before this vCPU had its turn are two. is_blocked: the last
 * one is still being handled.
 */
bool lapic_take_nmi(struct lapic *lapic, bool is_blocked);

/* The deadline of the timer in guest ns, or LAPIC_TIMER_STOPPED. */
static inline uint64_t lapic_timer_deadline(const struct lapic *lapic)
{
    return lapic->timer_deadline_ns;
}
/* Fires what is due at now_ns and re-arms a periodic timer without drift (missed periods
 * collapse into one interrupt, the phase is kept). True if the deadline or the IRR
 * changed. */
bool lapic_timer_run(struct lapic *lapic, uint64_t now_ns);
/* Of a timer that is due: how many interrupts will be lost when it is run now, because
 * periods have passed or the one before is not taken yet. */
uint64_t lapic_timer_missed(const struct lapic *lapic, uint64_t now_ns);
/* The guest moved its TSC to tsc: an armed TSC deadline moves in time. */
void lapic_tsc_changed(struct lapic *lapic, uint64_t now_ns, uint64_t tsc,
                       struct lapic_effect *effect);

/*
 * The interrupt that would be delivered now with IF set: the vector, LAPIC_EXTINT if the
 * 8259 asks and LINT0 lets it through (the caller then acknowledges the 8259), or
 * LAPIC_NONE.
 */
#define LAPIC_NONE   (-1)
#define LAPIC_EXTINT (-2)
int lapic_pending(const struct lapic *lapic);
/* Moves a vector returned by lapic_pending from IRR to ISR (or yields the spurious
 * vector). To be called with LAPIC_EXTINT, too, when the 8259 has been asked; what it
 * returns then means nothing. */
uint8_t lapic_acknowledge(struct lapic *lapic, int vector);

/* Is any vector requested, whether it could be delivered or not? */
bool lapic_has_request(const struct lapic *lapic);
/* Would an EOI now end an interrupt, and neither concern an I/O APIC nor make another one
 * deliverable? */
bool lapic_ends_silently(const struct lapic *lapic);
/* That EOI, also if something has been requested since. */
void lapic_end_silently(struct lapic *lapic);

/*
 * The registers as an array with KVM's layout. Export gives the timer's current count,
 * or, without has_timer, a timer that stands still. Import takes everything but the
 * timer; lapic_import_timer takes that, too, true if it is in TSC-deadline mode, whose
 * deadline is in no register: lapic_import_deadline. What has expired and was not
 * delivered, as the array does not tell, is due.
 */
#define LAPIC_IMAGE_SIZE 0x400u
void lapic_export(const struct lapic *lapic, uint64_t now_ns, bool has_timer,
                  uint8_t image[LAPIC_IMAGE_SIZE]);
void lapic_import(struct lapic *lapic, const uint8_t image[LAPIC_IMAGE_SIZE]);
bool lapic_import_timer(struct lapic *lapic, uint64_t now_ns,
                        const uint8_t image[LAPIC_IMAGE_SIZE]);
void lapic_import_deadline(struct lapic *lapic, uint64_t now_ns, uint64_t tsc,
                           uint64_t deadline);
