#pragma once
/*
 * What executes guest code. An engine speaks to the world through one record, struct
 * vcpu_exit, delivered synchronously through the function given when a vCPU is opened:
 * the answer is there when the call returns. It never calls a device.
 *
 * To add an engine: one folder here with a struct engine_ops, one row in engine.c's
 * table.
 */

#include <stdbool.h>
#include <stdint.h>

#include "allocator/memory.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/lateness.h"
#include "jail/jail.h"
#include "x86/cpuid.h"
#include "x86/debug.h"
#include "x86/exit_reason.h"
#include "x86/lapic.h"
#include "x86/paravirt.h"
#include "x86/state.h"

struct vcpu_exit {
    enum exit_reason reason;
    union {
        /* One access of size bytes, or a string move of count such accesses, data packed.
         * For reads the handler fills data completely (all ones where nothing answers).
         */
        struct {
            uint16_t port;
            uint8_t size; /* 1, 2, 4 */
            bool is_write;
            uint32_t count; /* 1 or more; size * count is at most 4096 */
            uint8_t *data;
        } io;
        struct {
            gpa_t gpa;
            uint8_t size; /* 1 to 64, within one page */
            bool is_write;
            uint8_t *data;
        } mmio;
        struct apic_message ipi;
        uint8_t eoi_vector;
        uint64_t tsc_offset;
        int intack_vector; /* answer; -1: no 8259, spurious */
        struct {
            uint32_t index;
            uint64_t value;
            bool is_fault;       /* answer: raise #GP */
            uint64_t tsc_offset; /* of the vCPU, for registers that publish its TSC */
        } msr;
        struct {
            uint64_t number, argument[4];
            uint8_t cpl;       /* of the caller */
            uint64_t result;   /* answer, for RAX */
            bool is_undefined; /* answer: raise #UD */
        } hypercall;
    };
};

/* Where a vCPU's exits go. Called on the vCPU's own thread, with no lock held. */
struct vcpu_sink {
    void (*exit)(void *opaque, struct vcpu_exit *exit);
    void *opaque;
};

struct exit_count {
    _Atomic uint64_t count;
    _Atomic uint64_t ns; /* time spent in the handler */
};

/* Counters of one vCPU; written by its thread, read by any. */
struct vcpu_stats {
    struct exit_count exit[EXIT_REASON_COUNT];
    _Atomic uint64_t retired; /* guest instructions, if the engine counts them */
    struct lateness timer;    /* of the APIC timer, from its deadline to the IRR */
};

/* What people want to see of the host code that an engine makes; paths are borrowed. */
struct engine_look {
    bool perf_map;     /* names for perf, in /tmp/perf-PID.map */
    const char *trace; /* ranges of guest addresses whose code is listed; NULL: none */
    const char *trace_file; /* where to; NULL: stderr */
    const char *symbols;    /* ELF file that names guest addresses, or NULL */
};

/* What an engine is given for a whole VM. Everything is borrowed and outlives the engine.
 */
struct engine_config {
    struct memory *memory;
    struct clock *clock;
    const struct cpuid_policy *cpuid;
    unsigned cpus;
    bool is_debugged;        /* debug may be called: only then engines need be able to */
    bool is_deterministic;   /* see set_limit, which the engine has; cpus is 1 */
    struct engine_look look; /* for an engine that makes_code */
    uint64_t code_cache;     /* bytes of it that are kept at most; 0: as it likes */
};

/* A store of these 4 bytes at gpa, where nothing is mapped. */
struct engine_doorbell {
    gpa_t gpa;
    uint32_t value;
    int fd; /* an eventfd that it is to signal */
};

/* What it is given for one vCPU. */
struct vcpu_config {
    unsigned index;
    bool is_bootstrap;
    struct lapic *lapic; /* used by engines without an APIC of their own */
    struct paravirt_registers *paravirt; /* NULL: no services; see has_apics */
    struct vcpu_sink sink;
    struct vcpu_stats *stats;
};

enum run_result {
    RUN_KICKED, /* at an instruction boundary, nothing half done */
    RUN_HALTED, /* HLT or waiting for SIPI, nothing pending: run again after a kick or the
                   APIC deadline */
    RUN_SHUTDOWN, /* triple fault; the state shows where */
    RUN_FAILED,   /* the host's fault, for good: see failure */
    RUN_DEBUG,    /* a breakpoint, a watchpoint, or the end of a step: see debug_stop */
    RUN_LIMIT,    /* stats->retired has reached the limit: see set_limit */
};

/* How an engine runs an instruction. Whatever is sensitive must not be copied. */
enum engine_way {
    WAY_ROUTINE,    /* by the interpreter's routine */
    WAY_TRANSLATED, /* by host code that does what the routine does */
    WAY_COPIED,     /* as it is, with the guest's registers and memory */
    WAY_HARDWARE,   /* by the host's virtualization: on the guest's own state, or it exits
                     */
};

struct insn_row;
struct engine; /* each engine's own */
struct engine_vcpu;

/*
 * A number that an engine counts for people who look inside: group and name as JSON has
 * them, words with underscores; a name that ends in _ns, _bytes or _percent says its
 * unit. No number means the same in two engines.
 */
struct engine_stat {
    const char *group, *name;
    uint64_t value;
};
typedef void engine_stat_fn(void *opaque, const struct engine_stat *stat);

struct engine_ops {
    const char *name;    /* as --engine takes it */
    const char *summary; /* one line for help and doctor */
    bool counts_retired; /* vcpu_stats.retired is exact, not only in deterministic runs */
    bool makes_code;     /* engine_config.look and code_cache have an effect */
    enum jail_role role; /* of its vCPUs' threads: which system calls run() may make */

    /* Can it work on this host? 0, or an error that says why not. */
    int (*probe)(struct error *err);

    /* Is it the fastest here, so that `auto` takes it? Says why, or why not, with the
     * numbers that decide; takes some milliseconds at most. Only after a good probe.
     * NULL: it is, among those that follow it in the table. */
    bool (*is_fast)(char *reason, size_t size);

    /* How many of the model's features a VM with that CPU model and that use of a
     * debugger cannot have on this host, and their names, as far as they fit; NULL: it
     * can have all. */
    unsigned (*missing)(const struct engine_config *use, char *names, size_t size);
    /* Takes these features away from a model that was made for this host. NULL as above.
     */
    int (*fit)(const struct engine_config *use, struct cpuid_policy *policy,
               struct error *err);

    /* How it runs a row of the instruction tables; for WAY_HARDWARE *means says by what.
     */
    enum engine_way (*way)(const struct insn_row *row, const char **means);

    /* Fails if a feature of the model is missing. */
    struct engine *(*open)(const struct engine_config *config, struct error *err);
    void (*close)(struct engine *engine);

    /* The vCPU starts in the state x86_state_reset gives. Called before its thread
     * exists. */
    struct engine_vcpu *(*vcpu_open)(struct engine *engine,
                                     const struct vcpu_config *config, struct error *err);
    void (*vcpu_close)(struct engine_vcpu *vcpu);

    /* Executes guest code until kicked, halted or shut down. On the vCPU's own thread
     * only. */
    enum run_result (*run)(struct engine_vcpu *vcpu);
    /*
     * Any thread, async-signal-safe: a run() under way, or else the next one, looks at
     * the APIC and at `stop` requests within a bounded time. Never lost. return_to_caller
     * makes run() return RUN_KICKED; without it the engine only re-examines pending
     * interrupts and timers.
     */
    void (*kick)(struct engine_vcpu *vcpu, bool return_to_caller);

    /*
     * Deterministic runs, of which two engines must give the same; NULL if the engine has
     * none. The unit is the step: a retired instruction, or one iteration of a REP
     * instruction (its last one retires it; without an iteration it is one step, too).
     * Instructions that fault and the delivery of events are no steps. With
     * engine_config.is_deterministic:
     *
     * - run() returns RUN_LIMIT at the first instruction boundary at which retired or
     *   more steps were made; at once if they were before, and the processor, halted or
     *   not, then has done nothing. The limit is looked at first: events that could be
     *   taken at that boundary are left for the next run().
     * - Called on the vCPU's thread while run() is not running, or from within its sink;
     *   then the instruction in progress still retires (of a REP: its iteration).
     * - vcpu_stats.retired is exact whenever the clock is read, the sink is called and
     *   run() returns: the steps before the instruction (or iteration) in progress.
     * - What an instruction makes deliverable (by STI, by an access to the APIC, by a
     *   device that raises its line in the sink) is taken at the boundary behind it.
     * - REP INS and OUTS exit for each iteration (io.count is 1).
     * - Kicks may come at any time and change nothing of this.
     * - RDRAND and RDSEED give x86_random of the guest time (x86/random.h).
     *
     * UINT64_MAX, and when opened: no limit.
     */
    void (*set_limit)(struct engine_vcpu *vcpu, uint64_t retired);

    /*
     * Only while run() is not running. An engine with an APIC of its own copies it to
     * vcpu_config.lapic in get_state, and takes it from there in set_state.
     */
    void (*get_state)(struct engine_vcpu *vcpu, struct x86_state *state);
    void (*set_state)(struct engine_vcpu *vcpu, const struct x86_state *state);

    /* Forgets all translations of addresses, on the vCPU's own thread, while run() is not
     * running. NULL if there is no way to. */
    void (*flush_tlb)(struct engine_vcpu *vcpu);

    /*
     * Debugging from outside; NULL if the engine cannot. While run() is not running:
     * takes the points and what to do next (NULL: nothing). 0, or an error if there are
     * more points than it has room for.
     */
    int (*debug)(struct engine_vcpu *vcpu, const struct debug_control *control,
                 struct error *err);
    /*
     * For an engine with APICs of its own; NULL if it has none. has_apics: this VM's are
     * its own, and vcpu_config.lapic is stale while it runs, and so is what
     * vcpu_config.paravirt has of steal time and EOIs: these services are its own then.
     * send: a message to an APIC, from any thread; false if the APICs of this VM, or what
     * the message asks for, are the caller's. route: what an input of the I/O APIC sends
     * if it is level-triggered, else NULL, whenever that has changed; the vector's EOI is
     * then an exit.
     */
    bool (*has_apics)(const struct engine *engine);
    bool (*send)(struct engine *engine, const struct apic_message *message);
    void (*route)(struct engine *engine, unsigned input,
                  const struct apic_message *message);

    /* From is_on to not: that store need not exit, if the guest's code makes it, but adds
     * 1 to the eventfd. Any thread. NULL if it cannot be had. */
    int (*doorbell)(struct engine *engine, const struct engine_doorbell *bell, bool is_on,
                    struct error *err);

    /* After RUN_FAILED: why. NULL if run() never returns it. */
    void (*failure)(struct engine_vcpu *vcpu, struct error *err);

    /* After RUN_DEBUG: why. */
    void (*debug_stop)(struct engine_vcpu *vcpu, struct debug_stop *stop);

    /* The vCPU's thread begins, in front of its first run() and before its jail closes.
     * NULL: nothing to do; nor need it be called. */
    void (*begin)(struct engine_vcpu *vcpu);
    /* Tells each number of a vCPU, which may be added up over all vCPUs, or, with NULL,
     * of the whole VM. Any time, from any thread. NULL: there are none. */
    void (*stats)(struct engine *engine, struct engine_vcpu *vcpu, engine_stat_fn *each,
                  void *opaque);
};

/* NULL-terminated, fastest first; "script" (tests) is not in it. */
extern const struct engine_ops *const engine_table[];

const struct engine_ops *engine_find(const char *name);
#define ENGINE_REASON_SIZE 400
/* What --engine auto means here: the first that works and is fast. reason says why it,
 * and why none before it. */
const struct engine_ops *engine_choose(char reason[ENGINE_REASON_SIZE],
                                       struct error *err);
/* The same for a deterministic run: the first that works and has set_limit. */
const struct engine_ops *engine_choose_counting(char reason[ENGINE_REASON_SIZE],
                                                struct error *err);
