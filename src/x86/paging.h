#pragma once
/*
 * The page walk as a pure function over guest-physical memory (SDM 3A chapter 4; AMD APM
 * 2 chapter 5). Paging off, 32-bit, PAE and 4-level share one entry point; permission
 * bits, reserved bits, A and D bits and error codes are exact. Nothing here caches: the
 * engines' TLBs do.
 */

#include <stdbool.h>
#include <stdint.h>

#include "x86/exception.h"
#include "x86/state.h"

enum x86_access {
    X86_READ,
    X86_WRITE,
    X86_FETCH,
};

/* The walker's window on guest memory. */
struct x86_walk_memory {
    /* Host address of the 8-byte aligned page-table entry at gpa (4-byte aligned with
     * 32-bit paging), or NULL if it is not RAM. The walk reads it in one access and sets
     * A and D by a host compare-and-exchange. */
    void *(*entry)(void *opaque, gpa_t gpa);
    /* Does a write reach the entry that was read? NULL: always. Where it does not (ROM),
     * A and D bits are lost. */
    bool (*is_writable)(void *opaque, gpa_t gpa);
    /* Called after an entry's A or D bit was written (dirty log, code invalidation); may
     * be NULL. */
    void (*entry_written)(void *opaque, gpa_t gpa);
    void *opaque;
};

/* The registers a walk depends on. */
struct x86_walk_context {
    uint64_t cr0, cr3, cr4, efer;
    const uint64_t *pdpte; /* the four of PAE paging: x86_pdptes_load */
    uint32_t pkru;
    bool ac;       /* RFLAGS.AC, for SMAP */
    uint8_t cpl;   /* 3: user access; below: supervisor */
    bool implicit; /* a supervisor access by the processor itself (descriptor tables,
                      TSS): AC does not help */
    uint8_t physical_bits; /* MAXPHYADDR: entry bits above it are reserved */
};

/* page_size when paging is off: the linear address space, mapped one to one. */
#define X86_PAGING_OFF_SIZE (1ull << 32)

struct x86_translation {
    gpa_t gpa;          /* of the address asked for */
    uint64_t page_size; /* 4K, 2M, 4M or 1G, or X86_PAGING_OFF_SIZE */
    bool readable;      /* for this context: false after a fetch that SMAP would not let
                           read */
    bool writable; /* for this context, and D is already set: writes need no further walk
                    */
    bool executable;    /* for this context */
    bool readable_user; /* U/S of the whole walk: a user page */
    bool global;
    uint64_t entry; /* the leaf entry, for cache attributes; 0 when paging is off */
    uint8_t key;    /* whose rights in PKRU count, too; 0 where none do */
};

/* Has the processor four page-directory-pointer entries in its registers with these? */
static inline bool x86_is_pae(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
    return cr0 & X86_CR0_PG && cr4 & X86_CR4_PAE && !(efer & X86_EFER_LMA);
}
/*
 * Reads them from the table that CR3 names (SDM 3A 4.4.1), before anything is walked with
 * PAE paging and whenever that section says so. False, and nothing is loaded, if a
 * present one has a reserved bit set: #GP for the instruction.
 */
bool x86_pdptes_load(const struct x86_walk_memory *memory, uint64_t cr3,
                     uint8_t physical_bits, uint64_t pdpte[4]);

/*
 * Translates one address for one access. Returns true and fills *out, having set the
 * accessed bits and, for a write, the dirty bit; or returns false and fills *fault with
 * the #PF (error code, address), having changed nothing. A non-canonical address is the
 * caller's business.
 */
bool x86_walk(const struct x86_walk_context *context,
              const struct x86_walk_memory *memory, gva_t gva, enum x86_access access,
              struct x86_translation *out, struct x86_exception *fault);

/*
 * The same without side effects or permission checks beyond presence, for debuggers.
 * Returns false if unmapped.
 */
bool x86_walk_peek(const struct x86_walk_context *context,
                   const struct x86_walk_memory *memory, gva_t gva,
                   struct x86_translation *out);

/* 48-bit canonical form (LA57 is not offered). */
static inline bool x86_canonical(gva_t gva)
{
    return (uint64_t)((int64_t)(gva << 16) >> 16) == gva;
}
