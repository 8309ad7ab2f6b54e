#pragma once
/* A machine's whole state as numbers, and what differs between two. */

#include "dispatcher/vm.h"

/* XXH3-64 of what a snapshot would hold: the parts of the state, and the memory with the
 * places of its pages. The machine stands still. */
struct digest {
    uint64_t state, memory;
};

int digest_make(struct vm *vm, struct digest *digest, struct error *err);
