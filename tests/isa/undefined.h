#pragma once
/*
 * Flags that the manual leaves undefined: processors, and the engines on them, may give
 * any value. Followed through the code of a case, so that only what is really undefined
 * at the end is not compared.
 */

#include <Zydis/Zydis.h>

#include "case.h"

/* Of those that were defined before, which does the instruction leave undefined? Calls
 * for the state only to know CL; NULL: CL may be anything. */
uint32_t undefined_by(const ZydisDecodedInstruction *decoded,
                      const ZydisDecodedOperand *operand, const struct isa_case *state);
/* Follows one instruction: *flags are undefined before it, and then behind it. False if
 * it reads one of them. */
bool undefined_follow(const ZydisDecodedInstruction *decoded,
                      const ZydisDecodedOperand *operand, uint32_t *flags);
/* Which flags are undefined when the case has come to rip? */
uint32_t undefined_at(const struct isa_case *test, uint64_t rip);
/* Does any instruction read flags that are undefined, so that anything may come of it? */
bool undefined_is_read(const struct isa_case *test);

/* The table, for its documentation: row n as text; false behind the last. */
bool undefined_row(unsigned n, const char **mnemonic, uint32_t *flags,
                   const char **section);
