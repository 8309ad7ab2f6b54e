#pragma once
/* What the program that runs cases on the bare processor (bare.c) shares with the one
 * that gives them (host.c). */

#include "case.h"

struct bare_shared {
    _Atomic uint32_t posted;   /* batches given */
    _Atomic uint32_t finished; /* batches done */
    _Atomic uint32_t first;    /* where a new program goes on */
    _Atomic uint32_t current;  /* the case being run */
    _Atomic uint32_t count;
    struct isa_input input[ISA_BATCH];
    struct isa_result result[ISA_BATCH];
    uint8_t memory[ISA_BATCH][ISA_MEMORY_SIZE]; /* as each case left it */
};

/* The descriptors it is started with. */
#define BARE_SHARED_FD 3
#define BARE_PAGES_FD  4 /* ISA_PAGES: the fixed code, then the memory */
