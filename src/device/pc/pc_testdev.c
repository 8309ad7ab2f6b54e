#include "device/pc/pc_testdev.h"

#include <errno.h>
#include <string.h>

struct pc_testdev {
    struct device device;
    struct pc_testdev_bus bus;
    uint32_t word;
    uint32_t lines; /* the level of each */
    uint8_t memory[PC_TESTDEV_MEMORY_SIZE];
};

static uint64_t word_read(struct device *device, uint64_t offset, unsigned size)
{
    return ((struct pc_testdev *)device)->word >> (8 * offset);
}

static void word_write(struct device *device, uint64_t offset, unsigned size,
                       uint64_t value)
{
    struct pc_testdev *testdev = (struct pc_testdev *)device;
    uint32_t mask = (uint32_t)(UINT64_MAX >> (64 - 8 * size)) << (8 * offset);
    testdev->word = (testdev->word & ~mask) | ((uint32_t)value << (8 * offset) & mask);
}

static uint64_t none_read(struct device *device, uint64_t offset, unsigned size)
{
    return 0;
}

static void flush_write(struct device *device, uint64_t offset, unsigned size,
                        uint64_t value)
{
    struct pc_testdev *testdev = (struct pc_testdev *)device;
    testdev->bus.forget_page(testdev->bus.opaque, value & 0xfffff000);
}

static uint64_t irq_read(struct device *device, uint64_t offset, unsigned size)
{
    return ((struct pc_testdev *)device)->lines >> offset & 1;
}

static void irq_write(struct device *device, uint64_t offset, unsigned size,
                      uint64_t value)
{
    struct pc_testdev *testdev = (struct pc_testdev *)device;
    int level = (value & 0xff) != 0;
    testdev->lines = (testdev->lines & ~(1u << offset)) | (uint32_t)level << offset;
    irq_set(&testdev->bus.line[offset], level);
}

static uint64_t memory_read(struct device *device, uint64_t offset, unsigned size)
{
    const struct pc_testdev *testdev = (struct pc_testdev *)device;
    uint64_t value = 0;
    memcpy(&value, testdev->memory + offset, size);
    return value;
}

static void memory_write(struct device *device, uint64_t offset, unsigned size,
                         uint64_t value)
{
    struct pc_testdev *testdev = (struct pc_testdev *)device;
    memcpy(testdev->memory + offset, &value, size);
}

struct region pc_testdev_region(struct pc_testdev *testdev, enum pc_testdev_block block,
                                uint64_t base)
{
    struct device *device = &testdev->device;
    switch (block) {
    case PC_TESTDEV_WORD:
        return (struct region){device, base, 4, 1, 4, word_read, word_write};
    case PC_TESTDEV_FLUSH:
        return (struct region){device, base, 4, 4, 4, none_read, flush_write};
    case PC_TESTDEV_BYTE:
        return (struct region){device, base, 4, 1, 1, word_read, word_write};
    case PC_TESTDEV_IRQ:
        return (struct region){device, base, PC_TESTDEV_LINES, 1, 1, irq_read, irq_write};
    default:
        return (struct region){device,      base,        PC_TESTDEV_MEMORY_SIZE, 1, 8,
                               memory_read, memory_write};
    }
}

static void testdev_reset(struct device *device)
{
    struct pc_testdev *testdev = (struct pc_testdev *)device;
    /* Lines that it has not driven are others' to drive. */
    for (unsigned i = 0; i < PC_TESTDEV_LINES; i++) {
        if (testdev->lines >> i & 1) {
            irq_set(&testdev->bus.line[i], 0);
        }
    }
    testdev->lines = 0;
    testdev->word = 0;
    memset(testdev->memory, 0, sizeof(testdev->memory));
}

static void testdev_loaded(struct device *device)
{
    struct pc_testdev *testdev = (struct pc_testdev *)device;
    testdev->lines &= (1u << PC_TESTDEV_LINES) - 1;
    for (unsigned i = 0; i < PC_TESTDEV_LINES; i++) {
        if (testdev->lines >> i & 1) {
            irq_set(&testdev->bus.line[i], 1);
        }
    }
}

static void testdev_free(struct device *device)
{
    device_fini(device);
    free(device);
}

static const struct device_field testdev_fields[] = {
    DEVICE_FIELD(struct pc_testdev, word),
    DEVICE_FIELD(struct pc_testdev, lines),
    DEVICE_FIELD_ARRAY(struct pc_testdev, memory),
    DEVICE_FIELD_END,
};

static const struct device_type testdev_type = {
    .name = "pc_testdev",
    .fields = testdev_fields,
    .reset = testdev_reset,
    .loaded = testdev_loaded,
    .free = testdev_free,
};

struct pc_testdev *pc_testdev_new(const char *name, const struct pc_testdev_bus *bus,
                                  struct error *err)
{
    struct pc_testdev *testdev = calloc(1, sizeof(*testdev));
    if (!testdev) {
        fail(err, ENOMEM, "cannot make %s", name);
        return NULL;
    }
    device_init(&testdev->device, &testdev_type, name);
    testdev->bus = *bus;
    return testdev;
}

struct device *pc_testdev_device(struct pc_testdev *testdev)
{
    return &testdev->device;
}
