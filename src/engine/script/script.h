#pragma once
/*
 * An engine without a processor: its "guest code" is a list of steps. It drives devices,
 * buses and the dispatcher in tests through the same exits as a real engine. It is not in
 * engine_table.
 */

#include "engine/engine.h"

enum script_op {
    SCRIPT_END,      /* behaves as HLT for ever */
    SCRIPT_IO,       /* address is the port */
    SCRIPT_MMIO,     /* address is guest-physical */
    SCRIPT_MESSAGE,  /* sends message on the APIC bus */
    SCRIPT_EOI,      /* EOI broadcast of vector value */
    SCRIPT_INTACK,   /* acknowledge cycle; expects value as the vector */
    SCRIPT_APIC,     /* writes value to the local APIC's register at offset address */
    SCRIPT_RDMSR,    /* an MSR unknown to the engine; expects #GP */
    SCRIPT_WRMSR,    /* the same */
    SCRIPT_VMCALL,   /* expects #UD */
    SCRIPT_HLT,      /* until an interrupt was delivered since the last one */
    SCRIPT_SPIN,     /* busy with interrupts off, until made to return to the caller */
    SCRIPT_SHUTDOWN, /* triple fault */
    SCRIPT_CALL,     /* calls function(opaque, vcpu) */
    SCRIPT_REPEAT,   /* goes back to step number address; value times, or 0: for ever */
};

struct script_step {
    enum script_op op;
    uint64_t address;
    uint8_t size;
    bool is_write;
    uint64_t value; /* written, or expected */
    struct apic_message message;
    void (*function)(void *opaque, struct engine_vcpu *vcpu);
    void *opaque;
};

#define SCRIPT_OUT(port, bytes, data)                                          \
    {                                                                          \
        .op = SCRIPT_IO, .address = (port), .size = (bytes), .is_write = true, \
        .value = (data)                                                        \
    }
#define SCRIPT_IN(port, bytes, expected)                                         \
    {                                                                            \
        .op = SCRIPT_IO, .address = (port), .size = (bytes), .value = (expected) \
    }
#define SCRIPT_STORE(gpa, bytes, data)                                          \
    {                                                                           \
        .op = SCRIPT_MMIO, .address = (gpa), .size = (bytes), .is_write = true, \
        .value = (data)                                                         \
    }
#define SCRIPT_LOAD(gpa, bytes, expected)                                         \
    {                                                                             \
        .op = SCRIPT_MMIO, .address = (gpa), .size = (bytes), .value = (expected) \
    }

/* What went wrong first: the step's number, and what it got. */
struct script_failure {
    bool has_failed;
    unsigned step;
    uint64_t expected, got;
};

/*
 * Plays steps up to SCRIPT_END against a sink, without a VM: enough for a device on a bus
 * (see bus_pair_exit). Steps that wait are skipped. Returns what went wrong.
 */
struct script_failure script_play(const struct script_step *steps, struct vcpu_sink sink);

/* Gives an opened vCPU its steps (borrowed); before it runs. Without any it halts. */
void script_set(struct engine_vcpu *vcpu, const struct script_step *steps);
/* Any thread: how often this vector was delivered. */
unsigned script_interrupts(struct engine_vcpu *vcpu, uint8_t vector);
/* Any thread: the LAPIC_SIGNAL_* that arrived (NMI, INIT, SIPI, SMI). */
uint32_t script_signals(struct engine_vcpu *vcpu);
/* How often the state was set (start, reset); any thread. */
unsigned script_resets(struct engine_vcpu *vcpu);
/* How often its TLB was flushed. */
unsigned script_flushes(struct engine_vcpu *vcpu);
/* Only while run() is not running. */
struct script_failure script_failed(struct engine_vcpu *vcpu);

extern const struct engine_ops engine_script;
