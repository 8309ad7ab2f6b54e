/* Requests as a driver sends them, and what a driver must not send. */
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
    rig_start(&rig, rig.virtio->features);
    *state = &rig;
    return 0;
}

static int setup_readonly(void **state)
{
    static struct rig rig;
    rig_init(&rig, true);
    rig_start(&rig, rig.virtio->features);
    *state = &rig;
    return 0;
}

static int teardown(void **state)
{
    rig_fini(*state);
    return 0;
}

static void test_reads(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(rig_do(rig, VIRTIO_BLK_T_IN, 3, DATA, 1024), VIRTIO_BLK_S_OK);
    assert_memory_equal(rig_ram(rig, DATA), rig->disk->data + 3 * 512, 1024);
    assert_int_equal(rig_used_element(rig, 0, 0).len, 1025);
    assert_int_equal(rig->disk->reads, 1);
}

static void test_writes(void **state)
{
    struct rig *rig = *state;
    memset(rig_ram(rig, DATA), 0x5a, 512);
    uint8_t after = rig->disk->data[64 * 512 - 512 - 1];
    assert_int_equal(rig_do(rig, VIRTIO_BLK_T_OUT, 63, DATA, 512), VIRTIO_BLK_S_OK);
    assert_memory_equal(rig_ram(rig, DATA), rig->disk->data + 63 * 512, 512);
    assert_int_equal(rig->disk->data[64 * 512 - 512 - 1], after);
    assert_int_equal(rig_used_element(rig, 0, 0).len, 1);
}

/* Buffers whose memory is in two slots of the host. */
static void test_crosses_slots(void **state)
{
    struct rig *rig = *state;
    gpa_t data = RIG_SEAM - 100;
    assert_int_equal(rig_do(rig, VIRTIO_BLK_T_IN, 0, data, 512), VIRTIO_BLK_S_OK);
    assert_memory_equal(rig_ram(rig, data), rig->disk->data, 100);
    assert_memory_equal(rig_ram(rig, RIG_SEAM), rig->disk->data + 100, 412);
    assert_int_equal(rig_do(rig, VIRTIO_BLK_T_OUT, 9, data, 512), VIRTIO_BLK_S_OK);
    assert_memory_equal(rig->disk->data + 9 * 512, rig->disk->data, 512);
}

static void test_flush_and_identity(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(rig_do(rig, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
    assert_int_equal(rig->disk->flushes, 1);
    memset(rig_ram(rig, DATA), 0xff, 20);
    assert_int_equal(rig_do(rig, VIRTIO_BLK_T_GET_ID, 0, DATA, 20), VIRTIO_BLK_S_OK);
    assert_memory_equal(rig_ram(rig, DATA), "disk0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
}

static void put_range(struct rig *rig, unsigned index, uint64_t sector, uint32_t count,
                      uint32_t flags)
{
    struct virtio_blk_discard_write_zeroes range = {sector, count, flags};
    memcpy(rig_ram(rig, DATA + index * sizeof(range)), &range, sizeof(range));
}

static void test_discards_and_zeroes(void **state)
{
    struct rig *rig = *state;
    put_range(rig, 0, 1, 2, 0);
    put_range(rig, 1, 60, 4, 0);
    assert_int_equal(rig_do(rig, VIRTIO_BLK_T_DISCARD, 0, DATA, 32), VIRTIO_BLK_S_OK);
    assert_int_equal(rig->disk->discards, 2);
    assert_int_equal(rig->disk->data[512], 0xdd);
    assert_int_equal(rig->disk->data[64 * 512 - 1], 0xdd);
    put_range(rig, 0, 2, 1, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
    assert_int_equal(rig_do(rig, VIRTIO_BLK_T_WRITE_ZEROES, 0, DATA, 16),
                     VIRTIO_BLK_S_OK);
    assert_int_equal(rig->disk->data[2 * 512], 0);
    assert_int_equal(rig->disk->data[2 * 512 - 1], 0xdd);
}

/* Every range is checked before the first is carried out. */
static void test_wrong_ranges(void **state)
{
    struct rig *rig = *state;
    static const struct {
        uint64_t sector;
        uint32_t count, flags;
        uint32_t type;
        uint8_t status;
    } cases[] = {
        {64, 1, 0, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_S_IOERR},
        {UINT64_MAX, 1, 0, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_S_IOERR},
        {UINT64_MAX / 512, 2, 0, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_S_IOERR},
        {0, UINT32_MAX, 0, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_S_IOERR},
        {0, 1, 1, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_S_UNSUPP},
        {0, 1, 2, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_S_UNSUPP},
    };
    for (unsigned i = 0; i < array_size(cases); i++) {
        put_range(rig, 0, 0, 1, 0);
        put_range(rig, 1, cases[i].sector, cases[i].count, cases[i].flags);
        assert_int_equal(rig_do(rig, cases[i].type, 0, DATA, 32), cases[i].status);
    }
    assert_int_equal(rig_do(rig, VIRTIO_BLK_T_DISCARD, 0, DATA, 15), VIRTIO_BLK_S_IOERR);
    assert_int_equal(rig_do(rig, VIRTIO_BLK_T_DISCARD, 0, 0, 0), VIRTIO_BLK_S_IOERR);
    assert_int_equal(rig_do(rig, VIRTIO_BLK_T_DISCARD, 0, DATA, 17 * 16),
                     VIRTIO_BLK_S_IOERR);
    assert_int_equal(rig->disk->discards + rig->disk->zeroes, 0);
}

static void test_beyond_the_end(void **state)
{
    struct rig *rig = *state;
    static const uint64_t sectors[] = {64, 63, UINT64_MAX, UINT64_MAX / 512,
                                       UINT64_MAX / 512 + 1};
    for (unsigned i = 0; i < array_size(sectors); i++) {
        assert_int_equal(rig_do(rig, VIRTIO_BLK_T_IN, sectors[i], DATA, 1024),
                         VIRTIO_BLK_S_IOERR);
        assert_int_equal(rig_do(rig, VIRTIO_BLK_T_OUT, sectors[i], DATA, 1024),
                         VIRTIO_BLK_S_IOERR);
    }
    assert_int_equal(rig_do(rig, VIRTIO_BLK_T_IN, 0, DATA, 511), VIRTIO_BLK_S_IOERR);
    assert_int_equal(rig_do(rig, 12345, 0, DATA, 512), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(rig->disk->reads + rig->disk->writes, 0);
    /* Of a failed read no byte is promised. */
    assert_int_equal(rig_used_element(rig, 0, 0).len, 0);
}

static void test_host_errors_are_io_errors(void **state)
{
    struct rig *rig = *state;
    rig->disk->error = -28; /* ENOSPC */
    assert_int_equal(rig_do(rig, VIRTIO_BLK_T_OUT, 0, DATA, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(rig_do(rig, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_IOERR);
    rig->disk->error = 0;
    assert_int_equal(rig_do(rig, VIRTIO_BLK_T_OUT, 0, DATA, 512), VIRTIO_BLK_S_OK);
}

static void test_readonly(void **state)
{
    struct rig *rig = *state;
    assert_true(rig->virtio->features & 1u << VIRTIO_BLK_F_RO);
    assert_false(rig->virtio->features & 1u << VIRTIO_BLK_F_DISCARD);
    put_range(rig, 0, 0, 1, 0);
    assert_int_equal(rig_do(rig, VIRTIO_BLK_T_OUT, 0, DATA, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(rig_do(rig, VIRTIO_BLK_T_DISCARD, 0, DATA, 16), VIRTIO_BLK_S_IOERR);
    assert_int_equal(rig_do(rig, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
    assert_int_equal(rig_do(rig, VIRTIO_BLK_T_IN, 0, DATA, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(rig->disk->writes + rig->disk->discards, 0);
}

/* Header, data and status in pieces of any size (2.7.4.3: no assumption on framing). */
static void test_any_framing(void **state)
{
    struct rig *rig = *state;
    struct virtio_blk_outhdr header = {.type = VIRTIO_BLK_T_IN, .sector = 5};
    memcpy(rig_ram(rig, 0x8000), &header, sizeof(header));
    struct vring_desc *table = (struct vring_desc *)rig_ram(rig, RIG_INDIRECT);
    table[0] = (struct vring_desc){0x8000, 3, VRING_DESC_F_NEXT, 2};
    table[2] = (struct vring_desc){0x8003, 13, VRING_DESC_F_NEXT, 1};
    table[1] = (struct vring_desc){DATA, 500, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 3};
    table[3] = (struct vring_desc){DATA + 500, 13, VRING_DESC_F_WRITE, 0};
    *rig_descriptor(rig, 0, 7) =
        (struct vring_desc){RIG_INDIRECT, 4 * sizeof(*table), VRING_DESC_F_INDIRECT, 0};
    rig_ram(rig, DATA)[512] = 0xee;
    rig_offer(rig, 0, 7);
    rig_kick(rig, 0);
    rig_await(rig, 0, 1);
    assert_memory_equal(rig_ram(rig, DATA), rig->disk->data + 5 * 512, 512);
    assert_int_equal(rig_ram(rig, DATA)[512], VIRTIO_BLK_S_OK);
    assert_int_equal(rig_used_element(rig, 0, 0).id, 7);
}

/* Without a whole header or a status byte there is nothing to answer with. */
static void test_request_without_status(void **state)
{
    struct rig *rig = *state;
    *rig_descriptor(rig, 0, 0) = (struct vring_desc){0x8000, 16, 0, 0};
    rig_offer(rig, 0, 0);
    rig_kick(rig, 0);
    assert_true(rig_read(rig, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
    assert_true(rig_read(rig, VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG);
    rig_start(rig, rig->virtio->features);
    assert_int_equal(rig_do(rig, VIRTIO_BLK_T_IN, 0, DATA, 512), VIRTIO_BLK_S_OK);
}

/* More requests than records, on both queues: all are answered, once. */
static void test_many_requests(void **state)
{
    struct rig *rig = *state;
    for (unsigned round = 0; round < 200; round++) {
        for (unsigned queue = 0; queue < RIG_QUEUES; queue++) {
            for (unsigned i = 0; i < 5; i++) {
                gpa_t place = 0x8000 + (queue * 8 + i) * 32;
                rig_offer(rig, queue,
                          rig_request(rig, queue, place, VIRTIO_BLK_T_IN, i,
                                      DATA + (queue * 8 + i) * 512, 512));
            }
            rig_kick(rig, queue);
        }
        for (unsigned queue = 0; queue < RIG_QUEUES; queue++) {
            rig_await(rig, queue, (uint16_t)(5 * (round + 1)));
            for (unsigned i = 0; i < 5; i++) {
                assert_int_equal(*rig_ram(rig, 0x8000 + (queue * 8 + i) * 32 + 16), 0);
                assert_memory_equal(rig_ram(rig, DATA + (queue * 8 + i) * 512),
                                    rig->disk->data + i * 512, 512);
            }
        }
    }
    assert_int_equal(rig->disk->reads, 2000);
}

static void test_configuration(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(rig_read(rig, VIRTIO_MMIO_CONFIG), RIG_SECTORS);
    assert_int_equal(rig_read(rig, VIRTIO_MMIO_CONFIG + 4), 0);
    assert_int_equal(
        rig_read(rig, VIRTIO_MMIO_CONFIG + offsetof(struct virtio_blk_config, blk_size)),
        512);
    assert_int_equal(rig_read(rig, VIRTIO_MMIO_CONFIG + 32) >> 16, RIG_QUEUES);
    assert_int_equal(rig_read(rig, 0xffc), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_reads),
        TEST(test_writes),
        TEST(test_crosses_slots),
        TEST(test_flush_and_identity),
        TEST(test_discards_and_zeroes),
        TEST(test_wrong_ranges),
        TEST(test_beyond_the_end),
        TEST(test_host_errors_are_io_errors),
        cmocka_unit_test_setup_teardown(test_readonly, setup_readonly, teardown),
        TEST(test_any_framing),
        TEST(test_request_without_status),
        TEST(test_many_requests),
        TEST(test_configuration),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
