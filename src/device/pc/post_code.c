#include "device/pc/post_code.h"

#include <errno.h>

#include "base/clock.h"

/* More codes than any firmware has between two steps that take time. */
#define LOG_BURST       256u
#define LOG_INTERVAL_NS (100 * 1000 * 1000ull)

struct post_code {
    struct device device;
    bool is_logged;
    struct log_bucket bucket;
    uint8_t code;
};

static uint64_t code_read(struct device *device, uint64_t offset, unsigned size)
{
    return ((struct post_code *)device)->code;
}

static void code_write(struct device *device, uint64_t offset, unsigned size,
                       uint64_t value)
{
    struct post_code *post_code = (struct post_code *)device;
    uint8_t before = post_code->code;
    uint64_t suppressed;
    post_code->code = (uint8_t)value;
    if (post_code->is_logged && post_code->code != before && log_enabled(LOG_INFO) &&
        log_bucket_take(&post_code->bucket, clock_host_ns(), &suppressed)) {
        log_info("%s: POST code %02x", device->name, post_code->code);
    }
}

struct region post_code_region(struct post_code *post_code, uint64_t base)
{
    return (struct region){&post_code->device, base, 1, 1, 1, code_read, code_write};
}

static void code_reset(struct device *device)
{
    ((struct post_code *)device)->code = 0;
}

static void code_free(struct device *device)
{
    device_fini(device);
    free(device);
}

static const struct device_field code_fields[] = {
    DEVICE_FIELD(struct post_code, code),
    DEVICE_FIELD_END,
};

static const struct device_type code_type = {
    .name = "post_code",
    .fields = code_fields,
    .reset = code_reset,
    .free = code_free,
};

struct post_code *post_code_new(const char *name, bool is_logged, struct error *err)
{
    struct post_code *post_code = calloc(1, sizeof(*post_code));
    if (!post_code) {
        fail(err, ENOMEM, "cannot make %s", name);
        return NULL;
    }
    device_init(&post_code->device, &code_type, name);
    post_code->is_logged = is_logged;
    post_code->bucket = (struct log_bucket){
        .limit = LOG_BURST, .interval_ns = LOG_INTERVAL_NS, .tokens = LOG_BURST};
    return post_code;
}

struct device *post_code_device(struct post_code *post_code)
{
    return &post_code->device;
}
