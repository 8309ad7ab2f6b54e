#pragma once
/*
 * What surrounds a virtual processor whose engine brings no local APIC of its own: the
 * APIC's page and MSRs, the MSRs of the common policy, time, events, and the way out to
 * the dispatcher. Everything here belongs to the vCPU's own thread.
 */

#include "base/factor.h"
#include "engine/engine.h"

struct processor {
    const struct engine_config *engine;
    struct vcpu_config config;
    /* The TSC before state.tsc_offset is added, at guest time now_ns. NULL: the guest's
     * clock at another rate, so that no two of its clocks can disagree. */
    uint64_t (*tsc)(const struct processor *processor, uint64_t now_ns);
    struct factor tsc_factor; /* that rate, of nanoseconds */

    /* Around an access to config.lapic's registers, by engines that keep them elsewhere:
     * brings them in, and back. NULL: they are here. */
    void (*apic_begin)(struct processor *processor);
    void (*apic_end)(struct processor *processor);

    /* For engines with a struct cpu (processor_cpu.h). */
    struct cpu *cpu; /* NULL: not made */
    struct exclusive *exclusive;
    unsigned exclusive_depth; /* how often this processor is alone */
    /* Makes every other vCPU come to exclusive_yield soon. */
    void (*interrupt_others)(struct processor *processor);
    /* Executes guest code as cpu_run does, which is called if it is NULL; and hears that
     * attention was set, on any thread, in a signal handler, too. */
    void (*execute)(struct processor *processor);
    void (*notify)(struct processor *processor);
    _Atomic bool return_requested; /* run() returns RUN_KICKED */
    bool step;                     /* for the debugger: one instruction, then RUN_DEBUG */
    struct debug_stop stop;
    unsigned pauses; /* PAUSE instructions so far */
};

/* Delivers an exit to the dispatcher, which counts it. */
void processor_exit(struct processor *processor, struct vcpu_exit *exit);
/* Counts what is handled inside the engine. */
void processor_count(struct processor *processor, enum exit_reason reason);

/* Guest time, and the TSC at that time without and with the vCPU's own offset. */
uint64_t processor_now(const struct processor *processor);
uint64_t processor_clock_tsc(const struct processor *processor, uint64_t now_ns);
uint64_t processor_tsc(const struct processor *processor, const struct x86_state *state,
                       uint64_t now_ns);

/*
 * The functions below may change what the APIC would deliver: look at pending events
 * afterwards. They keep state->apic_base equal to the APIC's.
 */

/* An access that an engine does not make by itself: to the APIC's page (true), to memory
 * that reads and writes reach differently, or an exit. gpa is as on the bus. */
bool processor_mmio(struct processor *processor, struct x86_state *state, gpa_t gpa,
                    unsigned size, bool is_write, uint8_t *data);
/* RDMSR and WRMSR: the APIC's, the policy's, or an exit. False: #GP. *effects gets
 * MSR_EFFECT_*. */
bool processor_msr_read(struct processor *processor, const struct x86_state *state,
                        uint32_t index, uint64_t *value);
bool processor_msr_write(struct processor *processor, struct x86_state *state,
                         uint32_t index, uint64_t value, unsigned *effects);
void processor_set_cr8(struct processor *processor, struct x86_state *state,
                       uint64_t value);
/* VMCALL or VMMCALL, with the registers in the order of enum x86_gpr. False: #UD. */
bool processor_hypercall(struct processor *processor, uint64_t *gpr, unsigned cpl);

/* Stops all other vCPUs, for a processor that is inside processor.exclusive; may nest. */
void processor_exclusive_begin(struct processor *processor);
void processor_exclusive_end(struct processor *processor);

/*
 * Ends of interrupts without the APIC (processor_eoi.c). offer: behind an interrupt's
 * delivery. take: hears of it; before the APIC's registers are used, or anything that has
 * come is looked at by lapic_pending.
 */
void processor_offer_eoi(struct processor *processor);
void processor_take_eoi(struct processor *processor);

/* Fires what is due of the APIC's timer. */
void processor_run_timer(struct processor *processor);
/* INIT and SIPI: are there any, and their effect on the state, in that order. */
bool processor_has_startup(const struct processor *processor);
void processor_take_startup(struct processor *processor, struct x86_state *state);
/* The interrupt that lapic_pending named, acknowledged: the vector to deliver, or -1 if
 * the 8259 had withdrawn it. */
int processor_acknowledge(struct processor *processor, int pending);
