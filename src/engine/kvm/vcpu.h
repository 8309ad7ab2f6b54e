#pragma once
/* What the parts of the engine share: the VM and its vCPUs. */

#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>

#include "engine/exclusive.h"
#include "engine/kvm/host.h"
#include "engine/kvm/kvm.h"
#include "engine/processor.h"

#define KVM_VCPUS_MAX 64

/* A slot as KVM has it. */
struct kvm_slot {
    bool is_used;
    bool is_rom;
    gpa_t gpa;
    uint64_t size;
    frame_t frame;
};

/* Those of the table, and what the A20 gate adds. */
#define KVM_SLOTS_MAX (2 * SLOTS_MAX + 1)

struct engine {
    struct engine_config config;
    int device; /* /dev/kvm */
    int fd;     /* the VM */
    size_t run_size;
    struct kvm_cpuid2 *cpuid; /* what every vCPU gets, but for its APIC ID */
    struct engine_vcpu *vcpu[KVM_VCPUS_MAX];
    struct exclusive exclusive; /* for what the interpreter executes here */

    pthread_mutex_t memory_lock; /* the slots below, and whether they are logged */
    struct kvm_slot slot[KVM_SLOTS_MAX];
    bool is_logging;
    _Atomic uint64_t layout;     /* of the memory, that the slots were made for */
    _Atomic bool has_run;        /* vCPUs have */
    struct error memory_failure; /* code 0: none */
    bool has_ring; /* the dirty log is a ring for each vCPU, not a bitmap: ring.c */

    bool has_guest_debug; /* KVM delivers a debugger's points: guest_debug.c */

    bool has_apic;                        /* the APICs are KVM's: apic.c */
    pthread_mutex_t apic_lock;            /* messages; the routes below */
    struct kvm_irq_routing_msi route[24]; /* of the I/O APIC's inputs; address 0: none */
    struct error apic_failure;
    _Atomic bool has_apic_failure;

    pthread_mutex_t tsc_lock;
    bool has_tsc_base;
    uint64_t tsc_synced_ns;    /* clock.offset_ns when tsc_base was computed */
    _Atomic uint64_t tsc_base; /* clock's TSC = host's TSC at the guest's rate + this */
    uint32_t host_tsc_khz;
    bool is_tsc_scaled;
    _Atomic bool is_tsc_fixed; /* the guest sees the host's TSC, whatever KVM is told */
};

struct engine_vcpu {
    struct engine *engine;
    struct processor processor;
    int fd;
    struct kvm_run *run;
    /*
     * KVM has the truth about registers, segments, control and debug registers, vector
     * state and the MSRs of kvm_msr_list while the guest runs; here it is stale then.
     * The rest (activity, MTRRs and other rare MSRs, TSC offset) lives here alone.
     */
    struct x86_state state;
    bool must_settle;   /* an exit was answered, and KVM has not completed it yet */
    bool can_inject;    /* an external interrupt could be delivered now */
    bool must_set_base; /* IA32_APIC_BASE changed: KVM shows it in CPUID */
    bool has_tsc_offset;
    uint64_t tsc_offset; /* what KVM was told */
    struct error failure;

    struct kvm_dirty_gfn *ring; /* NULL: none */
    uint32_t ring_next;         /* entries harvested so far; under memory_lock */

    /* With the APIC in KVM. */
    bool is_timer_stopped; /* in KVM; struct lapic has its deadline */
    enum x86_activity loaded_activity;

    /* The last time that the interpreter helped: how far it went, and the host's TSC. */
    unsigned emulated_steps;
    uint64_t emulated_end, emulated_ticks;

    /* A debugger's points, or a step to be made: by KVM if they fit, else the interpreter
     * runs. */
    bool is_debugged;
    bool fits_guest_debug;
    struct debug_control control;
    bool has_guest_debug; /* KVM was told them, for this run() */
    bool must_interpret;  /* KVM could not do an instruction meanwhile */
    bool has_stopped;     /* before the instruction at stopped_rip, for its breakpoint */
    uint64_t stopped_rip;

    int thread;             /* that last called run(); its kick signal is unblocked */
    _Atomic bool is_inside; /* in KVM_RUN, or about to be */
    _Atomic bool is_interpreting; /* in the interpreter's loop instead */
};

/* memory.c: slots and dirty log. */
void kvm_memory_changed(void *opaque);
/* Between two stretches of guest code: has the slots changed if memory was. Nobody may
 * execute meanwhile, for KVM cannot exchange one slot for another at once. */
void kvm_memory_follow(struct engine_vcpu *vcpu);
void kvm_memory_log(void *opaque, bool is_on);
void kvm_memory_collect(void *opaque);
/* What an access that KVM left for reaches the bus with. */
gpa_t kvm_memory_bus_address(const struct engine *engine, gpa_t gpa);

/* ring.c */
int kvm_ring_init(struct engine *engine, struct error *err);
int kvm_ring_open(struct engine_vcpu *vcpu, struct error *err);
void kvm_ring_close(struct engine_vcpu *vcpu);
/* Every ring's entries into the frames' log. memory_lock is held. */
void kvm_ring_harvest_locked(struct engine *engine);
void kvm_ring_exit_full(struct engine_vcpu *vcpu);

/* state.c: between vcpu->state and KVM. Failures go to vcpu->failure. */
void kvm_state_save(struct engine_vcpu *vcpu);
void kvm_state_load(struct engine_vcpu *vcpu);

/* cpuid.c */
int kvm_cpuid_init(struct engine *engine, struct error *err);
int kvm_cpuid_set(struct engine_vcpu *vcpu, struct error *err);

/* msr.c */
int kvm_msr_init(struct engine *engine, struct error *err);
struct kvm_msr_field {
    uint32_t index;
    size_t offset; /* in struct x86_state */
    const char *name;
};
extern const struct kvm_msr_field kvm_msr_list[]; /* index 0 ends it */
/* One that KVM keeps; false and errno if it does not have it, or not that value. */
bool kvm_msr_get(struct engine_vcpu *vcpu, uint32_t index, uint64_t *value);
bool kvm_msr_set(struct engine_vcpu *vcpu, uint32_t index, uint64_t value);
/* KVM_EXIT_X86_RDMSR and WRMSR. */
void kvm_msr_exit(struct engine_vcpu *vcpu);

/* tsc.c: the guest's TSC follows the guest's clock. */
int kvm_tsc_init(struct engine *engine, struct error *err);
int kvm_tsc_set_rate(struct engine_vcpu *vcpu, struct error *err);
uint64_t kvm_tsc_now(const struct processor *processor, uint64_t now_ns);
void kvm_tsc_sync(struct engine_vcpu *vcpu);

/* emulate.c: one instruction (or the delivery of one event) by the interpreter. */
void kvm_emulate(struct engine_vcpu *vcpu);
/* run() by the interpreter, for a debugger. */
enum run_result kvm_interpret(struct engine_vcpu *vcpu);
int kvm_debug(struct engine_vcpu *vcpu, const struct debug_control *control,
              struct error *err);

/* doorbell.c */
int kvm_doorbell(struct engine *engine, const struct engine_doorbell *bell, bool is_on,
                 struct error *err);

/* guest_debug.c. works: tries it. Between start (false: not now, and nothing began) and
 * end the vCPU runs in KVM with the debugger's points. */
#define KVM_POINTS 4
bool kvm_guest_debug_works(void);
bool kvm_guest_debug_fits(const struct engine *engine,
                          const struct debug_control *control);
bool kvm_guest_debug_start(struct engine_vcpu *vcpu);
void kvm_guest_debug_end(struct engine_vcpu *vcpu);
void kvm_guest_debug_exit(struct engine_vcpu *vcpu);
bool kvm_guest_debug_has_stopped(struct engine_vcpu *vcpu);

/* apic.c */
bool kvm_apic_is_offered(int device);
int kvm_apic_init(struct engine *engine, struct error *err);
bool kvm_apic_send(struct engine *engine, const struct apic_message *message);
void kvm_apic_route(struct engine *engine, unsigned input,
                    const struct apic_message *message);
/* The timer runs only between start and stop, on the vCPU's own thread. */
void kvm_apic_start(struct engine_vcpu *vcpu);
void kvm_apic_stop(struct engine_vcpu *vcpu);
/* Between KVM and config.lapic while the timer is stopped. */
void kvm_apic_save(struct engine_vcpu *vcpu);
void kvm_apic_load(struct engine_vcpu *vcpu);
void kvm_apic_save_services(struct engine_vcpu *vcpu);
void kvm_apic_load_services(struct engine_vcpu *vcpu);
void kvm_apic_save_activity(struct engine_vcpu *vcpu);
void kvm_apic_load_activity(struct engine_vcpu *vcpu);
/* processor.apic_begin and apic_end. */
void kvm_apic_begin(struct processor *processor);
void kvm_apic_end(struct processor *processor);
void kvm_apic_take_events(struct engine_vcpu *vcpu);
void kvm_apic_exit_eoi(struct engine_vcpu *vcpu);

/* run.c */
enum run_result kvm_run(struct engine_vcpu *vcpu);
void kvm_kick(struct engine_vcpu *vcpu, bool return_to_caller);
void kvm_interrupt_others(struct processor *processor);
/* Lets KVM complete what it began, so that state can be read and written. */
void kvm_settle(struct engine_vcpu *vcpu);
/* The signal that makes KVM_RUN return; its handler does nothing. */
int kvm_kick_init(struct error *err);

/* exit.c: answers one exit. */
void kvm_exit_handle(struct engine_vcpu *vcpu);
const char *kvm_exit_name(uint32_t reason);

/* Notes the first failure; run() then returns RUN_FAILED. */
void kvm_fail(struct engine_vcpu *vcpu, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
