/*
 * The page walk over arbitrary tables, in every mode. Whatever the guest builds, a walk
 * ends, looks only at aligned entries, changes nothing but A and D, gives the same answer
 * again, and what it promises (writable, executable) another walk keeps.
 */

#include <assert.h>
#include <stdbool.h>

#include "input.h"
#include "x86/paging.h"

#define PAGES     8
#define ENTRIES   8 /* used per page; the addresses walked use only these */
#define ADDRESSES 4

static uint64_t arena[PAGES * 512];
static unsigned alignment, lookups, writes;

static void *entry(void *opaque, gpa_t gpa)
{
    assert(gpa % alignment == 0);
    lookups++;
    return gpa < sizeof(arena) ? (uint8_t *)arena + gpa : NULL;
}

static void entry_written(void *opaque, gpa_t gpa)
{
    assert(gpa < sizeof(arena));
    writes++;
}

static const struct x86_walk_memory memory = {.entry = entry,
                                              .entry_written = entry_written};

/* Random bits rarely form a table that leads anywhere: mostly make an entry present,
 * point it into the arena and clear what is reserved. */
static uint64_t plausible(uint64_t raw)
{
    if ((raw >> 56 & 15) == 0) {
        return raw;
    }
    return (raw & (X86_PTE_NX | 0xf7e)) | X86_PTE_P | (raw >> 12 & (PAGES - 1)) << 12 |
           ((raw >> 52 & 7) == 0 ? X86_PTE_PS : 0);
}

static void fill_arena(struct input *input)
{
    bool is_raw = input_u8(input) & 1;

    for (unsigned page = 0; page < PAGES; page++) {
        for (unsigned i = 0; i < ENTRIES; i++) {
            uint64_t raw = input_u64(input);

            arena[page * 512 + i] = is_raw ? raw : plausible(raw);
        }
    }
}

static uint64_t pdptes[4];

static struct x86_walk_context read_context(struct input *input)
{
    uint8_t mode = input_u8(input), flags = input_u8(input);
    struct x86_walk_context context = {
        .cr0 = X86_CR0_PE | X86_CR0_PG | (flags & 1 ? X86_CR0_WP : 0),
        .cr3 = (uint64_t)(input_u8(input) % (PAGES + 1)) << 12,
        .cr4 = (flags & 2 ? X86_CR4_SMEP : 0) | (flags & 4 ? X86_CR4_SMAP : 0) |
               (flags & 8 ? X86_CR4_PGE : 0) | X86_CR4_PSE,
        .efer = flags & 16 ? X86_EFER_NXE : 0,
        .ac = flags & 32,
        .implicit = flags & 64,
        .cpl = flags & 128 ? 3 : 0,
        .physical_bits = 32 + input_u8(input) % 21,
        .pkru = (uint32_t)input_u64(input),
    };

    alignment = 8;
    switch (mode % 4) {
    case 0:
        context.cr4 &= ~X86_CR4_PSE;
        alignment = 4;
        break;
    case 1:
        alignment = 4;
        break;
    case 2:
        context.cr4 |= X86_CR4_PAE;
        context.pdpte = pdptes;
        break;
    default:
        context.cr4 |= X86_CR4_PAE;
        context.efer |= X86_EFER_LMA | X86_EFER_LME;
        context.cr4 |= mode & 4 ? X86_CR4_PKE : 0;
        break;
    }
    return context;
}

/* Every index is below ENTRIES. */
static gva_t read_address(struct input *input)
{
    static const uint64_t wide = 7ull << 39 | 7ull << 30 | 7ull << 21 | 7ull << 12;
    static const uint64_t narrow = 7ull << 22 | 7ull << 12;

    return input_u64(input) & ((alignment == 8 ? wide : narrow) | 0xfff);
}

static void check_only_accessed_and_dirty_set(const uint64_t *before, bool is_wide)
{
    uint64_t may_change = X86_PTE_A | X86_PTE_D;

    if (!is_wide) {
        may_change |= may_change << 32;
    }
    for (unsigned i = 0; i < PAGES * 512; i++) {
        assert((before[i] & arena[i]) == before[i]);
        assert(((before[i] ^ arena[i]) & ~may_change) == 0);
    }
}

static void check_translation(const struct x86_walk_context *context, gva_t gva,
                              enum x86_access access,
                              const struct x86_translation *translation)
{
    static const enum x86_access accesses[] = {X86_READ, X86_WRITE, X86_FETCH};
    const bool promised[] = {translation->readable, translation->writable,
                             translation->executable};
    struct x86_translation again;
    struct x86_exception fault;

    assert(translation->entry & X86_PTE_P && translation->entry & X86_PTE_A);
    assert((translation->gpa ^ gva) % translation->page_size == 0);
    assert(access != X86_READ || translation->readable);
    assert(access != X86_WRITE || translation->writable);
    assert(access != X86_FETCH || translation->executable);
    writes = 0;
    for (unsigned i = 0; i < 3; i++) {
        if (promised[i]) {
            assert(x86_walk(context, &memory, gva, accesses[i], &again, &fault));
            assert(again.gpa == translation->gpa && again.entry == translation->entry);
        }
    }
    assert(x86_walk_peek(context, &memory, gva, &again));
    assert(again.gpa == translation->gpa);
    assert(writes == 0);
}

static void check_fault(const struct x86_walk_context *context, gva_t gva,
                        enum x86_access access, const struct x86_exception *fault)
{
    struct x86_translation translation;
    struct x86_exception again;

    assert(fault->vector == X86_PF && fault->has_error && fault->address == gva);
    assert(!(fault->error & X86_PF_RSVD) || fault->error & X86_PF_P);
    assert(!(fault->error & X86_PF_W) == (access != X86_WRITE));
    assert(!(fault->error & X86_PF_I) || access == X86_FETCH);
    writes = 0;
    assert(!x86_walk(context, &memory, gva, access, &translation, &again));
    assert(again.error == fault->error && writes == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint64_t before[PAGES * 512];
    struct input input = {data, size};
    struct x86_walk_context context = read_context(&input);
    gva_t gva[ADDRESSES];

    for (unsigned i = 0; i < ADDRESSES; i++) {
        gva[i] = read_address(&input);
    }
    uint8_t access_bits = input_u8(&input);
    fill_arena(&input);
    if (context.pdpte &&
        !x86_pdptes_load(&memory, context.cr3, context.physical_bits, pdptes)) {
        return 0;
    }

    for (unsigned i = 0; i < ADDRESSES; i++) {
        enum x86_access access = (access_bits >> 2 * i & 3) % 3;
        struct x86_translation translation;
        struct x86_exception fault;

        memcpy(before, arena, sizeof(arena));
        lookups = 0;
        bool done = x86_walk(&context, &memory, gva[i], access, &translation, &fault);
        assert(lookups <= 4);
        if (done) {
            check_translation(&context, gva[i], access, &translation);
        } else {
            check_fault(&context, gva[i], access, &fault);
        }
        check_only_accessed_and_dirty_set(before, alignment == 8);
    }
    return 0;
}
