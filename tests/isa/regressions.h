#pragma once
/* Cases that once failed; they run first at every run. */

#include "case.h"

extern const struct isa_case regressions[];
extern const unsigned regression_count;
