#pragma once
/* The memory that holds a cpu's stubs, and the recovery from SIGFPE inside it. */

#include "interpreter/native.h"

#define AREA_SIZE  (1u << 20)
#define STUB_TABLE 16384u /* slots; more than stubs fit into the area */

/* Offsets in the area. */
#define AREA_MXCSR      0u /* the VMM's own MXCSR, a constant */
#define AREA_EXIT_SIZE  64u
#define AREA_EXIT_FAULT 64u  /* a SIMD floating-point exception */
#define AREA_EXIT_SSE   128u /* the gate is closed */
#define AREA_EXIT_AVX   192u
#define AREA_STUBS      256u

#define MXCSR_HOST      0x1f80u

struct native {
    uint8_t *write;         /* PROT_READ | PROT_WRITE */
    const uint8_t *execute; /* the same memory, PROT_READ | PROT_EXEC */
    uint32_t used;
    uint32_t *table; /* hash of key -> offset of the code; 0 when empty */
    unsigned slot;   /* in the list that the signal handler searches */
    /* x87 state on its way into and out of the host's unit: FXSAVE's format. */
    uint8_t image[512] __attribute__((aligned(64)));
};

/* Writes one of the header's exits: a jump to target, for a fault after saving MXCSR. */
void native_stub_exit(struct native *native, unsigned offset, insn_exec *target,
                      bool is_fault);
