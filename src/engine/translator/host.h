#pragma once
/*
 * Host instructions, as bytes: SDM 2A chapter 2 for the formats. Registers are host
 * registers by their number.
 */

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum host_register {
    HOST_RAX,
    HOST_RCX,
    HOST_RDX,
    HOST_RBX,
    HOST_RSP,
    HOST_RBP,
    HOST_RSI,
    HOST_RDI,
    HOST_R8,
    HOST_R9,
    HOST_R10,
    HOST_R11,
    HOST_R12,
    HOST_R13,
    HOST_R14,
    HOST_R15,
    HOST_NONE = 0xff,
};

#define HOST_GUEST_RSP HOST_R11

/* Condition codes as in Jcc. */
enum host_condition {
    HOST_B = 2,
    HOST_AE = 3,
    HOST_E = 4,
    HOST_NE = 5,
    HOST_BE = 6,
    HOST_A = 7,
    HOST_L = 12,
};

/* Where bytes go. What writes several works on a copy of its own, that lives in a
 * register: any byte written might be one of *code's, for all that the compiler knows. */
struct code {
    uint8_t *at;
};

static inline void code8(struct code *code, unsigned byte)
{
    *code->at++ = (uint8_t)byte;
}
static inline void code32(struct code *code, uint32_t value)
{
    memcpy(code->at, &value, 4);
    code->at += 4;
}
static inline void code64(struct code *code, uint64_t value)
{
    memcpy(code->at, &value, 8);
    code->at += 8;
}
static inline void code_bytes(struct code *code, const void *bytes, unsigned size)
{
    memcpy(code->at, bytes, size);
    code->at += size;
}
#define CODE(code, literal) code_bytes(code, literal, sizeof(literal) - 1)

static inline bool host_fits32(uint64_t value)
{
    return (uint64_t)(int64_t)(int32_t)value == value;
}

/* A memory operand: base + (index << scale) + disp. */
struct host_mem {
    uint8_t base, index, scale;
    int32_t disp;
};

/* REX for reg, and rm as register; nothing if none is needed. */
static inline void host_rex(struct code *code, bool w, unsigned reg, unsigned index,
                            unsigned base, bool force)
{
    unsigned rex =
        0x40 | w << 3 | (reg >> 3 & 1) << 2 | (index >> 3 & 1) << 1 | (base >> 3 & 1);
    if (rex != 0x40 || force) {
        code8(code, rex);
    }
}

/* ModRM, SIB and displacement. */
static inline void host_modrm_mem(struct code *code, unsigned reg,
                                  const struct host_mem *mem)
{
    unsigned r = (reg & 7) << 3;
    if (mem->base == HOST_NONE) {
        code8(code, 0x04 | r);
        unsigned index = mem->index == HOST_NONE ? 4u : mem->index & 7u;
        code8(code, (unsigned)mem->scale << 6 | index << 3 | 5);
        code32(code, (uint32_t)mem->disp);
        return;
    }
    unsigned mod = mem->disp == 0 && (mem->base & 7) != 5 ? 0
                   : mem->disp == (int8_t)mem->disp       ? 0x40
                                                          : 0x80;
    if (mem->index != HOST_NONE || (mem->base & 7) == 4) {
        unsigned index = mem->index == HOST_NONE ? 4u : mem->index & 7u;
        code8(code, mod | r | 4);
        code8(code, (unsigned)mem->scale << 6 | index << 3 | (mem->base & 7u));
    } else {
        code8(code, mod | r | (mem->base & 7u));
    }
    if (mod == 0x40) {
        code8(code, (unsigned)mem->disp & 0xff);
    } else if (mod == 0x80) {
        code32(code, (uint32_t)mem->disp);
    }
}

static inline unsigned host_index_bit(const struct host_mem *mem)
{
    return mem->index == HOST_NONE ? 0 : mem->index;
}
static inline unsigned host_base_bit(const struct host_mem *mem)
{
    return mem->base == HOST_NONE ? 0 : mem->base;
}

/* One-byte opcode, register and memory. */
static inline void host_op_mem(struct code *code, bool w, unsigned opcode, unsigned reg,
                               const struct host_mem *mem)
{
    struct code local = *code;
    host_rex(&local, w, reg, host_index_bit(mem), host_base_bit(mem), false);
    code8(&local, opcode);
    host_modrm_mem(&local, reg, mem);
    *code = local;
}

/* One-byte opcode, two registers. */
static inline void host_op_reg(struct code *code, bool w, unsigned opcode, unsigned reg,
                               unsigned rm)
{
    struct code local = *code;
    host_rex(&local, w, reg, 0, rm, false);
    code8(&local, opcode);
    code8(&local, 0xc0 | (reg & 7) << 3 | (rm & 7));
    *code = local;
}

#define HOST_MOV_LOAD  0x8b
#define HOST_MOV_STORE 0x89
#define HOST_LEA       0x8d

static inline void host_mov(struct code *code, unsigned to, unsigned from)
{
    host_op_reg(code, true, HOST_MOV_LOAD, to, from);
}

static inline void host_lea(struct code *code, unsigned to, unsigned base, int32_t disp)
{
    struct host_mem mem = {(uint8_t)base, HOST_NONE, 0, disp};
    host_op_mem(code, true, HOST_LEA, to, &mem);
}

/* A constant in the shortest form; flags stay. */
static inline void host_constant(struct code *code, unsigned to, uint64_t value)
{
    struct code local = *code;
    if (value == (uint32_t)value) {
        host_rex(&local, false, 0, 0, to, false);
        code8(&local, 0xb8 | (to & 7));
        code32(&local, (uint32_t)value);
    } else if (host_fits32(value)) {
        host_rex(&local, true, 0, 0, to, false);
        code8(&local, 0xc7);
        code8(&local, 0xc0 | (to & 7));
        code32(&local, (uint32_t)value);
    } else {
        host_rex(&local, true, 0, 0, to, false);
        code8(&local, 0xb8 | (to & 7));
        code64(&local, value);
    }
    *code = local;
}

/* Opcode with a field at fs:[offset]. */
static inline void host_fs(struct code *code, bool w, unsigned opcode, unsigned reg,
                           int32_t offset)
{
    struct code local = *code;
    code8(&local, 0x64);
    host_rex(&local, w, reg, 0, 0, false);
    code8(&local, opcode);
    code8(&local, 0x04 | (reg & 7) << 3);
    code8(&local, 0x25);
    code32(&local, (uint32_t)offset);
    *code = local;
}

/* Opcode with gs:[base + disp]. */
static inline void host_gs(struct code *code, bool w, unsigned opcode, unsigned reg,
                           const struct host_mem *mem)
{
    code8(code, 0x65);
    host_op_mem(code, w, opcode, reg, mem);
}

/* The same at gs:[offset]. */
static inline void host_gs_at(struct code *code, bool w, unsigned opcode, unsigned reg,
                              size_t offset)
{
    uint8_t *start = code->at;
    host_fs(code, w, opcode, reg, (int32_t)offset);
    *start = 0x65;
}

/* MOVZX r32, word fs:[offset]. */
static inline void host_fs_load16(struct code *code, unsigned reg, int32_t offset)
{
    struct code local = *code;
    code8(&local, 0x64);
    host_rex(&local, false, reg, 0, 0, false);
    CODE(&local, "\x0f\xb7");
    code8(&local, 0x04 | (reg & 7) << 3);
    code8(&local, 0x25);
    code32(&local, (uint32_t)offset);
    *code = local;
}

/* MOV dword fs:[offset], imm32. */
static inline void host_fs_constant(struct code *code, int32_t offset, uint32_t value)
{
    struct code local = *code;
    CODE(&local, "\x64\xc7\x04\x25");
    code32(&local, (uint32_t)offset);
    code32(&local, value);
    *code = local;
}

/* The same and a jump, 17 bytes; writes no more. */
static inline void host_fs_constant_jmp(struct code *code, int32_t offset, uint32_t value,
                                        const uint8_t *target)
{
    uint8_t *at = code->at;
    uint64_t move = 0x2504c764 | (uint64_t)(uint32_t)offset << 32;
    uint64_t behind = value | 0xe9ull << 32;
    int32_t distance = (int32_t)(target - (at + 17));
    memcpy(at, &move, 8);
    memcpy(at + 8, &behind, 8);
    memcpy(at + 13, &distance, 4);
    code->at = at + 17;
}

/* RORX to, from, count: SDM 2B. */
static inline void host_rorx(struct code *code, unsigned to, unsigned from,
                             unsigned count)
{
    struct code local = *code;
    code8(&local, 0xc4);
    code8(&local, 0x43 | (to < 8 ? 0x80 : 0) | (from < 8 ? 0x20 : 0));
    code8(&local, 0xfb);
    code8(&local, 0xf0);
    code8(&local, 0xc0 | (to & 7) << 3 | (from & 7));
    code8(&local, count);
    *code = local;
}

/* RORX to, from, count of 32 bits, among r8 to r15. */
static inline void host_rorx_32(struct code *code, unsigned to, unsigned from,
                                unsigned count)
{
    CODE(code, "\xc4\x43\x7b\xf0");
    code8(code, 0xc0 | (to & 7) << 3 | (from & 7));
    code8(code, count);
}

/* PEXT to, from, fs:[offset]: SDM 2B. */
static inline void host_pext_fs(struct code *code, bool w, unsigned to, unsigned from,
                                int32_t offset)
{
    CODE(code, "\x64\xc4");
    code8(code, 0x62 | (to < 8 ? 0x80 : 0));
    code8(code, (unsigned)w << 7 | (~from & 15) << 3 | 2);
    code8(code, 0xf5);
    code8(code, 0x04 | (to & 7) << 3);
    code8(code, 0x25);
    code32(code, (uint32_t)offset);
}

/* AND r32, imm32 (r64 if w: sign-extended). */
static inline void host_and(struct code *code, bool w, unsigned reg, uint32_t mask)
{
    struct code local = *code;
    host_rex(&local, w, 0, 0, reg, false);
    code8(&local, 0x81);
    code8(&local, 0xe0 | (reg & 7));
    code32(&local, mask);
    *code = local;
}

/* CMP r64, imm32. */
static inline void host_cmp(struct code *code, unsigned reg, int32_t value)
{
    struct code local = *code;
    host_rex(&local, true, 0, 0, reg, false);
    code8(&local, 0x81);
    code8(&local, 0xf8 | (reg & 7));
    code32(&local, (uint32_t)value);
    *code = local;
}

/* Jcc and JMP with a 32-bit displacement that is filled in later; its place. */
static inline uint8_t *host_jcc(struct code *code, unsigned condition)
{
    code8(code, 0x0f);
    code8(code, 0x80 | condition);
    code32(code, 0);
    return code->at - 4;
}
static inline uint8_t *host_jmp(struct code *code)
{
    code8(code, 0xe9);
    code32(code, 0);
    return code->at - 4;
}
static inline void host_patch(uint8_t *place, const uint8_t *target)
{
    int32_t distance = (int32_t)(target - (place + 4));
    memcpy(place, &distance, 4);
}
static inline void host_jmp_to(struct code *code, const uint8_t *target)
{
    host_patch(host_jmp(code), target);
}

/* NOPs of so many bytes, 7 at most; writes 8, whatever is needed of them. */
static inline void host_nop(struct code *code, unsigned size)
{
    /* SDM 2B "NOP": the recommended ones of so many bytes. */
    static const uint8_t nop[8][8] = {
        "",
        "\x90",
        "\x66\x90",
        "\x0f\x1f\x00",
        "\x0f\x1f\x40\x00",
        "\x0f\x1f\x44\x00\x00",
        "\x66\x0f\x1f\x44\x00\x00",
        "\x0f\x1f\x80\x00\x00\x00\x00",
    };
    memcpy(code->at, nop[size], sizeof(nop[size]));
    code->at += size;
}

/* NOPs until the next byte but `before` lies at a multiple of align, which is 8 at most.
 */
static inline void host_align(struct code *code, unsigned align, unsigned before)
{
    host_nop(code, (unsigned)(-(uintptr_t)(code->at + before)) & (align - 1));
}

/* NOPs until the four bytes behind the next `before` lie within eight aligned ones. */
static inline void host_align_place(struct code *code, unsigned before)
{
    if (((uintptr_t)(code->at + before) & 7) > 4) {
        host_align(code, 8, before);
    }
}
