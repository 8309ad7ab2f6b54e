#pragma once
/* Makes a failing case as small as it can be. */

#include "case.h"

/* Does this case still fail? */
typedef bool shrink_test(void *opaque, const struct isa_case *test);

void shrink(struct isa_case *test, shrink_test *fails, void *opaque);
