#include "interpreter/hold.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

/* Where entries for stores to a frame may be: in any view, at these indices. A frame is
 * stored to by few addresses between two times that it becomes code: a kernel's own and
 * a process's, mostly. */
#define PLACES_MAX 3

struct places {
    uint16_t count; /* more than PLACES_MAX: anywhere */
    uint16_t index[PLACES_MAX];
};

struct hold {
    size_t size;
    struct places frame[];
};

int hold_begin(struct cpu *cpu, struct error *err)
{
    size_t size = sizeof(struct hold) +
                  (size_t)cpu->memory->frame_limit * sizeof(cpu->hold->frame[0]);
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        return fail(err, errno, "cannot make a virtual processor's table of stores");
    }
    cpu->hold = memory;
    cpu->hold->size = size;
    cpu_flush_all(cpu);
    return 0;
}

void hold_end(struct cpu *cpu)
{
    if (cpu->hold) {
        munmap(cpu->hold, cpu->hold->size);
        cpu->hold = NULL;
    }
}

static void note_place(struct places *places, unsigned index)
{
    unsigned i = 0;
    while (i < places->count && i < PLACES_MAX && places->index[i] != index) {
        i++;
    }
    if (i < PLACES_MAX) {
        places->index[i] = (uint16_t)index;
    }
    places->count = i < places->count ? places->count : (uint16_t)(i + 1);
}

static void set_held(struct tlb_area *area, unsigned index, bool is_held)
{
    uint64_t bit = 1ull << index % 64;
    uint64_t others = area->held[index / 64] & ~bit;
    area->held[index / 64] = others | (is_held ? bit : 0);
}

static bool is_watched(const struct tlb_entry *entry)
{
    return *entry->frame & FRAME_WATCH_ANY;
}

static void let_through(struct cpu *cpu, struct tlb_area *area, unsigned index)
{
    struct tlb_entry *entry = &area->entry[index];
    frame_t frame = (frame_t)(entry->frame - cpu->memory->frame);
    entry->write = entry->read;
    set_held(area, index, false);
    note_place(&cpu->hold->frame[frame], index);
}

static void hold_back(struct tlb_area *area, unsigned index)
{
    area->entry[index].write = cpu_never(index);
    set_held(area, index, true);
}

void hold_fill(struct cpu *cpu, struct tlb_area *area, unsigned index)
{
    const struct tlb_entry *entry = &area->entry[index];
    if (entry->write == cpu_never(index)) {
        set_held(area, index, false);
    } else if (is_watched(entry)) {
        hold_back(area, index);
    } else {
        let_through(cpu, area, index);
    }
}

bool hold_find(struct cpu *cpu, struct tlb_area *area, gva_t gva)
{
    unsigned index = gva >> FRAME_SHIFT & (TLB_SIZE - 1);
    const struct tlb_entry *entry = &area->entry[index];
    if (!(area->held[index / 64] >> index % 64 & 1) || gva - entry->read >= FRAME_SIZE) {
        return false;
    }
    if (!is_watched(entry)) {
        let_through(cpu, area, index);
    }
    return true;
}

/* Of the frame with that entry, at an index of all views; or at any. */
static void hold_index(struct cpu *cpu, const _Atomic uint64_t *frame, unsigned index)
{
    for (unsigned i = 0; i < TLB_CONTEXTS * TLB_VIEWS; i++) {
        struct tlb_area *area = &cpu->tlb_contexts[i / TLB_VIEWS].view[i % TLB_VIEWS];
        const struct tlb_entry *entry = &area->entry[index];
        if (area->is_ready && entry->frame == frame && entry->write != cpu_never(index)) {
            hold_back(area, index);
        }
    }
}

void hold_frame(struct cpu *cpu, frame_t frame)
{
    const _Atomic uint64_t *entry = &cpu->memory->frame[frame];
    struct places *places = &cpu->hold->frame[frame];
    bool is_anywhere = places->count > PLACES_MAX;
    unsigned count = is_anywhere ? TLB_SIZE : places->count;
    for (unsigned i = 0; count && i < TLB_CONTEXTS * TLB_VIEWS; i++) {
        struct tlb_area *area = &cpu->tlb_contexts[i / TLB_VIEWS].view[i % TLB_VIEWS];
        if (area->stack.frame == entry) {
            cpu_clear_stack(area);
        }
    }
    for (unsigned i = 0; i < count; i++) {
        hold_index(cpu, entry, is_anywhere ? i : places->index[i]);
    }
    places->count = 0;
}
