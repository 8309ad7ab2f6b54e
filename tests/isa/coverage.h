#pragma once
/*
 * What was executed: each form of each instruction, and each way of writing and placing
 * its operands. A run is complete when nothing is left out but what exclude.c names.
 */

#include <stdio.h>

#include "case.h"
#include "compare.h"

/* A case that the host has answered, with the form it was made from. */
void coverage_single(unsigned form, const struct isa_case *test,
                     const struct isa_result *native);
/* One of several instructions: what each is of, and how it ended. */
void coverage_sequence(const struct isa_case *test, const struct isa_result *native);

/* Every form, every feature with its count. */
void coverage_print(FILE *out);
/* Prints what is missing: rows of the instruction tables without a form and without a
 * reason, forms and features without a case. False if anything is. */
bool coverage_is_complete(FILE *out, bool has_compat, bool has_16);
