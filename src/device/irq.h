#pragma once
/* Interrupt lines and messages, as a device sees them: it does not know the other end. */

#include <stdint.h>

/* What became of an edge. */
enum irq_state {
    IRQ_MASKED,  /* nobody sees this line */
    IRQ_TAKEN,   /* a further edge is a further interrupt */
    IRQ_WAITING, /* no processor has taken it yet: a further edge would merge with it */
};

/* A line. Both functions are thread-safe and may be called with the device's lock held.
 * state may be NULL where nobody asks. */
struct irq_line {
    void (*set)(void *opaque, unsigned number, int level);
    void *opaque;
    unsigned number;
    enum irq_state (*state)(void *opaque, unsigned number);
};

static inline void irq_set(const struct irq_line *line, int level)
{
    if (line->set) {
        line->set(line->opaque, line->number, level);
    }
}

static inline enum irq_state irq_get_state(const struct irq_line *line)
{
    return line->state ? line->state(line->opaque, line->number) : IRQ_TAKEN;
}

/* A message-signalled interrupt: a 32-bit write to the APIC's range (SDM 3A 11.11). */
struct msi_sink {
    void (*send)(void *opaque, uint64_t address, uint32_t data);
    void *opaque;
};
