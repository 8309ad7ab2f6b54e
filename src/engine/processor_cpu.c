#include "engine/processor_cpu.h"

#include <errno.h>
#include <sched.h>

#include "engine/exclusive.h"
#include "interpreter/debug.h"
#include "interpreter/event.h"
#include "interpreter/run.h"
#include "x86/msr.h"

void processor_tell_retired(struct processor *processor)
{
    atomic_store_explicit(&processor->config.stats->retired, cpu_retired(processor->cpu),
                          memory_order_relaxed);
}

/* In front of an exit and of a look at the clock, which follows the count. */
static struct processor *processor_of(struct cpu *cpu)
{
    struct processor *processor = cpu->opaque;
    if (cpu->is_counting) {
        processor_tell_retired(processor);
    }
    return processor;
}

/*
 * A device may have changed what memory is where: from the next instruction on everybody
 * sees that. What changes it may hold its lock, so that nobody can be stopped then: here,
 * where the access is over, all others are, and drop what they cached before they go on.
 */
static void follow_layout(struct processor *processor)
{
    struct cpu *cpu = processor->cpu;
    if (likely(cpu->layout == cpu->memory->layout)) {
        return;
    }
    processor_exclusive_begin(processor);
    processor_exclusive_end(processor);
    cpu_follow_layout(cpu);
    cpu_set_attention(cpu);
}

/* Hooks of the interpreter. Whatever may change what the APIC would deliver asks for a
 * look at events. */

static void hook_io(struct cpu *cpu, uint16_t port, unsigned size, bool is_write,
                    uint32_t repeat, uint8_t *data)
{
    struct vcpu_exit exit = {.reason = EXIT_IO,
                             .io = {.port = port,
                                    .size = (uint8_t)size,
                                    .is_write = is_write,
                                    .count = repeat,
                                    .data = data}};
    struct processor *processor = processor_of(cpu);
    processor_exit(processor, &exit);
    follow_layout(processor);
}

static void hook_mmio(struct cpu *cpu, gpa_t gpa, unsigned size, bool is_write,
                      uint8_t *data)
{
    struct processor *processor = processor_of(cpu);
    if (processor_mmio(processor, &cpu->state, gpa, size, is_write, data)) {
        cpu_set_attention(cpu);
    }
    follow_layout(processor);
}

static bool hook_msr_read(struct cpu *cpu, uint32_t index, uint64_t *value)
{
    struct processor *processor = processor_of(cpu);
    return processor_msr_read(processor, &cpu->state, index, value);
}

static bool hook_msr_write(struct cpu *cpu, uint32_t index, uint64_t value)
{
    struct processor *processor = processor_of(cpu);
    unsigned effects;
    bool ok = processor_msr_write(processor, &cpu->state, index, value, &effects);
    if (effects & MSR_EFFECT_PAGING) {
        cpu_flush_all(cpu);
        cpu_update_mode(cpu);
    }
    if (effects & MSR_EFFECT_TSC || lapic_owns_msr(index)) {
        cpu_set_attention(cpu);
    }
    return ok;
}

static uint64_t hook_get_cr8(struct cpu *cpu)
{
    return lapic_get_cr8(cpu->lapic);
}

static void hook_set_cr8(struct cpu *cpu, uint64_t value)
{
    struct processor *processor = processor_of(cpu);
    processor_set_cr8(processor, &cpu->state, value);
    cpu_set_attention(cpu);
}

static uint64_t hook_now(struct cpu *cpu)
{
    struct processor *processor = processor_of(cpu);
    return processor_now(processor);
}

static uint64_t hook_tsc(struct cpu *cpu)
{
    uint64_t now = hook_now(cpu);
    return processor_tsc(cpu->opaque, &cpu->state, now);
}

static bool hook_tsc_line(struct cpu *cpu, struct clock_line *line, struct factor *factor)
{
    const struct processor *processor = cpu->opaque;
    *factor = processor->tsc_factor;
    return !processor->tsc && clock_get_line(processor->engine->clock, line);
}

static bool hook_hypercall(struct cpu *cpu)
{
    struct processor *processor = processor_of(cpu);
    return processor_hypercall(processor, cpu->reg, cpu->cpl);
}

#define PAUSES_BEFORE_YIELD 16

/* A vCPU that spins waits for one that perhaps has no host processor, be it for other
 * vCPUs or for the host's other work: make room for it. */
static void give_way(struct processor *processor)
{
    if (++processor->pauses % PAUSES_BEFORE_YIELD == 0) {
        sched_yield();
    }
}

static void hook_count(struct cpu *cpu, enum exit_reason reason)
{
    struct processor *processor = cpu->opaque;
    processor_count(processor, reason);
    if (reason == EXIT_PAUSE) {
        give_way(processor);
    }
}

static void hook_exclusive_begin(struct cpu *cpu)
{
    processor_exclusive_begin(cpu->opaque);
}

static void hook_exclusive_end(struct cpu *cpu)
{
    processor_exclusive_end(cpu->opaque);
}

static const struct cpu_hooks hooks = {
    .io = hook_io,
    .mmio = hook_mmio,
    .msr_read = hook_msr_read,
    .msr_write = hook_msr_write,
    .get_cr8 = hook_get_cr8,
    .set_cr8 = hook_set_cr8,
    .tsc = hook_tsc,
    .tsc_line = hook_tsc_line,
    .now = hook_now,
    .hypercall = hook_hypercall,
    .count = hook_count,
    .exclusive_begin = hook_exclusive_begin,
    .exclusive_end = hook_exclusive_end,
};

/* Events between instructions, in the order of SDM 3A table 6-2: INIT, NMI, interrupts.
 */

static void take_startup(struct processor *processor)
{
    if (processor_has_startup(processor)) {
        struct x86_state state;
        cpu_sync_out(processor->cpu, &state);
        processor_take_startup(processor, &state);
        cpu_sync_in(processor->cpu, &state);
    }
}

static void deliver(struct processor *processor, enum x86_event_type type, uint8_t vector)
{
    struct x86_event event = {.pending = true, .vector = vector, .type = type};
    processor->cpu->state.activity = X86_RUNNING;
    processor_count(processor, EXIT_INTERRUPT);
    event_deliver(processor->cpu, &event, 0);
}

static bool take_nmi(struct processor *processor)
{
    if (!lapic_take_nmi(processor->config.lapic, processor->cpu->state.nmi_blocked)) {
        return false;
    }
    deliver(processor, X86_EVENT_NMI, X86_NMI);
    cpu_set_attention(processor->cpu); /* an interrupt may be pending, too */
    return true;
}

static bool take_interrupt(struct processor *processor)
{
    struct cpu *cpu = processor->cpu;
    if (lapic_has_request(cpu->lapic)) {
        processor_take_eoi(processor);
    }
    int pending = lapic_pending(cpu->lapic);
    bool has_waited = cpu->wants_window;
    cpu->wants_window = pending != LAPIC_NONE;
    if (pending == LAPIC_NONE || !(cpu->state.rflags & X86_FLAG_IF)) {
        return false;
    }
    if (has_waited) {
        processor_count(processor, EXIT_INTERRUPT_WINDOW);
    }
    int vector = processor_acknowledge(processor, pending);
    if (vector < 0) {
        return false;
    }
    deliver(processor, X86_EVENT_EXTERNAL, (uint8_t)vector);
    processor_offer_eoi(processor);
    cpu->wants_window = lapic_pending(cpu->lapic) != LAPIC_NONE;
    return true;
}

/* What another engine had recognised when its state was saved. */
static bool take_saved_event(struct processor *processor)
{
    struct x86_event event = processor->cpu->state.event;
    if (!event.pending) {
        return false;
    }
    processor->cpu->state.event = (struct x86_event){0};
    processor->cpu->state.activity = X86_RUNNING;
    event_deliver(processor->cpu, &event, processor->cpu->state.cr2);
    cpu_set_attention(processor->cpu);
    return true;
}

void processor_take_events(struct processor *processor)
{
    struct cpu *cpu = processor->cpu;
    take_startup(processor);
    processor_run_timer(processor);
    if (cpu->state.activity != X86_RUNNING && cpu->state.activity != X86_HALTED) {
        return;
    }
    if (take_saved_event(processor)) {
        return;
    }
    if (cpu->state.interrupt_shadow) {
        if (cpu->rip == cpu->shadow_rip && cpu->state.activity == X86_RUNNING) {
            cpu_step(cpu); /* the instruction in the shadow; events are looked at again
                              behind it */
            processor_of(cpu); /* what follows may look at the clock */
            if (cpu->state.activity != X86_HALTED) {
                return;
            }
            /* STI, HLT: what was pending wakes it at once (SDM 2B, STI); nobody would
             * kick for it again. */
        }
        cpu->state.interrupt_shadow = X86_SHADOW_NONE;
    }
    if (!take_nmi(processor)) {
        take_interrupt(processor);
    }
}

int processor_cpu_open(struct processor *processor, struct error *err)
{
    const struct engine_config *engine = processor->engine;
    processor->tsc_factor = factor_make(engine->cpuid->tsc_khz, 1000000);
    processor->cpu = cpu_new(engine->memory, engine->cpuid, processor->config.lapic,
                             &hooks, processor, err);
    if (!processor->cpu) {
        return -ENOMEM;
    }
    processor->cpu->is_counting = engine->is_deterministic;
    struct x86_state state;
    x86_state_reset(&state, processor->config.is_bootstrap);
    cpu_sync_in(processor->cpu, &state);
    return 0;
}

void processor_cpu_close(struct processor *processor)
{
    cpu_free(processor->cpu);
    processor->cpu = NULL;
}

/* Guest code until something has to be looked at. True: the debugger has to. */
static bool execute(struct processor *processor)
{
    struct cpu *cpu = processor->cpu;
    if (processor->step) {
        cpu_step(cpu);
        processor->stop = (struct debug_stop){.reason = DEBUG_STEPPED};
    } else if (processor->execute) {
        processor->execute(processor);
    } else {
        cpu_run(cpu);
    }
    if (debug_has_stopped(cpu)) {
        processor->stop = cpu->debug->stop;
        return true;
    }
    return processor->step;
}

static enum run_result run(struct processor *processor)
{
    struct cpu *cpu = processor->cpu;
    for (;;) {
        /* Cleared before the causes are looked at: one that comes later sets it again. */
        atomic_store(&cpu->attention, 0);
        if (atomic_exchange(&processor->return_requested, false)) {
            return RUN_KICKED;
        }
        if (cpu->retired >= cpu->limit) {
            return RUN_LIMIT;
        }
        exclusive_yield(processor->exclusive);
        cpu_follow_layout(cpu);
        if (!processor->step) {
            processor_take_events(processor);
        }
        if (cpu->state.activity == X86_SHUTDOWN) {
            return RUN_SHUTDOWN;
        }
        if (cpu->state.activity != X86_RUNNING) {
            return RUN_HALTED;
        }
        if (execute(processor)) {
            return RUN_DEBUG;
        }
        processor_tell_retired(processor);
    }
}

enum run_result processor_cpu_run(struct processor *processor)
{
    debug_resume(processor->cpu);
    exclusive_enter(processor->exclusive);
    enum run_result result = run(processor);
    processor_tell_retired(processor);
    exclusive_leave(processor->exclusive);
    return result;
}

void processor_cpu_kick(struct processor *processor, bool return_to_caller)
{
    if (return_to_caller) {
        atomic_store(&processor->return_requested, true);
    }
    cpu_set_attention(processor->cpu);
    if (processor->notify) {
        processor->notify(processor);
    }
}

int processor_cpu_debug(struct processor *processor, const struct debug_control *control,
                        struct error *err)
{
    processor->step = control && control->step;
    if (debug_set(processor->cpu, control) < 0) {
        return fail(err, ENOMEM, "cannot debug virtual processor %u",
                    processor->config.index);
    }
    return 0;
}
