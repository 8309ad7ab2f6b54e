#include "allocator/virtual.h"

#include "x86/paging.h"

static void *walk_entry(void *opaque, gpa_t gpa)
{
    struct memory *memory = opaque;
    gpa = memory_bus_address(memory, gpa);
    frame_t frame = memory_frame(memory, gpa, NULL);
    return frame == FRAME_NONE ? NULL : memory_host(memory, frame) + gpa % FRAME_SIZE;
}

bool virtual_load_pdptes(struct memory *memory, uint64_t cr3, uint8_t physical_bits,
                         uint64_t pdpte[4])
{
    const struct x86_walk_memory window = {.entry = walk_entry, .opaque = memory};
    return x86_pdptes_load(&window, cr3, physical_bits, pdpte);
}

bool virtual_translate(const struct virtual_space *space, gva_t gva, gpa_t *gpa)
{
    const struct x86_state *state = space->state;
    if (!state) {
        *gpa = gva;
        return true;
    }
    struct x86_walk_context context = {
        .cr0 = state->cr0,
        .cr3 = state->cr3,
        .cr4 = state->cr4,
        .efer = state->efer,
        .pdpte = state->pdpte,
        .physical_bits = space->physical_bits,
    };
    struct x86_walk_memory memory = {.entry = walk_entry, .opaque = space->memory};
    struct x86_translation translation;
    if (!x86_canonical(gva) || !x86_walk_peek(&context, &memory, gva, &translation)) {
        return false;
    }
    *gpa = memory_bus_address(space->memory, translation.gpa);
    return true;
}

/* The bytes from gva on that one translation covers. */
static size_t part_of(gva_t gva, size_t size)
{
    size_t room = FRAME_SIZE - gva % FRAME_SIZE;
    return size < room ? size : room;
}

size_t virtual_read(const struct virtual_space *space, gva_t gva, void *buffer,
                    size_t size)
{
    size_t done = 0;
    gpa_t gpa;
    while (done < size && virtual_translate(space, gva + done, &gpa)) {
        size_t part = part_of(gva + done, size - done);
        if (!ram_read(space->memory, gpa, (uint8_t *)buffer + done, part)) {
            break;
        }
        done += part;
    }
    return done;
}

size_t virtual_write(const struct virtual_space *space, gva_t gva, const void *buffer,
                     size_t size)
{
    size_t done = 0;
    gpa_t gpa;
    while (done < size && virtual_translate(space, gva + done, &gpa)) {
        size_t part = part_of(gva + done, size - done);
        if (!ram_write(space->memory, gpa, (const uint8_t *)buffer + done, part)) {
            break;
        }
        done += part;
    }
    return done;
}
