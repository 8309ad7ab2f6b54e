#pragma once
/* Cases of programs.S: every program from several states, in blocks and in steps. */

#include "case.h"

/* Case number n (from 0), false behind the last one. */
bool programs_make(unsigned n, struct isa_case *test);
