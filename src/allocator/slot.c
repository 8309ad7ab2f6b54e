/* The slot table: guest-physical ranges to frames. */
#include "allocator/memory.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* No processor has more physical address bits (SDM 3A 4.1.4). */
#define GPA_LIMIT (1ull << 52)

const struct slot *slot_find(const struct slot_table *table, gpa_t gpa)
{
    unsigned low = 0, high = table->count;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        const struct slot *slot = &table->slot[middle];
        if (gpa < slot->gpa) {
            high = middle;
        } else if (gpa - slot->gpa >= slot->size) {
            low = middle + 1;
        } else {
            return slot;
        }
    }
    return NULL;
}

const struct slot *memory_find(const struct memory *memory, gpa_t gpa)
{
    return slot_find(memory->slots, gpa);
}

frame_t memory_frame(const struct memory *memory, gpa_t gpa, bool *writable)
{
    const struct slot *slot = memory_find(memory, gpa);
    struct slot_target target = {FRAME_NONE, FRAME_NONE};
    if (slot) {
        target = slot_target(slot);
    }
    if (writable) {
        *writable = target.read != FRAME_NONE && target.read == target.write;
    }
    return target.read == FRAME_NONE
               ? FRAME_NONE
               : target.read + (frame_t)((gpa - slot->gpa) >> FRAME_SHIFT);
}

static int check_slot(const struct memory *memory, const struct slot *slot,
                      struct error *err)
{
    if (slot->gpa % FRAME_SIZE != 0 || slot->size % FRAME_SIZE != 0 || slot->size == 0) {
        return fail_plain(err, EINVAL,
                          "guest memory at 0x%" PRIx64 ", 0x%" PRIx64
                          " bytes, is not whole pages",
                          slot->gpa, slot->size);
    }
    if (slot->gpa >= GPA_LIMIT || slot->size > GPA_LIMIT - slot->gpa) {
        return fail_plain(err, EINVAL,
                          "guest memory at 0x%" PRIx64 ", 0x%" PRIx64
                          " bytes, lies beyond the physical address space",
                          slot->gpa, slot->size);
    }
    if (slot->frame > memory->frame_count ||
        slot->size / FRAME_SIZE > memory->frame_count - slot->frame) {
        return fail_plain(err, EINVAL,
                          "guest memory at 0x%" PRIx64 " would use frames that were not "
                          "added",
                          slot->gpa);
    }
    return 0;
}

/* Copies the table with the slot in its place. */
static int insert_slot(struct slot_table *table, const struct slot *slot,
                       struct error *err)
{
    if (table->count == SLOTS_MAX) {
        return fail_plain(err, ENOSPC, "too many ranges of guest memory: %u is the limit",
                          SLOTS_MAX);
    }
    unsigned at = 0;
    while (at < table->count && table->slot[at].gpa + table->slot[at].size <= slot->gpa) {
        at++;
    }
    if (at < table->count && table->slot[at].gpa < slot->gpa + slot->size) {
        return fail_plain(err, EEXIST,
                          "guest memory at 0x%" PRIx64 ", 0x%" PRIx64
                          " bytes, overlaps that at 0x%" PRIx64,
                          slot->gpa, slot->size, table->slot[at].gpa);
    }
    memmove(&table->slot[at + 1], &table->slot[at],
            (table->count - at) * sizeof(table->slot[0]));
    table->slot[at] = *slot;
    table->count++;
    return 0;
}

static int remove_slot(struct slot_table *table, gpa_t gpa, struct error *err)
{
    for (unsigned i = 0; i < table->count; i++) {
        if (table->slot[i].gpa == gpa) {
            table->count--;
            memmove(&table->slot[i], &table->slot[i + 1],
                    (table->count - i) * sizeof(table->slot[0]));
            return 0;
        }
    }
    return fail_plain(err, ENOENT, "no guest memory begins at 0x%" PRIx64, gpa);
}

static uint64_t target_of(frame_t read, frame_t write)
{
    return (uint64_t)write << 32 | read;
}

/* Whoever sees the new layout does not find the old one any more. */
static void tell_changed(struct memory *memory)
{
    atomic_fetch_add(&memory->layout, 1);
    if (memory->listener && memory->listener->changed) {
        memory->listener->changed(memory->engine_opaque);
    }
}

/* Publishes a copy of the table, changed: with the slot added, or without the one at gpa.
 * Readers take no lock, so the old table stays until the memory goes. */
static int replace_table(struct memory *memory, const struct slot *added, gpa_t gpa,
                         struct error *err)
{
    struct slot_table *table = malloc(sizeof(*table));
    if (!table) {
        return fail(err, ENOMEM, "cannot change the layout of guest memory");
    }
    pthread_mutex_lock(&memory->lock);
    struct slot_table *old = (struct slot_table *)memory->slots;
    *table = *old;
    int result = added ? check_slot(memory, added, err) : 0;
    if (result == 0) {
        result = added ? insert_slot(table, added, err) : remove_slot(table, gpa, err);
    }
    if (result == 0) {
        table->generation++;
        table->older = NULL;
        memory->slots = table;
        old->older = memory->retired;
        memory->retired = old;
    }
    pthread_mutex_unlock(&memory->lock);
    if (result < 0) {
        free(table);
    } else {
        tell_changed(memory);
    }
    return result;
}

int memory_map(struct memory *memory, gpa_t gpa, uint64_t size, frame_t frame,
               enum slot_kind kind, struct error *err)
{
    const struct slot slot = {
        .gpa = gpa,
        .size = size,
        .frame = frame,
        .kind = kind,
        .target = target_of(frame, kind == SLOT_RAM ? frame : FRAME_NONE),
    };
    return replace_table(memory, &slot, gpa, err);
}

int memory_unmap(struct memory *memory, gpa_t gpa, struct error *err)
{
    return replace_table(memory, NULL, gpa, err);
}

static bool has_run(const struct memory *memory, frame_t first, uint64_t size)
{
    return first == FRAME_NONE || (first <= memory->frame_count &&
                                   size / FRAME_SIZE <= memory->frame_count - first);
}

void memory_switch(struct memory *memory, gpa_t gpa, frame_t read, frame_t write)
{
    pthread_mutex_lock(&memory->lock);
    struct slot *slot = (struct slot *)memory_find(memory, gpa);
    assert(slot && slot->gpa == gpa && has_run(memory, read, slot->size) &&
           has_run(memory, write, slot->size));
    uint64_t target = target_of(read, write);
    bool is_other = atomic_exchange(&slot->target, target) != target;
    pthread_mutex_unlock(&memory->lock);
    if (is_other) {
        tell_changed(memory);
    }
}

#define A20 (1ull << 20)

void memory_set_a20(struct memory *memory, bool is_open)
{
    gpa_t mask = is_open ? ~0ull : ~A20;
    if (atomic_exchange(&memory->bus_mask, mask) != mask) {
        tell_changed(memory);
    }
}
