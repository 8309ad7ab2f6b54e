/* Guest memory as KVM sees it: one KVM slot for each slot of the table, and the log of
 * what the guest stored to. */

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/scope.h"
#include "engine/kvm/vcpu.h"

static void note_failure(struct engine *engine, const struct slot *slot, const char *what)
{
    int code = errno;
    if (engine->memory_failure.code == 0) {
        fail(&engine->memory_failure, code,
             "KVM: cannot %s guest memory at 0x%" PRIx64 ", 0x%" PRIx64 " bytes", what,
             slot->gpa, slot->size);
    }
}

static int set_region(struct engine *engine, unsigned index, const struct slot *slot,
                      bool is_present)
{
    bool is_rom = slot->kind == SLOT_ROM;
    struct kvm_userspace_memory_region region = {
        .slot = index,
        .flags = (is_rom ? KVM_MEM_READONLY : 0) |
                 (engine->is_logging && !is_rom ? KVM_MEM_LOG_DIRTY_PAGES : 0),
        .guest_phys_addr = slot->gpa,
        .memory_size = is_present ? slot->size : 0,
        .userspace_addr = (uintptr_t)memory_host(engine->config.memory, slot->frame),
    };
    return kvm_ioctl_pointer(engine->fd, KVM_SET_USER_MEMORY_REGION, &region);
}

static bool is_same(const struct slot *one, const struct slot *other)
{
    return one->gpa == other->gpa && one->size == other->size &&
           one->frame == other->frame && one->kind == other->kind;
}

static bool table_has(const struct slot_table *table, const struct slot *slot)
{
    for (unsigned i = 0; i < table->count; i++) {
        if (is_same(&table->slot[i], slot)) {
            return true;
        }
    }
    return false;
}

static struct kvm_slot *find_slot(struct engine *engine, const struct slot *slot)
{
    for (unsigned i = 0; i < SLOTS_MAX; i++) {
        if (slot ? engine->slot[i].is_used && is_same(&engine->slot[i].slot, slot)
                 : !engine->slot[i].is_used) {
            return &engine->slot[i];
        }
    }
    return NULL;
}

static uint64_t bitmap_bytes(const struct slot *slot)
{
    return (slot->size / FRAME_SIZE + 63) / 64 * 8;
}

/* Adds KVM's log of a slot to the frames' own; KVM forgets it and protects the pages
 * again. Without memory for the bitmap everything counts as dirty. */
static void fetch_log(struct engine *engine, unsigned index)
{
    const struct slot *slot = &engine->slot[index].slot;
    if (slot->kind == SLOT_ROM) {
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

/* What went first, since slots of KVM must not overlap. An access in between leaves KVM
 * as MMIO, and the exit finds the memory itself. */
void kvm_memory_changed(void *opaque)
{
    struct engine *engine = opaque;
    pthread_mutex_lock(&engine->memory_lock);
    const struct slot_table *table = engine->config.memory->slots;
    for (unsigned i = 0; i < SLOTS_MAX; i++) {
        struct kvm_slot *old = &engine->slot[i];
        if (!old->is_used || table_has(table, &old->slot)) {
            continue;
        }
        if (engine->is_logging && !engine->has_ring) {
            fetch_log(engine, i);
        }
        if (set_region(engine, i, &old->slot, false) < 0) {
            note_failure(engine, &old->slot, "take away");
        }
        if (engine->has_ring) {
            kvm_ring_harvest_locked(engine); /* while the number still means this slot */
        }
        old->is_used = false;
    }
    for (unsigned i = 0; i < table->count; i++) {
        if (find_slot(engine, &table->slot[i])) {
            continue;
        }
        struct kvm_slot *slot = find_slot(engine, NULL);
        *slot = (struct kvm_slot){true, table->slot[i]};
        if (set_region(engine, (unsigned)(slot - engine->slot), &slot->slot, true) < 0) {
            slot->is_used = false;
            note_failure(engine, &table->slot[i], "map");
        }
    }
    pthread_mutex_unlock(&engine->memory_lock);
}

void kvm_memory_log(void *opaque, bool is_on)
{
    struct engine *engine = opaque;
    pthread_mutex_lock(&engine->memory_lock);
    engine->is_logging = is_on;
    for (unsigned i = 0; i < SLOTS_MAX; i++) {
        const struct kvm_slot *slot = &engine->slot[i];
        if (slot->is_used && slot->slot.kind != SLOT_ROM &&
            set_region(engine, i, &slot->slot, true) < 0) {
            note_failure(engine, &slot->slot, is_on ? "log stores to" : "stop logging");
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
    for (unsigned i = 0; engine->is_logging && i < SLOTS_MAX; i++) {
        if (engine->slot[i].is_used && !engine->has_ring) {
            fetch_log(engine, i);
        }
    }
    pthread_mutex_unlock(&engine->memory_lock);
}
