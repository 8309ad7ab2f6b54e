#include "engine/processor.h"

#include <stdatomic.h>
#include <string.h>

#include "base/counter.h"
#include "engine/exclusive.h"
#include "engine/sampler.h"
#include "x86/msr.h"

void processor_exit(struct processor *processor, struct vcpu_exit *exit)
{
    enum where before = where_enter(WHERE_DEVICE);
    processor->config.sink.exit(processor->config.sink.opaque, exit);
    where_enter(before);
}

void processor_count(struct processor *processor, enum exit_reason reason)
{
    counter_add(&processor->config.stats->exit[reason].count, 1);
}

uint64_t processor_now(const struct processor *processor)
{
    return clock_now(processor->engine->clock);
}

uint64_t processor_clock_tsc(const struct processor *processor, uint64_t now_ns)
{
    if (processor->tsc) {
        return processor->tsc(processor, now_ns);
    }
    return factor_scale(&processor->tsc_factor, now_ns);
}

uint64_t processor_tsc(const struct processor *processor, const struct x86_state *state,
                       uint64_t now_ns)
{
    return processor_clock_tsc(processor, now_ns) + state->tsc_offset;
}

static void apply_effect(struct processor *processor, struct x86_state *state,
                         const struct lapic_effect *effect)
{
    if (effect->what & LAPIC_EFFECT_BASE) {
        state->apic_base = processor->config.lapic->base;
    }
    if (effect->what & LAPIC_EFFECT_IPI) {
        struct vcpu_exit exit = {.reason = EXIT_IPI, .ipi = effect->message};
        processor_exit(processor, &exit);
    }
    if (effect->what & LAPIC_EFFECT_EOI) {
        struct vcpu_exit exit = {.reason = EXIT_EOI, .eoi_vector = effect->eoi_vector};
        processor_exit(processor, &exit);
    }
    if (effect->what & LAPIC_EFFECT_TIMER) {
        struct vcpu_exit exit = {.reason = EXIT_TIMER};
        processor_exit(processor, &exit);
    }
}

static void apic_begin(struct processor *processor)
{
    if (processor->apic_begin) {
        processor->apic_begin(processor);
    }
}

static void apic_end(struct processor *processor)
{
    if (processor->apic_end) {
        processor->apic_end(processor);
    }
}

static bool is_apic_page(const struct lapic *lapic, gpa_t gpa)
{
    return lapic_has_mmio(lapic) &&
           (gpa & LAPIC_BASE_ADDRESS) == (lapic->base & LAPIC_BASE_ADDRESS);
}

/* SDM 3A 11.4.1: registers are 32 bits wide at multiples of 16; other accesses are
 * undefined. Reads then yield the bytes of the word they fall into, writes are dropped.
 */
static void apic_access(struct processor *processor, struct x86_state *state, gpa_t gpa,
                        unsigned size, bool is_write, uint8_t *data)
{
    struct lapic *lapic = processor->config.lapic;
    uint32_t offset = gpa % LAPIC_MMIO_SIZE;
    if (is_write) {
        if (size == 4 && offset % 16 == 0) {
            uint32_t value;
            struct lapic_effect effect = {0};
            memcpy(&value, data, 4);
            apic_begin(processor);
            lapic_mmio_write(lapic, processor_now(processor), offset, value, &effect);
            apic_end(processor);
            apply_effect(processor, state, &effect);
        }
        return;
    }
    /* Each register once: the timer counts between two looks. */
    uint64_t now = processor_now(processor);
    apic_begin(processor);
    for (unsigned i = 0; i < size; i++) {
        uint32_t at = offset + i;
        uint32_t value = at % 16 < 4 ? lapic_mmio_read(lapic, now, at & ~15u) : 0;
        data[i] = (uint8_t)(value >> at % 4 * 8);
    }
    apic_end(processor);
}

/* Stores to RAM behind ROM, and whatever has become memory just now. */
static bool access_memory(const struct processor *processor, gpa_t gpa, unsigned size,
                          bool is_write, uint8_t *data)
{
    struct memory *memory = processor->engine->memory;
    return is_write ? ram_write(memory, gpa, data, size)
                    : ram_read(memory, gpa, data, size);
}

bool processor_mmio(struct processor *processor, struct x86_state *state, gpa_t gpa,
                    unsigned size, bool is_write, uint8_t *data)
{
    if (is_apic_page(processor->config.lapic, gpa)) {
        processor_take_eoi(processor);
        apic_access(processor, state, gpa, size, is_write, data);
        return true;
    }
    if (access_memory(processor, gpa, size, is_write, data)) {
        return false;
    }
    struct vcpu_exit exit = {
        .reason = EXIT_MMIO,
        .mmio = {.gpa = gpa, .size = (uint8_t)size, .is_write = is_write, .data = data}};
    processor_exit(processor, &exit);
    return false;
}

bool processor_msr_read(struct processor *processor, const struct x86_state *state,
                        uint32_t index, uint64_t *value)
{
    uint64_t now = processor_now(processor);
    if (lapic_owns_msr(index)) {
        processor_take_eoi(processor);
        apic_begin(processor);
        bool ok = lapic_msr_read(processor->config.lapic, now,
                                 processor_tsc(processor, state, now), index, value);
        apic_end(processor);
        return ok;
    }
    enum msr_result result = msr_read(processor->engine->cpuid, state,
                                      processor_clock_tsc(processor, now), index, value);
    if (result != MSR_UNKNOWN) {
        return result == MSR_OK;
    }
    struct vcpu_exit exit = {.reason = EXIT_MSR_READ,
                             .msr = {.index = index, .tsc_offset = state->tsc_offset}};
    processor_exit(processor, &exit);
    *value = exit.msr.value;
    return !exit.msr.is_fault;
}

/* An armed TSC deadline lies at another time now, and published clocks are stale. */
static void tell_tsc_moved(struct processor *processor, struct x86_state *state,
                           uint64_t now)
{
    struct lapic_effect effect;
    apic_begin(processor);
    lapic_tsc_changed(processor->config.lapic, now, processor_tsc(processor, state, now),
                      &effect);
    apic_end(processor);
    apply_effect(processor, state, &effect);
    struct vcpu_exit moved = {.reason = EXIT_TSC, .tsc_offset = state->tsc_offset};
    processor_exit(processor, &moved);
}

bool processor_msr_write(struct processor *processor, struct x86_state *state,
                         uint32_t index, uint64_t value, unsigned *effects)
{
    uint64_t now = processor_now(processor);
    *effects = 0;
    /* SDM 3A 11.4.4: address bits that the processor does not have are reserved. */
    if (index == MSR_APIC_BASE && value >> processor->engine->cpuid->physical_bits) {
        return false;
    }
    if (lapic_owns_msr(index) || index == MSR_PARAVIRT_EOI) {
        processor_take_eoi(processor);
    }
    if (lapic_owns_msr(index)) {
        struct lapic_effect effect = {0};
        apic_begin(processor);
        bool ok =
            lapic_msr_write(processor->config.lapic, now,
                            processor_tsc(processor, state, now), index, value, &effect);
        apic_end(processor);
        apply_effect(processor, state, &effect);
        return ok;
    }
    enum msr_result result =
        msr_write(processor->engine->cpuid, state, processor_clock_tsc(processor, now),
                  index, value, effects);
    if (*effects & MSR_EFFECT_TSC) {
        tell_tsc_moved(processor, state, now);
    }
    if (result != MSR_UNKNOWN) {
        return result == MSR_OK;
    }
    struct vcpu_exit exit = {
        .reason = EXIT_MSR_WRITE,
        .msr = {.index = index, .value = value, .tsc_offset = state->tsc_offset}};
    processor_exit(processor, &exit);
    return !exit.msr.is_fault;
}

void processor_set_cr8(struct processor *processor, struct x86_state *state,
                       uint64_t value)
{
    struct lapic_effect effect = {0};
    lapic_set_cr8(processor->config.lapic, value, &effect);
    apply_effect(processor, state, &effect);
}

bool processor_hypercall(struct processor *processor, uint64_t *gpr, unsigned cpl)
{
    struct vcpu_exit exit = {.reason = EXIT_HYPERCALL,
                             .hypercall = {.number = gpr[X86_RAX],
                                           .cpl = (uint8_t)cpl,
                                           .argument = {gpr[X86_RBX], gpr[X86_RCX],
                                                        gpr[X86_RDX], gpr[X86_RSI]}}};
    processor_exit(processor, &exit);
    if (!exit.hypercall.is_undefined) {
        gpr[X86_RAX] = exit.hypercall.result;
    }
    return !exit.hypercall.is_undefined;
}

static void interrupt_others(void *opaque)
{
    struct processor *processor = opaque;
    processor->interrupt_others(processor);
}

void processor_exclusive_begin(struct processor *processor)
{
    if (processor->exclusive_depth++ == 0) {
        exclusive_begin(processor->exclusive, interrupt_others, processor);
    }
}

void processor_exclusive_end(struct processor *processor)
{
    if (--processor->exclusive_depth == 0) {
        exclusive_end(processor->exclusive);
    }
}

void processor_run_timer(struct processor *processor)
{
    struct lapic *lapic = processor->config.lapic;
    uint64_t before = lapic_timer_deadline(lapic);
    uint64_t now = processor_now(processor);
    if (before <= now) {
        lateness_note(&processor->config.stats->timer, now - before);
        lateness_note_missed(&processor->config.stats->timer,
                             lapic_timer_missed(lapic, now));
    }
    lapic_timer_run(lapic, now);
    if (lapic_timer_deadline(lapic) != before) {
        struct vcpu_exit exit = {.reason = EXIT_TIMER};
        processor_exit(processor, &exit);
    }
}

#define STARTUP_SIGNALS (LAPIC_SIGNAL_INIT | LAPIC_SIGNAL_SIPI)

bool processor_has_startup(const struct processor *processor)
{
    return atomic_load(&processor->config.lapic->signals) & STARTUP_SIGNALS;
}

void processor_take_startup(struct processor *processor, struct x86_state *state)
{
    struct lapic *lapic = processor->config.lapic;
    uint32_t signals =
        atomic_fetch_and(&lapic->signals, ~STARTUP_SIGNALS) & STARTUP_SIGNALS;
    if (signals & LAPIC_SIGNAL_INIT) {
        lapic_init_signal(lapic);
        if (processor->config.paravirt) {
            paravirt_init_signal(processor->config.paravirt);
        }
        x86_state_init(state, processor->config.is_bootstrap);
    }
    if (signals & LAPIC_SIGNAL_SIPI) {
        x86_state_startup(state, atomic_load(&lapic->sipi_vector));
    }
}

int processor_acknowledge(struct processor *processor, int pending)
{
    struct lapic *lapic = processor->config.lapic;
    if (pending != LAPIC_EXTINT) {
        return lapic_acknowledge(lapic, pending);
    }
    struct vcpu_exit exit = {.reason = EXIT_INTACK, .intack_vector = -1};
    processor_exit(processor, &exit);
    lapic_acknowledge(lapic, LAPIC_EXTINT);
    return exit.intack_vector;
}
