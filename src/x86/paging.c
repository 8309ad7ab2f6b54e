/*
 * One walk for every paging mode: levels of 8-byte entries (4-level and PAE) or of 4-byte
 * entries (32-bit), then one check of the rights gathered on the way. Each entry is read
 * once; what the walk decides about it, it decides about that value. When the access is
 * permitted, A (and D in the leaf) are set from the top down, each only if its entry
 * still stands; an access that faults sets none, which the architecture leaves open (SDM
 * 3A 4.8) and processors before page-walk caches do.
 */

#include "x86/paging.h"

#include <stddef.h>

#define ADDRESS_52  0x000ffffffffff000ull /* address field of an 8-byte entry */
#define PAE_IGNORED 0x7ff0000000000000ull /* bits 62:52: ignored, except with PAE */
#define CR3_PAE     0xffffffe0ull
#define CR3_32      0xfffff000ull

/* Bits between the flags and the frame of a large page: must be 0, but for bit 12, PAT
 * (SDM 3A tables 4-16, 4-18). */
#define LARGE_2M_RESERVED 0x00000000001fe000ull
#define LARGE_1G_RESERVED 0x000000003fffe000ull
/* A PDPTE of PAE paging has only P, PWT, PCD and an address (table 4-8). */
#define PAE_PDPTE_RESERVED 0x80000000000001e6ull
/* A 4 MiB page: bits 20:13 are bits 39:32 of the address, bit 21 is reserved (PSE-36). */
#define LARGE_4M_RESERVED 0x00200000u
#define LARGE_4M_HIGH     0x001fe000u

#define WALK_DONE         (-1) /* else the P and RSVD bits of a #PF's error code */

#define LEVELS_ABOVE      3 /* of the leaf, at most */

/* An entry above the leaf that lacks its A bit. */
struct upper {
    void *host;
    gpa_t gpa;
    uint64_t entry;
};

/* What the entries of a walk say together. */
struct leaf {
    uint64_t entry;
    uint64_t flags; /* the AND of all levels: P, W and U are meaningful */
    uint64_t no_execute;
    gpa_t base;
    uint64_t size;
    unsigned upper_count;
    struct upper upper[LEVELS_ABOVE];
};

struct permissions {
    bool read, write, execute;
};

/* SDM 3A 4.6.2: only with 4-level paging, and only for pages that are user's. */
static inline bool has_key(const struct x86_walk_context *context,
                           const struct leaf *leaf)
{
    return context->cr4 & X86_CR4_PKE && context->efer & X86_EFER_LMA &&
           leaf->flags & X86_PTE_U;
}

static inline unsigned leaf_key(const struct leaf *leaf)
{
    return leaf->entry >> X86_PTE_KEY_SHIFT & 15;
}

/* What the key's rights forbid to an access that is no fetch. */
static inline bool key_forbids(const struct x86_walk_context *context,
                               const struct leaf *leaf, bool is_write)
{
    uint32_t rights = context->pkru >> leaf_key(leaf) * 2;
    bool is_user = context->cpl == 3 && !context->implicit;
    bool forbids_write = rights & X86_PKRU_WD && (is_user || context->cr0 & X86_CR0_WP);
    return rights & X86_PKRU_AD || (is_write && forbids_write);
}

/* SDM 3A 4.6.1, for data pages (no shadow stacks). */
static inline struct permissions page_permissions(const struct x86_walk_context *context,
                                                  const struct leaf *leaf)
{
    bool is_user_page = leaf->flags & X86_PTE_U;
    bool can_write = leaf->flags & X86_PTE_W;
    bool can_execute = !leaf->no_execute;

    if (context->cpl == 3 && !context->implicit) {
        return (struct permissions){
            .read = is_user_page,
            .write = is_user_page && can_write,
            .execute = is_user_page && can_execute,
        };
    }
    bool smap = is_user_page && (context->cr4 & X86_CR4_SMAP) &&
                (context->implicit || !context->ac);
    return (struct permissions){
        .read = !smap,
        .write = !smap && (can_write || !(context->cr0 & X86_CR0_WP)),
        .execute = can_execute && !(is_user_page && (context->cr4 & X86_CR4_SMEP)),
    };
}

static inline struct permissions leaf_permissions(const struct x86_walk_context *context,
                                                  const struct leaf *leaf)
{
    struct permissions permissions = page_permissions(context, leaf);

    if (has_key(context, leaf)) {
        permissions.read = permissions.read && !key_forbids(context, leaf, false);
        permissions.write = permissions.write && !key_forbids(context, leaf, true);
    }
    return permissions;
}

static inline bool permits(struct permissions permissions, enum x86_access access)
{
    switch (access) {
    case X86_READ:
        return permissions.read;
    case X86_WRITE:
        return permissions.write;
    default:
        return permissions.execute;
    }
}

/*
 * Sets bits in an entry that still has the value it was judged by, but for A and D bits
 * that came meanwhile (also by this walk, where tables map themselves). False: it has
 * changed and has to be read and judged again. An entry outside RAM reads as all ones, so
 * there is nothing to set.
 */
static inline bool set_bits(const struct x86_walk_memory *memory, void *host, gpa_t gpa,
                            uint64_t entry, uint64_t bits, bool is_wide)
{
    const uint64_t harmless = X86_PTE_A | X86_PTE_D;
    uint64_t judged = entry;
    bool done = false;

    if ((entry & bits) != bits && memory->is_writable &&
        !memory->is_writable(memory->opaque, gpa)) {
        return true;
    }
    while ((entry & bits) != bits && !done) {
        if (is_wide) {
            done = __atomic_compare_exchange_n((uint64_t *)host, &entry, entry | bits,
                                               false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
        } else {
            uint32_t narrow = (uint32_t)entry;

            done = __atomic_compare_exchange_n((uint32_t *)host, &narrow,
                                               narrow | (uint32_t)bits, false,
                                               __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
            entry = narrow;
        }
        if ((entry ^ judged) & ~harmless) {
            return false;
        }
    }
    if (done && memory->entry_written) {
        memory->entry_written(memory->opaque, gpa);
    }
    return true;
}

static inline uint64_t load_entry(const void *host, bool is_wide)
{
    if (!host) {
        return is_wide ? UINT64_MAX : UINT32_MAX;
    }
    return is_wide ? __atomic_load_n((const uint64_t *)host, __ATOMIC_ACQUIRE)
                   : __atomic_load_n((const uint32_t *)host, __ATOMIC_ACQUIRE);
}

static inline void note_upper(struct leaf *leaf, void *host, gpa_t gpa, uint64_t entry)
{
    if (!(entry & X86_PTE_A)) {
        leaf->upper[leaf->upper_count++] = (struct upper){host, gpa, entry};
    }
}

/* Is the access permitted, and are A and, for a write, D set? The leaf's own entry is
 * already counted in. WALK_RETRY: an entry has changed. */
#define WALK_RETRY (-2)
static inline int finish(const struct x86_walk_context *context,
                         const struct x86_walk_memory *memory, void *host, gpa_t gpa,
                         enum x86_access access, bool is_wide, struct leaf *leaf)
{
    uint64_t bits = access == X86_WRITE ? X86_PTE_A | X86_PTE_D : X86_PTE_A;

    if (!permits(leaf_permissions(context, leaf), access)) {
        /* SDM 3A 4.7: PK tells that the key forbids it, whatever else does. */
        bool is_key = access != X86_FETCH && has_key(context, leaf) &&
                      key_forbids(context, leaf, access == X86_WRITE);
        return X86_PF_P | (is_key ? X86_PF_PK : 0);
    }
    for (unsigned i = 0; i < leaf->upper_count; i++) {
        const struct upper *upper = &leaf->upper[i];
        if (!set_bits(memory, upper->host, upper->gpa, upper->entry, X86_PTE_A,
                      is_wide)) {
            return WALK_RETRY;
        }
    }
    if (!set_bits(memory, host, gpa, leaf->entry, bits, is_wide)) {
        return WALK_RETRY;
    }
    leaf->entry |= bits;
    return WALK_DONE;
}

/* Bits that must be 0 in an 8-byte entry at a level, given that it is or is not a leaf.
 */
static inline uint64_t reserved_bits(uint64_t common, unsigned level, bool is_large)
{
    if (level == 4) {
        return common | X86_PTE_PS;
    }
    if (level == 3) {
        return is_large ? common | LARGE_1G_RESERVED : common;
    }
    return is_large ? common | LARGE_2M_RESERVED : common;
}

/* 4-level paging (SDM 3A 4.5) and PAE paging (4.4), whose first level is in registers.
 * Compiled for each combination of the constant arguments. */
static inline __attribute__((always_inline)) int
walk_wide(const struct x86_walk_context *context, const struct x86_walk_memory *memory,
          gva_t gva, enum x86_access access, bool is_pae, bool is_peek, struct leaf *leaf)
{
    uint64_t common = ADDRESS_52 & ~0ull << context->physical_bits;
    gpa_t table = context->cr3 & ADDRESS_52;
    unsigned level = 4;

    if (!(context->efer & X86_EFER_NXE)) {
        common |= X86_PTE_NX;
    }
    if (is_pae) {
        /* No W, U, A or NX here. */
        uint64_t entry = context->pdpte[gva >> 30 & 3];
        if (!(entry & X86_PTE_P)) {
            return 0;
        }
        common |= PAE_IGNORED;
        table = entry & ADDRESS_52;
        level = 2;
    }
    leaf->flags = ~0ull;
    leaf->no_execute = 0;
    leaf->upper_count = 0;

    while (true) {
        unsigned shift = 3 + 9 * level;
        gpa_t gpa = table + (gva >> shift & 0x1ff) * 8;
        void *host = memory->entry(memory->opaque, gpa);
        uint64_t entry = load_entry(host, true);
        if (!(entry & X86_PTE_P)) {
            return 0;
        }
        bool is_large = level > 1 && (entry & X86_PTE_PS);
        if (entry & reserved_bits(common, level, is_large)) {
            return X86_PF_P | X86_PF_RSVD;
        }
        leaf->flags &= entry;
        leaf->no_execute |= entry & X86_PTE_NX;
        if (level == 1 || is_large) {
            leaf->entry = entry;
            leaf->size = 1ull << shift;
            leaf->base = entry & ADDRESS_52 & ~(leaf->size - 1);
            if (is_peek) {
                return WALK_DONE;
            }
            return finish(context, memory, host, gpa, access, true, leaf);
        }
        note_upper(leaf, host, gpa, entry);
        table = entry & ADDRESS_52;
        level--;
    }
}

/* The address field of a 4 MiB page with PSE-36 (SDM 3A table 4-4), bits above MAXPHYADDR
 * being reserved. */
static inline bool large_4m_is_reserved(uint64_t entry, unsigned physical_bits)
{
    uint32_t high = (uint32_t)(entry & LARGE_4M_HIGH) >> 13;

    return (entry & LARGE_4M_RESERVED) ||
           (physical_bits < 40 &&
            high >> (physical_bits > 32 ? physical_bits - 32 : 0) != 0);
}

/* 32-bit paging (SDM 3A 4.3). */
static inline __attribute__((always_inline)) int
walk_narrow(const struct x86_walk_context *context, const struct x86_walk_memory *memory,
            gva_t gva, enum x86_access access, bool is_peek, struct leaf *leaf)
{
    gpa_t table = context->cr3 & CR3_32;

    leaf->flags = ~0ull;
    leaf->no_execute = 0;
    leaf->upper_count = 0;
    for (unsigned level = 2;; level--) {
        unsigned shift = 2 + 10 * level;
        gpa_t gpa = table + (gva >> shift & 0x3ff) * 4;
        void *host = memory->entry(memory->opaque, gpa);
        uint64_t entry = load_entry(host, false);
        if (!(entry & X86_PTE_P)) {
            return 0;
        }
        bool is_large =
            level == 2 && (entry & X86_PTE_PS) && (context->cr4 & X86_CR4_PSE);
        if (is_large && large_4m_is_reserved(entry, context->physical_bits)) {
            return X86_PF_P | X86_PF_RSVD;
        }
        leaf->flags &= entry;
        if (level == 1 || is_large) {
            leaf->entry = entry;
            leaf->size = 1ull << shift;
            leaf->base = is_large ? (entry & 0xffc00000) | (entry & LARGE_4M_HIGH) << 19
                                  : entry & 0xfffff000;
            if (is_peek) {
                return WALK_DONE;
            }
            return finish(context, memory, host, gpa, access, false, leaf);
        }
        note_upper(leaf, host, gpa, entry);
        table = entry & 0xfffff000;
    }
}

static inline __attribute__((always_inline)) int
walk_any(const struct x86_walk_context *context, const struct x86_walk_memory *memory,
         gva_t gva, enum x86_access access, bool is_peek, struct leaf *leaf)
{
    if (context->efer & X86_EFER_LMA) {
        return walk_wide(context, memory, gva, access, false, is_peek, leaf);
    }
    if (context->cr4 & X86_CR4_PAE) {
        return walk_wide(context, memory, gva, access, true, is_peek, leaf);
    }
    return walk_narrow(context, memory, gva, access, is_peek, leaf);
}

bool x86_pdptes_load(const struct x86_walk_memory *memory, uint64_t cr3,
                     uint8_t physical_bits, uint64_t pdpte[4])
{
    uint64_t reserved =
        PAE_PDPTE_RESERVED | PAE_IGNORED | (ADDRESS_52 & ~0ull << physical_bits);
    uint64_t loaded[4];

    for (unsigned i = 0; i < 4; i++) {
        gpa_t gpa = (cr3 & CR3_PAE) + i * 8;
        loaded[i] = load_entry(memory->entry(memory->opaque, gpa), true);
        if (loaded[i] & X86_PTE_P && loaded[i] & reserved) {
            return false;
        }
    }
    for (unsigned i = 0; i < 4; i++) {
        pdpte[i] = loaded[i];
    }
    return true;
}

/* Without paging, linear addresses are physical ones of 32 bits. */
static void identity(gva_t gva, struct x86_translation *out)
{
    *out = (struct x86_translation){
        .gpa = gva & 0xffffffff,
        .page_size = X86_PAGING_OFF_SIZE,
        .readable = true,
        .writable = true,
        .executable = true,
        .readable_user = true,
    };
}

static inline void fill(const struct x86_walk_context *context, gva_t gva,
                        const struct leaf *leaf, struct x86_translation *out)
{
    struct permissions permissions = leaf_permissions(context, leaf);

    out->gpa = leaf->base | (gva & (leaf->size - 1));
    out->page_size = leaf->size;
    out->readable = permissions.read;
    out->writable = permissions.write && (leaf->entry & X86_PTE_D);
    out->executable = permissions.execute;
    out->readable_user = leaf->flags & X86_PTE_U;
    out->global = (leaf->entry & X86_PTE_G) && (context->cr4 & X86_CR4_PGE);
    out->entry = leaf->entry;
    out->key = has_key(context, leaf) ? (uint8_t)leaf_key(leaf) : 0;
}

/* SDM 3A 4.7: the W, U and I bits tell the access, P and RSVD what the walk found. */
static uint32_t error_code(const struct x86_walk_context *context, enum x86_access access,
                           int found)
{
    uint32_t error = (uint32_t)found;

    if (access == X86_WRITE) {
        error |= X86_PF_W;
    }
    if (context->cpl == 3 && !context->implicit) {
        error |= X86_PF_U;
    }
    bool has_nx = (context->cr4 & X86_CR4_PAE) && (context->efer & X86_EFER_NXE);
    if (access == X86_FETCH && (has_nx || (context->cr4 & X86_CR4_SMEP))) {
        error |= X86_PF_I;
    }
    return error;
}

bool x86_walk(const struct x86_walk_context *context,
              const struct x86_walk_memory *memory, gva_t gva, enum x86_access access,
              struct x86_translation *out, struct x86_exception *fault)
{
    struct leaf leaf;

    if (!(context->cr0 & X86_CR0_PG)) {
        identity(gva, out);
        return true;
    }
    int result;
    do {
        result = walk_any(context, memory, gva, access, false, &leaf);
    } while (result == WALK_RETRY);
    if (result == WALK_DONE) {
        fill(context, gva, &leaf, out);
        return true;
    }
    *fault = (struct x86_exception){
        .vector = X86_PF,
        .has_error = true,
        .error = error_code(context, access, result),
        .address = gva,
    };
    return false;
}

bool x86_walk_peek(const struct x86_walk_context *context,
                   const struct x86_walk_memory *memory, gva_t gva,
                   struct x86_translation *out)
{
    struct leaf leaf;

    if (!(context->cr0 & X86_CR0_PG)) {
        identity(gva, out);
        return true;
    }
    if (walk_any(context, memory, gva, X86_READ, true, &leaf) != WALK_DONE) {
        return false;
    }
    fill(context, gva, &leaf, out);
    return true;
}
