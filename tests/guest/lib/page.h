/* Page tables: the first 4 GiB mapped to themselves for ring 0 by 2M pages, ring 3's code
 * and stack, and whatever a test maps beyond. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define PTE_P       (1ull << 0)
#define PTE_W       (1ull << 1)
#define PTE_U       (1ull << 2)
#define PTE_PWT     (1ull << 3)
#define PTE_PCD     (1ull << 4)
#define PTE_A       (1ull << 5)
#define PTE_D       (1ull << 6)
#define PTE_PS      (1ull << 7)
#define PTE_G       (1ull << 8)
#define PTE_NX      (1ull << 63)
#define PTE_ADDRESS 0x000ffffffffff000ull

#define PAGE_SIZE   0x1000ull
#define PAGE_2M     0x200000ull
#define PAGE_1G     0x40000000ull

#define PF_P        1u
#define PF_W        2u
#define PF_U        4u
#define PF_RSVD     8u
#define PF_I        16u

extern uint64_t kernel_pml4[512];

void page_setup(void);

/* A zeroed page of RAM, mapped to itself; never given back. */
void *page_new(void);

/* Contiguous zeroed RAM, aligned to its size (a power of two). */
void *page_new_run(uint64_t size);

/* The entry for an address at a level (1 for 4K pages, 2 for 2M, 3 for 1G, 4), in the
 * tables that start at pml4; missing tables are made, permitting everything. */
uint64_t *page_entry(uint64_t *pml4, uint64_t address, unsigned level);

/* Maps one page of the level's size in kernel_pml4 and invalidates what was there. */
void page_map(uint64_t address, uint64_t physical, uint64_t flags, unsigned level);
