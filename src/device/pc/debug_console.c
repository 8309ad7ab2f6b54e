#include "device/pc/debug_console.h"

#include <errno.h>

#define SIGNATURE 0xe9

struct debug_console {
    struct device device;
    struct debug_console_sink sink;
};

static uint64_t console_read(struct device *device, uint64_t offset, unsigned size)
{
    return SIGNATURE;
}

static void console_write(struct device *device, uint64_t offset, unsigned size,
                          uint64_t value)
{
    struct debug_console *console = (struct debug_console *)device;
    console->sink.write(console->sink.opaque, (uint8_t)value);
}

struct region debug_console_region(struct debug_console *console, uint64_t base)
{
    return (struct region){.device = &console->device,
                           .base = base,
                           .size = 1,
                           .min_size = 1,
                           .max_size = 1,
                           .read = console_read,
                           .write = console_write};
}

static void console_reset(struct device *device)
{
}

static void console_free(struct device *device)
{
    device_fini(device);
    free(device);
}

static const struct device_field console_fields[] = {
    DEVICE_FIELD_END, /* it has no state */
};

static const struct device_type console_type = {
    .name = "debug_console",
    .fields = console_fields,
    .reset = console_reset,
    .free = console_free,
};

struct debug_console *debug_console_new(const char *name,
                                        const struct debug_console_sink *sink,
                                        struct error *err)
{
    struct debug_console *console = calloc(1, sizeof(*console));
    if (!console) {
        fail(err, ENOMEM, "cannot make %s", name);
        return NULL;
    }
    device_init(&console->device, &console_type, name);
    console->sink = *sink;
    return console;
}

struct device *debug_console_device(struct debug_console *console)
{
    return &console->device;
}
