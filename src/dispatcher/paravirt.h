#pragma once
/*
 * The paravirtual services of one vCPU (x86/paravirt.h): its clock page, its steal time,
 * its hypercalls. The same for every engine that leaves these registers to the
 * dispatcher. What a guest hands over are addresses of its own memory; ones that are not
 * RAM are remembered and not written.
 */

#include <stdbool.h>
#include <stdint.h>

#include "device/device.h"
#include "engine/engine.h"
#include "x86/paravirt.h"

struct vcpu;

struct paravirt {
    struct paravirt_registers registers; /* the engine's, too */
    uint64_t tsc_offset;                 /* the guest's TSC at guest time 0 */
    uint64_t delay_ns; /* the host's run delay of the thread at the last look */
    uint32_t clock_version;
    int schedstat; /* the thread's /proc/.../schedstat, -1: not to be had */
};

extern const struct device_field paravirt_fields[];

void paravirt_init(struct paravirt *paravirt);
void paravirt_fini(struct paravirt *paravirt);
/* The vCPU's own thread, before it runs. */
void paravirt_attach(struct paravirt *paravirt);
/* As after power-up; only while the vCPU is parked. */
void paravirt_reset(struct paravirt *paravirt);

/* Exits with reason EXIT_MSR_READ, EXIT_MSR_WRITE: false if the register is none of an
 * offered service. */
bool paravirt_msr(struct vcpu *vcpu, struct vcpu_exit *exit);
/* The guest moved its TSC. */
void paravirt_tsc_moved(struct vcpu *vcpu, uint64_t tsc_offset);
void paravirt_hypercall(struct vcpu *vcpu, struct vcpu_exit *exit);
/* Brings the steal time up to date, now and then: the vCPU's own thread. */
void paravirt_account(struct vcpu *vcpu);
/* The vCPU's own thread, before and after a time in which it executes nothing, and before
 * it runs for the first time: others need not interrupt it to flush its TLB. */
void paravirt_sleep(struct vcpu *vcpu);
void paravirt_wake(struct vcpu *vcpu);
