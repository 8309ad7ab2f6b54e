#pragma once
/*
 * ACPI fixed hardware (ACPI 6.5, 4.8.3): the PM1 blocks, the power management timer, the
 * power button, soft-off, and the reset register. There is no SMI command port: the
 * hardware is always in ACPI mode.
 */

#include "base/timer.h"
#include "device/device.h"
#include "device/irq.h"

#define ACPI_PM_TIMER_HZ 3579545u

/* Layout of the register block. */
#define ACPI_PM_EVENT   0 /* PM1a_EVT_BLK, 4 bytes: status, enable */
#define ACPI_PM_CONTROL 4 /* PM1a_CNT_BLK, 2 bytes */
#define ACPI_PM_TIMER   8 /* PM_TMR_BLK, 4 bytes; the FADT sets TMR_VAL_EXT: 32 bits */
#define ACPI_PM_SIZE    12

/* What the FADT gives as RESET_VALUE. */
#define ACPI_PM_RESET_VALUE 0x06

struct acpi_pm;

/* Called with the device's lock held. */
struct acpi_pm_actions {
    void (*power_off)(void *opaque);
    void (*reset)(void *opaque);
    void *opaque;
    uint8_t s5_type; /* the SLP_TYP of soft-off in the DSDT's \_S5 */
};

struct acpi_pm *acpi_pm_new(const char *name, struct timer_queue *timers,
                            struct irq_line sci, const struct acpi_pm_actions *actions,
                            struct error *err);
struct device *acpi_pm_device(struct acpi_pm *pm);
struct region acpi_pm_region(struct acpi_pm *pm, uint64_t base);
/* The reset register, one port (cf9h). */
struct region acpi_pm_reset_region(struct acpi_pm *pm, uint64_t base);

/* Somebody presses the power button. Takes the lock; any thread. */
void acpi_pm_power_button(struct acpi_pm *pm);
