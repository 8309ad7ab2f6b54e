#include "kvm_rig.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* KVM's slots: they follow guest memory, whatever the machine or its guest does with it.
 */

static void test_slots_follow_the_table(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(fake_kvm.region[0].memory_size, RAM_SIZE);
    int64_t frame = memory_add_frames(f->memory, 0x2000, NULL);
    assert_int_equal(
        memory_map(f->memory, 0xf0000, 0x2000, (frame_t)frame, SLOT_ROM, NULL), 0);
    assert_int_equal(fake_kvm.region[1].guest_phys_addr, 0xf0000);
    assert_int_equal(fake_kvm.region[1].flags, KVM_MEM_READONLY);
    assert_int_equal(memory_unmap(f->memory, 0xf0000, NULL), 0);
    assert_int_equal(fake_kvm.region[1].memory_size, 0);
}

static void test_slots_follow_what_they_are_switched_to(void **state)
{
    struct fixture *f = *state;
    int64_t frame = memory_add_frames(f->memory, 0x4000, NULL);
    const frame_t ram = (frame_t)frame, rom = ram + 2;
    assert_int_equal(memory_map(f->memory, 0xf0000, 0x2000, ram, SLOT_RAM, NULL), 0);
    assert_int_equal(fake_kvm.region[1].flags, 0);
    memory_switch(f->memory, 0xf0000, rom, ram);
    assert_int_equal(fake_kvm.region[1].flags, KVM_MEM_READONLY);
    assert_int_equal(fake_kvm.region[1].userspace_addr,
                     (uintptr_t)memory_host(f->memory, rom));
    memory_switch(f->memory, 0xf0000, FRAME_NONE, ram);
    assert_int_equal(fake_kvm.region[1].memory_size, 0);
    memory_switch(f->memory, 0xf0000, ram, ram);
    assert_int_equal(fake_kvm.region[1].flags, 0);
    assert_int_equal(fake_kvm.region[1].userspace_addr,
                     (uintptr_t)memory_host(f->memory, ram));
}

/* The second megabyte shows the first. */
static void test_slots_follow_the_gate(void **state)
{
    struct fixture *f = *state;
    int64_t frame = memory_add_frames(f->memory, 3 << 20, NULL);
    assert_int_equal(
        memory_map(f->memory, 1 << 20, 3 << 20, (frame_t)frame, SLOT_RAM, NULL), 0);
    assert_int_equal(fake_kvm.region[1].memory_size, 3 << 20);
    memory_set_a20(f->memory, false);
    assert_int_equal(fake_kvm.region[0].guest_phys_addr, 0);
    assert_int_equal(fake_kvm.region[0].memory_size, RAM_SIZE);
    const struct kvm_userspace_memory_region *alias = NULL, *rest = NULL;
    for (unsigned i = 1; i < 4; i++) {
        const struct kvm_userspace_memory_region *region = &fake_kvm.region[i];
        if (region->memory_size && region->guest_phys_addr == 1 << 20) {
            alias = region;
        } else if (region->memory_size) {
            rest = region;
        }
    }
    assert_non_null(alias);
    assert_int_equal(alias->memory_size, RAM_SIZE);
    assert_int_equal(alias->userspace_addr, fake_kvm.region[0].userspace_addr);
    assert_non_null(rest);
    assert_int_equal(rest->guest_phys_addr, 2 << 20);
    assert_int_equal(rest->memory_size, 2 << 20);
    memory_set_a20(f->memory, true);
    unsigned count = 0;
    for (unsigned i = 0; i < 4; i++) {
        count += fake_kvm.region[i].memory_size != 0;
    }
    assert_int_equal(count, 2);
}

static void test_dirty_log_reaches_the_frames(void **state)
{
    struct fixture *f = *state;
    uint64_t bitmap;
    memory_dirty_start(f->memory);
    assert_int_equal(fake_kvm.region[0].flags, KVM_MEM_LOG_DIRTY_PAGES);
    fake_kvm.has_dirty_page = true;
    memory_dirty_fetch(f->memory, 0, 16, &bitmap);
    assert_int_equal(bitmap, 2);
    memory_dirty_fetch(f->memory, 0, 16, &bitmap);
    assert_int_equal(bitmap, 0);
    memory_dirty_stop(f->memory);
    assert_int_equal(fake_kvm.region[0].flags, 0);
}

/* While vCPUs run, slots are exchanged between two stretches of guest code only: KVM
 * takes one away before it adds the other. */
static int expect_exchanged(struct kvm_run *run)
{
    assert_int_equal(fake_kvm.region[1].flags, KVM_MEM_READONLY);
    engine_kvm.kick(current->vcpu, true);
    return EINTR;
}

static int run_kicked(struct kvm_run *run)
{
    engine_kvm.kick(current->vcpu, true);
    return EINTR;
}

static void test_slots_change_between_stretches_of_guest_code(void **state)
{
    struct fixture *f = *state;
    int64_t frame = memory_add_frames(f->memory, 0x2000, NULL);
    assert_int_equal(
        memory_map(f->memory, 0xf0000, 0x2000, (frame_t)frame, SLOT_RAM, NULL), 0);
    fake_kvm.run = run_kicked;
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_KICKED);
    memory_switch(f->memory, 0xf0000, (frame_t)frame, FRAME_NONE);
    assert_int_equal(fake_kvm.region[1].flags, 0);
    fake_kvm.run = expect_exchanged;
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_KICKED);
    assert_int_equal(fake_kvm.region[1].flags, KVM_MEM_READONLY);
}

static int run_full(struct kvm_run *run)
{
    if (!is_first()) {
        return halt(run);
    }
    push_dirty(2, 0, 9);
    run->exit_reason = KVM_EXIT_DIRTY_RING_FULL;
    return 0;
}

static void test_dirty_ring_reaches_the_frames(void **unused)
{
    struct fixture *f = fixture_new();
    uint64_t bitmap;
    fake_kvm.has_ring = true;
    assert_true(fixture_open(f));
    memory_dirty_start(f->memory);
    push_dirty(0, 0, 3);
    push_dirty(1, 0, 5);
    memory_dirty_fetch(f->memory, 0, 16, &bitmap);
    assert_int_equal(bitmap, 1 << 3 | 1 << 5);
    assert_int_equal(fake_kvm.ring[0].flags, KVM_DIRTY_GFN_F_RESET);
    assert_int_equal(fake_kvm.ring[1].flags, KVM_DIRTY_GFN_F_RESET);
    assert_int_equal(fake_kvm.ring_resets, 1);
    memory_dirty_fetch(f->memory, 0, 16, &bitmap);
    assert_int_equal(bitmap, 0);
    assert_int_equal(fake_kvm.ring_resets, 1);
    /* A full one, and entries that name nothing. */
    fake_kvm.run = run_full;
    assert_int_equal(engine_kvm.run(f->vcpu), RUN_HALTED);
    push_dirty(3, 0, 1u << 30);
    push_dirty(4, 77, 0);
    memory_dirty_fetch(f->memory, 0, 16, &bitmap);
    assert_int_equal(bitmap, 1 << 9);
    assert_int_equal(fake_kvm.ring_resets, 3);
    memory_dirty_stop(f->memory);
    fixture_close(f);
    fixture_free(f);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_slots_follow_the_table),
        TEST(test_slots_follow_what_they_are_switched_to),
        TEST(test_slots_follow_the_gate),
        TEST(test_slots_change_between_stretches_of_guest_code),
        TEST(test_dirty_log_reaches_the_frames),
        cmocka_unit_test(test_dirty_ring_reaches_the_frames),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
