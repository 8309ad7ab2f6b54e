#pragma once
/*
 * Guest memory as instructions see it: by linear address, through the software TLB. Loads
 * and stores of up to 8 bytes within a page are single host accesses, so other vCPUs
 * never see them torn. On failure the exception is recorded in the cpu and the
 * instruction must return insn_fault(); nothing has been changed.
 *
 * Results come back in registers, never through pointers to locals: handlers stay
 * eligible for tail calls.
 */

#include "interpreter/cpu.h"

typedef uint16_t __attribute__((may_alias, aligned(1))) u16_any;
typedef uint32_t __attribute__((may_alias, aligned(1))) u32_any;
typedef uint64_t __attribute__((may_alias, aligned(1))) u64_any;

struct loaded {
    uint64_t value;
    bool ok;
};

/* Slow paths: TLB miss, page crossing, MMIO, faults. size 1, 2, 4, 8. */
struct loaded access_load_slow(struct cpu *cpu, uint64_t ea, unsigned size);
bool access_store_slow(struct cpu *cpu, uint64_t ea, unsigned size, uint64_t value);
/* After a fast store to a page whose frame is watched. */
void access_store_watched(struct cpu *cpu, uint8_t *host, unsigned size);

static inline struct tlb_entry *access_entry(struct cpu *cpu, uint64_t ea)
{
    return &cpu->tlb[ea >> FRAME_SHIFT & (TLB_SIZE - 1)];
}

static inline uint64_t access_host_load(const uint8_t *host, unsigned size)
{
    switch (size) {
    case 1:
        return *(const volatile uint8_t *)host;
    case 2:
        return *(const volatile u16_any *)host;
    case 4:
        return *(const volatile u32_any *)host;
    default:
        return *(const volatile u64_any *)host;
    }
}

static inline void access_host_store(uint8_t *host, unsigned size, uint64_t value)
{
    switch (size) {
    case 1:
        *(volatile uint8_t *)host = (uint8_t)value;
        break;
    case 2:
        *(volatile u16_any *)host = (uint16_t)value;
        break;
    case 4:
        *(volatile u32_any *)host = (uint32_t)value;
        break;
    default:
        *(volatile u64_any *)host = value;
    }
}

/* Zero-extended. size is a constant where speed matters. */
static inline __attribute__((always_inline)) struct loaded
access_load(struct cpu *cpu, uint64_t ea, unsigned size)
{
    const struct tlb_entry *entry = access_entry(cpu, ea);
    uint64_t offset = ea - entry->read;
    if (likely(offset <= FRAME_SIZE - size)) {
        return (struct loaded){access_host_load(entry->host + offset, size), true};
    }
    return access_load_slow(cpu, ea, size);
}

static inline __attribute__((always_inline)) bool
access_store(struct cpu *cpu, uint64_t ea, unsigned size, uint64_t value)
{
    const struct tlb_entry *entry = access_entry(cpu, ea);
    uint64_t offset = ea - entry->write;
    if (likely(offset <= FRAME_SIZE - size)) {
        access_host_store(entry->host + offset, size, value);
        /* After the store: memory_code_watch's barrier then guarantees that one side sees
         * the other. */
        if (unlikely(*entry->frame & FRAME_WATCH_ANY)) {
            access_store_watched(cpu, entry->host + offset, size);
        }
        return true;
    }
    return access_store_slow(cpu, ea, size, value);
}

/*
 * #AC(0) if alignment is checked (NEEDS_ALIGNMENT) and ea is not a multiple of alignment,
 * a power of two. Loads, stores and modifications of 2, 4 and 8 bytes check their own
 * size; the accesses below check nothing: what the alignment of an operand is, its
 * instruction knows (SDM 3A table 6-7; vectors of 16 and more bytes have none). It comes
 * before page faults, and behind limits and non-canonical addresses.
 */
bool access_misaligned(struct cpu *cpu, uint64_t ea);
static inline bool access_check_alignment(struct cpu *cpu, uint64_t ea,
                                          unsigned alignment)
{
    return likely(!(cpu->needs_interpreter & NEEDS_ALIGNMENT) ||
                  !(ea & (alignment - 1))) ||
           access_misaligned(cpu, ea);
}

/* Any length up to 4096, page crossing and MMIO included; used for wide operands, XSAVE,
 * descriptor fetches. All pages are checked before anything is transferred. */
bool access_read(struct cpu *cpu, uint64_t ea, void *buffer, unsigned size);
bool access_write(struct cpu *cpu, uint64_t ea, const void *buffer, unsigned size);
/* Are all these bytes writable (readable)? Raises the fault a store (load) would. */
bool access_probe(struct cpu *cpu, uint64_t ea, unsigned size, bool is_write);

/* Loads the page-directory-pointer entries of PAE paging (x86_pdptes_load). False: a #GP,
 * which is the caller's. */
bool access_load_pdptes(struct cpu *cpu, uint64_t cr3);

/* The processor's own supervisor accesses whatever the CPL (descriptor tables, TSS,
 * gates): SDM 3A 4.6.1 "implicit supervisor-mode accesses". */
bool access_read_system(struct cpu *cpu, uint64_t gva, void *buffer, unsigned size);
bool access_write_system(struct cpu *cpu, uint64_t gva, const void *buffer,
                         unsigned size);
bool access_probe_system(struct cpu *cpu, gva_t gva, unsigned size, bool is_write);

/*
 * For read-modify-write: the host address of [ea, ea + size) checked for writing, if it
 * lies in RAM within one page; NULL with no fault recorded if it crosses a page or is
 * MMIO (use access_read and access_write, under hooks->exclusive_* when locked); NULL
 * with a fault otherwise. After storing, call access_modified.
 */
uint8_t *access_modify(struct cpu *cpu, uint64_t ea, unsigned size);
void access_modified(struct cpu *cpu, uint8_t *host, unsigned size);

/*
 * The same for handlers that operate on a host pointer: begin yields guest memory itself
 * or, when the operand crosses a page or is MMIO, a copy in cpu->operand (with every
 * other vCPU stopped if the access is locked); end writes that back and notices the
 * store. NULL with a fault recorded, and nothing to end, if the operand is not writable.
 */
uint8_t *access_modify_begin_slow(struct cpu *cpu, uint64_t ea, unsigned size,
                                  bool is_locked);
void access_modify_end_slow(struct cpu *cpu, uint64_t ea, uint8_t *host, unsigned size,
                            bool is_locked);

static inline __attribute__((always_inline)) uint8_t *
access_modify_begin(struct cpu *cpu, uint64_t ea, unsigned size, bool is_locked)
{
    const struct tlb_entry *entry = access_entry(cpu, ea);
    uint64_t offset = ea - entry->write;
    if (likely(offset <= FRAME_SIZE - size)) {
        return entry->host + offset;
    }
    return access_modify_begin_slow(cpu, ea, size, is_locked);
}

static inline __attribute__((always_inline)) void
access_modify_end(struct cpu *cpu, uint64_t ea, uint8_t *host, unsigned size,
                  bool is_locked)
{
    const struct tlb_entry *entry = access_entry(cpu, ea);
    if (unlikely(host == cpu->operand || *entry->frame & FRAME_WATCH_ANY)) {
        access_modify_end_slow(cpu, ea, host, size, is_locked);
    }
}

/*
 * Copies up to 15 code bytes at rip, with execute permission. Returns how many precede a
 * fault; when that is fewer than asked for, the fault is recorded.
 */
unsigned access_fetch(struct cpu *cpu, uint64_t rip, uint8_t *bytes, unsigned size);
/* The frame behind rip for execution, or FRAME_NONE with a fault recorded, or FRAME_NONE
 * without one if it is not RAM or ROM. */
frame_t access_fetch_frame(struct cpu *cpu, uint64_t rip);
/* Does what that found hold in every address space, as struct tlb_area has it? */
bool access_fetch_lasts(const struct cpu *cpu, uint64_t rip);
