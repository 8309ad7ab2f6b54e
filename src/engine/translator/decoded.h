#pragma once
/*
 * What translation reads of an instruction and its operands: Zydis's fields by Zydis's
 * names, in a fifth of the room, since each translated instruction has a copy.
 */
#include <Zydis/Zydis.h>
#include <stdbool.h>
#include <stdint.h>

struct operand {
    uint8_t type;     /* ZydisOperandType */
    uint8_t encoding; /* ZydisOperandEncoding */
    uint8_t actions;  /* ZYDIS_OPERAND_ACTION_* */
    bool has_displacement;
    uint16_t size; /* in bits */
    union {
        struct {
            uint16_t value;
        } reg;
        struct {
            uint16_t segment, base, index;
            uint8_t type; /* ZydisMemoryOperandType */
            uint8_t scale;
            struct {
                int64_t value;
            } disp;
        } mem;
        struct {
            union {
                uint64_t u;
                int64_t s;
            } value;
            bool is_relative;
        } imm;
    };
};

struct decoded {
    uint64_t attributes;                  /* ZYDIS_ATTRIB_* */
    uint32_t flags_tested, flags_written; /* of the processor's; perhaps written */
    uint16_t mnemonic;
    uint8_t length;
    uint8_t encoding; /* ZydisInstructionEncoding */
    uint8_t opcode_map, opcode;
    uint8_t machine_mode;
    uint8_t address_width, operand_width; /* in bits */
    uint8_t operand_count, operand_count_visible;
    struct {
        uint8_t category, isa_ext, exception_class, branch_type;
    } meta;
    struct {
        uint8_t prefix_count; /* of its first bytes, so many */
        struct {
            uint8_t mod, reg, rm;
        } modrm;
        struct {
            uint8_t offset, base;
        } sib;
        struct {
            uint8_t W;
        } rex;
        struct {
            uint8_t W, L, pp, m_mmmm;
        } vex;
        struct {
            uint8_t size, offset; /* size: in bits; 0: none */
            bool is_signed;
        } imm[2];
        struct {
            uint8_t size, offset;
            int64_t value;
        } disp;
    } raw;
};

void decoded_take(struct decoded *decoded, const ZydisDecodedInstruction *from);
void operand_take(struct operand *operand, const ZydisDecodedOperand *from);
