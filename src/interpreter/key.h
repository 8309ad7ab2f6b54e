#pragma once
/*
 * Protection keys (SDM 3A 4.6.2): PKRU, and what the TLB has to know of it. An entry is
 * filled with the rights that its key has at the time. When a key loses rights, the
 * entries of pages with keys are dropped; there are none, and nothing to do, where nobody
 * uses keys.
 */

#include "interpreter/cpu.h"

/* Notes that the page behind an entry being filled has a key other than 0. */
void key_note(struct tlb_context *context, unsigned index);
/* Sets PKRU. */
void key_set_rights(struct cpu *cpu, uint32_t pkru);
