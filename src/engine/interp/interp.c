#include "engine/interp/interp.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/interp/exclusive.h"
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
    struct vcpu_config config;
    struct cpu *cpu;
    _Atomic bool return_requested;
    unsigned pauses; /* PAUSE instructions so far */
};

static void deliver_exit(struct engine_vcpu *vcpu, struct vcpu_exit *exit)
{
    vcpu->config.sink.exit(vcpu->config.sink.opaque, exit);
}

/* Only the vCPU's own thread writes its counters: no read-modify-write across threads. */
static void count(struct engine_vcpu *vcpu, enum exit_reason reason)
{
    _Atomic uint64_t *counter = &vcpu->config.stats->exit[reason].count;
    atomic_store_explicit(counter,
                          atomic_load_explicit(counter, memory_order_relaxed) + 1,
                          memory_order_relaxed);
}

/* Time. The TSC is the guest's clock at another rate, so that no two of its clocks can
 * disagree. */

static uint64_t guest_now(const struct engine_vcpu *vcpu)
{
    return clock_now(vcpu->engine->config.clock);
}

static uint64_t tsc_at(const struct engine_vcpu *vcpu, uint64_t now_ns)
{
    return scale_u64(now_ns, vcpu->engine->config.cpuid->tsc_khz, 1000000);
}

static uint64_t guest_tsc(const struct engine_vcpu *vcpu, uint64_t now_ns)
{
    return tsc_at(vcpu, now_ns) + vcpu->cpu->state.tsc_offset;
}

/* The local APIC. */

static void apply_effect(struct engine_vcpu *vcpu, const struct lapic_effect *effect)
{
    if (effect->what & LAPIC_EFFECT_BASE) {
        vcpu->cpu->state.apic_base = vcpu->config.lapic->base;
    }
    if (effect->what & LAPIC_EFFECT_IPI) {
        struct vcpu_exit exit = {.reason = EXIT_IPI, .ipi = effect->message};
        deliver_exit(vcpu, &exit);
    }
    if (effect->what & LAPIC_EFFECT_EOI) {
        struct vcpu_exit exit = {.reason = EXIT_EOI, .eoi_vector = effect->eoi_vector};
        deliver_exit(vcpu, &exit);
    }
    if (effect->what & LAPIC_EFFECT_TIMER) {
        struct vcpu_exit exit = {.reason = EXIT_TIMER};
        deliver_exit(vcpu, &exit);
    }
    cpu_set_attention(vcpu->cpu);
}

#define APIC_BASE_ENABLE   (1ull << 11)
#define APIC_BASE_EXTENDED (1ull << 10)
#define APIC_BASE_ADDRESS  0x000ffffffffff000ull

static bool is_apic_page(const struct lapic *lapic, gpa_t gpa)
{
    uint64_t mode = lapic->base & (APIC_BASE_ENABLE | APIC_BASE_EXTENDED);
    return mode == APIC_BASE_ENABLE &&
           (gpa & APIC_BASE_ADDRESS) == (lapic->base & APIC_BASE_ADDRESS);
}

/* SDM 3A 11.4.1: registers are 32 bits wide at multiples of 16; other accesses are
 * undefined. Reads then yield the bytes of the word they fall into, writes are dropped.
 */
static void apic_access(struct engine_vcpu *vcpu, gpa_t gpa, unsigned size, bool is_write,
                        uint8_t *data)
{
    struct lapic *lapic = vcpu->config.lapic;
    uint32_t offset = gpa % LAPIC_MMIO_SIZE;
    if (is_write) {
        if (size == 4 && offset % 16 == 0) {
            uint32_t value;
            struct lapic_effect effect = {0};
            memcpy(&value, data, 4);
            lapic_mmio_write(lapic, guest_now(vcpu), offset, value, &effect);
            apply_effect(vcpu, &effect);
        }
        return;
    }
    for (unsigned i = 0; i < size; i++) {
        uint32_t at = offset + i;
        uint32_t value =
            at % 16 < 4 ? lapic_mmio_read(lapic, guest_now(vcpu), at & ~15u) : 0;
        data[i] = (uint8_t)(value >> at % 4 * 8);
    }
}

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
    deliver_exit(cpu->opaque, &exit);
}

static void hook_mmio(struct cpu *cpu, gpa_t gpa, unsigned size, bool is_write,
                      uint8_t *data)
{
    struct engine_vcpu *vcpu = cpu->opaque;
    if (is_apic_page(vcpu->config.lapic, gpa)) {
        apic_access(vcpu, gpa, size, is_write, data);
        return;
    }
    struct vcpu_exit exit = {
        .reason = EXIT_MMIO,
        .mmio = {.gpa = gpa, .size = (uint8_t)size, .is_write = is_write, .data = data}};
    deliver_exit(vcpu, &exit);
}

static bool hook_msr_read(struct cpu *cpu, uint32_t index, uint64_t *value)
{
    struct engine_vcpu *vcpu = cpu->opaque;
    uint64_t now = guest_now(vcpu);
    if (lapic_owns_msr(index)) {
        return lapic_msr_read(vcpu->config.lapic, now, guest_tsc(vcpu, now), index,
                              value);
    }
    enum msr_result result =
        msr_read(cpu->cpuid, &cpu->state, tsc_at(vcpu, now), index, value);
    if (result != MSR_UNKNOWN) {
        return result == MSR_OK;
    }
    struct vcpu_exit exit = {.reason = EXIT_MSR_READ, .msr = {.index = index}};
    deliver_exit(vcpu, &exit);
    *value = exit.msr.value;
    return !exit.msr.is_fault;
}

static bool hook_msr_write(struct cpu *cpu, uint32_t index, uint64_t value)
{
    struct engine_vcpu *vcpu = cpu->opaque;
    uint64_t now = guest_now(vcpu);
    if (lapic_owns_msr(index)) {
        struct lapic_effect effect = {0};
        bool ok = lapic_msr_write(vcpu->config.lapic, now, guest_tsc(vcpu, now), index,
                                  value, &effect);
        apply_effect(vcpu, &effect);
        return ok;
    }
    unsigned effects = 0;
    enum msr_result result =
        msr_write(cpu->cpuid, &cpu->state, tsc_at(vcpu, now), index, value, &effects);
    if (effects & MSR_EFFECT_PAGING) {
        cpu_flush_all(cpu);
        cpu_update_mode(cpu);
    }
    if (effects & MSR_EFFECT_TSC) {
        struct lapic_effect effect;
        lapic_tsc_changed(vcpu->config.lapic, now, guest_tsc(vcpu, now), &effect);
        apply_effect(vcpu, &effect);
        struct vcpu_exit moved = {.reason = EXIT_TSC,
                                  .tsc_offset = cpu->state.tsc_offset};
        deliver_exit(vcpu, &moved);
    }
    if (result != MSR_UNKNOWN) {
        return result == MSR_OK;
    }
    struct vcpu_exit exit = {.reason = EXIT_MSR_WRITE,
                             .msr = {.index = index, .value = value}};
    deliver_exit(vcpu, &exit);
    return !exit.msr.is_fault;
}

static uint64_t hook_get_cr8(struct cpu *cpu)
{
    return lapic_get_cr8(cpu->lapic);
}

static void hook_set_cr8(struct cpu *cpu, uint64_t value)
{
    struct lapic_effect effect = {0};
    lapic_set_cr8(cpu->lapic, value, &effect);
    apply_effect(cpu->opaque, &effect);
}

static uint64_t hook_tsc(struct cpu *cpu)
{
    return guest_tsc(cpu->opaque, guest_now(cpu->opaque));
}

static uint64_t hook_now(struct cpu *cpu)
{
    return guest_now(cpu->opaque);
}

static bool hook_hypercall(struct cpu *cpu)
{
    struct vcpu_exit exit = {
        .reason = EXIT_HYPERCALL,
        .hypercall = {.number = cpu->reg[X86_RAX],
                      .cpl = cpu->cpl,
                      .argument = {cpu->reg[X86_RBX], cpu->reg[X86_RCX],
                                   cpu->reg[X86_RDX], cpu->reg[X86_RSI]}}};
    deliver_exit(cpu->opaque, &exit);
    if (!exit.hypercall.is_undefined) {
        cpu->reg[X86_RAX] = exit.hypercall.result;
    }
    return !exit.hypercall.is_undefined;
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
    count(cpu->opaque, reason);
    if (reason == EXIT_PAUSE) {
        give_way(cpu->opaque);
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

static void change_state(struct engine_vcpu *vcpu,
                         void (*change)(struct x86_state *, unsigned), unsigned argument)
{
    struct x86_state state;
    cpu_sync_out(vcpu->cpu, &state);
    change(&state, argument);
    cpu_sync_in(vcpu->cpu, &state);
}

static void take_init(struct x86_state *state, unsigned is_bootstrap)
{
    x86_state_init(state, is_bootstrap);
}

static void take_startup(struct x86_state *state, unsigned vector)
{
    x86_state_startup(state, (uint8_t)vector);
}

static void take_signals(struct engine_vcpu *vcpu)
{
    struct lapic *lapic = vcpu->config.lapic;
    uint32_t wanted = LAPIC_SIGNAL_INIT | LAPIC_SIGNAL_SIPI;
    uint32_t signals = atomic_fetch_and(&lapic->signals, ~wanted) & wanted;
    if (signals & LAPIC_SIGNAL_INIT) {
        lapic_init_signal(lapic);
        change_state(vcpu, take_init, vcpu->config.is_bootstrap);
    }
    if (signals & LAPIC_SIGNAL_SIPI && vcpu->cpu->state.activity == X86_WAIT_SIPI) {
        change_state(vcpu, take_startup, atomic_load(&lapic->sipi_vector));
    }
}

static void run_timer(struct engine_vcpu *vcpu)
{
    struct lapic *lapic = vcpu->config.lapic;
    uint64_t before = lapic_timer_deadline(lapic);
    lapic_timer_run(lapic, guest_now(vcpu));
    if (lapic_timer_deadline(lapic) != before) {
        struct vcpu_exit exit = {.reason = EXIT_TIMER};
        deliver_exit(vcpu, &exit);
    }
}

static void deliver(struct engine_vcpu *vcpu, enum x86_event_type type, uint8_t vector)
{
    struct x86_event event = {.pending = true, .vector = vector, .type = type};
    vcpu->cpu->state.activity = X86_RUNNING;
    count(vcpu, EXIT_INTERRUPT);
    event_deliver(vcpu->cpu, &event, 0);
}

static bool take_nmi(struct engine_vcpu *vcpu)
{
    struct lapic *lapic = vcpu->config.lapic;
    if (!(atomic_load(&lapic->signals) & LAPIC_SIGNAL_NMI) ||
        vcpu->cpu->state.nmi_blocked) {
        return false;
    }
    atomic_fetch_and(&lapic->signals, ~LAPIC_SIGNAL_NMI);
    deliver(vcpu, X86_EVENT_NMI, X86_NMI);
    return true;
}

static bool take_interrupt(struct engine_vcpu *vcpu)
{
    struct cpu *cpu = vcpu->cpu;
    int vector = lapic_pending(vcpu->config.lapic);
    cpu->wants_window = vector != LAPIC_NONE;
    if (vector == LAPIC_NONE || !(cpu->state.rflags & X86_FLAG_IF)) {
        return false;
    }
    if (vector == LAPIC_EXTINT) {
        struct vcpu_exit exit = {.reason = EXIT_INTACK, .intack_vector = -1};
        deliver_exit(vcpu, &exit);
        lapic_acknowledge(vcpu->config.lapic, LAPIC_EXTINT);
        if (exit.intack_vector < 0) {
            return false;
        }
        deliver(vcpu, X86_EVENT_EXTERNAL, (uint8_t)exit.intack_vector);
    } else {
        deliver(vcpu, X86_EVENT_EXTERNAL, lapic_acknowledge(vcpu->config.lapic, vector));
    }
    cpu->wants_window = lapic_pending(vcpu->config.lapic) != LAPIC_NONE;
    return true;
}

/* One look at everything that may interrupt guest code. */
static void take_events(struct engine_vcpu *vcpu)
{
    struct cpu *cpu = vcpu->cpu;
    take_signals(vcpu);
    run_timer(vcpu);
    if (cpu->state.activity != X86_RUNNING && cpu->state.activity != X86_HALTED) {
        return;
    }
    if (cpu->state.interrupt_shadow) {
        if (cpu->rip == cpu->shadow_rip && cpu->state.activity == X86_RUNNING) {
            cpu_step(cpu); /* the instruction in the shadow; events are looked at again
                              behind it */
            return;
        }
        cpu->state.interrupt_shadow = false;
    }
    if (!take_nmi(vcpu)) {
        take_interrupt(vcpu);
    }
}

static enum run_result interp_run(struct engine_vcpu *vcpu)
{
    struct cpu *cpu = vcpu->cpu;
    enum run_result result;
    exclusive_enter(&vcpu->engine->exclusive);
    for (;;) {
        /* Cleared before the causes are looked at: one that comes later sets it again. */
        atomic_store(&cpu->attention, 0);
        if (atomic_exchange(&vcpu->return_requested, false)) {
            result = RUN_KICKED;
            break;
        }
        exclusive_yield(&vcpu->engine->exclusive);
        take_events(vcpu);
        if (cpu->state.activity == X86_SHUTDOWN) {
            result = RUN_SHUTDOWN;
            break;
        }
        if (cpu->state.activity != X86_RUNNING) {
            result = RUN_HALTED;
            break;
        }
        cpu_run(cpu);
        atomic_store_explicit(&vcpu->config.stats->retired, cpu->retired,
                              memory_order_relaxed);
    }
    atomic_store_explicit(&vcpu->config.stats->retired, cpu->retired,
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
        vcpu->engine->vcpu[vcpu->config.index] = NULL;
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
    vcpu->config = *config;
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
};
