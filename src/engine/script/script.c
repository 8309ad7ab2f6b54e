#include "engine/script/script.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#define APIC_EOI 0xb0

struct engine {
    struct engine_config config;
};

struct engine_vcpu {
    struct engine *engine;
    struct vcpu_config config;
    struct x86_state state;
    const struct script_step *steps;
    unsigned position;
    uint64_t repeated; /* how often the SCRIPT_REPEAT at hand has gone back */
    bool is_woken;     /* an interrupt was delivered since the last SCRIPT_HLT */
    struct script_failure failure;
    _Atomic bool return_requested;
    _Atomic uint32_t signals;
    _Atomic unsigned resets;
    _Atomic unsigned flushes;
    _Atomic unsigned interrupts[256];
};

static const struct script_step nothing[] = {{.op = SCRIPT_END}};

static void expect(struct script_failure *failure, unsigned step, uint64_t expected,
                   uint64_t got)
{
    if (!failure->has_failed && expected != got) {
        *failure = (struct script_failure){true, step, expected, got};
    }
}

/* One port or memory access of at most 8 bytes. */
static void play_access(const struct script_step *step, unsigned number,
                        struct vcpu_sink sink, struct script_failure *failure)
{
    uint64_t data = step->is_write ? step->value : 0;
    struct vcpu_exit exit = {.reason = EXIT_IO};
    if (step->op == SCRIPT_IO) {
        exit.io.port = (uint16_t)step->address;
        exit.io.size = step->size;
        exit.io.is_write = step->is_write;
        exit.io.count = 1;
        exit.io.data = (uint8_t *)&data;
    } else {
        exit.reason = EXIT_MMIO;
        exit.mmio.gpa = step->address;
        exit.mmio.size = step->size;
        exit.mmio.is_write = step->is_write;
        exit.mmio.data = (uint8_t *)&data;
    }
    sink.exit(sink.opaque, &exit);
    if (!step->is_write) {
        expect(failure, number, step->value, data);
    }
}

static void play_msr(const struct script_step *step, unsigned number,
                     struct vcpu_sink sink, struct script_failure *failure)
{
    struct vcpu_exit exit = {.reason = step->op == SCRIPT_RDMSR ? EXIT_MSR_READ
                                                                : EXIT_MSR_WRITE};
    exit.msr.index = (uint32_t)step->address;
    exit.msr.value = step->value;
    sink.exit(sink.opaque, &exit);
    expect(failure, number, true, exit.msr.is_fault);
}

/* Steps that need no more than a sink. */
static void play_step(const struct script_step *step, unsigned number,
                      struct vcpu_sink sink, struct script_failure *failure)
{
    struct vcpu_exit exit = {0};
    switch (step->op) {
    case SCRIPT_IO:
    case SCRIPT_MMIO:
        play_access(step, number, sink, failure);
        break;
    case SCRIPT_RDMSR:
    case SCRIPT_WRMSR:
        play_msr(step, number, sink, failure);
        break;
    case SCRIPT_MESSAGE:
        exit.reason = EXIT_IPI;
        exit.ipi = step->message;
        sink.exit(sink.opaque, &exit);
        break;
    case SCRIPT_EOI:
        exit.reason = EXIT_EOI;
        exit.eoi_vector = (uint8_t)step->value;
        sink.exit(sink.opaque, &exit);
        break;
    case SCRIPT_INTACK:
        exit.reason = EXIT_INTACK;
        sink.exit(sink.opaque, &exit);
        expect(failure, number, step->value, (uint64_t)exit.intack_vector);
        break;
    case SCRIPT_VMCALL:
        exit.reason = EXIT_HYPERCALL;
        sink.exit(sink.opaque, &exit);
        expect(failure, number, true, exit.hypercall.is_undefined);
        break;
    default:
        break;
    }
}

struct script_failure script_play(const struct script_step *steps, struct vcpu_sink sink)
{
    struct script_failure failure = {0};
    for (unsigned i = 0; steps[i].op != SCRIPT_END; i++) {
        if (steps[i].op == SCRIPT_CALL) {
            steps[i].function(steps[i].opaque, NULL);
        } else {
            play_step(&steps[i], i, sink, &failure);
        }
    }
    return failure;
}

/* What a write to the APIC asks of the world outside. */
static void carry_out(struct engine_vcpu *vcpu, const struct lapic_effect *effect)
{
    struct vcpu_exit exit = {0};
    if (effect->what & LAPIC_EFFECT_IPI) {
        exit.reason = EXIT_IPI;
        exit.ipi = effect->message;
        vcpu->config.sink.exit(vcpu->config.sink.opaque, &exit);
    }
    if (effect->what & LAPIC_EFFECT_EOI) {
        exit.reason = EXIT_EOI;
        exit.eoi_vector = effect->eoi_vector;
        vcpu->config.sink.exit(vcpu->config.sink.opaque, &exit);
    }
    if (effect->what & LAPIC_EFFECT_TIMER) {
        exit.reason = EXIT_TIMER;
        vcpu->config.sink.exit(vcpu->config.sink.opaque, &exit);
    }
}

static void write_apic(struct engine_vcpu *vcpu, uint32_t offset, uint32_t value)
{
    struct lapic_effect effect = {0};
    lapic_mmio_write(vcpu->config.lapic, clock_now(vcpu->engine->config.clock), offset,
                     value, &effect);
    carry_out(vcpu, &effect);
}

/* Delivers everything pending: each handler counts its vector and signals EOI. */
static void take_interrupts(struct engine_vcpu *vcpu)
{
    struct lapic *lapic = vcpu->config.lapic;
    const uint32_t edges = LAPIC_SIGNAL_NMI | LAPIC_SIGNAL_NMI_AGAIN | LAPIC_SIGNAL_INIT |
                           LAPIC_SIGNAL_SIPI | LAPIC_SIGNAL_SMI;
    uint32_t signals = atomic_fetch_and(&lapic->signals, ~edges) & edges;
    atomic_fetch_or(&vcpu->signals, signals);
    if (lapic_timer_run(lapic, clock_now(vcpu->engine->config.clock))) {
        carry_out(vcpu, &(struct lapic_effect){.what = LAPIC_EFFECT_TIMER});
    }
    int pending;
    while ((pending = lapic_pending(lapic)) != LAPIC_NONE) {
        if (pending == LAPIC_EXTINT) {
            struct vcpu_exit exit = {.reason = EXIT_INTACK};
            vcpu->config.sink.exit(vcpu->config.sink.opaque, &exit);
            lapic_acknowledge(lapic, LAPIC_EXTINT);
            pending = exit.intack_vector;
        } else {
            pending = lapic_acknowledge(lapic, pending);
            write_apic(vcpu, APIC_EOI, 0);
        }
        if (pending < 0) {
            return;
        }
        atomic_fetch_add(&vcpu->interrupts[pending], 1);
        vcpu->is_woken = true;
    }
}

static void play_repeat(struct engine_vcpu *vcpu, const struct script_step *step)
{
    if (step->value == 0 || vcpu->repeated < step->value) {
        vcpu->repeated++;
        vcpu->position = (unsigned)step->address;
    } else {
        vcpu->repeated = 0;
        vcpu->position++;
    }
}

static enum run_result script_run(struct engine_vcpu *vcpu)
{
    for (;;) {
        if (atomic_exchange(&vcpu->return_requested, false)) {
            return RUN_KICKED;
        }
        const struct script_step *step = &vcpu->steps[vcpu->position];
        if (step->op == SCRIPT_SPIN) {
            while (!atomic_load(&vcpu->return_requested)) {
                sched_yield();
            }
            vcpu->position++;
            continue;
        }
        take_interrupts(vcpu);
        switch (step->op) {
        case SCRIPT_END:
            vcpu->is_woken = false;
            return RUN_HALTED;
        case SCRIPT_HLT:
            if (!vcpu->is_woken) {
                return RUN_HALTED;
            }
            vcpu->is_woken = false;
            vcpu->position++;
            break;
        case SCRIPT_SHUTDOWN:
            vcpu->state.activity = X86_SHUTDOWN;
            return RUN_SHUTDOWN;
        case SCRIPT_REPEAT:
            play_repeat(vcpu, step);
            break;
        case SCRIPT_CALL:
            step->function(step->opaque, vcpu);
            vcpu->position++;
            break;
        case SCRIPT_APIC:
            write_apic(vcpu, (uint32_t)step->address, (uint32_t)step->value);
            vcpu->position++;
            break;
        default:
            play_step(step, vcpu->position, vcpu->config.sink, &vcpu->failure);
            vcpu->position++;
            break;
        }
    }
}

static void script_kick(struct engine_vcpu *vcpu, bool return_to_caller)
{
    if (return_to_caller) {
        atomic_store(&vcpu->return_requested, true);
    }
}

static int script_probe(struct error *err)
{
    return 0;
}

static struct engine *script_open(const struct engine_config *config, struct error *err)
{
    struct engine *engine = calloc(1, sizeof(*engine));
    if (!engine) {
        fail(err, ENOMEM, "cannot open engine script");
        return NULL;
    }
    engine->config = *config;
    return engine;
}

static void script_close(struct engine *engine)
{
    free(engine);
}

static struct engine_vcpu *script_vcpu_open(struct engine *engine,
                                            const struct vcpu_config *config,
                                            struct error *err)
{
    struct engine_vcpu *vcpu = calloc(1, sizeof(*vcpu));
    if (!vcpu) {
        fail(err, ENOMEM, "cannot open vCPU %u", config->index);
        return NULL;
    }
    vcpu->engine = engine;
    vcpu->config = *config;
    vcpu->steps = nothing;
    x86_state_reset(&vcpu->state, config->is_bootstrap);
    return vcpu;
}

static void script_vcpu_close(struct engine_vcpu *vcpu)
{
    free(vcpu);
}

static void script_get_state(struct engine_vcpu *vcpu, struct x86_state *state)
{
    *state = vcpu->state;
}

static void script_set_state(struct engine_vcpu *vcpu, const struct x86_state *state)
{
    vcpu->state = *state;
    vcpu->position = 0;
    vcpu->repeated = 0;
    vcpu->is_woken = false;
    atomic_fetch_add(&vcpu->resets, 1);
}

static void script_flush_tlb(struct engine_vcpu *vcpu)
{
    atomic_fetch_add(&vcpu->flushes, 1);
}

void script_set(struct engine_vcpu *vcpu, const struct script_step *steps)
{
    vcpu->steps = steps;
}

unsigned script_interrupts(struct engine_vcpu *vcpu, uint8_t vector)
{
    return atomic_load(&vcpu->interrupts[vector]);
}

uint32_t script_signals(struct engine_vcpu *vcpu)
{
    return atomic_load(&vcpu->signals);
}

unsigned script_resets(struct engine_vcpu *vcpu)
{
    return atomic_load(&vcpu->resets);
}

unsigned script_flushes(struct engine_vcpu *vcpu)
{
    return atomic_load(&vcpu->flushes);
}

struct script_failure script_failed(struct engine_vcpu *vcpu)
{
    return vcpu->failure;
}

const struct engine_ops engine_script = {
    .name = "script",
    .summary = "plays a list of steps instead of guest code, for tests",
    .role = JAIL_VCPU,
    .probe = script_probe,
    .open = script_open,
    .close = script_close,
    .vcpu_open = script_vcpu_open,
    .vcpu_close = script_vcpu_close,
    .run = script_run,
    .kick = script_kick,
    .get_state = script_get_state,
    .set_state = script_set_state,
    .flush_tlb = script_flush_tlb,
};
