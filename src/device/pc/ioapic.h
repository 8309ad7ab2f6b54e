#pragma once
/*
 * The I/O APIC: 24 inputs, version 20h with its EOI register (Intel 82093AA data sheet
 * 290566; EOI register: ICH9 data sheet 13.5.3).
 */

#include "device/device.h"
#include "device/irq.h"
#include "x86/lapic.h"

#define IOAPIC_INPUTS    24
#define IOAPIC_MMIO_SIZE 0x1000u

struct ioapic;

struct ioapic_bus {
    /* Delivers a message to the local APICs; called with the I/O APIC's lock held. */
    void (*send)(void *opaque, const struct apic_message *message);
    void *opaque;
    /* Has no processor taken the one sent before yet? NULL: all have. */
    bool (*is_waiting)(void *opaque, const struct apic_message *message);
    /* What an input sends if it is level-triggered, else NULL: told whenever an entry is
     * written, under the lock. NULL: nobody wants to know. */
    void (*route)(void *opaque, unsigned n, const struct apic_message *message);
};

struct ioapic *ioapic_new(const char *name, uint8_t id, const struct ioapic_bus *bus,
                          struct error *err);
struct device *ioapic_device(struct ioapic *ioapic);
struct region ioapic_region(struct ioapic *ioapic, uint64_t base);

/*
 * Input n. A line carries its logical state, 1 when asserted; which voltage that is, is a
 * matter of the board, so the polarity bit is kept and inverts nothing. Takes the lock.
 */
struct irq_line ioapic_input(struct ioapic *ioapic, unsigned n);

/* A local APIC broadcasts the end of a level-triggered interrupt. Takes the lock; any
 * thread. */
void ioapic_eoi(struct ioapic *ioapic, uint8_t vector);
