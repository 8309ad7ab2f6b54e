#pragma once
/*
 * Guest memory. A frame is a 4 KiB page of one memfd, named by its index; its host
 * address never changes during the VM's life. Slots map guest-physical ranges to runs of
 * frames, reads and writes apart (ROM: no write target; one frame may appear at several
 * guest-physical addresses). Everything known about a page is keyed by frame.
 *
 * Threads: the slot table is replaced as a whole and read without a lock; frame entries
 * are atomic.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "x86/state.h"

#define FRAME_SHIFT 12
#define FRAME_SIZE  4096u
#define FRAME_NONE  UINT32_MAX

typedef uint32_t frame_t;

/* Frame entry: bits 0-7 state, 8-15 reasons for which stores must be noticed, 32-63 code
 * version. */
enum frame_state {
    FRAME_RESIDENT = 0,
    FRAME_HOLE,
    FRAME_FILL,
    FRAME_POOL,
    FRAME_PATCH,
    FRAME_COMPRESSED,
    FRAME_SWAPPED,
    FRAME_BALLOON
};
#define FRAME_WATCH_CODE     (1ull << 8) /* code decoded or translated from it */
#define FRAME_WATCH_DIRTY    (1ull << 9) /* dirty logging is armed for it */
#define FRAME_WATCH_ANY      (0xffull << 8)
#define FRAME_VERSION(entry) ((uint32_t)((entry) >> 32))

enum slot_kind {
    SLOT_RAM,
    SLOT_ROM, /* writes are discarded */
};

struct slot {
    gpa_t gpa; /* multiples of FRAME_SIZE */
    uint64_t size;
    frame_t frame; /* first frame; the run is contiguous, in the memfd and in the host's
                      address space */
    enum slot_kind kind;
    /* Where reads (low half) and writes (high half) go now: the first frame of a run, or
     * FRAME_NONE. As frame and kind say until memory_switch changes it. */
    _Atomic uint64_t target;
};

/* The first frame that reads and writes of a slot reach, from one look. */
struct slot_target {
    frame_t read, write;
};

static inline struct slot_target slot_target(const struct slot *slot)
{
    uint64_t target = slot->target;
    return (struct slot_target){(frame_t)target, (frame_t)(target >> 32)};
}

#define SLOTS_MAX 64

struct slot_table {
    unsigned count;
    uint64_t generation;
    struct slot_table *older;    /* of the retired tables */
    struct slot slot[SLOTS_MAX]; /* sorted by gpa, disjoint */
};

#define MEMORY_CODE_LOCKS 64
#define POPULATE_FRAMES   16u

struct memory_listener;

struct memory {
    pthread_mutex_t lock; /* whoever adds frames or replaces the slot table */
    int fd;               /* the memfd */
    uint8_t *base;        /* frame f is at base + f * FRAME_SIZE, PROT_READ | PROT_WRITE,
                             MAP_SHARED */
    frame_t frame_count;
    frame_t frame_limit;
    _Atomic uint64_t *frame; /* one entry per frame */
    /* Per frame: which of its 64-byte lines hold decoded code. */
    _Atomic uint64_t *code_lines;
    pthread_mutex_t code_lock[MEMORY_CODE_LOCKS]; /* by frame; see code.c */
    _Atomic uint64_t *dirty; /* one bit per frame; see memory_dirty_start */
    _Atomic bool dirty_logging;
    _Atomic uint64_t *populated; /* one bit per POPULATE_FRAMES; see memory_populate */
    const struct slot_table *_Atomic slots;
    /* Advances whenever another frame may be at an address of the guest's, or none. */
    _Atomic uint64_t layout;
    /* What processors put of an address on the bus: all of it, or not A20. */
    _Atomic gpa_t bus_mask;
    /* Tables replaced but perhaps still read; freed with the memory. */
    struct slot_table *retired;
    /* Brings in a saved VM's pages as they are touched; NULL: all are there. */
    struct memory_loader *loader;
    const struct memory_listener *listener; /* NULL: none */
    void *engine_opaque;
};

/* What an engine hears of its VM's memory; functions that it does not need are NULL. No
 * lock of the memory's is held. */
struct memory_listener {
    /* The layout changed. On any thread, perhaps with a device's lock held. */
    void (*changed)(void *opaque);
    /* For engines that do not look at frame entries when the guest stores, or only while
     * guest code does not run: the dirty log starts or stops; and before it is fetched,
     * to mark what was stored to since. */
    void (*log)(void *opaque, bool is_on);
    void (*collect)(void *opaque);
    /* A store of these bytes hit code of this frame, whose version has advanced. On any
     * thread. The lines that are watched are still: whoever takes this decides which of
     * what was decoded holds, and calls memory_code_forget when nothing does. NULL:
     * nothing holds. */
    void (*code_changed)(void *opaque, frame_t frame, unsigned offset, unsigned size);
    /* Stores to a frame have to be noticed that had not to be: who is about to decode
     * code of it says so, on his own thread. The frame's code lock is held. */
    void (*code_watched)(void *opaque, frame_t frame);
};

/* One engine at a time, NULL: none; before guest code runs, or after. */
void memory_set_engine(struct memory *memory, const struct memory_listener *listener,
                       void *opaque);

/*
 * Makes an address space with room for up to limit bytes of frames (RAM and ROM
 * together). Nothing is resident until touched. Fails naming the cause (address space,
 * memfd support, overcommit).
 */
struct memory *memory_new(uint64_t limit, struct error *err);
void memory_free(struct memory *memory);

/* Takes the next size / FRAME_SIZE frames, all zero; returns the first, or a negative
 * errno. size is a multiple of FRAME_SIZE and not 0. */
int64_t memory_add_frames(struct memory *memory, uint64_t size, struct error *err);
/* Publishes a slot table with this slot added; it must not overlap another. */
int memory_map(struct memory *memory, gpa_t gpa, uint64_t size, frame_t frame,
               enum slot_kind kind, struct error *err);
int memory_unmap(struct memory *memory, gpa_t gpa, struct error *err);
/*
 * Changes what the slot that begins at gpa is, at any time and as often as the guest
 * likes: the first frames of the runs that reads and writes reach from now on, or
 * FRAME_NONE: nobody answers. Where they differ writes leave the engine, and the
 * dispatcher stores them.
 */
void memory_switch(struct memory *memory, gpa_t gpa, frame_t read, frame_t write);
/* The A20 gate, open at first: closed it keeps bit 20 of every address of the processors
 * low (not of devices). */
void memory_set_a20(struct memory *memory, bool is_open);

/* What a processor's access to an address reaches the bus with. */
static inline gpa_t memory_bus_address(const struct memory *memory, gpa_t gpa)
{
    return gpa & atomic_load_explicit(&memory->bus_mask, memory_order_relaxed);
}

/* The slot of that table that holds gpa, or NULL. */
const struct slot *slot_find(const struct slot_table *table, gpa_t gpa);
/* The slot that holds gpa, or NULL; valid as long as the memory lives, though another
 * table may have replaced it. */
const struct slot *memory_find(const struct memory *memory, gpa_t gpa);
/* The frame that reads at gpa reach, or FRAME_NONE; *writable: writes reach it, too (may
 * be NULL). gpa is as on the bus. */
frame_t memory_frame(const struct memory *memory, gpa_t gpa, bool *writable);

static inline uint8_t *memory_host(const struct memory *memory, frame_t frame)
{
    return memory->base + (uint64_t)frame * FRAME_SIZE;
}

/*
 * DMA. ram_map returns the host address of [gpa, gpa + size) if all of it is RAM in one
 * slot (for is_write, not ROM), else NULL: a device is never re-entered by another's DMA.
 * ram_unmap marks what was written dirty and drops code decoded from it; call it before
 * the completion is visible to the guest. size 0 is never mapped.
 */
void *ram_map(struct memory *memory, gpa_t gpa, uint64_t size, bool is_write);
void ram_unmap(struct memory *memory, void *host, uint64_t written);
/* Copies, across slots if need be. False if any byte is not RAM (nothing copied). ROM can
 * be read. */
bool ram_read(struct memory *memory, gpa_t gpa, void *buffer, uint64_t size);
bool ram_write(struct memory *memory, gpa_t gpa, const void *buffer, uint64_t size);
/*
 * The same for what fills untouched memory, as a kernel does: spares a page fault and a
 * clearing for each page, and pages of zeros cost no memory. Not for
 * ranges that are mapped by a device meanwhile.
 */
bool ram_fill(struct memory *memory, gpa_t gpa, const void *buffer, uint64_t size);
bool ram_clear(struct memory *memory, gpa_t gpa, uint64_t size);

/*
 * Code tracking. Before decoding bytes [offset, offset + size) of a frame an engine calls
 * memory_code_watch: it marks the lines, sets FRAME_WATCH_CODE and, when that was not
 * set, makes every thread's earlier stores visible (an asymmetric barrier), so that a
 * store is either seen by the decoder or sees the watch. It returns the frame's code
 * version; what was decoded is valid as long as the version stands.
 *
 * A store to a frame whose entry has a watch bit calls memory_written afterwards: it
 * advances the version if decoded lines were hit, and marks the frame dirty. Returns true
 * if code was invalidated.
 */
uint32_t memory_code_watch(struct memory *memory, frame_t frame, unsigned offset,
                           unsigned size);
/* Nothing of the frame is decoded code any more: its version advances, no line is
 * watched. */
void memory_code_forget(struct memory *memory, frame_t frame);
/* offset + size lies within the frame. */
bool memory_written(struct memory *memory, frame_t frame, unsigned offset, unsigned size);

/* Dirty log. Start clears it and arms every frame; fetch copies and clears the bits of a
 * range of frames and arms them again. Bitmaps are arrays of 64-bit words, one bit per
 * frame. */
void memory_dirty_start(struct memory *memory);
void memory_dirty_stop(struct memory *memory);
void memory_dirty_fetch(struct memory *memory, frame_t first, frame_t count,
                        uint64_t *bitmap);
/* Marks the frames whose bits are set in the bitmap, bit 0 being first's; NULL: all. */
void memory_dirty_mark(struct memory *memory, frame_t first, frame_t count,
                       const uint64_t *bitmap);
/* For memory_add_frames: while logging, frames from first on begin as dirty. */
void memory_dirty_add_locked(struct memory *memory, frame_t first);

/* The frame is about to be used by its host address: the pages of its POPULATE_FRAMES
 * neighbours come with its own, once. A hint; as often as one likes, on any thread. */
void memory_populate(struct memory *memory, frame_t frame);

/* Drops the process's mapping of the page at gpa, if it is RAM: the next access to it
 * faults in the host. What the page holds stays. For tests. */
void ram_forget(struct memory *memory, gpa_t gpa);

/* Bytes of guest RAM the host has given pages for. */
uint64_t memory_resident(const struct memory *memory);
