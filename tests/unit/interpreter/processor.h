#pragma once
/* A processor to execute single instructions on: 64-bit mode, CPL 0, the first 2 GiB
 * mapped one to one but for the page behind the data page. Exceptions lead to distinct
 * addresses. */

#include "interpreter/block.h"
#include "interpreter/insn.h"
#include "interpreter/native.h"

#define DATA_PAGE 0x200000u

struct processor {
    struct memory *memory;
    struct cpuid_policy policy;
    struct cpu *cpu;
    ZydisDecoder decoder;
};

enum outcome { RAN, FAULTED_MEMORY, FAULTED_SIMD, FAULTED_OPCODE, FAULTED_OTHER };

/* Ends the test program if anything fails. */
void processor_init(struct processor *processor);
void processor_fini(struct processor *processor);
/* Guest memory at a physical (here: linear) address. */
uint8_t *processor_memory(struct processor *processor, uint64_t address);

/* A decoded instruction and the one that ends execution. */
struct prepared {
    ZydisDecodedInstruction decoded;
    ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
    const struct insn_row *row;
    struct insn insn[2];
};

bool processor_decode(struct processor *processor, struct prepared *prepared,
                      const uint8_t *bytes, unsigned size);
/* False if no row takes it. */
bool processor_bind(struct processor *processor, struct prepared *prepared,
                    const uint8_t *bytes);
enum outcome processor_execute(struct processor *processor, struct prepared *prepared);
/* The vector of the last exception. */
unsigned processor_vector(const struct processor *processor);
