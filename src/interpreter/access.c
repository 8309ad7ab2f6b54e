#include "interpreter/access.h"

#include <string.h>

#include "base/counter.h"
#include "interpreter/block.h"
#include "interpreter/breakpoint.h"
#include "interpreter/debug.h"
#include "interpreter/hold.h"
#include "interpreter/key.h"
#include "x86/paging.h"

/* Where one piece of an access, within one page, goes. */
struct place {
    uint8_t *host; /* NULL: not memory that this access reaches by itself (nothing, a
                      write to ROM); ask the bus at gpa */
    frame_t frame;
    gpa_t gpa;
};

static void *walk_entry(void *opaque, gpa_t gpa)
{
    struct cpu *cpu = opaque;
    gpa = memory_bus_address(cpu->memory, gpa);
    frame_t frame = memory_frame(cpu->memory, gpa, NULL);
    if (frame == FRAME_NONE) {
        return NULL;
    }
    return memory_host(cpu->memory, frame) + gpa % FRAME_SIZE;
}

static bool walk_entry_is_writable(void *opaque, gpa_t gpa)
{
    struct cpu *cpu = opaque;
    bool is_writable;
    memory_frame(cpu->memory, memory_bus_address(cpu->memory, gpa), &is_writable);
    return is_writable;
}

static void walk_entry_written(void *opaque, gpa_t gpa)
{
    struct cpu *cpu = opaque;
    gpa = memory_bus_address(cpu->memory, gpa);
    frame_t frame = memory_frame(cpu->memory, gpa, NULL);
    if (frame != FRAME_NONE && cpu->memory->frame[frame] & FRAME_WATCH_ANY) {
        memory_written(cpu->memory, frame, gpa % FRAME_SIZE, 8);
    }
}

static bool walk(struct cpu *cpu, enum tlb_view view, gva_t gva, enum x86_access access,
                 struct x86_translation *out)
{
    const struct x86_state *state = &cpu->state;
    struct x86_walk_context context = {
        .cr0 = state->cr0,
        .cr3 = state->cr3,
        .cr4 = state->cr4,
        .efer = state->efer,
        .pdpte = state->pdpte,
        .pkru = state->pkru,
        .ac = view == TLB_KERNEL_AC,
        .cpl = view == TLB_USER ? 3 : 0,
        .physical_bits = cpu->cpuid->physical_bits,
    };
    const struct x86_walk_memory memory = {walk_entry, walk_entry_is_writable,
                                           walk_entry_written, cpu};
    struct x86_exception fault;
    if (!x86_walk(&context, &memory, gva, access, out, &fault)) {
        /* SDM 3A 4.10.4.1: it ends what is cached for its address, of global pages in
         * every address space. The others begin anew with the next walk. */
        if (unlikely(cpu_is_upper(cpu, gva))) {
            cpu_clear_page(cpu, gva);
        }
        return cpu_raise_page_fault(cpu, &fault);
    }
    return true;
}

bool access_load_pdptes(struct cpu *cpu, uint64_t cr3)
{
    const struct x86_walk_memory memory = {.entry = walk_entry, .opaque = cpu};
    return x86_pdptes_load(&memory, cr3, cpu->cpuid->physical_bits, cpu->state.pdpte);
}

static enum tlb_view current_view(const struct cpu *cpu)
{
    if (unlikely(cpu->needs_interpreter & NEEDS_ALIGNMENT)) {
        return TLB_USER;
    }
    const struct tlb_area *area = (const struct tlb_area *)cpu->tlb;
    return (enum tlb_view)(area - cpu->tlb_context->view);
}

static bool check_canonical(struct cpu *cpu, gva_t gva)
{
    if (cpu->has_fault) {
        return false; /* a segment limit violation, see insn_address_special */
    }
    if (likely(x86_canonical(gva))) {
        return true;
    }
    cpu_raise(cpu, X86_GP, 0);
    cpu->fault_noncanonical = true;
    return false;
}

static bool is_watched(const struct cpu *cpu, gva_t page)
{
    return (cpu->debug && debug_watches_page(cpu, page)) ||
           breakpoint_watches_page(cpu, page);
}

static void note_access(struct cpu *cpu, gva_t gva, unsigned size, bool is_write)
{
    if (cpu->debug) {
        debug_note_access(cpu, gva, size, is_write);
    }
    breakpoint_note_access(cpu, gva, size, is_write);
}

/* Does it hold in every address space? In the lower half each page fault would have to
 * look for it there (see walk), and entries with a key have to follow PKRU. */
static bool is_lasting(const struct cpu *cpu, gva_t gva,
                       const struct x86_translation *translation)
{
    return translation->global && cpu_is_upper(cpu, gva) && !translation->key;
}

static void fill(struct cpu *cpu, enum tlb_view view, gva_t gva,
                 const struct x86_translation *translation, frame_t frame,
                 bool is_writable)
{
    unsigned index = gva >> FRAME_SHIFT & (TLB_SIZE - 1);
    struct tlb_area *area = &cpu->tlb_context->view[view];
    struct tlb_entry *entry = &area->entry[index];
    uint64_t page = gva & -(uint64_t)FRAME_SIZE;
    if (unlikely(cpu->needs_interpreter & NEEDS_WATCH && is_watched(cpu, page))) {
        cpu_clear_entry(entry, index); /* each access is to be seen */
        return;
    }
    uint64_t never = cpu_never(index);
    uint8_t *host = memory_host(cpu->memory, frame);
    bool lasts = is_lasting(cpu, gva, translation);
    if (unlikely(lasts && entry->read == page && entry->host != host)) {
        /* A processor would have faulted by the old entry, and forgotten it. */
        cpu_clear_page(cpu, page);
    }
    memory_populate(cpu->memory, frame);
    cpu_note_filled(area, index, lasts);
    counter_add(&cpu->counters.tlb_filled, 1);
    counter_add(&cpu->counters.tlb_replaced, entry->read != page && entry->read != never);
    if (area->stack.read == page) {
        cpu_clear_stack(area);
    }
    entry->read = page;
    entry->write = is_writable && translation->writable ? page : never;
    entry->host = host;
    entry->frame = &cpu->memory->frame[frame];
    if (cpu->hold) {
        hold_fill(cpu, area, index);
    }
    if (translation->page_size > FRAME_SIZE) {
        cpu_note_large_page(cpu->tlb_context, gva, translation->page_size, lasts);
    }
    if (unlikely(translation->key)) {
        key_note(cpu->tlb_context, index);
    }
}

/* Finds the place of gva for a read or write, through the TLB of the view or by a walk
 * that fills it. */
static bool find_place(struct cpu *cpu, enum tlb_view view, gva_t gva,
                       enum x86_access access, struct place *place)
{
    struct tlb_area *area = &cpu->tlb_context->view[view];
    const struct tlb_entry *entry = &area->entry[gva >> FRAME_SHIFT & (TLB_SIZE - 1)];
    uint64_t offset = gva - (access == X86_WRITE ? entry->write : entry->read);
    if (offset < FRAME_SIZE ||
        (access == X86_WRITE && cpu->hold && hold_find(cpu, area, gva))) {
        place->host = entry->host + gva % FRAME_SIZE;
        place->frame = (frame_t)(entry->frame - cpu->memory->frame);
        return true;
    }
    struct x86_translation translation;
    if (!check_canonical(cpu, gva) || !walk(cpu, view, gva, access, &translation)) {
        return false;
    }
    bool is_writable;
    place->gpa = memory_bus_address(cpu->memory, translation.gpa);
    frame_t frame = memory_frame(cpu->memory, place->gpa, &is_writable);
    place->frame = frame;
    place->host = NULL;
    if (frame != FRAME_NONE) {
        fill(cpu, view, gva, &translation, frame, is_writable);
        if (access != X86_WRITE || is_writable) {
            place->host = memory_host(cpu->memory, frame) + gva % FRAME_SIZE;
        }
    }
    return true;
}

static void notice_store(struct cpu *cpu, frame_t frame, unsigned offset, unsigned size)
{
    if (cpu->memory->frame[frame] & FRAME_WATCH_ANY &&
        memory_written(cpu->memory, frame, offset, size)) {
        block_spoil(cpu, frame);
    }
}

static void place_read(struct cpu *cpu, const struct place *place, uint8_t *buffer,
                       unsigned size)
{
    if (place->host) {
        switch (size) {
        case 1:
        case 2:
        case 4:
        case 8: {
            uint64_t value = access_host_load(place->host, size);
            memcpy(buffer, &value, size);
            break;
        }
        default:
            memcpy(buffer, place->host, size);
        }
        return;
    }
    gpa_t gpa = place->gpa;
    while (size > 0) {
        unsigned part = size < 64 ? size : 64;
        cpu->hooks->mmio(cpu, gpa, part, false, buffer);
        gpa += part;
        buffer += part;
        size -= part;
    }
}

static void place_write(struct cpu *cpu, const struct place *place, const uint8_t *buffer,
                        unsigned size)
{
    if (place->host) {
        switch (size) {
        case 1:
        case 2:
        case 4:
        case 8: {
            uint64_t value = 0;
            memcpy(&value, buffer, size);
            access_host_store(place->host, size, value);
            break;
        }
        default:
            memcpy(place->host, buffer, size);
        }
        notice_store(cpu, place->frame, (uintptr_t)place->host % FRAME_SIZE, size);
        return;
    }
    gpa_t gpa = place->gpa;
    while (size > 0) {
        uint8_t data[64];
        unsigned part = size < 64 ? size : 64;
        memcpy(data, buffer, part);
        cpu->hooks->mmio(cpu, gpa, part, true, data);
        gpa += part;
        buffer += part;
        size -= part;
    }
}

/* Whose access it is. */
struct reach {
    enum tlb_view view;
    bool is_wide; /* linear addresses have 64 bits, not 32 */
};

static struct reach reach_of_code(const struct cpu *cpu)
{
    return (struct reach){current_view(cpu), cpu->is_long64};
}

static struct reach reach_of_system(const struct cpu *cpu)
{
    return (struct reach){TLB_KERNEL, cpu->is_long};
}

static gva_t next_page(gva_t gva, bool is_wide)
{
    gva_t next = (gva | (FRAME_SIZE - 1)) + 1;
    return is_wide ? next : (uint32_t)next;
}

/* One access of up to a page, so of at most two pieces; both are checked before either is
 * done. */
struct span {
    struct place place[2];
    unsigned size[2];
};

static bool find_span(struct cpu *cpu, struct reach reach, gva_t gva, unsigned size,
                      enum x86_access access, struct span *span)
{
    unsigned room = FRAME_SIZE - gva % FRAME_SIZE;
    span->size[0] = size < room ? size : room;
    span->size[1] = size - span->size[0];
    if (unlikely(cpu->needs_interpreter & NEEDS_WATCH)) {
        note_access(cpu, gva, size, access == X86_WRITE);
    }
    /* #GP for the second page comes before #PF for the first. */
    gva_t next = next_page(gva, reach.is_wide);
    if (span->size[1] && !check_canonical(cpu, next)) {
        return false;
    }
    return find_place(cpu, reach.view, gva, access, &span->place[0]) &&
           (!span->size[1] || find_place(cpu, reach.view, next, access, &span->place[1]));
}

static bool read_view(struct cpu *cpu, struct reach reach, gva_t gva, uint8_t *buffer,
                      unsigned size)
{
    struct span span;
    if (!find_span(cpu, reach, gva, size, X86_READ, &span)) {
        return false;
    }
    place_read(cpu, &span.place[0], buffer, span.size[0]);
    if (span.size[1]) {
        place_read(cpu, &span.place[1], buffer + span.size[0], span.size[1]);
    }
    return true;
}

static bool write_view(struct cpu *cpu, struct reach reach, gva_t gva,
                       const uint8_t *buffer, unsigned size)
{
    struct span span;
    if (!find_span(cpu, reach, gva, size, X86_WRITE, &span)) {
        return false;
    }
    place_write(cpu, &span.place[0], buffer, span.size[0]);
    if (span.size[1]) {
        place_write(cpu, &span.place[1], buffer + span.size[0], span.size[1]);
    }
    return true;
}

bool access_misaligned(struct cpu *cpu, uint64_t ea)
{
    if (cpu->has_fault || !x86_canonical(ea)) {
        return true; /* the access itself fails */
    }
    return cpu_raise(cpu, X86_AC_FAULT, 0);
}

struct loaded access_load_slow(struct cpu *cpu, uint64_t ea, unsigned size)
{
    uint64_t value = 0;
    bool ok = access_check_alignment(cpu, ea, size) &&
              read_view(cpu, reach_of_code(cpu), ea, (uint8_t *)&value, size);
    return (struct loaded){value, ok};
}

bool access_store_slow(struct cpu *cpu, uint64_t ea, unsigned size, uint64_t value)
{
    return access_check_alignment(cpu, ea, size) &&
           write_view(cpu, reach_of_code(cpu), ea, (const uint8_t *)&value, size);
}

void access_store_watched(struct cpu *cpu, uint8_t *host, unsigned size)
{
    uint64_t offset = (uint64_t)(host - cpu->memory->base);
    notice_store(cpu, (frame_t)(offset >> FRAME_SHIFT), offset % FRAME_SIZE, size);
}

bool access_read(struct cpu *cpu, uint64_t ea, void *buffer, unsigned size)
{
    return read_view(cpu, reach_of_code(cpu), ea, buffer, size);
}

bool access_write(struct cpu *cpu, uint64_t ea, const void *buffer, unsigned size)
{
    return write_view(cpu, reach_of_code(cpu), ea, buffer, size);
}

bool access_probe(struct cpu *cpu, uint64_t ea, unsigned size, bool is_write)
{
    struct span span;
    return find_span(cpu, reach_of_code(cpu), ea, size, is_write ? X86_WRITE : X86_READ,
                     &span);
}

/* A table near the end of 32 bits of linear addresses goes on at 0. */
static gva_t system_address(const struct cpu *cpu, gva_t gva)
{
    return cpu->is_long ? gva : (uint32_t)gva;
}

bool access_read_system(struct cpu *cpu, uint64_t gva, void *buffer, unsigned size)
{
    return read_view(cpu, reach_of_system(cpu), system_address(cpu, gva), buffer, size);
}

bool access_write_system(struct cpu *cpu, uint64_t gva, const void *buffer, unsigned size)
{
    return write_view(cpu, reach_of_system(cpu), system_address(cpu, gva), buffer, size);
}

bool access_probe_system(struct cpu *cpu, gva_t gva, unsigned size, bool is_write)
{
    struct span span;
    return find_span(cpu, reach_of_system(cpu), system_address(cpu, gva), size,
                     is_write ? X86_WRITE : X86_READ, &span);
}

uint8_t *access_modify(struct cpu *cpu, uint64_t ea, unsigned size)
{
    struct span span;
    if (!find_span(cpu, reach_of_code(cpu), ea, size, X86_WRITE, &span)) {
        return NULL;
    }
    return span.size[1] ? NULL : span.place[0].host;
}

void access_modified(struct cpu *cpu, uint8_t *host, unsigned size)
{
    access_store_watched(cpu, host, size);
}

uint8_t *access_modify_begin_slow(struct cpu *cpu, uint64_t ea, unsigned size,
                                  bool is_locked)
{
    if (!access_check_alignment(cpu, ea, size)) {
        return NULL;
    }
    uint8_t *host = access_modify(cpu, ea, size);
    if (host || cpu->has_fault) {
        return host;
    }
    if (is_locked) {
        cpu->hooks->exclusive_begin(cpu);
    }
    if (!access_read(cpu, ea, cpu->operand, size)) {
        if (is_locked) {
            cpu->hooks->exclusive_end(cpu);
        }
        return NULL;
    }
    return cpu->operand;
}

void access_modify_end_slow(struct cpu *cpu, uint64_t ea, uint8_t *host, unsigned size,
                            bool is_locked)
{
    if (host != cpu->operand) {
        access_store_watched(cpu, host, size);
        return;
    }
    /* Checked when it began; another vCPU's change of the page tables meanwhile loses the
     * store, as it would lose a race on hardware. */
    if (!access_write(cpu, ea, cpu->operand, size)) {
        cpu->has_fault = false;
    }
    if (is_locked) {
        cpu->hooks->exclusive_end(cpu);
    }
}

static frame_t fetch_frame(struct cpu *cpu, gva_t gva, gpa_t *gpa)
{
    uint64_t page = gva >> FRAME_SHIFT;
    struct fetch_entry *entry = &cpu->fetch[page & (FETCH_COUNT - 1)];
    if (entry->page == page && entry->key == cpu->code_key) {
        return entry->frame;
    }
    enum tlb_view view = current_view(cpu);
    struct x86_translation translation;
    if (!check_canonical(cpu, gva) || !walk(cpu, view, gva, X86_FETCH, &translation)) {
        return FRAME_NONE;
    }
    *gpa = memory_bus_address(cpu->memory, translation.gpa);
    frame_t frame = memory_frame(cpu->memory, *gpa, NULL);
    if (frame != FRAME_NONE) {
        bool lasts = is_lasting(cpu, gva, &translation);
        *entry = (struct fetch_entry){page, cpu->code_key, frame, lasts};
        if (translation.page_size > FRAME_SIZE) {
            cpu_note_large_page(cpu->tlb_context, gva, translation.page_size, lasts);
        }
    }
    return frame;
}

static gva_t fetch_address(const struct cpu *cpu, uint64_t rip)
{
    return cpu->is_long64 ? rip : (uint32_t)(cpu->state.seg[X86_CS].base + rip);
}

frame_t access_fetch_frame(struct cpu *cpu, uint64_t rip)
{
    gpa_t gpa;
    return fetch_frame(cpu, fetch_address(cpu, rip), &gpa);
}

bool access_fetch_lasts(const struct cpu *cpu, uint64_t rip)
{
    uint64_t page = fetch_address(cpu, rip) >> FRAME_SHIFT;
    const struct fetch_entry *entry = &cpu->fetch[page & (FETCH_COUNT - 1)];
    return entry->page == page && entry->key == cpu->code_key && entry->lasts;
}

unsigned access_fetch(struct cpu *cpu, uint64_t rip, uint8_t *bytes, unsigned size)
{
    gva_t gva = fetch_address(cpu, rip);
    unsigned done = 0;
    while (done < size) {
        unsigned room = FRAME_SIZE - gva % FRAME_SIZE;
        unsigned part = size - done < room ? size - done : room;
        gpa_t gpa = 0;
        frame_t frame = fetch_frame(cpu, gva, &gpa);
        if (frame != FRAME_NONE) {
            memcpy(bytes + done, memory_host(cpu->memory, frame) + gva % FRAME_SIZE,
                   part);
        } else if (cpu->has_fault) {
            return done;
        } else {
            /* Code in MMIO space: whatever the bus answers. */
            cpu->hooks->mmio(cpu, gpa, part, false, bytes + done);
        }
        done += part;
        gva = next_page(gva, cpu->is_long64);
    }
    return done;
}
