#include "device/pc/pvpanic.h"

#include <errno.h>

#define EVENTS (PVPANIC_PANICKED | PVPANIC_CRASH_LOADED)

struct pvpanic {
    struct device device;
    struct pvpanic_action action;
};

static uint64_t pvpanic_read(struct device *device, uint64_t offset, unsigned size)
{
    return EVENTS;
}

/* Bits that no event has are ignored. */
static void pvpanic_write(struct device *device, uint64_t offset, unsigned size,
                          uint64_t value)
{
    struct pvpanic *pvpanic = (struct pvpanic *)device;
    for (unsigned event = 1; event & EVENTS; event <<= 1) {
        if (value & event) {
            pvpanic->action.report(pvpanic->action.opaque, event);
        }
    }
}

struct region pvpanic_region(struct pvpanic *pvpanic, uint64_t base)
{
    return (struct region){.device = &pvpanic->device,
                           .base = base,
                           .size = 1,
                           .min_size = 1,
                           .max_size = 1,
                           .read = pvpanic_read,
                           .write = pvpanic_write};
}

static void pvpanic_reset(struct device *device)
{
}

static void pvpanic_free(struct device *device)
{
    device_fini(device);
    free(device);
}

static const struct device_field pvpanic_fields[] = {
    DEVICE_FIELD_END, /* it has no state */
};

static const struct device_type pvpanic_type = {
    .name = "pvpanic",
    .fields = pvpanic_fields,
    .reset = pvpanic_reset,
    .free = pvpanic_free,
};

struct pvpanic *pvpanic_new(const char *name, const struct pvpanic_action *action,
                            struct error *err)
{
    struct pvpanic *pvpanic = calloc(1, sizeof(*pvpanic));
    if (!pvpanic) {
        fail(err, ENOMEM, "cannot make %s", name);
        return NULL;
    }
    device_init(&pvpanic->device, &pvpanic_type, name);
    pvpanic->action = *action;
    return pvpanic;
}

struct device *pvpanic_device(struct pvpanic *pvpanic)
{
    return &pvpanic->device;
}
