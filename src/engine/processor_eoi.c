/*
 * Ends of interrupts by a bit in memory (MSR_PARAVIRT_EOI): the processor sets it when it
 * delivers an interrupt after which nothing else waits; a guest that finds it set clears
 * it in place of writing the APIC's EOI register, and nothing exits.
 *
 * The APIC hears of it when somebody looks: before its registers are accessed, and before
 * an interrupt that has come meanwhile is weighed against the one in service. As long as
 * nothing has come there is nothing to weigh, so a kick alone changes nothing that the
 * guest could see, and deterministic runs stay so.
 */

#include "engine/processor.h"

static _Atomic uint8_t *map_word(const struct processor *processor)
{
    gpa_t gpa = processor->config.paravirt->eoi & ~(gpa_t)3;
    return ram_map(processor->engine->memory, gpa, sizeof(uint32_t), true);
}

static void unmap_word(const struct processor *processor, _Atomic uint8_t *word)
{
    ram_unmap(processor->engine->memory, (void *)word, 1);
}

void processor_offer_eoi(struct processor *processor)
{
    struct paravirt_registers *registers = processor->config.paravirt;
    if (!registers || !(registers->eoi & PARAVIRT_ENABLED) || registers->eoi_is_offered ||
        !lapic_ends_silently(processor->config.lapic)) {
        return;
    }
    _Atomic uint8_t *word = map_word(processor);
    if (word) {
        atomic_fetch_or(word, PARAVIRT_EOI_BIT);
        unmap_word(processor, word);
        registers->eoi_is_offered = true;
    }
}

/* A guest that has put its word out of RAM's way has not ended anything. */
void processor_take_eoi(struct processor *processor)
{
    struct paravirt_registers *registers = processor->config.paravirt;
    if (!registers || !registers->eoi_is_offered) {
        return;
    }
    registers->eoi_is_offered = false;
    _Atomic uint8_t *word = map_word(processor);
    if (!word) {
        return;
    }
    bool is_ended =
        !(atomic_fetch_and(word, (uint8_t)~PARAVIRT_EOI_BIT) & PARAVIRT_EOI_BIT);
    unmap_word(processor, word);
    if (is_ended) {
        lapic_end_silently(processor->config.lapic);
    }
}
