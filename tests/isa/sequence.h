#pragma once
/*
 * Programs of up to 64 instructions that mostly run to their end: loops, branches, calls
 * and returns, stores into their own code; registers that point into the data stay as
 * they are, so that the same code runs again and again.
 */

#include "case.h"

bool sequence_make(uint64_t *random, unsigned bits, struct isa_case *test);
