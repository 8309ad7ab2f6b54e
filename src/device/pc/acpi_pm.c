#include "device/pc/acpi_pm.h"

#include <errno.h>

#include "base/log.h"

#define PM1_TIMER        0x0001
#define PM1_GLOBAL       0x0020
#define PM1_POWER_BUTTON 0x0100
#define PM1_SLEEP_BUTTON 0x0200
#define PM1_RTC          0x0400
#define PM1_ENABLES \
    (PM1_TIMER | PM1_GLOBAL | PM1_POWER_BUTTON | PM1_SLEEP_BUTTON | PM1_RTC)

#define CONTROL_SCI_ENABLE   0x0001
#define CONTROL_BM_RELOAD    0x0002
#define CONTROL_SLEEP_TYPE   0x1c00
#define CONTROL_SLEEP_ENABLE 0x2000
#define CONTROL_KEPT         (CONTROL_BM_RELOAD | CONTROL_SLEEP_TYPE)

#define RESET_CPU            0x04 /* rising starts the reset */

/* The timer's status is set whenever its highest bit changes (4.8.3.1.1). */
#define CARRY_SHIFT 31

struct acpi_pm {
    struct device device;
    struct irq_line sci;
    struct acpi_pm_actions actions;
    struct timer carry_timer;
    uint64_t carries; /* changes of the timer's highest bit that status has seen */
    uint16_t status, enable, control;
    uint8_t reset_value;
};

static uint64_t timer_ticks(const struct acpi_pm *pm)
{
    uint64_t now = clock_now(timer_queue_clock(pm->carry_timer.queue));
    return scale_u64(now, ACPI_PM_TIMER_HZ, NS_PER_SECOND);
}

static void update_sci(struct acpi_pm *pm)
{
    irq_set(&pm->sci, (pm->status & pm->enable & PM1_ENABLES) != 0);
}

/* Has the next change of the highest bit noticed. */
static void arm_carry(struct acpi_pm *pm)
{
    unsigned __int128 tick = (unsigned __int128)(pm->carries + 1) << CARRY_SHIFT;
    timer_set(&pm->carry_timer, (uint64_t)((tick * NS_PER_SECOND + ACPI_PM_TIMER_HZ - 1) /
                                           ACPI_PM_TIMER_HZ));
}

static void sync_timer(struct acpi_pm *pm)
{
    uint64_t carries = timer_ticks(pm) >> CARRY_SHIFT;
    if (carries != pm->carries) {
        pm->carries = carries;
        pm->status |= PM1_TIMER;
        update_sci(pm);
        arm_carry(pm);
    }
}

static void carry_expired(void *opaque)
{
    sync_timer(opaque);
}

static uint64_t pm_read(struct device *device, uint64_t offset, unsigned size)
{
    struct acpi_pm *pm = (struct acpi_pm *)device;
    sync_timer(pm);
    uint64_t value;
    if (offset >= ACPI_PM_TIMER) {
        value = timer_ticks(pm) & 0xffffffff;
        offset -= ACPI_PM_TIMER;
    } else if (offset >= ACPI_PM_CONTROL) {
        value = pm->control | CONTROL_SCI_ENABLE;
        offset -= ACPI_PM_CONTROL;
    } else {
        value = pm->status | (uint64_t)pm->enable << 16;
    }
    return value >> (8 * offset);
}

static void write_control(struct acpi_pm *pm, uint16_t value)
{
    pm->control = value & CONTROL_KEPT;
    if (!(value & CONTROL_SLEEP_ENABLE)) {
        return;
    }
    unsigned type = (value & CONTROL_SLEEP_TYPE) >> 10;
    if (type == pm->actions.s5_type) {
        pm->actions.power_off(pm->actions.opaque);
    } else {
        log_guest("%s: sleep type %u is not offered", pm->device.name, type);
    }
}

static void write_byte(struct acpi_pm *pm, uint64_t offset, uint8_t byte)
{
    unsigned shift = 8 * (offset & 1);
    switch (offset & ~1ull) {
    case ACPI_PM_EVENT: /* a one clears */
        pm->status &= ~(byte << shift);
        break;
    case ACPI_PM_EVENT + 2:
        pm->enable = (pm->enable & (0xff00 >> shift)) | (byte << shift & PM1_ENABLES);
        break;
    case ACPI_PM_CONTROL:
        write_control(pm, (pm->control & (0xff00 >> shift)) | (uint16_t)(byte << shift));
        break;
    default: /* the timer is read-only */
        break;
    }
}

static void pm_write(struct device *device, uint64_t offset, unsigned size,
                     uint64_t value)
{
    struct acpi_pm *pm = (struct acpi_pm *)device;
    sync_timer(pm);
    for (unsigned i = 0; i < size; i++) {
        write_byte(pm, offset + i, (uint8_t)(value >> (8 * i)));
    }
    update_sci(pm);
}

static uint64_t reset_read(struct device *device, uint64_t offset, unsigned size)
{
    return ((struct acpi_pm *)device)->reset_value;
}

static void reset_write(struct device *device, uint64_t offset, unsigned size,
                        uint64_t value)
{
    struct acpi_pm *pm = (struct acpi_pm *)device;
    pm->reset_value = value & ~RESET_CPU & 0xff;
    if (value & RESET_CPU) {
        pm->actions.reset(pm->actions.opaque);
    }
}

struct region acpi_pm_region(struct acpi_pm *pm, uint64_t base)
{
    return (struct region){.device = &pm->device,
                           .base = base,
                           .size = ACPI_PM_SIZE,
                           .min_size = 1,
                           .max_size = 4,
                           .read = pm_read,
                           .write = pm_write};
}

struct region acpi_pm_reset_region(struct acpi_pm *pm, uint64_t base)
{
    return (struct region){.device = &pm->device,
                           .base = base,
                           .size = 1,
                           .min_size = 1,
                           .max_size = 1,
                           .read = reset_read,
                           .write = reset_write};
}

void acpi_pm_power_button(struct acpi_pm *pm)
{
    pthread_mutex_lock(&pm->device.lock);
    pm->status |= PM1_POWER_BUTTON;
    update_sci(pm);
    pthread_mutex_unlock(&pm->device.lock);
}

static void pm_reset(struct device *device)
{
    struct acpi_pm *pm = (struct acpi_pm *)device;
    pm->status = 0;
    pm->enable = 0;
    pm->control = 0;
    pm->reset_value = 0;
    pm->carries = timer_ticks(pm) >> CARRY_SHIFT;
    arm_carry(pm);
    update_sci(pm);
}

static void pm_loaded(struct device *device)
{
    struct acpi_pm *pm = (struct acpi_pm *)device;
    pm->enable &= PM1_ENABLES;
    pm->control &= CONTROL_KEPT;
    pm->carries &= UINT64_MAX >> CARRY_SHIFT;
    arm_carry(pm);
    update_sci(pm);
}

static void pm_free(struct device *device)
{
    struct acpi_pm *pm = (struct acpi_pm *)device;
    timer_fini(&pm->carry_timer);
    device_fini(device);
    free(pm);
}

static const struct device_field pm_fields[] = {
    DEVICE_FIELD(struct acpi_pm, carries),     DEVICE_FIELD(struct acpi_pm, status),
    DEVICE_FIELD(struct acpi_pm, enable),      DEVICE_FIELD(struct acpi_pm, control),
    DEVICE_FIELD(struct acpi_pm, reset_value), DEVICE_FIELD_END,
};

static const struct device_type pm_type = {
    .name = "acpi_pm",
    .fields = pm_fields,
    .reset = pm_reset,
    .loaded = pm_loaded,
    .free = pm_free,
};

struct acpi_pm *acpi_pm_new(const char *name, struct timer_queue *timers,
                            struct irq_line sci, const struct acpi_pm_actions *actions,
                            struct error *err)
{
    struct acpi_pm *pm = calloc(1, sizeof(*pm));
    if (!pm) {
        fail(err, ENOMEM, "cannot make %s", name);
        return NULL;
    }
    device_init(&pm->device, &pm_type, name);
    pm->sci = sci;
    pm->actions = *actions;
    timer_init(&pm->carry_timer, timers, &pm->device.lock, carry_expired, pm);
    pm_reset(&pm->device);
    return pm;
}

struct device *acpi_pm_device(struct acpi_pm *pm)
{
    return &pm->device;
}
