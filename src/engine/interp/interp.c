#include "engine/interp/interp.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/interp/exclusive.h"
#include "engine/processor.h"
#include "interpreter/debug.h"
#include "interpreter/event.h"
#include "interpreter/run.h"
#include "x86/msr.h"

struct engine {
    struct engine_config config;
    struct exclusive exclusive;
    bool is_overcommitted; /* more vCPUs than host processors */
    struct engine_vcpu *vcpu[64];
};

struct engine_vcpu {
    struct engine *engine;
    struct processor processor;
    struct cpu *cpu;
    _Atomic bool return_requested;
    bool step; /* for the debugger: one instruction, then RUN_DEBUG */
    struct debug_stop stop;
    unsigned pauses; /* PAUSE instructions so far */
};

/* Hooks of the interpreter. */

static void hook_io(struct cpu *cpu, uint16_t port, unsigned size, bool is_write,
                    uint32_t repeat, uint8_t *data)
{
    struct vcpu_exit exit = {.reason = EXIT_IO,
                             .io = {.port = port,
                                    .size = (uint8_t)size,
                                    .is_write = is_write,
                                    .count = repeat,
                                    .data = data}};
    struct engine_vcpu *vcpu = cpu->opaque;
    processor_exit(&vcpu->processor, &exit);
}

static void hook_mmio(struct cpu *cpu, gpa_t gpa, unsigned size, bool is_write,
                      uint8_t *data)
{
    struct engine_vcpu *vcpu = cpu->opaque;
    if (processor_mmio(&vcpu->processor, &cpu->state, gpa, size, is_write, data)) {
        cpu_set_attention(cpu);
    }
}

static bool hook_msr_read(struct cpu *cpu, uint32_t index, uint64_t *value)
{
    struct engine_vcpu *vcpu = cpu->opaque;
    return processor_msr_read(&vcpu->processor, &cpu->state, index, value);
}

static bool hook_msr_write(struct cpu *cpu, uint32_t index, uint64_t value)
{
    struct engine_vcpu *vcpu = cpu->opaque;
    unsigned effects;
    bool ok = processor_msr_write(&vcpu->processor, &cpu->state, index, value, &effects);
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
    struct engine_vcpu *vcpu = cpu->opaque;
    processor_set_cr8(&vcpu->processor, &cpu->state, value);
    cpu_set_attention(cpu);
}

static uint64_t hook_now(struct cpu *cpu)
{
    struct engine_vcpu *vcpu = cpu->opaque;
    return processor_now(&vcpu->processor);
}

static uint64_t hook_tsc(struct cpu *cpu)
{
    struct engine_vcpu *vcpu = cpu->opaque;
    return processor_tsc(&vcpu->processor, &cpu->state, hook_now(cpu));
}

static bool hook_hypercall(struct cpu *cpu)
{
    struct engine_vcpu *vcpu = cpu->opaque;
    return processor_hypercall(&vcpu->processor, cpu->reg, cpu->cpl);
}

#define PAUSES_BEFORE_YIELD 16

/* A vCPU that spins waits for one that perhaps has no host processor: make room for it.
 */
static void give_way(struct engine_vcpu *vcpu)
{
    if (vcpu->engine->is_overcommitted && ++vcpu->pauses % PAUSES_BEFORE_YIELD == 0) {
        sched_yield();
    }
}

static void hook_count(struct cpu *cpu, enum exit_reason reason)
{
    struct engine_vcpu *vcpu = cpu->opaque;
    processor_count(&vcpu->processor, reason);
    if (reason == EXIT_PAUSE) {
        give_way(vcpu);
    }
}

static void interrupt_others(void *opaque)
{
    struct engine_vcpu *vcpu = opaque;
    for (unsigned i = 0; i < vcpu->engine->config.cpus; i++) {
        struct engine_vcpu *other = vcpu->engine->vcpu[i];
        if (other && other != vcpu) {
            cpu_set_attention(other->cpu);
        }
    }
}

static void hook_exclusive_begin(struct cpu *cpu)
{
    struct engine_vcpu *vcpu = cpu->opaque;
    exclusive_begin(&vcpu->engine->exclusive, interrupt_others, vcpu);
}

static void hook_exclusive_end(struct cpu *cpu)
{
    struct engine_vcpu *vcpu = cpu->opaque;
    exclusive_end(&vcpu->engine->exclusive);
}

static const struct cpu_hooks hooks = {
    .io = hook_io,
    .mmio = hook_mmio,
    .msr_read = hook_msr_read,
    .msr_write = hook_msr_write,
    .get_cr8 = hook_get_cr8,
    .set_cr8 = hook_set_cr8,
    .tsc = hook_tsc,
    .now = hook_now,
    .hypercall = hook_hypercall,
    .count = hook_count,
    .exclusive_begin = hook_exclusive_begin,
    .exclusive_end = hook_exclusive_end,
};

/* Events between instructions, in the order of SDM 3A table 6-2: INIT, NMI, interrupts.
 */

static void take_startup(struct engine_vcpu *vcpu)
{
    if (processor_has_startup(&vcpu->processor)) {
        struct x86_state state;
        cpu_sync_out(vcpu->cpu, &state);
        processor_take_startup(&vcpu->processor, &state);
        cpu_sync_in(vcpu->cpu, &state);
    }
}

static void deliver(struct engine_vcpu *vcpu, enum x86_event_type type, uint8_t vector)
{
    struct x86_event event = {.pending = true, .vector = vector, .type = type};
    vcpu->cpu->state.activity = X86_RUNNING;
    processor_count(&vcpu->processor, EXIT_INTERRUPT);
    event_deliver(vcpu->cpu, &event, 0);
}

static bool take_nmi(struct engine_vcpu *vcpu)
{
    if (vcpu->cpu->state.nmi_blocked || !processor_take_nmi(&vcpu->processor)) {
        return false;
    }
    deliver(vcpu, X86_EVENT_NMI, X86_NMI);
    cpu_set_attention(vcpu->cpu); /* an interrupt may be pending, too */
    return true;
}

static bool take_interrupt(struct engine_vcpu *vcpu)
{
    struct cpu *cpu = vcpu->cpu;
    int pending = lapic_pending(cpu->lapic);
    bool has_waited = cpu->wants_window;
    cpu->wants_window = pending != LAPIC_NONE;
    if (pending == LAPIC_NONE || !(cpu->state.rflags & X86_FLAG_IF)) {
        return false;
    }
    if (has_waited) {
        processor_count(&vcpu->processor, EXIT_INTERRUPT_WINDOW);
    }
    int vector = processor_acknowledge(&vcpu->processor, pending);
    if (vector < 0) {
        return false;
    }
    deliver(vcpu, X86_EVENT_EXTERNAL, (uint8_t)vector);
    cpu->wants_window = lapic_pending(cpu->lapic) != LAPIC_NONE;
    return true;
}

/* What another engine had recognised when its state was saved. */
static bool take_saved_event(struct engine_vcpu *vcpu)
{
    struct x86_event event = vcpu->cpu->state.event;
    if (!event.pending) {
        return false;
    }
    vcpu->cpu->state.event.pending = false;
    vcpu->cpu->state.activity = X86_RUNNING;
    event_deliver(vcpu->cpu, &event, vcpu->cpu->state.cr2);
    cpu_set_attention(vcpu->cpu);
    return true;
}

/* One look at everything that may interrupt guest code. */
static void take_events(struct engine_vcpu *vcpu)
{
    struct cpu *cpu = vcpu->cpu;
    take_startup(vcpu);
    processor_run_timer(&vcpu->processor);
    if (cpu->state.activity != X86_RUNNING && cpu->state.activity != X86_HALTED) {
        return;
    }
    if (take_saved_event(vcpu)) {
        return;
    }
    if (cpu->state.interrupt_shadow) {
        if (cpu->rip == cpu->shadow_rip && cpu->state.activity == X86_RUNNING) {
            cpu_step(cpu); /* the instruction in the shadow; events are looked at again
                              behind it */
            if (cpu->state.activity != X86_HALTED) {
                return;
            }
            /* STI, HLT: what was pending wakes it at once (SDM 2B, STI); nobody would
             * kick for it again. */
        }
        cpu->state.interrupt_shadow = false;
    }
    if (!take_nmi(vcpu)) {
        take_interrupt(vcpu);
    }
}

/* Guest code until something has to be looked at. True: the debugger has to. */
static bool execute(struct engine_vcpu *vcpu)
{
    struct cpu *cpu = vcpu->cpu;
    if (vcpu->step) {
        cpu_step(cpu);
        vcpu->stop = (struct debug_stop){.reason = DEBUG_STEPPED};
    } else {
        cpu_run(cpu);
    }
    if (debug_has_stopped(cpu)) {
        vcpu->stop = cpu->debug->stop;
        return true;
    }
    return vcpu->step;
}

static enum run_result interp_run(struct engine_vcpu *vcpu)
{
    struct cpu *cpu = vcpu->cpu;
    enum run_result result;
    debug_resume(cpu);
    exclusive_enter(&vcpu->engine->exclusive);
    for (;;) {
        /* Cleared before the causes are looked at: one that comes later sets it again. */
        atomic_store(&cpu->attention, 0);
        if (atomic_exchange(&vcpu->return_requested, false)) {
            result = RUN_KICKED;
            break;
        }
        exclusive_yield(&vcpu->engine->exclusive);
        if (!vcpu->step) {
            take_events(vcpu);
        }
        if (cpu->state.activity == X86_SHUTDOWN) {
            result = RUN_SHUTDOWN;
            break;
        }
        if (cpu->state.activity != X86_RUNNING) {
            result = RUN_HALTED;
            break;
        }
        if (execute(vcpu)) {
            result = RUN_DEBUG;
            break;
        }
        atomic_store_explicit(&vcpu->processor.config.stats->retired, cpu->retired,
                              memory_order_relaxed);
    }
    atomic_store_explicit(&vcpu->processor.config.stats->retired, cpu->retired,
                          memory_order_relaxed);
    exclusive_leave(&vcpu->engine->exclusive);
    return result;
}

static void interp_kick(struct engine_vcpu *vcpu, bool return_to_caller)
{
    if (return_to_caller) {
        atomic_store(&vcpu->return_requested, true);
    }
    cpu_set_attention(vcpu->cpu);
}

static int interp_probe(struct error *err)
{
    return 0;
}

static struct engine *interp_open(const struct engine_config *config, struct error *err)
{
    struct engine *engine = calloc(1, sizeof(*engine));
    if (!engine || config->cpus > sizeof(engine->vcpu) / sizeof(engine->vcpu[0])) {
        fail(err, engine ? EINVAL : ENOMEM,
             "cannot open the interpreter for %u processors", config->cpus);
        free(engine);
        return NULL;
    }
    engine->config = *config;
    engine->is_overcommitted = (long)config->cpus > sysconf(_SC_NPROCESSORS_ONLN);
    exclusive_init(&engine->exclusive);
    return engine;
}

static void interp_close(struct engine *engine)
{
    if (engine) {
        exclusive_fini(&engine->exclusive);
        free(engine);
    }
}

static void interp_vcpu_close(struct engine_vcpu *vcpu)
{
    if (vcpu) {
        vcpu->engine->vcpu[vcpu->processor.config.index] = NULL;
        cpu_free(vcpu->cpu);
        free(vcpu);
    }
}

static void interp_set_state(struct engine_vcpu *vcpu, const struct x86_state *state)
{
    cpu_sync_in(vcpu->cpu, state);
}

static void interp_get_state(struct engine_vcpu *vcpu, struct x86_state *state)
{
    cpu_sync_out(vcpu->cpu, state);
}

static int interp_debug(struct engine_vcpu *vcpu, const struct debug_control *control,
                        struct error *err)
{
    vcpu->step = control && control->step;
    if (debug_set(vcpu->cpu, control) < 0) {
        return fail(err, ENOMEM, "cannot debug virtual processor %u",
                    vcpu->processor.config.index);
    }
    return 0;
}

static void interp_debug_stop(struct engine_vcpu *vcpu, struct debug_stop *stop)
{
    *stop = vcpu->stop;
}

static struct engine_vcpu *interp_vcpu_open(struct engine *engine,
                                            const struct vcpu_config *config,
                                            struct error *err)
{
    struct engine_vcpu *vcpu = calloc(1, sizeof(*vcpu));
    if (!vcpu) {
        fail(err, ENOMEM, "cannot make virtual processor %u", config->index);
        return NULL;
    }
    vcpu->engine = engine;
    vcpu->processor = (struct processor){&engine->config, *config, NULL};
    vcpu->cpu = cpu_new(engine->config.memory, engine->config.cpuid, config->lapic,
                        &hooks, vcpu, err);
    if (!vcpu->cpu) {
        free(vcpu);
        return NULL;
    }
    struct x86_state state;
    x86_state_reset(&state, config->is_bootstrap);
    cpu_sync_in(vcpu->cpu, &state);
    engine->vcpu[config->index] = vcpu;
    return vcpu;
}

const struct engine_ops engine_interp = {
    .name = "interpreter",
    .summary = "executes guest instructions one by one; works on every host",
    .counts_retired = true,
    .probe = interp_probe,
    .open = interp_open,
    .close = interp_close,
    .vcpu_open = interp_vcpu_open,
    .vcpu_close = interp_vcpu_close,
    .run = interp_run,
    .kick = interp_kick,
    .get_state = interp_get_state,
    .set_state = interp_set_state,
    .debug = interp_debug,
    .debug_stop = interp_debug_stop,
};
