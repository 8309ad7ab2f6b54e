#pragma once
/* Loops unrolled: blocks of several rounds of a loop (unroll.c). */

#include "engine/translator/emit.h"

/* The instruction of a block that closes a loop to be unrolled; 0: none does. */
unsigned unroll_find_end(const struct emit *emit, const struct guest_insn *insn,
                         unsigned count);
/* Where its branch back leads before it is linked: on in the loop, flags staying as they
 * are, but out by what follows if it is its turn. */
void unroll_emit_count(struct emit *emit);
/* Makes several rounds of one: how many. */
unsigned unroll_copy(struct guest_insn *insn, unsigned round);
/* A check for the rounds failed: on in the loop's first block. */
void unroll_emit_cold(struct emit *emit, const struct cold *cold);
/* The branch that ends a round; the flags are the host's. */
bool unroll_emit_branch(struct emit *emit, const struct guest_insn *insn);
