#pragma once
/* Guest memory by virtual address, as a debugger reads and writes it: present is enough,
 * no accessed bits, no faults. */

#include "allocator/memory.h"
#include "x86/state.h"

/* What translation depends on. */
struct virtual_space {
    struct memory *memory;
    const struct x86_state *state; /* NULL: addresses are physical */
    uint8_t physical_bits;         /* MAXPHYADDR */
};

/* x86_pdptes_load from guest memory. */
bool virtual_load_pdptes(struct memory *memory, uint64_t cr3, uint8_t physical_bits,
                         uint64_t pdpte[4]);
bool virtual_translate(const struct virtual_space *space, gva_t gva, gpa_t *gpa);
/* From a linear address on; both return how many bytes could be had, up to the first that
 * has no page or no RAM. */
size_t virtual_read(const struct virtual_space *space, gva_t gva, void *buffer,
                    size_t size);
size_t virtual_write(const struct virtual_space *space, gva_t gva, const void *buffer,
                     size_t size);
