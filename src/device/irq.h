#pragma once
/* Interrupt lines and messages, as a device sees them: it does not know the other end. */

#include <stdint.h>

/* A line. set is thread-safe and may be called with the device's lock held. */
struct irq_line {
    void (*set)(void *opaque, unsigned number, int level);
    void *opaque;
    unsigned number;
};

static inline void irq_set(const struct irq_line *line, int level)
{
    if (line->set) {
        line->set(line->opaque, line->number, level);
    }
}

/* A message-signalled interrupt: a 32-bit write to the APIC's range (SDM 3A 11.11). */
struct msi_sink {
    void (*send)(void *opaque, uint64_t address, uint32_t data);
    void *opaque;
};
