#include "device/pc/debug_exit.h"

#include <errno.h>

struct debug_exit {
    struct device device;
    struct debug_exit_action action;
};

static uint64_t exit_read(struct device *device, uint64_t offset, unsigned size)
{
    return 0;
}

static void exit_write(struct device *device, uint64_t offset, unsigned size,
                       uint64_t value)
{
    struct debug_exit *port = (struct debug_exit *)device;
    port->action.exit(port->action.opaque, (uint32_t)value);
}

struct region debug_exit_region(struct debug_exit *port, uint64_t base)
{
    return (struct region){.device = &port->device,
                           .base = base,
                           .size = 4,
                           .min_size = 1,
                           .max_size = 4,
                           .read = exit_read,
                           .write = exit_write};
}

static void exit_reset(struct device *device)
{
}

static void exit_free(struct device *device)
{
    device_fini(device);
    free(device);
}

static const struct device_field exit_fields[] = {
    DEVICE_FIELD_END, /* it has no state */
};

static const struct device_type exit_type = {
    .name = "debug_exit",
    .fields = exit_fields,
    .reset = exit_reset,
    .free = exit_free,
};

struct debug_exit *debug_exit_new(const char *name,
                                  const struct debug_exit_action *action,
                                  struct error *err)
{
    struct debug_exit *port = calloc(1, sizeof(*port));
    if (!port) {
        fail(err, ENOMEM, "cannot make %s", name);
        return NULL;
    }
    device_init(&port->device, &exit_type, name);
    port->action = *action;
    return port;
}

struct device *debug_exit_device(struct debug_exit *port)
{
    return &port->device;
}
