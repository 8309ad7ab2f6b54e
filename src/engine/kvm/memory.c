/* Guest memory as KVM sees it: one KVM slot for each slot of the table, and the log of
 * what the guest stored to. */

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/scope.h"
#include "engine/kvm/vcpu.h"

/* What KVM knows nothing of: the A20 gate. While it is closed the second megabyte, all
 * that code in real mode reaches of it, shows the first; the other odd ones do not show
 * what is below them, since that would take a slot for each megabyte of RAM. */
#define GATE_SIZE (1ull << 20)

gpa_t kvm_memory_bus_address(const struct engine *engine, gpa_t gpa)
{
    return gpa < 2 * GATE_SIZE ? memory_bus_address(engine->config.memory, gpa) : gpa;
}

static void note_failure(struct engine *engine, const struct kvm_slot *slot,
                         const char *what)
{
    int code = errno;
    if (engine->memory_failure.code == 0) {
        fail(&engine->memory_failure, code,
             "KVM: cannot %s guest memory at 0x%" PRIx64 ", 0x%" PRIx64 " bytes", what,
             slot->gpa, slot->size);
    }
}

static int set_region(struct engine *engine, unsigned index, const struct kvm_slot *slot,
                      bool is_present)
{
    struct kvm_userspace_memory_region region = {
        .slot = index,
        .flags = (slot->is_rom ? KVM_MEM_READONLY : 0) |
                 (engine->is_logging && !slot->is_rom ? KVM_MEM_LOG_DIRTY_PAGES : 0),
        .guest_phys_addr = slot->gpa,
        .memory_size = is_present ? slot->size : 0,
        .userspace_addr = (uintptr_t)memory_host(engine->config.memory, slot->frame),
    };
    return kvm_ioctl_pointer(engine->fd, KVM_SET_USER_MEMORY_REGION, &region);
}

/* ---- what KVM should have ---------------------------------------------------------- */

struct wanted {
    unsigned count;
    struct kvm_slot slot[KVM_SLOTS_MAX];
};

/* The part of a slot from begin to end, at the address that is `moved` higher. */
static void want(struct wanted *wanted, const struct kvm_slot *slot, gpa_t begin,
                 gpa_t end, gpa_t moved)
{
    gpa_t first = slot->gpa > begin ? slot->gpa : begin;
    gpa_t last = slot->gpa + slot->size < end ? slot->gpa + slot->size : end;
    if (first < last) {
        assert(wanted->count < KVM_SLOTS_MAX);
        struct kvm_slot *part = &wanted->slot[wanted->count++];
        *part = *slot;
        part->frame += (frame_t)((first - slot->gpa) / FRAME_SIZE);
        part->gpa = first + moved;
        part->size = last - first;
    }
}

/* Where writes go elsewhere than reads, they leave KVM as those to ROM do. */
static void find_wanted(const struct memory *memory, struct wanted *wanted)
{
    const struct slot_table *table = memory->slots;
    bool is_closed = memory_bus_address(memory, GATE_SIZE) != GATE_SIZE;
    wanted->count = 0;
    for (unsigned i = 0; i < table->count; i++) {
        const struct slot *slot = &table->slot[i];
        struct slot_target target = slot_target(slot);
        const struct kvm_slot whole = {
            .is_used = true,
            .is_rom = target.write != target.read,
            .gpa = slot->gpa,
            .size = slot->size,
            .frame = target.read,
        };
        if (target.read == FRAME_NONE) {
            continue;
        }
        if (is_closed) {
            want(wanted, &whole, 0, GATE_SIZE, 0);
            want(wanted, &whole, 0, GATE_SIZE, GATE_SIZE);
            want(wanted, &whole, 2 * GATE_SIZE, UINT64_MAX, 0);
        } else {
            want(wanted, &whole, 0, UINT64_MAX, 0);
        }
    }
}

static bool is_same(const struct kvm_slot *one, const struct kvm_slot *other)
{
    return one->gpa == other->gpa && one->size == other->size &&
           one->frame == other->frame && one->is_rom == other->is_rom;
}

static bool is_wanted(const struct wanted *wanted, const struct kvm_slot *slot)
{
    for (unsigned i = 0; i < wanted->count; i++) {
        if (is_same(&wanted->slot[i], slot)) {
            return true;
        }
    }
    return false;
}

/* ---- what it has ------------------------------------------------------------------- */

/* NULL: one that is free. */
static struct kvm_slot *find_slot(struct engine *engine, const struct kvm_slot *slot)
{
    for (unsigned i = 0; i < KVM_SLOTS_MAX; i++) {
        struct kvm_slot *candidate = &engine->slot[i];
        if (slot ? candidate->is_used && is_same(candidate, slot) : !candidate->is_used) {
            return candidate;
        }
    }
    return NULL;
}

static uint64_t bitmap_bytes(const struct kvm_slot *slot)
{
    return (slot->size / FRAME_SIZE + 63) / 64 * 8;
}

/* Adds KVM's log of a slot to the frames' own; KVM forgets it and protects the pages
 * again. Without memory for the bitmap everything counts as dirty. */
static void fetch_log(struct engine *engine, unsigned index)
{
    const struct kvm_slot *slot = &engine->slot[index];
    if (slot->is_rom) {
        return;
    }
    struct memory *memory = engine->config.memory;
    frame_t count = (frame_t)(slot->size / FRAME_SIZE);
    SCOPE_FREE uint64_t *bitmap = calloc(1, bitmap_bytes(slot));
    struct kvm_dirty_log log = {.slot = index, .dirty_bitmap = bitmap};
    if (!bitmap || kvm_ioctl_pointer(engine->fd, KVM_GET_DIRTY_LOG, &log) < 0) {
        memory_dirty_mark(memory, slot->frame, count, NULL);
        return;
    }
    memory_dirty_mark(memory, slot->frame, count, bitmap);
}

static void take_away(struct engine *engine, unsigned index)
{
    struct kvm_slot *old = &engine->slot[index];
    if (engine->is_logging && !engine->has_ring) {
        fetch_log(engine, index);
    }
    if (set_region(engine, index, old, false) < 0) {
        note_failure(engine, old, "take away");
    }
    if (engine->has_ring) {
        kvm_ring_harvest_locked(engine); /* while the number still means this slot */
    }
    old->is_used = false;
}

static void add(struct engine *engine, const struct kvm_slot *wanted)
{
    struct kvm_slot *slot = find_slot(engine, NULL);
    *slot = *wanted;
    if (set_region(engine, (unsigned)(slot - engine->slot), slot, true) < 0) {
        slot->is_used = false;
        note_failure(engine, wanted, "map");
    }
}

/* What went first, since slots of KVM must not overlap. */
static void update(struct engine *engine)
{
    struct wanted wanted;
    pthread_mutex_lock(&engine->memory_lock);
    engine->layout = engine->config.memory->layout;
    find_wanted(engine->config.memory, &wanted);
    for (unsigned i = 0; i < KVM_SLOTS_MAX; i++) {
        if (engine->slot[i].is_used && !is_wanted(&wanted, &engine->slot[i])) {
            take_away(engine, i);
        }
    }
    for (unsigned i = 0; i < wanted.count; i++) {
        if (!find_slot(engine, &wanted.slot[i])) {
            add(engine, &wanted.slot[i]);
        }
    }
    pthread_mutex_unlock(&engine->memory_lock);
}

void kvm_memory_changed(void *opaque)
{
    struct engine *engine = opaque;
    if (!engine->has_run) {
        update(engine);
        return;
    }
    for (unsigned i = 0; i < engine->config.cpus; i++) {
        if (engine->vcpu[i]) {
            kvm_kick(engine->vcpu[i], false);
        }
    }
}

void kvm_memory_follow(struct engine_vcpu *vcpu)
{
    struct engine *engine = vcpu->engine;
    if (engine->layout != engine->config.memory->layout) {
        processor_exclusive_begin(&vcpu->processor);
        update(engine);
        if (engine->memory_failure.code) {
            vcpu->failure = engine->memory_failure;
        }
        processor_exclusive_end(&vcpu->processor);
    }
}

void kvm_memory_log(void *opaque, bool is_on)
{
    struct engine *engine = opaque;
    pthread_mutex_lock(&engine->memory_lock);
    engine->is_logging = is_on;
    for (unsigned i = 0; i < KVM_SLOTS_MAX; i++) {
        const struct kvm_slot *slot = &engine->slot[i];
        if (slot->is_used && !slot->is_rom && set_region(engine, i, slot, true) < 0) {
            note_failure(engine, slot, is_on ? "log stores to" : "stop logging");
        }
    }
    pthread_mutex_unlock(&engine->memory_lock);
}

void kvm_memory_collect(void *opaque)
{
    struct engine *engine = opaque;
    pthread_mutex_lock(&engine->memory_lock);
    if (engine->has_ring) {
        kvm_ring_harvest_locked(engine);
    }
    for (unsigned i = 0; engine->is_logging && i < KVM_SLOTS_MAX; i++) {
        if (engine->slot[i].is_used && !engine->has_ring) {
            fetch_log(engine, i);
        }
    }
    pthread_mutex_unlock(&engine->memory_lock);
}
