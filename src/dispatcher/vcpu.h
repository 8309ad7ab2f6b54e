#pragma once
/* One virtual processor: its thread, its APIC, the table of its exits. */

#include <pthread.h>

#include "dispatcher/paravirt.h"
#include "dispatcher/vm.h"

struct vcpu {
    struct vm *vm;
    unsigned index;
    struct engine_vcpu *engine;
    struct lapic lapic;
    struct vcpu_stats stats;
    struct paravirt paravirt;

    /*
     * Kicks the vCPU at its APIC timer's deadline. It is set for armed_ns, which may be
     * earlier than the deadline: most deadlines are moved back before they come, and a
     * look at a deadline that moved is cheaper than setting the timer each time.
     */
    struct timer apic_timer;
    pthread_mutex_t timer_lock; /* apic_timer's, and: */
    uint64_t deadline_ns;       /* of the APIC timer, TIMER_NEVER: none, or it has come */
    uint64_t armed_ns;

    pthread_t thread;
    bool has_thread;
    /* Sleeping while halted: kick_sequence is a futex word, advanced by every kick. */
    _Atomic uint32_t kick_sequence;
    _Atomic bool is_sleeping;
    _Atomic bool return_requested; /* pause, reset or end: leave run() for the gate */
    bool is_parked;                /* at the gate; under vm->lock */
    bool is_held;                  /* by the debugger, also while the VM runs; likewise */
};

struct vcpu *vcpu_new(struct vm *vm, unsigned index, struct error *err);
void vcpu_free(struct vcpu *vcpu);
/* Starts and joins the thread. */
int vcpu_start(struct vcpu *vcpu, struct error *err);
void vcpu_join(struct vcpu *vcpu);
/* Any thread: makes it look at its APIC (and at the gate, if return_requested). Never
 * lost. */
void vcpu_kick(struct vcpu *vcpu);
/* Any thread: makes it leave run() and look at the gate. */
void vcpu_request_return(struct vcpu *vcpu);
/* Back to the reset state; only while parked. */
void vcpu_reset(struct vcpu *vcpu);
/* Its state, in the common form; only while parked, or before its thread exists. An
 * engine with an APIC of its own brings *lapic up to date, or takes it over. */
void vcpu_save(struct vcpu *vcpu, struct x86_state *state, struct lapic *lapic);
/* The guest clock must have its saved reading already. */
void vcpu_load(struct vcpu *vcpu, const struct x86_state *state,
               const struct lapic *lapic);

/* Its own thread: one more exit, and the time it took. */
void vcpu_count(struct vcpu *vcpu, enum exit_reason reason, uint64_t ns);
/* Answers and counts an exit: a vcpu_sink's function, opaque is the vCPU. */
void vcpu_exit_handle(void *opaque, struct vcpu_exit *exit);
