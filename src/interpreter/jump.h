#pragma once
/* Where jumps of translated code went, in a view: struct tlb_area's entries of them. */

#include "interpreter/cpu.h"

void jump_clear(struct tlb_area *area, unsigned index);

/* All of them; each leads to area->jump_miss then. */
void jump_clear_all(struct tlb_area *area);

/* The filter of pages that may have some: a page has, by the tag of one; no page has, of
 * all, or of those whose jumps do not last. */
void jump_note_page(struct tlb_area *area, uint64_t tag, bool lasts);
void jump_forget_pages(struct tlb_area *area, bool keeps_lasting);

/* Those of the page at an address, and those whose instruction only ends there. may_last:
 * some there may be such. */
void jump_drop_page(struct tlb_area *area, gva_t page, bool may_last);
