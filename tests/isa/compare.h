#pragma once
/* What must be equal, and how a difference is shown. */

#include <stdio.h>

#include "case.h"
#include "x86/cpuid.h"

/* Before the first comparison. Where the manuals leave open which of several faults an
 * instruction ends with, what Intel's processors do has been measured, and is compared;
 * AMD's may differ. */
void compare_init(enum cpu_vendor vendor);

/* Does it move an environment or a whole state? In which order the bytes of these are
 * accessed, and so which of several pages faults first, no manual says. */
bool compare_has_image(const struct isa_case *test);
/* Does it move elements under a mask? */
bool compare_has_masked_move(const struct isa_case *test);
/* Is there a far jump, call or return, or one from an interrupt? */
bool compare_has_far_transfer(const struct isa_case *test);
/* Has the case a gather, between whose elements a trap may come? */
bool compare_has_gather(const struct isa_case *test);
/* The host's answer says nothing: the code reached its kernel, or killed the program. */
bool compare_is_void(const struct isa_case *test, const struct isa_result *native);

/* What a side gave: memory is ISA_MEMORY_SIZE bytes. */
struct compare_side {
    const struct isa_result *result;
    const uint8_t *memory;
};

/* native was measured, ours computed. */
bool compare_equal(const struct isa_case *test, const struct compare_side *native,
                   const struct compare_side *ours);

/* The case: disassembly and what it starts from. */
void compare_print_case(FILE *out, const struct isa_case *test);
/* The differences. */
void compare_print(FILE *out, const struct isa_case *test,
                   const struct compare_side *native, const struct compare_side *ours);
/* The same for cases of the same instructions. */
uint64_t compare_kind(const struct isa_case *test);
/* As an entry of regressions.c. */
void compare_print_entry(FILE *out, const struct isa_case *test);
