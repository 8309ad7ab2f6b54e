#pragma once
/*
 * Every encoding that the decoder knows, form by form: opcodes of all maps with each
 * mandatory prefix, REX.W and VEX, and every ModRM byte.
 */

#include <Zydis/Zydis.h>
#include <stdbool.h>

struct encoding {
    const uint8_t *bytes; /* of ZYDIS_MAX_INSTRUCTION_LENGTH, zeros behind what counts */
    ZydisDecodedInstruction decoded;
    ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
};

typedef void encoding_fn(void *opaque, const struct encoding *encoding);

/* Calls visit once for each form: mnemonic, opcode, widths, kinds of operands. */
void encodings_walk(const ZydisDecoder *decoder, bool has_rex, bool has_vex,
                    encoding_fn *visit, void *opaque);
