#pragma once
/* A small guest memory: RAM at 0 (16 pages) and at 4 GiB (8 pages), ROM below it (4). */

#include <assert.h>

#include "allocator/memory.h"

#define RAM_PAGES  16u
#define ROM_PAGES  4u
#define HIGH_PAGES 8u
#define HIGH_BASE  (1ull << 32)
#define ROM_BASE   (HIGH_BASE - ROM_PAGES * FRAME_SIZE)
#define RAM_SIZE   ((uint64_t)RAM_PAGES * FRAME_SIZE)
#define HIGH_SIZE  ((uint64_t)HIGH_PAGES * FRAME_SIZE)
#define ALL_PAGES  (RAM_PAGES + ROM_PAGES + HIGH_PAGES)

static struct memory *memory;

static inline int memory_setup(void **unused)
{
    memory = memory_new((ALL_PAGES + 100ull) * FRAME_SIZE, NULL);
    assert(memory);
    const int64_t low = memory_add_frames(memory, RAM_SIZE, NULL);
    const int64_t rom = memory_add_frames(memory, ROM_PAGES * FRAME_SIZE, NULL);
    const int64_t high = memory_add_frames(memory, HIGH_SIZE, NULL);
    return memory_map(memory, HIGH_BASE, HIGH_SIZE, (frame_t)high, SLOT_RAM, NULL) |
           memory_map(memory, 0, RAM_SIZE, (frame_t)low, SLOT_RAM, NULL) |
           memory_map(memory, ROM_BASE, ROM_PAGES * FRAME_SIZE, (frame_t)rom, SLOT_ROM,
                      NULL);
}

static inline int memory_teardown(void **unused)
{
    memory_free(memory);
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, memory_setup, memory_teardown)
