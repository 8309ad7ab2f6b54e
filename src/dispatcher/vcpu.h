#pragma once
/* One virtual processor: its thread, its APIC, the table of its exits. */

#include <pthread.h>

#include "dispatcher/vm.h"

struct vcpu {
    struct vm *vm;
    unsigned index;
    struct engine_vcpu *engine;
    struct lapic lapic;
    struct vcpu_stats stats;
    struct timer
        apic_timer; /* kicks the vCPU at the APIC timer's deadline while it runs */
    pthread_t thread;
    bool has_thread;
    /* Sleeping while halted: kick_sequence is a futex word, advanced by every kick. */
    _Atomic uint32_t kick_sequence;
    _Atomic bool return_requested; /* pause, reset or end: leave run() */
    bool is_parked;                /* at the gate, under vm->lock */
};

struct vcpu *vcpu_new(struct vm *vm, unsigned index, struct error *err);
void vcpu_free(struct vcpu *vcpu);
/* Starts and joins the thread. */
int vcpu_start(struct vcpu *vcpu, struct error *err);
void vcpu_join(struct vcpu *vcpu);
/* Any thread: makes it look at its APIC (and at the gate, if return_requested). Never
 * lost. */
void vcpu_kick(struct vcpu *vcpu);
/* Back to the reset state; only while parked. */
void vcpu_reset(struct vcpu *vcpu);
