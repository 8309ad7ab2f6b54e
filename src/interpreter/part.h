#pragma once
/*
 * Memory operands of several parts: far pointers, the pair of BOUND, x87's 80 bits and
 * its environment. SDM 2 tells how they lie, not how they are accessed. Intel's
 * processors take part by part: each at an offset of its own within the address size
 * (behind the last one comes 0), with its own checks of segment and page, so that what
 * was stored before the part that faults stays. To AMD's the operand is taken to be one
 * access.
 */

#include "interpreter/insn.h"

struct parts {
    uint8_t alignment;  /* of the first byte, where that is checked */
    bool has_end_first; /* whether the last byte can be reached is looked at first */
    uint8_t count;
    uint8_t size[23]; /* from the lowest address on */
};

/* As access_read and access_write, the fault recorded, with the operand's address that
 * insn has. */
bool part_read(struct cpu *cpu, const struct insn *insn, const struct parts *parts,
               void *buffer);
bool part_write(struct cpu *cpu, const struct insn *insn, const struct parts *parts,
                const void *buffer);
/* The linear address of size bytes at offset in the operand, as insn_address yields it.
 */
uint64_t part_address(struct cpu *cpu, const struct insn *insn, unsigned offset,
                      unsigned size);
