#pragma once
/* Cases that once failed; they run first at every run. */

#include "case.h"

extern const struct isa_case regressions[];
extern const unsigned regression_count;
/* What has been seen on Intel's processors only. */
extern const struct isa_case intel_regressions[];
extern const unsigned intel_regression_count;
