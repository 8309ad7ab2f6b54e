/*
 * INVLPG drops the jumps of a page, but comes for data, mostly. Which pages may have any
 * a filter tells; and where in such a page, lines that many pages share: who invalidates
 * a page that is taken for another one looks at the few entries that either may have, not
 * at all of them.
 */
#include "interpreter/jump.h"

#include <string.h>

#define LINE_SHIFT 6 /* of a page's offsets, whose entries lie side by side */
#define LINE_SIZE  (1u << LINE_SHIFT)

/* Which bits are a page's, by an address in it or the tag of a jump there. */
struct place {
    unsigned bit;    /* of jump_filter */
    uint64_t *lines; /* a bit for each line: one of jump_lines */
};

static struct place find_place(struct tlb_area *area, uint64_t tag, bool lasts)
{
    uint64_t page = (tag & ~AREA_JUMP_BASED_TAG) >> FRAME_SHIFT;
    if (lasts) {
        return (struct place){
            AREA_FILTER_PASSING + (page ^ page >> 15) % AREA_FILTER_LASTING,
            &area->jump_lines[AREA_LINES_PASSING + page % AREA_LINES_LASTING],
        };
    }
    return (struct place){
        (page ^ page >> 12) % AREA_FILTER_PASSING,
        &area->jump_lines[page % AREA_LINES_PASSING],
    };
}

void jump_note_page(struct tlb_area *area, uint64_t tag, bool lasts)
{
    struct place place = find_place(area, tag, lasts);
    area->jump_filter[place.bit / 64] |= 1ull << place.bit % 64;
    *place.lines |= 1ull << tag % FRAME_SIZE / LINE_SIZE;
    area->has_jumps = true;
}

void jump_forget_pages(struct tlb_area *area, bool keeps_lasting)
{
    if (area->has_jumps) {
        unsigned bits = keeps_lasting ? AREA_FILTER_PASSING : AREA_FILTER_BITS;
        unsigned lines = keeps_lasting ? AREA_LINES_PASSING : AREA_LINES;
        memset(area->jump_filter, 0, bits / 8);
        memset(area->jump_lines, 0, lines * sizeof(area->jump_lines[0]));
        area->has_jumps = keeps_lasting;
    }
}

void jump_clear(struct tlb_area *area, unsigned index)
{
    area->jump[index] = (struct tlb_jump){0, area->jump_miss};
}

void jump_clear_all(struct tlb_area *area)
{
    for (unsigned i = 0; area->jump_miss && i < AREA_JUMP_COUNT; i++) {
        jump_clear(area, i);
    }
    jump_forget_pages(area, false);
}

static bool is_lasting(const struct tlb_area *area, unsigned index)
{
    index += TLB_SIZE;
    return area->lasting[index / 64] >> index % 64 & 1;
}

static void fill(struct tlb_area *area, unsigned index, uint64_t tag, const void *target,
                 bool lasts)
{
    cpu_note_filled(area, TLB_SIZE + index, lasts);
    jump_note_page(area, tag, lasts);
    area->jump[index] = (struct tlb_jump){tag, target};
}

void cpu_note_jump(struct tlb_area *area, unsigned index, uint64_t tag,
                   const void *target, bool lasts)
{
    unsigned other = index ^ AREA_JUMP_OTHER;
    uint64_t before = area->jump[index].tag;
    if (before != 0 && before != tag) {
        fill(area, other, before, area->jump[index].target, is_lasting(area, index));
    } else if (area->jump[other].tag == tag) {
        jump_clear(area, other); /* one place for each, or an old target stays */
    }
    fill(area, index, tag, target, lasts);
}

/* 32-bit code's entries, and pairs' others, are within the line, too. */
static void drop_line(struct tlb_area *area, gva_t line)
{
    unsigned first = cpu_area_jump(line) & ~(LINE_SIZE - 1);
    for (unsigned i = first; i < first + LINE_SIZE; i++) {
        uint64_t differs = (area->jump[i].tag ^ line) & ~AREA_JUMP_BASED_TAG;
        if (differs >> LINE_SHIFT == 0) {
            jump_clear(area, i);
        }
    }
}

/* In which lines of the page; not 0: it may have jumps. */
static uint64_t find_lines(struct tlb_area *area, gva_t page, bool may_last)
{
    uint64_t lines = 0;
    for (unsigned lasts = 0; lasts <= may_last; lasts++) {
        struct place place = find_place(area, page, lasts);
        if (area->jump_filter[place.bit / 64] >> place.bit % 64 & 1) {
            lines |= *place.lines;
        }
    }
    return lines;
}

/* Of the lines that end so near the page behind, in which an instruction may end. */
static void drop_crossing(struct tlb_area *area, gva_t page)
{
    for (unsigned back = 1; back < INSN_BYTES_MAX; back++) {
        unsigned index = cpu_area_jump(page - back);
        jump_clear(area, index);
        jump_clear(area, index ^ AREA_JUMP_OTHER);
    }
}

void jump_drop_page(struct tlb_area *area, gva_t page, bool may_last)
{
    for (uint64_t left = find_lines(area, page, may_last); left; left &= left - 1) {
        drop_line(area, page + ((uint64_t)__builtin_ctzll(left) << LINE_SHIFT));
    }
    if (find_lines(area, page - 1, may_last) >> (FRAME_SIZE / LINE_SIZE - 1)) {
        drop_crossing(area, page);
    }
}
