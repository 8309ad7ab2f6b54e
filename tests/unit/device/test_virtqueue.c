/* Rings that are wrong in every way there is: the queue is refused, not followed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <errno.h>

#include "virtio_rig.h"

#include <cmocka.h>

#define PIECES 40
#define NEXT   VRING_DESC_F_NEXT
#define WRITE  VRING_DESC_F_WRITE
#define TABLE  VRING_DESC_F_INDIRECT

/* A queue of 16 in the rig's memory, without the device. */
struct bench {
    struct rig rig;
    struct virtqueue queue;
    struct virtqueue_chain chain;
    struct iovec iov[PIECES];
};

static int setup(void **state)
{
    static struct bench bench;
    rig_init(&bench.rig, false);
    bench.queue = (struct virtqueue){.memory = bench.rig.memory,
                                     .has_indirect = true,
                                     .descriptors = RIG_RINGS,
                                     .driver = RIG_RINGS + 0x1000,
                                     .device = RIG_RINGS + 0x2000,
                                     .size = RIG_QUEUE_SIZE,
                                     .is_ready = 1};
    bench.rig.next[0] = 0;
    bench.chain = (struct virtqueue_chain){.iov = bench.iov, .iov_max = PIECES};
    *state = &bench;
    return 0;
}

static int teardown(void **state)
{
    rig_fini(&((struct bench *)*state)->rig);
    return 0;
}

static int pop(struct bench *bench)
{
    const char *problem = NULL;
    int result = virtqueue_pop(&bench->queue, &bench->chain, &problem);
    assert_int_equal(result < 0, problem != NULL);
    return result;
}

struct chain_case {
    const char *name;
    struct vring_desc direct[4], indirect[4];
    int result;
};

static const struct chain_case chain_cases[] = {
    {"one", {{0x100, 8, 0, 0}}, {{0}}, 1},
    {"empty buffer", {{UINT64_MAX, 0, 0, 0}}, {{0}}, 1},
    {"two", {{0x100, 8, NEXT, 1}, {0x100, 8, WRITE, 0}}, {{0}}, 1},
    {"readable after writable",
     {{0x100, 8, NEXT | WRITE, 1}, {0x100, 8, 0, 0}},
     {{0}},
     -EPROTO},
    {"itself again", {{0x100, 8, NEXT, 0}}, {{0}}, -EPROTO},
    {"loop of two", {{0x100, 8, NEXT, 1}, {0x100, 8, NEXT, 0}}, {{0}}, -EPROTO},
    {"next out of range", {{0x100, 8, NEXT, 16}}, {{0}}, -EPROTO},
    {"not RAM", {{1ull << 40, 8, 0, 0}}, {{0}}, -EPROTO},
    {"runs out of RAM", {{RIG_RAM + RIG_ROM_SIZE - 8, 9, 0, 0}}, {{0}}, -EPROTO},
    {"wraps around", {{UINT64_MAX - 7, 16, 0, 0}}, {{0}}, -EPROTO},
    {"huge", {{0, UINT32_MAX, 0, 0}}, {{0}}, -EPROTO},
    {"ROM is read", {{RIG_ROM, 8, 0, 0}}, {{0}}, 1},
    {"ROM is not written", {{RIG_ROM, 8, WRITE, 0}}, {{0}}, -EPROTO},
    {"indirect",
     {{RIG_INDIRECT, 32, TABLE, 0}},
     {{0x100, 8, NEXT, 1}, {0x200, 8, WRITE, 0}},
     1},
    {"direct, then indirect",
     {{0x100, 8, NEXT, 1}, {RIG_INDIRECT, 16, TABLE, 0}},
     {{0x100, 8, WRITE, 0}},
     1},
    {"indirect in indirect",
     {{RIG_INDIRECT, 16, TABLE, 0}},
     {{RIG_INDIRECT, 16, TABLE, 0}},
     -EPROTO},
    {"indirect with next",
     {{RIG_INDIRECT, 16, TABLE | NEXT, 1}},
     {{0x100, 8, 0, 0}},
     -EPROTO},
    {"empty table", {{RIG_INDIRECT, 0, TABLE, 0}}, {{0}}, -EPROTO},
    {"half a descriptor", {{RIG_INDIRECT, 24, TABLE, 0}}, {{0x100, 8, 0, 0}}, -EPROTO},
    {"table larger than the queue",
     {{RIG_INDIRECT, 17 * 16, TABLE, 0}},
     {{0x100, 8, 0, 0}},
     -EPROTO},
    {"table's loop",
     {{RIG_INDIRECT, 32, TABLE, 0}},
     {{0x100, 8, NEXT, 1}, {0x100, 8, NEXT, 0}},
     -EPROTO},
    {"table's next out of range",
     {{RIG_INDIRECT, 16, TABLE, 0}},
     {{0x100, 8, NEXT, 1}},
     -EPROTO},
    {"table not in RAM", {{1ull << 40, 16, TABLE, 0}}, {{0}}, -EPROTO},
    {"table wraps around", {{UINT64_MAX - 15, 32, TABLE, 0}}, {{0}}, -EPROTO},
};

static void test_chains(void **state)
{
    struct bench *bench = *state;
    for (unsigned i = 0; i < array_size(chain_cases); i++) {
        const struct chain_case *test = &chain_cases[i];
        memcpy(rig_descriptor(&bench->rig, 0, 0), test->direct, sizeof(test->direct));
        memcpy(rig_ram(&bench->rig, RIG_INDIRECT), test->indirect,
               sizeof(test->indirect));
        bench->queue.next_avail = bench->rig.next[0];
        uint16_t before = bench->queue.next_avail;
        rig_offer(&bench->rig, 0, 0);
        int result = pop(bench);
        if (result != test->result) {
            fail_msg("%s: %d instead of %d", test->name, result, test->result);
        }
        assert_int_equal(bench->queue.next_avail - before, result == 1);
    }
}

static void test_without_indirect(void **state)
{
    struct bench *bench = *state;
    bench->queue.has_indirect = false;
    *rig_descriptor(&bench->rig, 0, 0) = (struct vring_desc){RIG_INDIRECT, 16, TABLE, 0};
    rig_offer(&bench->rig, 0, 0);
    assert_int_equal(pop(bench), -EPROTO);
}

static void test_longest_chain(void **state)
{
    struct bench *bench = *state;
    for (uint16_t i = 0; i < RIG_QUEUE_SIZE; i++) {
        *rig_descriptor(&bench->rig, 0, i) = (struct vring_desc){
            0x1000, 4, i + 1u < RIG_QUEUE_SIZE ? NEXT : 0, (uint16_t)(i + 1)};
    }
    rig_offer(&bench->rig, 0, 0);
    assert_int_equal(pop(bench), 1);
    assert_int_equal(bench->chain.readable, RIG_QUEUE_SIZE);
    assert_int_equal(bench->chain.readable_size, 4 * RIG_QUEUE_SIZE);
    /* Each may lie in two slots: then there are more pieces than there is room for. */
    bench->chain.iov_max = RIG_QUEUE_SIZE;
    rig_descriptor(&bench->rig, 0, 0)->addr = RIG_SEAM - 1;
    rig_offer(&bench->rig, 0, 0);
    assert_int_equal(pop(bench), -EPROTO);
}

static void test_indexes(void **state)
{
    struct bench *bench = *state;
    uint16_t *avail = rig_avail(&bench->rig, 0);
    assert_int_equal(pop(bench), 0);
    avail[1] = RIG_QUEUE_SIZE + 1;
    assert_int_equal(pop(bench), -EPROTO);
    avail[1] = UINT16_MAX; /* backwards */
    assert_int_equal(pop(bench), -EPROTO);
    avail[1] = 1;
    avail[2] = RIG_QUEUE_SIZE; /* a head out of range */
    assert_int_equal(pop(bench), -EPROTO);
    /* The indexes wrap at 65536. */
    bench->queue.next_avail = UINT16_MAX;
    *rig_descriptor(&bench->rig, 0, 3) = (struct vring_desc){0x100, 8, WRITE, 0};
    avail[2 + 15] = avail[2] = 3;
    avail[1] = 1;
    bench->queue.next_used = UINT16_MAX;
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(pop(bench), 1);
        assert_true(virtqueue_push(&bench->queue, &bench->chain, 5));
    }
    assert_int_equal(rig_used(&bench->rig, 0)[1], 1);
    assert_int_equal(rig_used_element(&bench->rig, 0, 15).len, 5);
    assert_int_equal(rig_used_element(&bench->rig, 0, 0).id, 3);
}

/* 2.7.10: asked for when there is nothing left, and not before. */
static void test_notification_is_asked_for(void **state)
{
    struct bench *bench = *state;
    bench->queue.has_event_index = true;
    const uint16_t *avail_event =
        (uint16_t *)((uint8_t *)rig_used(&bench->rig, 0) + 4 + 8 * RIG_QUEUE_SIZE);
    *rig_descriptor(&bench->rig, 0, 0) = (struct vring_desc){0x100, 8, 0, 0};
    rig_offer(&bench->rig, 0, 0);
    assert_int_equal(pop(bench), 1);
    assert_int_equal(*avail_event, 0);
    assert_int_equal(pop(bench), 0);
    assert_int_equal(*avail_event, 1);
}

/* 2.7.7.1, over the wrap-around: an interrupt when the index passes used_event. */
static void test_event_index(void **state)
{
    struct bench *bench = *state;
    uint16_t *used_event = &rig_avail(&bench->rig, 0)[2 + RIG_QUEUE_SIZE];
    static const struct {
        uint16_t before, after, event;
        bool is_wanted;
    } cases[] = {
        {0, 1, 0, true},     {0, 1, 1, false},           {0, 3, 2, true},
        {0, 3, 3, false},    {3, 5, 2, false},           {65535, 0, 65535, true},
        {65534, 2, 0, true}, {65534, 2, 2, false},       {65534, 2, 65533, false},
        {10, 10, 10, false}, {100, 101, 100 - 1, false},
    };
    bench->queue.has_event_index = true;
    for (unsigned i = 0; i < array_size(cases); i++) {
        bench->queue.signalled_used = cases[i].before;
        bench->queue.has_signalled = 1;
        bench->queue.next_used = cases[i].after;
        *used_event = cases[i].event;
        assert_int_equal(virtqueue_wants_interrupt(&bench->queue), cases[i].is_wanted);
        assert_int_equal(bench->queue.signalled_used, cases[i].after);
    }
}

/* Memory that the guest had decoded as code, or that is logged, is told. */
static void test_writes_are_noticed(void **state)
{
    struct bench *bench = *state;
    uint64_t dirty[4] = {0};
    frame_t frame = memory_frame(bench->rig.memory, 0x5000, NULL);
    *rig_descriptor(&bench->rig, 0, 0) = (struct vring_desc){0x5000, 100, WRITE, 0};
    rig_offer(&bench->rig, 0, 0);
    memory_dirty_start(bench->rig.memory);
    uint32_t version = memory_code_watch(bench->rig.memory, frame, 64, 1);
    assert_int_equal(pop(bench), 1);
    assert_true(virtqueue_push(&bench->queue, &bench->chain, 100));
    uint64_t entry = bench->rig.memory->frame[frame];
    assert_int_not_equal(FRAME_VERSION(entry), version);
    memory_dirty_fetch(bench->rig.memory, 0, 256, dirty);
    assert_true(dirty[frame / 64] >> frame % 64 & 1);
    frame_t ring = memory_frame(bench->rig.memory, bench->queue.device, NULL);
    assert_true(dirty[ring / 64] >> ring % 64 & 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_chains),
        TEST(test_without_indirect),
        TEST(test_longest_chain),
        TEST(test_indexes),
        TEST(test_event_index),
        TEST(test_notification_is_asked_for),
        TEST(test_writes_are_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
