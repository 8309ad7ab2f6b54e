#pragma once
/*
 * A virtual machine at run time: memory, buses, vCPU threads, interrupt routing, life
 * cycle. machine/ fills it with devices; tool/ and control/ drive it.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "allocator/memory.h"
#include "base/loop.h"
#include "device/irq.h"
#include "dispatcher/bus.h"
#include "engine/engine.h"

#define VM_CPUS_MAX  16
#define VM_GSI_COUNT 24

struct vm;

enum vm_status {
    VM_CREATED,
    VM_RUNNING,
    VM_PAUSED,
    VM_STOPPED, /* see vm_end */
};

/* Why a VM ended. */
enum vm_end_reason {
    VM_END_NONE,
    VM_END_POWEROFF,   /* ACPI S5 */
    VM_END_RESET,      /* a reset, with no_reboot */
    VM_END_CRASH,      /* triple fault with no_reboot, or a panic reported */
    VM_END_DEBUG_EXIT, /* value: what was written to the debug-exit port */
    VM_END_REQUEST,    /* the user's: value is a signal number or 0 */
    VM_END_ERROR,      /* the host's: message */
};

struct vm_end {
    enum vm_end_reason reason;
    int value;
    char message[256];
};

struct vcpu; /* dispatcher/vcpu.h */

struct vm_config {
    uint64_t memory_limit; /* bytes of frames to make room for */
    unsigned cpus;
    const struct engine_ops *engine;
    struct cpuid_policy cpuid;
    bool no_reboot;     /* a guest reset or triple fault ends the VM */
    bool virtual_clock; /* guest time moves by clock_advance only */
    /* One processor, whose instructions are the clock: see dispatcher/steps.h. The engine
     * has set_limit. */
    bool is_deterministic;
    bool is_debugged; /* a debugger may come */
    struct engine_look look;
    uint64_t code_cache; /* as engine_config */
};

/* Who is told of each exit after it was answered, on the vCPU's thread. */
struct vm_trace {
    void (*exit)(void *opaque, uint64_t retired, const struct vcpu_exit *exit);
    void *opaque;
};

/* The wires behind one global system interrupt: an 8259 input, an I/O APIC input, or
 * both. */
struct gsi_route {
    struct irq_line pic;
    struct irq_line ioapic;
};

struct vm {
    struct vm_config config;
    struct memory *memory;
    struct clock clock;
    struct timer_queue *timers;
    struct loop *loop;
    struct bus ports;
    struct bus mmio;
    struct doorbell *doorbells; /* dispatcher/doorbell.h */
    const struct engine_ops *engine_ops;
    struct engine *engine;
    unsigned cpu_count;
    struct vcpu *vcpu[VM_CPUS_MAX];

    /* Devices in the order they were made; reset in that order, freed in reverse. */
    unsigned device_count;
    struct device *device[64];

    struct gsi_route gsi[VM_GSI_COUNT];
    /* The 8259's acknowledge cycle; NULL if the machine has none. */
    int (*intack)(void *opaque);
    void *intack_opaque;
    /* EOI broadcast of level-triggered vectors to the I/O APIC; NULL if none. */
    void (*eoi)(void *opaque, uint8_t vector);
    void *eoi_opaque;
    /* Puts the boot image's entry state into memory and the bootstrap processor, at start
     * and after each reset. */
    int (*boot)(void *opaque, struct vm *vm, struct error *err);
    void *boot_opaque;
    bool is_restored; /* the state was loaded instead: vm_start does not boot */

    struct vm_trace trace; /* exit NULL: nobody; set before the start */
    /* Deterministic runs: */
    struct worker_pool *jobs; /* the vCPU's thread runs them; NULL: there are none */
    uint64_t stop_at;         /* steps after which it parks; UINT64_MAX: never */

    _Atomic unsigned arbitration; /* turns of lowest-priority delivery among equals */
    uint64_t tsc_to_ns;           /* ns per tick of the host's TSC, 32.32 fixed point */
    _Atomic uint64_t started_ns, stopped_ns; /* host time; 0: not yet */

    /*
     * Life cycle. A vCPU passes the gate before each run(); it parks there while
     * gate_holds is not 0 or a request is pending. lock is outermost: no device's lock is
     * held when it is taken, and it is not held while devices are called.
     */
    pthread_mutex_t lock;
    pthread_cond_t changed; /* any of what follows */
    enum vm_status status;
    struct vm_end end;
    unsigned live_vcpus;   /* with a thread */
    unsigned parked_vcpus; /* of these, waiting at the gate */
    unsigned gate_holds;   /* pause, reset */
    bool is_resetting;
    void (*debug_stopped)(void *opaque); /* see vm_set_debugger */
    void *debug_opaque;

    /* What was asked of the event loop. The innermost lock, so that a device may ask. */
    pthread_mutex_t request_lock;
    struct vm_end requested_end; /* reason VM_END_NONE: not requested. The first wins */
    bool reset_requested;
    _Atomic bool request_pending;
};

struct vm *vm_new(const struct vm_config *config, struct error *err);
/* Stops what still runs, then frees everything. Accepts NULL. */
void vm_free(struct vm *vm);

/* Takes the device, also on failure. */
int vm_add_device(struct vm *vm, struct device *device, struct error *err);
int vm_add_ports(struct vm *vm, const struct region *region, struct error *err);
int vm_add_mmio(struct vm *vm, const struct region *region, struct error *err);

/* Interrupt routing. A line for a device; thread-safe to drive. */
struct irq_line vm_gsi(struct vm *vm, unsigned gsi);
struct msi_sink vm_msi(struct vm *vm);
/* Delivers a message to the vCPUs it addresses; sender is a vCPU index, or -1 for the I/O
 * APIC and MSIs. */
void vm_apic_send(struct vm *vm, const struct apic_message *message, int sender);
/* Is there an addressed vCPU that has yet to take an earlier message of this vector? */
bool vm_apic_is_waiting(struct vm *vm, const struct apic_message *message);
/* What an input of the I/O APIC sends, as engine_ops.route has it. */
void vm_apic_route(struct vm *vm, unsigned input, const struct apic_message *message);
/* The 8259's INTR output, wired to LINT0 of the bootstrap processor. number is ignored.
 */
void vm_set_extint(void *opaque, unsigned number, int level);

/* Boots (unless the VM was restored), starts guest time and the vCPU threads; returns at
 * once. */
int vm_start(struct vm *vm, struct error *err);
/* Runs the event loop in the calling thread until the VM has ended; the vCPU threads are
 * joined when it returns. */
struct vm_end vm_run(struct vm *vm);

/* Any thread. */
enum vm_status vm_get_status(struct vm *vm);

/* From any thread, devices included (with their locks held); carried out by the event
 * loop. */
void vm_request_end(struct vm *vm, enum vm_end_reason reason, int value,
                    const char *message);
void vm_request_reset(struct vm *vm);
/* Was the end requested, or has it come? Likewise from any thread. */
bool vm_is_ending(struct vm *vm);
/* Stops every vCPU at an instruction boundary and the clock; waits for it. Not from a
 * vCPU's thread or a device. Called in the event loop's thread, it also finds no timer
 * under way. Does nothing to a VM that has not started or has ended. */
void vm_pause(struct vm *vm);
void vm_resume(struct vm *vm);

/*
 * For a debugger. stopped is called in the event loop's thread after a vCPU stopped by
 * itself (RUN_DEBUG); that vCPU is held then. A held vCPU stays at the gate also while
 * the VM runs, until it is released.
 */
void vm_set_debugger(struct vm *vm, void (*stopped)(void *opaque), void *opaque);
void vm_hold(struct vm *vm, unsigned index, bool is_held);

/* The time of day, in ns since 1970. Deterministic runs began at the same moment. */
int64_t vm_wall_ns(const struct vm *vm);

/* The sum of a counter over all vCPUs, and its time. */
void vm_exit_totals(const struct vm *vm, enum exit_reason reason, uint64_t *count,
                    uint64_t *ns);
/*
 * Writes the JSON of --exit-stats; any time, from any thread:
 *
 *   {"version": 1, "engine": "interpreter", "wall_ns": 5000000,
 *    "vcpus": [{"index": 0, "retired": 123456,
 *               "exits": {"io": {"count": 10, "ns": 2500}, ...},
 *               "timer": {"count": 100, "missed": 1, "worst_ns": 2000000,
 *                         "late": [{"within_ns": 10000, "count": 95}, ...
 *                                  {"within_ns": null, "count": 0}]},
 *               "inside": {"time": {"guest_ns": 4000000, ...}, ...}}],
 *    "totals": {"retired": 123456, "exits": {...}, "timer": {...}, "inside": {...}},
 *    "device_timers": {...}}
 *
 * Every exit reason is present. ns is the time its handler took; for "hlt" the time
 * asleep. "timer" is how long after its deadline the APIC timer raised its interrupt, and
 * how many of its interrupts merged with others; "device_timers" the same of the other
 * timers, those included that wake a vCPU for its APIC timer. "retired" is null if the
 * engine does not count instructions. "inside" is what the engine counts of its own, by
 * group and name; {} if it counts nothing.
 */
int vm_write_exit_stats(const struct vm *vm, int fd, struct error *err);
/* The same as a jansson object; NULL when memory is short. The caller ends it with
 * json_decref. */
struct json_t *vm_exit_stats(const struct vm *vm);
