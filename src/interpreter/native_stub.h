#pragma once
/* Stubs: making the host code for one instruction, finding it again. See native.h. */

#include "interpreter/native.h"

/* Runs the instruction. With STUB_CALLED, NULL when it raised (already delivered), else
 * the next instruction; otherwise it goes on as NEXT does. */
typedef const struct insn *native_stub(struct cpu *cpu, const struct insn *insn,
                                       void *operand, void *image);

enum stub_gate {
    STUB_OPEN, /* general registers only */
    STUB_SSE,
    STUB_AVX,
    STUB_MMX,
    STUB_X87,
};

#define STUB_MEMORY  0x01u /* operand is the address of the memory operand */
#define STUB_CALLED  0x02u /* returns to its caller, whatever the dispatch */
#define STUB_CHECKED 0x04u /* tests CR0, CR4 and XCR0 itself */

/* The gate an instruction stands behind, from its encoding and registers. */
enum stub_gate native_stub_gate(const struct binding *binding);

/*
 * The stub for a decoded instruction; made if need be. NULL if there is no room: the
 * cpu's blocks are being dropped, bind must return false.
 */
native_stub *native_stub_find(struct binding *binding, enum stub_gate gate,
                              unsigned flags);
