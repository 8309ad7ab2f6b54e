#pragma once
/* Flags that nobody has kept, computed from what registers still hold. */

#include "engine/translator/cache.h"

/* As struct cpu has them; gpr: the guest's, where its code was left. */
arith_t recover_flags(const struct recovery *recovery, const uint64_t gpr[16]);
