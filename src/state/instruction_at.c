#include "state/instruction_at.h"

#include <Zydis/Zydis.h>
#include <inttypes.h>
#include <stdio.h>

static void init_decoder(ZydisDecoder *decoder, const struct x86_state *state)
{
    switch (x86_state_mode(state)) {
    case X86_MODE_LONG64:
        ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
        break;
    case X86_MODE_PROTECTED32:
    case X86_MODE_COMPAT32:
        ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
        break;
    default:
        ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
    }
}

static gva_t code_address(const struct x86_state *state)
{
    bool is_long64 = x86_state_mode(state) == X86_MODE_LONG64;
    return is_long64 ? state->rip : (uint32_t)(state->seg[X86_CS].base + state->rip);
}

void instruction_at(const struct virtual_space *space, char text[INSTRUCTION_TEXT])
{
    uint8_t bytes[ZYDIS_MAX_INSTRUCTION_LENGTH];
    gva_t address = code_address(space->state);
    size_t size = virtual_read(space, address, bytes, sizeof(bytes));
    char name[96] = "(cannot be read)";
    unsigned length = size > 0;
    ZydisDecoder decoder;
    ZydisDecodedInstruction decoded;
    ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
    init_decoder(&decoder, space->state);
    if (size &&
        ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, size, &decoded, operand))) {
        ZydisFormatter formatter;
        ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
        length = decoded.length;
        ZydisFormatterFormatInstruction(&formatter, &decoded, operand,
                                        decoded.operand_count_visible, name, sizeof(name),
                                        address, NULL);
    } else if (size) {
        snprintf(name, sizeof(name), "(undefined)");
    }
    int at = snprintf(text, INSTRUCTION_TEXT, "%" PRIx64 ":", address);
    for (unsigned i = 0; i < length; i++) {
        at += snprintf(text + at, INSTRUCTION_TEXT - (size_t)at, " %02x", bytes[i]);
    }
    snprintf(text + at, INSTRUCTION_TEXT - (size_t)at, "  %s", name);
}
