/* The device core and its transport: status, features, reset with requests in flight,
 * saved state. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include "virtio_rig.h"

#include <cmocka.h>

#define DATA 0x30000u

static int setup(void **state)
{
    static struct rig rig;
    rig_init(&rig, false);
    *state = &rig;
    return 0;
}

static int teardown(void **state)
{
    rig_fini(*state);
    return 0;
}

static void test_identity(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(rig_read(rig, VIRTIO_MMIO_MAGIC_VALUE), 0x74726976);
    assert_int_equal(rig_read(rig, VIRTIO_MMIO_VERSION), 2);
    assert_int_equal(rig_read(rig, VIRTIO_MMIO_DEVICE_ID), 2);
    assert_int_equal(rig_read(rig, VIRTIO_MMIO_SHM_LEN_LOW), UINT32_MAX);
}

/* 3.1.1: FEATURES_OK is not accepted without version 1, nor with what was not offered. */
static void test_features_are_negotiated(void **state)
{
    struct rig *rig = *state;
    static const struct {
        uint32_t low, high;
        bool is_accepted;
    } cases[] = {
        {0, 1, true},         {0, 0, false}, {1u << VIRTIO_BLK_F_FLUSH, 1, true},
        {1u << 31, 1, false}, {0, 3, false}, {1u << VIRTIO_RING_F_EVENT_IDX, 1, true},
    };
    for (unsigned i = 0; i < array_size(cases); i++) {
        rig_write(rig, VIRTIO_MMIO_STATUS, 0);
        rig_write(rig, VIRTIO_MMIO_STATUS, 3);
        rig_write(rig, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
        rig_write(rig, VIRTIO_MMIO_DRIVER_FEATURES, cases[i].low);
        rig_write(rig, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
        rig_write(rig, VIRTIO_MMIO_DRIVER_FEATURES, cases[i].high);
        rig_write(rig, VIRTIO_MMIO_STATUS, 3 | VIRTIO_CONFIG_S_FEATURES_OK);
        assert_int_equal(rig_read(rig, VIRTIO_MMIO_STATUS),
                         cases[i].is_accepted ? 3 | VIRTIO_CONFIG_S_FEATURES_OK : 3);
    }
}

static void test_status_bits_are_only_added(void **state)
{
    struct rig *rig = *state;
    rig_start(rig, 0);
    rig_write(rig, VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE);
    assert_int_equal(rig_read(rig, VIRTIO_MMIO_STATUS), 0xf);
    rig_write(rig, VIRTIO_MMIO_STATUS, 0x4f);
    assert_int_equal(rig_read(rig, VIRTIO_MMIO_STATUS), 0xf);
    rig_write(rig, VIRTIO_MMIO_STATUS, 0);
    assert_int_equal(rig_read(rig, VIRTIO_MMIO_STATUS), 0);
    assert_int_equal(rig_read(rig, VIRTIO_MMIO_QUEUE_READY), 0);
}

/* A driver that skips negotiation does not get its buffers used. */
static void test_nothing_before_driver_ok(void **state)
{
    struct rig *rig = *state;
    rig_write(rig, VIRTIO_MMIO_STATUS, 3);
    rig_setup_queue(rig, 0);
    rig_offer(rig, 0, rig_request(rig, 0, 0x8000, VIRTIO_BLK_T_IN, 0, DATA, 512));
    rig_kick(rig, 0);
    rig_write(rig, VIRTIO_MMIO_STATUS, 3 | VIRTIO_CONFIG_S_DRIVER_OK);
    rig_kick(rig, 0);
    assert_int_equal(rig_read(rig, VIRTIO_MMIO_STATUS), 3);
    assert_int_equal(rig->disk->reads, 0);
}

static void test_queues_that_cannot_be(void **state)
{
    struct rig *rig = *state;
    static const struct {
        uint32_t size;
        uint64_t descriptors, driver, device;
    } cases[] = {
        {0, 0x1000, 0x2000, 0x3000},           {3, 0x1000, 0x2000, 0x3000},
        {512, 0x1000, 0x2000, 0x3000},         {0x10010, 0x1000, 0x2000, 0x3000},
        {16, 0x1008, 0x2000, 0x3000},          {16, 0x1000, 0x2001, 0x3000},
        {16, 0x1000, 0x2000, 0x3002},          {16, 1ull << 40, 0x2000, 0x3000},
        {16, 0x1000, RIG_SEAM - 4, 0x3000},    {16, 0x1000, 0x2000, RIG_ROM},
        {16, UINT64_MAX - 15, 0x2000, 0x3000},
    };
    rig_write(rig, VIRTIO_MMIO_QUEUE_SEL, 1);
    for (unsigned i = 0; i < array_size(cases); i++) {
        rig_write(rig, VIRTIO_MMIO_QUEUE_NUM, cases[i].size);
        rig_write(rig, VIRTIO_MMIO_QUEUE_DESC_LOW, (uint32_t)cases[i].descriptors);
        rig_write(rig, VIRTIO_MMIO_QUEUE_DESC_HIGH,
                  (uint32_t)(cases[i].descriptors >> 32));
        rig_write(rig, VIRTIO_MMIO_QUEUE_AVAIL_LOW, (uint32_t)cases[i].driver);
        rig_write(rig, VIRTIO_MMIO_QUEUE_USED_LOW, (uint32_t)cases[i].device);
        rig_write(rig, VIRTIO_MMIO_QUEUE_READY, 1);
        assert_int_equal(rig_read(rig, VIRTIO_MMIO_QUEUE_READY), 0);
    }
    rig_write(rig, VIRTIO_MMIO_QUEUE_SEL, RIG_QUEUES);
    assert_int_equal(rig_read(rig, VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
    rig_write(rig, VIRTIO_MMIO_QUEUE_READY, 1);
    rig_write(rig, VIRTIO_MMIO_QUEUE_NOTIFY, UINT32_MAX);
}

static void test_interrupt_is_a_level(void **state)
{
    struct rig *rig = *state;
    rig_start(rig, 0);
    assert_int_equal(rig_do(rig, VIRTIO_BLK_T_IN, 0, DATA, 512), 0);
    device_drain(&rig->virtio->device);
    assert_int_equal(rig->irq_level, 1);
    assert_int_equal(rig_read(rig, VIRTIO_MMIO_INTERRUPT_STATUS), 1);
    rig_write(rig, VIRTIO_MMIO_INTERRUPT_ACK, 2);
    assert_int_equal(rig->irq_level, 1);
    rig_write(rig, VIRTIO_MMIO_INTERRUPT_ACK, 1);
    assert_int_equal(rig->irq_level, 0);
    /* Not wanted: the flag of the driver's ring. */
    rig_avail(rig, 0)[0] = VRING_AVAIL_F_NO_INTERRUPT;
    assert_int_equal(rig_do(rig, VIRTIO_BLK_T_IN, 0, DATA, 512), 0);
    device_drain(&rig->virtio->device);
    assert_int_equal(rig->irq_level, 0);
}

struct resetter {
    struct rig *rig;
    _Atomic bool is_done;
};

static void *reset_thread(void *opaque)
{
    struct resetter *resetter = opaque;
    rig_write(resetter->rig, VIRTIO_MMIO_STATUS, 0);
    resetter->is_done = true;
    return NULL;
}

/* The reset is over when the device touches the guest's memory no more; other vCPUs can
 * neither prolong it nor see their writes take effect meanwhile. */
static void test_reset_waits_for_requests(void **state)
{
    struct rig *rig = *state;
    struct resetter resetter = {.rig = rig};
    pthread_t thread;
    rig_start(rig, 0);
    rig_gate(rig, true);
    rig_offer(rig, 0, rig_request(rig, 0, 0x8000, VIRTIO_BLK_T_IN, 0, DATA, 512));
    rig_kick(rig, 0);
    rig_await_waiting(rig, 1);
    pthread_create(&thread, NULL, reset_thread, &resetter);
    while (rig_read(rig, VIRTIO_MMIO_STATUS) != 0) {
        sched_yield();
    }
    rig_write(rig, VIRTIO_MMIO_STATUS, 1);
    rig_kick(rig, 0);
    assert_int_equal(rig_read(rig, VIRTIO_MMIO_STATUS), 0);
    assert_false(resetter.is_done);
    rig_gate(rig, false);
    pthread_join(thread, NULL);
    /* Not answered: the ring may be something else by now. */
    assert_int_equal(rig_used(rig, 0)[1], 0);
    assert_int_equal(*rig_ram(rig, 0x8010), 0xee);
    assert_int_equal(rig->irq_level, 0);
    rig_start(rig, 0);
    assert_int_equal(rig_do(rig, VIRTIO_BLK_T_IN, 0, DATA, 512), 0);
}

static void test_stopping_a_queue_waits(void **state)
{
    struct rig *rig = *state;
    rig_start(rig, 0);
    for (unsigned i = 0; i < 5; i++) {
        rig_offer(rig, 0,
                  rig_request(rig, 0, 0x8000 + i * 32, VIRTIO_BLK_T_IN, i, DATA, 512));
    }
    rig_kick(rig, 0);
    rig_write(rig, VIRTIO_MMIO_QUEUE_SEL, 0);
    rig_write(rig, VIRTIO_MMIO_QUEUE_READY, 0);
    assert_int_equal(rig_read(rig, VIRTIO_MMIO_QUEUE_READY), 0);
    assert_int_equal(rig_used(rig, 0)[1], 5);
    rig_kick(rig, 0);
}

static uint8_t *save(struct rig *rig)
{
    struct device *device = virtio_blk_device(rig->blk);
    uint8_t *buffer = malloc(device_state_size(device->type));
    device_save(device, buffer);
    return buffer;
}

/* What is in flight is answered before the state is taken. */
static void test_save_drains(void **state)
{
    struct rig *rig = *state;
    rig_start(rig, rig->virtio->features);
    for (unsigned i = 0; i < 5; i++) {
        rig_offer(rig, 0,
                  rig_request(rig, 0, 0x8000 + i * 32, VIRTIO_BLK_T_IN, i, DATA, 512));
    }
    rig_kick(rig, 0);
    SCOPE_FREE uint8_t *saved = save(rig);
    assert_non_null(saved);
    assert_int_equal(rig_used(rig, 0)[1], 5);
    assert_int_equal(rig->virtio->in_flight, 0);
}

static void copy_ram(struct rig *from, struct rig *to)
{
    memcpy(rig_ram(to, 0), rig_ram(from, 0), RIG_SEAM);
    memcpy(rig_ram(to, RIG_SEAM), rig_ram(from, RIG_SEAM), RIG_RAM - RIG_SEAM);
}

static void test_loaded_device_goes_on(void **state)
{
    struct rig *rig = *state, copy;
    struct error err;
    rig_start(rig, rig->virtio->features);
    assert_int_equal(rig_do(rig, VIRTIO_BLK_T_IN, 0, DATA, 512), 0);
    SCOPE_FREE uint8_t *saved = save(rig);
    rig_init(&copy, false);
    copy_ram(rig, &copy);
    struct device *device = virtio_blk_device(copy.blk);
    size_t size = device_state_size(device->type);
    assert_int_equal(device_load(device, saved, size, &err), 0);
    assert_int_equal(copy.irq_level, 1);
    SCOPE_FREE uint8_t *again = save(&copy);
    assert_memory_equal(saved, again, size);
    memcpy(copy.next, rig->next, sizeof(copy.next));
    memcpy(copy.descriptors, rig->descriptors, sizeof(copy.descriptors));
    assert_int_equal(rig_do(&copy, VIRTIO_BLK_T_IN, 3, DATA, 512), 0);
    assert_memory_equal(rig_ram(&copy, DATA), copy.disk->data + 3 * 512, 512);
    rig_fini(&copy);
}

/* A snapshot may be damaged: the device waits for a reset, or works. */
static void test_any_state_is_survived(void **state)
{
    struct rig *rig = *state;
    struct device *device = virtio_blk_device(rig->blk);
    size_t size = device_state_size(device->type);
    SCOPE_FREE uint8_t *buffer = malloc(size);
    uint32_t random = 1;
    for (unsigned round = 0; round < 300; round++) {
        for (size_t i = 0; i < size; i++) {
            random = random * 1664525 + 1013904223;
            buffer[i] = round % 3 == 0 ? 0xff : (uint8_t)(random >> 24);
        }
        assert_int_equal(device_load(device, buffer, size, NULL), 0);
        for (unsigned i = 0; i < RIG_QUEUES; i++) {
            rig_kick(rig, i);
        }
        rig_read(rig, VIRTIO_MMIO_DEVICE_FEATURES);
        rig_read(rig, VIRTIO_MMIO_QUEUE_READY);
    }
    rig_start(rig, 0);
    assert_int_equal(rig_do(rig, VIRTIO_BLK_T_IN, 0, DATA, 512), 0);
}

static void test_reset_is_as_new(void **state)
{
    struct rig *rig = *state;
    SCOPE_FREE uint8_t *fresh = save(rig);
    rig_start(rig, rig->virtio->features);
    assert_int_equal(rig_do(rig, VIRTIO_BLK_T_IN, 0, DATA, 512), 0);
    device_reset(virtio_blk_device(rig->blk));
    SCOPE_FREE uint8_t *reset = save(rig);
    assert_memory_equal(fresh, reset,
                        device_state_size(virtio_blk_device(rig->blk)->type));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_identity),
        TEST(test_features_are_negotiated),
        TEST(test_status_bits_are_only_added),
        TEST(test_nothing_before_driver_ok),
        TEST(test_queues_that_cannot_be),
        TEST(test_interrupt_is_a_level),
        TEST(test_reset_waits_for_requests),
        TEST(test_stopping_a_queue_waits),
        TEST(test_save_drains),
        TEST(test_loaded_device_goes_on),
        TEST(test_any_state_is_survived),
        TEST(test_reset_is_as_new),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
