#pragma once
/* What must be equal, and how a difference is shown. */

#include <stdio.h>

#include "case.h"

/* Flags that the case's instructions leave undefined, of which processors differ. */
uint32_t compare_undefined_flags(const struct isa_case *test);
/* Does it move an environment or a whole state? In which order the bytes of these are
 * accessed, and so which of several pages faults first, no manual says. */
bool compare_has_image(const struct isa_case *test);
/* The host's answer says nothing: the code reached its kernel, or killed the child. */
bool compare_is_void(const struct isa_result *native);

/* native was measured, ours computed. */
bool compare_equal(const struct isa_case *test, const struct isa_result *native,
                   const struct isa_result *ours);

/* The case: disassembly and what it starts from. */
void compare_print_case(FILE *out, const struct isa_case *test);
/* The differences; the memory as each side left it (NULL: not known). */
void compare_print(FILE *out, const struct isa_case *test,
                   const struct isa_result *native, const struct isa_result *ours,
                   const uint8_t *native_memory, const uint8_t *our_memory);
/* As an entry of regressions.c. */
void compare_print_entry(FILE *out, const struct isa_case *test);
