#include "device/pci/pci_testdev.h"

#include <errno.h>
#include <string.h>

#define MEMORY_SIZE 4096u
#define PORTS_SIZE  256u

/* Where the writes go: in the register's second half. */
#define TARGET_MEMORY (MEMORY_SIZE / 2)
#define TARGET_PORTS  (PORTS_SIZE / 2)

#define DATA_MATCHED  0xfa /* only this is counted */
#define DATA_ANY      0xce

#define HEADER_SIZE   16u
#define HEADER_TEST   0
#define HEADER_WIDTH  1
#define HEADER_OFFSET 4
#define HEADER_DATA   8
#define HEADER_COUNT  12

#define TESTS         3u
#define NONE          0xff

struct pci_testdev {
    struct device device;
    struct pci_function function;
    uint32_t count;
    uint8_t test; /* index of its table, or NONE */
};

/* Those of each register alike: a write that the device itself sees, and two for which a
 * monitor may be told without the device. Here the device sees all three. */
static const struct test {
    const char *name;
    uint32_t target;
    bool any_data;
} tests[2 * TESTS] = {
    {"mmio-no-eventfd", TARGET_MEMORY + 0, false},
    {"mmio-wildcard-eventfd", TARGET_MEMORY + 1, true},
    {"mmio-datamatch-eventfd", TARGET_MEMORY + 2, false},
    {"portio-no-eventfd", TARGET_PORTS + 3, false},
    {"portio-wildcard-eventfd", TARGET_PORTS + 4, true},
    {"portio-datamatch-eventfd", TARGET_PORTS + 5, false},
};

static uint8_t byte_of(uint32_t value, uint64_t index)
{
    return (uint8_t)(value >> (8 * index));
}

static uint8_t read_byte(const struct pci_testdev *testdev, uint64_t offset)
{
    const struct test *test = &tests[testdev->test];
    uint32_t data = test->any_data ? DATA_ANY : DATA_MATCHED;
    if (offset >= HEADER_SIZE) {
        uint64_t index = offset - HEADER_SIZE;
        return index < strlen(test->name) ? (uint8_t)test->name[index] : 0;
    }
    if (offset >= HEADER_COUNT) {
        return byte_of(testdev->count, offset - HEADER_COUNT);
    }
    if (offset >= HEADER_DATA) {
        return byte_of(data, offset - HEADER_DATA);
    }
    if (offset >= HEADER_OFFSET) {
        return byte_of(test->target, offset - HEADER_OFFSET);
    }
    return offset == HEADER_TEST ? testdev->test : offset == HEADER_WIDTH ? 1 : 0;
}

static uint64_t bar_read(struct device *device, uint64_t offset, unsigned size)
{
    const struct pci_testdev *testdev = container_of(device, struct pci_testdev, device);
    uint64_t value = 0;
    for (unsigned i = 0; i < size && testdev->test != NONE; i++) {
        value |= (uint64_t)read_byte(testdev, offset + i) << (8 * i);
    }
    return value;
}

/* first: of the register's tests. */
static void bar_write(struct pci_testdev *testdev, unsigned first, uint64_t offset,
                      unsigned size, uint64_t value)
{
    if (offset == HEADER_TEST) {
        testdev->test = (value & 0xff) < TESTS ? (uint8_t)(first + (value & 0xff)) : NONE;
        testdev->count = 0;
        return;
    }
    if (testdev->test == NONE || offset != tests[testdev->test].target) {
        return;
    }
    if (tests[testdev->test].any_data || (size == 1 && value == DATA_MATCHED)) {
        testdev->count++;
    }
}

static void memory_write(struct device *device, uint64_t offset, unsigned size,
                         uint64_t value)
{
    bar_write(container_of(device, struct pci_testdev, device), 0, offset, size, value);
}

static void port_write(struct device *device, uint64_t offset, unsigned size,
                       uint64_t value)
{
    bar_write(container_of(device, struct pci_testdev, device), TESTS, offset, size,
              value);
}

static const struct pci_identity identity = {
    .vendor = 0x1b36, /* Red Hat's, for devices of QEMU */
    .device = 0x0005,
    .subsystem_vendor = 0x1af4,
    .subsystem = 0x1100,
    .class_code = 0xff0000,
    .bar = {{MEMORY_SIZE, false, bar_read, memory_write},
            {PORTS_SIZE, true, bar_read, port_write}},
};

static void testdev_reset(struct device *device)
{
    struct pci_testdev *testdev = container_of(device, struct pci_testdev, device);
    pci_function_reset(&testdev->function);
    testdev->test = NONE;
    testdev->count = 0;
}

static void testdev_loaded(struct device *device)
{
    struct pci_testdev *testdev = container_of(device, struct pci_testdev, device);
    pci_function_loaded(&testdev->function);
    if (testdev->test >= array_size(tests)) {
        testdev->test = NONE;
    }
}

static void testdev_free(struct device *device)
{
    device_fini(device);
    free(device);
}

static const struct device_field testdev_fields[] = {
    DEVICE_FIELD_ARRAY(struct pci_testdev, function.config),
    DEVICE_FIELD(struct pci_testdev, count),
    DEVICE_FIELD(struct pci_testdev, test),
    DEVICE_FIELD_END,
};

static const struct device_type testdev_type = {
    .name = "pci_testdev",
    .fields = testdev_fields,
    .reset = testdev_reset,
    .loaded = testdev_loaded,
    .free = testdev_free,
};

struct pci_testdev *pci_testdev_new(const char *name, struct error *err)
{
    struct pci_testdev *testdev = calloc(1, sizeof(*testdev));
    if (!testdev) {
        fail(err, ENOMEM, "cannot make %s", name);
        return NULL;
    }
    device_init(&testdev->device, &testdev_type, name);
    pci_function_init(&testdev->function, &testdev->device, &identity);
    testdev_reset(&testdev->device);
    return testdev;
}

struct device *pci_testdev_device(struct pci_testdev *testdev)
{
    return &testdev->device;
}

struct pci_function *pci_testdev_function(struct pci_testdev *testdev)
{
    return &testdev->function;
}
