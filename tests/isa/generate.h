#pragma once
/* Makes cases: instructions of every form, with registers that let most memory operands
 * hit the pages, and their borders. */

#include "case.h"
#include "form.h"

/* Registers and the rest to start from; test->bits is set. */
void generate_state(uint64_t *random, struct isa_case *test);
/* Does the instruction do the same everywhere? */
bool generate_is_comparable(const struct form_code *code);

/* One instruction of the form. False if none was found for these random numbers. */
bool generate_single(const struct form *form, uint64_t *random, struct isa_case *test);
/* Two to eight instructions of any forms. */
bool generate_sequence(uint64_t *random, unsigned bits, struct isa_case *test);
/* Bytes that no manual knows: what the decoder refuses. */
bool generate_undefined(uint64_t *random, unsigned bits, struct isa_case *test);
