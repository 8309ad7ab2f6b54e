/*
 * The APIC as an array of registers, the form in which KVM keeps it: the timer's place in
 * time is the current count there, and a counting timer runs if it has an initial count.
 */

#include <string.h>

#include "x86/lapic_registers.h"

void lapic_export(const struct lapic *lapic, uint64_t now_ns, bool has_timer,
                  uint8_t image[LAPIC_IMAGE_SIZE])
{
    memcpy(image, lapic->regs, LAPIC_IMAGE_SIZE);
    uint32_t initial = lapic_get(lapic, LAPIC_TIMER_INITIAL), current = 0;
    if (!has_timer || lapic->timer_deadline_ns == LAPIC_TIMER_STOPPED) {
        initial = 0;
    } else {
        current = lapic_timer_current(lapic, now_ns);
    }
    memcpy(image + LAPIC_TIMER_INITIAL, &initial, sizeof(initial));
    memcpy(image + LAPIC_TIMER_CURRENT, &current, sizeof(current));
}

static uint32_t image_get(const uint8_t image[LAPIC_IMAGE_SIZE], unsigned offset)
{
    uint32_t value;
    memcpy(&value, image + offset, sizeof(value));
    return value;
}

/* Those that follow from others, or are the timer's, are not. */
static bool is_taken(unsigned offset)
{
    return offset != LAPIC_VERSION && offset != LAPIC_APR && offset != LAPIC_PPR &&
           offset != LAPIC_TIMER_INITIAL && offset != LAPIC_TIMER_CURRENT;
}

/* Between the registers, each 16 bytes apart, others may keep what they like. The version
 * is the model's own: what another implementation could do beyond it, the
 * guest is not told. */
void lapic_import(struct lapic *lapic, const uint8_t image[LAPIC_IMAGE_SIZE])
{
    for (unsigned offset = 0; offset < LAPIC_IMAGE_SIZE; offset += 16) {
        if (is_taken(offset)) {
            lapic_put(lapic, offset, image_get(image, offset));
        }
    }
}

bool lapic_import_timer(struct lapic *lapic, uint64_t now_ns,
                        const uint8_t image[LAPIC_IMAGE_SIZE])
{
    uint32_t mode = lapic_get(lapic, LAPIC_LVT_TIMER) & LAPIC_LVT_TIMER_MODE;
    uint32_t initial = image_get(image, LAPIC_TIMER_INITIAL);
    lapic_put(lapic, LAPIC_TIMER_INITIAL, initial);
    lapic->tsc_deadline = 0;
    lapic->timer_deadline_ns = LAPIC_TIMER_STOPPED;
    if (mode == LAPIC_TIMER_TSC) {
        return true;
    }
    if (initial) {
        lapic->timer_deadline_ns =
            now_ns +
            (uint64_t)image_get(image, LAPIC_TIMER_CURRENT) * lapic_timer_divisor(lapic);
    }
    return false;
}

void lapic_import_deadline(struct lapic *lapic, uint64_t now_ns, uint64_t tsc,
                           uint64_t deadline)
{
    lapic_timer_set_tsc_deadline(lapic, now_ns, tsc, deadline);
}
