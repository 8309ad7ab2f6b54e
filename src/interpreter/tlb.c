/*
 * What is cached of translations: which entries there are, and what ends them (SDM 3A
 * 4.10.4). Entries of global pages in the upper half last: a load of CR3 leaves them, and
 * so does another address space that takes the context over, since they hold in each. A
 * kernel's code and data are found there at once in every new process.
 */
#include <string.h>

#include "base/counter.h"
#include "interpreter/cpu.h"
#include "interpreter/jump.h"

void cpu_note_filled(struct tlb_area *area, unsigned index, bool lasts)
{
    uint64_t bit = 1ull << index % 64;
    if (lasts) {
        area->lasting[index / 64] |= bit;
        return;
    }
    area->lasting[index / 64] &= ~bit;
    if (area->filled_count < AREA_FILLED_MAX) {
        area->filled[area->filled_count] = (uint16_t)index;
    }
    area->filled_count += area->filled_count <= AREA_FILLED_MAX;
}

static bool is_lasting(const struct tlb_area *area, unsigned index)
{
    return area->lasting[index / 64] >> index % 64 & 1;
}

static void area_clear_entry(struct tlb_area *area, unsigned index)
{
    if (index < TLB_SIZE) {
        cpu_clear_entry(&area->entry[index], index);
    } else {
        jump_clear(area, index - TLB_SIZE);
    }
}

static void area_clear_all(struct tlb_area *area)
{
    for (unsigned i = 0; i < TLB_SIZE; i++) {
        cpu_clear_entry(&area->entry[i], i);
    }
    memset(area->lasting, 0, sizeof(area->lasting));
    area->is_ready = true;
    jump_clear_all(area);
    area->filled_count = 0;
}

/* All but what lasts. */
static void area_clear_passing(struct tlb_area *area)
{
    bool knows_which = area->filled_count <= AREA_FILLED_MAX;
    unsigned all = area->jump_miss ? AREA_ENTRIES : TLB_SIZE;
    unsigned count = knows_which ? area->filled_count : all;
    for (unsigned i = 0; i < count; i++) {
        unsigned index = knows_which ? area->filled[i] : i;
        if (!is_lasting(area, index)) {
            area_clear_entry(area, index);
        }
    }
    area->filled_count = 0;
}

static void area_clear_lasting(struct tlb_area *area)
{
    for (unsigned i = 0; i < AREA_ENTRIES / 64; i++) {
        for (; area->lasting[i]; area->lasting[i] &= area->lasting[i] - 1) {
            unsigned bit = (unsigned)__builtin_ctzll(area->lasting[i]);
            area_clear_entry(area, i * 64 + bit);
        }
    }
}

static void area_clear(struct tlb_area *area, bool keeps_lasting)
{
    cpu_clear_stack(area);
    if (!area->is_ready || (area->filled_count > AREA_FILLED_MAX && !keeps_lasting)) {
        area_clear_all(area);
        return;
    }
    area_clear_passing(area);
    if (!keeps_lasting) {
        area_clear_lasting(area);
    }
    jump_forget_pages(area, keeps_lasting);
}

void cpu_forget_jumps(struct cpu *cpu, const void *target)
{
    cpu->jump_miss = target;
    for (unsigned i = 0; i < TLB_CONTEXTS * TLB_VIEWS; i++) {
        struct tlb_area *area = &cpu->tlb_contexts[i / TLB_VIEWS].view[i % TLB_VIEWS];
        if (area->is_ready) {
            /* What never had a jump has entries of the same target already. */
            if (area->has_jumps || area->jump_miss != target) {
                area->jump_miss = target;
                jump_clear_all(area);
            }
        }
    }
}

static void context_clear(struct cpu *cpu, struct tlb_context *context,
                          bool keeps_lasting)
{
    cpu->flushes++;
    for (unsigned i = 0; i < TLB_VIEWS; i++) {
        struct tlb_area *view = &context->view[i];
        view->jump_miss = cpu->jump_miss;
        area_clear(view, keeps_lasting);
    }
    context->keyed_count = 0;
    unsigned filters = keeps_lasting ? 1 : 2;
    memset(context->large_filter, 0, filters * sizeof(context->large_filter[0]));
    memset(context->giant_filter, 0, filters * sizeof(context->giant_filter[0]));
    context->is_stale = false;
    context->generation = ++cpu->generations;
}

static void update_key(struct cpu *cpu)
{
    if (cpu->tlb_context) {
        cpu_update_mode(cpu);
    }
}

#define LARGE_SHIFT 21
#define GIANT_SHIFT 30

static unsigned large_hash(gva_t gva)
{
    return (gva >> LARGE_SHIFT ^ gva >> (LARGE_SHIFT + 11)) % LARGE_FILTER_BITS;
}

static unsigned giant_hash(gva_t gva)
{
    return (gva >> GIANT_SHIFT ^ gva >> (GIANT_SHIFT + 6)) & 63;
}

void cpu_note_large_page(struct tlb_context *context, gva_t gva, uint64_t page_size,
                         bool lasts)
{
    if (page_size > 1ull << GIANT_SHIFT) {
        return; /* paging is off: nothing to invalidate by address */
    }
    if (page_size == 1ull << GIANT_SHIFT) {
        context->giant_filter[lasts] |= 1ull << giant_hash(gva);
        return;
    }
    for (uint64_t part = 0; part < page_size >> LARGE_SHIFT; part++) {
        unsigned hash = large_hash((gva & -page_size) + (part << LARGE_SHIFT));
        context->large_filter[lasts][hash / 64] |= 1ull << hash % 64;
    }
}

static bool is_empty(const struct tlb_area *area, unsigned index)
{
    if (index >= TLB_SIZE) {
        return area->jump[index - TLB_SIZE].tag == 0;
    }
    struct tlb_entry empty;
    cpu_clear_entry(&empty, index);
    return area->entry[index].read == empty.read &&
           area->entry[index].write == empty.write;
}

/* Is an entry's address in a region? Tags of 32-bit code may have a bit more; and a
 * jump's instruction may only end there. */
static bool is_in_region(const struct tlb_area *area, unsigned index, gva_t gva,
                         unsigned shift)
{
    if (index < TLB_SIZE) {
        const struct tlb_entry *entry = &area->entry[index];
        return (entry->read ^ gva) >> shift == 0 || (entry->write ^ gva) >> shift == 0;
    }
    uint64_t first = area->jump[index - TLB_SIZE].tag;
    uint64_t last = first + INSN_BYTES_MAX - 1;
    return ((first ^ gva) & ~AREA_JUMP_BASED_TAG) >> shift == 0 ||
           ((last ^ gva) & ~AREA_JUMP_BASED_TAG) >> shift == 0;
}

/* False: the entry is empty now. */
static bool drop_entry(struct tlb_area *area, unsigned index, gva_t gva, unsigned shift)
{
    if (is_empty(area, index)) {
        return false;
    }
    if (is_in_region(area, index, gva, shift)) {
        area_clear_entry(area, index);
        return false;
    }
    if (index >= TLB_SIZE) {
        jump_note_page(area, area->jump[index - TLB_SIZE].tag, is_lasting(area, index));
    }
    return true;
}

/* What is left is known again, however much had been filled, and which pages have jumps:
 * who invalidates many pages does not look at all entries each time. */
static void drop_region(struct tlb_area *area, gva_t gva, unsigned shift)
{
    bool knows_which = area->filled_count <= AREA_FILLED_MAX;
    unsigned all = area->jump_miss ? AREA_ENTRIES : TLB_SIZE;
    unsigned count = knows_which ? area->filled_count : all, kept = 0;
    uint64_t seen[AREA_ENTRIES / 64] = {0}; /* the list may have one many times */
    jump_forget_pages(area, false);
    cpu_clear_stack(area);
    for (unsigned i = 0; i < count; i++) {
        unsigned index = knows_which ? area->filled[i] : i;
        bool is_again = seen[index / 64] >> index % 64 & 1;
        seen[index / 64] |= 1ull << index % 64;
        if (!is_again && !is_lasting(area, index) &&
            drop_entry(area, index, gva, shift)) {
            if (kept < AREA_FILLED_MAX) {
                area->filled[kept] = (uint16_t)index;
            }
            kept += kept <= AREA_FILLED_MAX;
        }
    }
    area->filled_count = kept;
    for (unsigned i = 0; i < AREA_ENTRIES / 64; i++) {
        for (uint64_t left = area->lasting[i]; left; left &= left - 1) {
            drop_entry(area, i * 64 + (unsigned)__builtin_ctzll(left), gva, shift);
        }
    }
}

static void flush_region(struct cpu *cpu, struct tlb_context *context, gva_t gva,
                         unsigned shift)
{
    counter_add(&cpu->counters.regions_dropped, 1);
    for (unsigned view = 0; view < TLB_VIEWS; view++) {
        if (context->view[view].is_ready) {
            drop_region(&context->view[view], gva, shift);
        }
    }
    context->generation = ++cpu->generations;
}

void cpu_clear_page(struct cpu *cpu, gva_t gva)
{
    unsigned index = gva >> FRAME_SHIFT & (TLB_SIZE - 1);
    gva_t page = gva & -(gva_t)FRAME_SIZE;
    for (unsigned i = 0; i < TLB_CONTEXTS; i++) {
        struct tlb_context *context = &cpu->tlb_contexts[i];
        for (unsigned view = 0; context->used && view < TLB_VIEWS; view++) {
            struct tlb_area *area = &context->view[view];
            if (area->entry[index].read == page) {
                cpu_clear_entry(&area->entry[index], index);
            }
            if (area->stack.read == page) {
                cpu_clear_stack(area);
            }
            jump_drop_page(area, page, cpu_is_upper(cpu, gva));
        }
    }
}

/* How large a page may be cached there, if it is one of more than 4K; 0: none is. */
static unsigned find_large(const struct tlb_context *context, gva_t gva, bool may_last)
{
    unsigned hash = large_hash(gva), giant = giant_hash(gva);
    for (unsigned lasts = 0; lasts <= may_last; lasts++) {
        if (context->giant_filter[lasts] >> giant & 1) {
            return GIANT_SHIFT;
        }
    }
    for (unsigned lasts = 0; lasts <= may_last; lasts++) {
        if (context->large_filter[lasts][hash / 64] >> hash % 64 & 1) {
            return LARGE_SHIFT + 1; /* a 4M page is two regions */
        }
    }
    return 0;
}

void cpu_flush_page(struct cpu *cpu, gva_t gva)
{
    uint64_t page = gva >> FRAME_SHIFT;
    cpu->flushes++;
    counter_add(&cpu->counters.pages_dropped, 1);
    for (unsigned i = 0; i < TLB_CONTEXTS; i++) {
        struct tlb_context *context = &cpu->tlb_contexts[i];
        if (!context->used || context->is_stale) {
            continue;
        }
        unsigned shift = find_large(context, gva, cpu_is_upper(cpu, gva));
        if (shift) {
            flush_region(cpu, context, gva, shift);
        }
    }
    cpu_clear_page(cpu, gva);
    cpu->fetch[page & (FETCH_COUNT - 1)].key = 0;
    struct jump_entry *jump = cpu_jump_page(cpu, gva);
    for (unsigned i = 0; i < 1u << JUMP_SLOT_BITS; i++) {
        jump[i].key = 0;
    }
    update_key(cpu);
}

static void context_drop(struct cpu *cpu, struct tlb_context *context, bool keeps_lasting)
{
    counter_add(&cpu->counters.spaces_dropped,
                context->used && context->key != TLB_NO_KEY);
    if (context == cpu->tlb_context) {
        context_clear(cpu, context, keeps_lasting);
        update_key(cpu);
    } else {
        context->key = TLB_NO_KEY;
        context->is_stale |= !keeps_lasting;
    }
}

void cpu_flush_pcid(struct cpu *cpu, unsigned pcid)
{
    for (unsigned i = 0; i < TLB_CONTEXTS; i++) {
        struct tlb_context *context = &cpu->tlb_contexts[i];
        if (context->key != TLB_NO_KEY && (context->key & 0xfff) == pcid) {
            context_drop(cpu, context, true);
        }
    }
}

void cpu_flush_spaces(struct cpu *cpu)
{
    for (unsigned i = 0; i < TLB_CONTEXTS; i++) {
        context_drop(cpu, &cpu->tlb_contexts[i], true);
    }
}

void cpu_flush_all(struct cpu *cpu)
{
    for (unsigned i = 0; i < TLB_CONTEXTS; i++) {
        context_drop(cpu, &cpu->tlb_contexts[i], false);
    }
}

void cpu_follow_layout(struct cpu *cpu)
{
    uint64_t layout = cpu->memory->layout;
    if (unlikely(layout != cpu->layout)) {
        cpu->layout = layout; /* before anything is looked up anew */
        cpu_flush_all(cpu);
    }
}

void cpu_switch_context(struct cpu *cpu, bool keep)
{
    uint64_t key = cpu->state.cr3;
    struct tlb_context *oldest = &cpu->tlb_contexts[0];
    struct tlb_context *context = NULL;
    for (unsigned i = 0; i < TLB_CONTEXTS && !context; i++) {
        struct tlb_context *candidate = &cpu->tlb_contexts[i];
        /* A PCID names one address space: its older base no longer counts. */
        bool is_same = cpu->state.cr4 & X86_CR4_PCIDE
                           ? ((candidate->key ^ key) & 0xfff) == 0
                           : candidate->key == key;
        if (candidate->used && candidate->key != TLB_NO_KEY && is_same) {
            context = candidate;
        } else if (candidate->used < oldest->used) {
            oldest = candidate;
        }
    }
    counter_add(&cpu->counters.spaces_entered, 1);
    if (context && keep) {
        counter_add(&cpu->counters.spaces_kept, 1);
    } else {
        bool is_replaced = !context && oldest->used && oldest->key != TLB_NO_KEY;
        counter_add(&cpu->counters.spaces_replaced, is_replaced);
        counter_add(&cpu->counters.spaces_dropped, context != NULL);
        context = context ? context : oldest;
        context_clear(cpu, context, !context->is_stale);
    }
    context->key = key;
    context->used = ++cpu->tlb_clock;
    cpu->tlb_context = context;
    cpu->flushes++;
    cpu_update_mode(cpu);
}
