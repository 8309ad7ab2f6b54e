/* MUL, IMUL, DIV, IDIV on the host's units; quotients that would not fit are found before
 * the host divides. */
#include "interpreter/alu.h"
#include "interpreter/insn.h"

#include <stdint.h>

typedef unsigned __int128 u128;
typedef __int128 i128;

enum { SOURCE_REGISTER, SOURCE_MEMORY };

/* The one explicit operand of the one-operand forms. */
static inline struct loaded source_value(struct cpu *cpu, const struct insn *insn,
                                         unsigned size, bool is_memory)
{
    if (is_memory) {
        return access_load(cpu, insn_address(cpu, insn), size);
    }
    return (struct loaded){reg_read(cpu, insn->dst, size), true};
}

/*
 * One-operand multiplication: the double-width product to AX, or to (R|E)DX:(R|E)AX. The
 * flags before are loaded, since the host decides which of them it leaves alone.
 */
#define MULTIPLY_WIDE(bits, type, suffix, modifier, name, mnemonic)                  \
    static inline void multiply_##name##bits(struct cpu *cpu, type value,            \
                                             arith_t *flags)                         \
    {                                                                                \
        uint64_t low = cpu->reg[X86_RAX], high, made = *flags;                       \
        __asm__(ALU_LOAD_FLAGS "mov %[low], %%rax\n\t" mnemonic suffix " %" modifier \
                               "[v]\n\tmov %%rax, %[low]" ALU_SAVE_FLAGS             \
                : "+&a"(made), "=&d"(high), [low] "+&r"(low)                         \
                : [v] "r"(value)                                                     \
                : "cc");                                                             \
        *flags = (arith_t)made;                                                      \
        reg_write(cpu, REG_OFFSET(X86_RAX), sizeof(type), low);                      \
        reg_write(cpu, REG_OFFSET(X86_RDX), sizeof(type), high);                     \
    }

#define MULTIPLY_8(name, mnemonic)                                            \
    static inline void multiply_##name##8(struct cpu * cpu, uint8_t value,    \
                                          arith_t * flags)                    \
    {                                                                         \
        uint64_t product = cpu->reg[X86_RAX], made = *flags;                  \
        __asm__(ALU_LOAD_FLAGS "mov %[p], %%rax\n\t" mnemonic                 \
                               "b %b[v]\n\tmovzwl %%ax, %k[p]" ALU_SAVE_FLAGS \
                : "+&a"(made), [p] "+&r"(product)                             \
                : [v] "r"(value)                                              \
                : "cc");                                                      \
        *flags = (arith_t)made;                                               \
        reg_write(cpu, REG_OFFSET(X86_RAX), 2, product);                      \
    }

MULTIPLY_8(mul, "mul")
MULTIPLY_8(imul, "imul")
MULTIPLY_WIDE(16, uint16_t, "w", "w", mul, "mul")
MULTIPLY_WIDE(32, uint32_t, "l", "k", mul, "mul")
MULTIPLY_WIDE(64, uint64_t, "q", "q", mul, "mul")
MULTIPLY_WIDE(16, uint16_t, "w", "w", imul, "imul")
MULTIPLY_WIDE(32, uint32_t, "l", "k", imul, "imul")
MULTIPLY_WIDE(64, uint64_t, "q", "q", imul, "imul")

#define MULTIPLY_HANDLER(bits, type, name, form, is_memory)                     \
    static const struct insn *name##_##form##bits(struct cpu *cpu,              \
                                                  const struct insn *insn)      \
    {                                                                           \
        struct loaded value = source_value(cpu, insn, sizeof(type), is_memory); \
        if (unlikely(!value.ok)) {                                              \
            return insn_fault(cpu, insn);                                       \
        }                                                                       \
        arith_t flags = cpu->arith;                                             \
        multiply_##name##bits(cpu, (type)value.value, &flags);                  \
        cpu->arith = flags;                                                     \
        NEXT(cpu, insn);                                                        \
    }

#define MULTIPLY_HANDLERS(bits, type, suffix, modifier, name) \
    MULTIPLY_HANDLER(bits, type, name, r, false)              \
    MULTIPLY_HANDLER(bits, type, name, m, true)

ALU_SIZES(MULTIPLY_HANDLERS, mul)
ALU_SIZES(MULTIPLY_HANDLERS, imul)

/* The dividend is 16 bits in AX, or twice the operand's width in (R|E)DX:(R|E)AX. */
static inline u128 dividend(const struct cpu *cpu, unsigned bits)
{
    uint64_t low = cpu->reg[X86_RAX], high = cpu->reg[X86_RDX];
    switch (bits) {
    case 8:
        return (uint16_t)low;
    case 16:
        return (uint32_t)(uint16_t)high << 16 | (uint16_t)low;
    case 32:
        return high << 32 | (uint32_t)low;
    default:
        return (u128)high << 64 | low;
    }
}

/* The division itself, known not to fault. All flags are undefined: loaded before and
 * stored behind, they become what the host makes of them. */
#define DIVISION(bits, type, suffix, modifier, name, mnemonic)                         \
    static inline void name##bits(struct cpu *cpu, type value)                         \
    {                                                                                  \
        uint64_t low = cpu->reg[X86_RAX], high = cpu->reg[X86_RDX], made = cpu->arith; \
        __asm__(ALU_LOAD_ALL "mov %[low], %%rax\n\t" mnemonic suffix " %" modifier     \
                             "[v]\n\tmov %%rax, %[low]" ALU_SAVE_FLAGS                 \
                : "+&a"(made), "+&d"(high), [low] "+&r"(low)                           \
                : [v] "r"(value)                                                       \
                : "cc");                                                               \
        cpu->arith = (arith_t)made;                                                    \
        if (sizeof(type) == 1) { /* quotient in AL, remainder in AH */                 \
            reg_write(cpu, REG_OFFSET(X86_RAX), 2, low);                               \
            return;                                                                    \
        }                                                                              \
        reg_write(cpu, REG_OFFSET(X86_RAX), sizeof(type), low);                        \
        reg_write(cpu, REG_OFFSET(X86_RDX), sizeof(type), high);                       \
    }

ALU_SIZES(DIVISION, quotient_unsigned, "div")
ALU_SIZES(DIVISION, quotient_signed, "idiv")

/* A divisor of 0, or a quotient that does not fit: #DE. */
static inline bool fits_unsigned(const struct cpu *cpu, unsigned bits, uint64_t divisor)
{
    return divisor != 0 && (dividend(cpu, bits) >> bits) < divisor;
}

static inline int64_t sign_extend(uint64_t value, unsigned bits)
{
    return (int64_t)(value << (64 - bits)) >> (64 - bits);
}

static inline bool fits_signed(const struct cpu *cpu, unsigned bits, uint64_t operand)
{
    int64_t divisor = sign_extend(operand, bits);
    unsigned spare = 128 - 2 * bits;
    i128 value = (i128)(dividend(cpu, bits) << spare) >> spare;
    u128 magnitude = value < 0 ? -(u128)value : (u128)value;
    uint64_t by = divisor < 0 ? -(uint64_t)divisor : (uint64_t)divisor;
    if (by == 0 || (magnitude >> bits) >= by) {
        return false;
    }
    /* -2^(bits-1) to 2^(bits-1) - 1: limit * by is the first magnitude out of range. */
    bool is_negative = (value < 0) != (divisor < 0);
    uint64_t limit = (1ull << (bits - 1)) + is_negative;
    return magnitude < (u128)limit * by;
}

#define DIVIDE_HANDLER(bits, type, name, form, is_memory)                           \
    static const struct insn *divide_##name##_##form##bits(struct cpu *cpu,         \
                                                           const struct insn *insn) \
    {                                                                               \
        struct loaded value = source_value(cpu, insn, sizeof(type), is_memory);     \
        if (unlikely(!value.ok)) {                                                  \
            return insn_fault(cpu, insn);                                           \
        }                                                                           \
        if (unlikely(!fits_##name(cpu, bits, (type)value.value))) {                 \
            return insn_raise(cpu, insn, X86_DE, 0);                                \
        }                                                                           \
        quotient_##name##bits(cpu, (type)value.value);                              \
        NEXT(cpu, insn);                                                            \
    }

#define DIVIDE_HANDLERS(bits, type, suffix, modifier, name) \
    DIVIDE_HANDLER(bits, type, name, r, false)              \
    DIVIDE_HANDLER(bits, type, name, m, true)

ALU_SIZES(DIVIDE_HANDLERS, unsigned)
ALU_SIZES(DIVIDE_HANDLERS, signed)

#define SOURCE_ROWS(name)                                                             \
    name##_r8, name##_r16, name##_r32, name##_r64, name##_m8, name##_m16, name##_m32, \
        name##_m64

static insn_exec *const exec_mul[] = {SOURCE_ROWS(mul)};
static insn_exec *const exec_div[] = {SOURCE_ROWS(divide_unsigned)};
static insn_exec *const exec_idiv[] = {SOURCE_ROWS(divide_signed)};

/* IMUL with two or three operands: dst = a * b, truncated. */
#define IMUL_TRUNCATED(bits, type, suffix, modifier)                            \
    static inline type multiply_truncated##bits(type a, type b, arith_t *flags) \
    {                                                                           \
        __asm__(ALU_LOAD_FLAGS "imul" suffix " %" modifier "[b], %" modifier    \
                               "[a]" ALU_SAVE_FLAGS                             \
                : [a] "+r"(a), "+&a"(*flags)                                    \
                : [b] "r"(b)                                                    \
                : "cc");                                                        \
        return a;                                                               \
    }

IMUL_TRUNCATED(16, uint16_t, "w", "w")
IMUL_TRUNCATED(32, uint32_t, "l", "k")
IMUL_TRUNCATED(64, uint64_t, "q", "q")

/* form: r/m source; count: 2 multiplies into dst, 3 takes the immediate. */
#define IMUL_HANDLER(bits, type, form, operands, load, factor)                       \
    static const struct insn *imul##operands##_##form##bits(struct cpu *cpu,         \
                                                            const struct insn *insn) \
    {                                                                                \
        struct loaded value = load;                                                  \
        if (unlikely(!value.ok)) {                                                   \
            return insn_fault(cpu, insn);                                            \
        }                                                                            \
        arith_t flags = cpu->arith;                                                  \
        type product = multiply_truncated##bits((type)value.value, factor, &flags);  \
        cpu->arith = flags;                                                          \
        reg_write(cpu, insn->dst, sizeof(type), product);                            \
        NEXT(cpu, insn);                                                             \
    }

#define FROM_REGISTER(type) \
    ((struct loaded){reg_read(cpu, insn->src, sizeof(type)), true})
#define FROM_MEMORY(type) access_load(cpu, insn_address(cpu, insn), sizeof(type))
#define OLD_VALUE(type)   ((type)reg_read(cpu, insn->dst, sizeof(type)))
#define IMMEDIATE(type)   ((type)insn->imm)

#define IMUL_HANDLERS(bits, type)                                        \
    IMUL_HANDLER(bits, type, r, 2, FROM_REGISTER(type), OLD_VALUE(type)) \
    IMUL_HANDLER(bits, type, m, 2, FROM_MEMORY(type), OLD_VALUE(type))   \
    IMUL_HANDLER(bits, type, r, 3, FROM_REGISTER(type), IMMEDIATE(type)) \
    IMUL_HANDLER(bits, type, m, 3, FROM_MEMORY(type), IMMEDIATE(type))

IMUL_HANDLERS(16, uint16_t)
IMUL_HANDLERS(32, uint32_t)
IMUL_HANDLERS(64, uint64_t)

static insn_exec *const exec_imul[] = {SOURCE_ROWS(imul)};
static insn_exec *const exec_imul2[] = {NULL, imul2_r16, imul2_r32, imul2_r64,
                                        NULL, imul2_m16, imul2_m32, imul2_m64};
static insn_exec *const exec_imul3[] = {NULL, imul3_r16, imul3_r32, imul3_r64,
                                        NULL, imul3_m16, imul3_m32, imul3_m64};

static bool bind_one_operand(struct binding *binding, const struct insn_row *row,
                             struct insn *insn)
{
    bind_simple(binding, row, insn);
    bool is_memory = binding->operand[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
    insn->exec = row->exec[is_memory * 4 + bind_log2_size(binding->operand[0].size)];
    return true;
}

static bool bind_imul(struct binding *binding, const struct insn_row *row,
                      struct insn *insn)
{
    if (binding->decoded->operand_count_visible == 1) {
        return bind_one_operand(binding, row, insn);
    }
    bind_simple(binding, row, insn);
    bool is_memory = binding->operand[1].type == ZYDIS_OPERAND_TYPE_MEMORY;
    insn_exec *const *exec =
        binding->decoded->operand_count_visible == 2 ? exec_imul2 : exec_imul3;
    insn->exec = exec[is_memory * 4 + bind_log2_size(binding->operand[0].size)];
    return insn->exec != NULL;
}

const struct insn_row insn_rows_muldiv[] = {
    {ZYDIS_MNEMONIC_MUL, INSN_INNOCUOUS, bind_one_operand, exec_mul, 0},
    {ZYDIS_MNEMONIC_IMUL, INSN_INNOCUOUS, bind_imul, exec_imul, 0},
    {ZYDIS_MNEMONIC_DIV, INSN_INNOCUOUS, bind_one_operand, exec_div, 0},
    {ZYDIS_MNEMONIC_IDIV, INSN_INNOCUOUS, bind_one_operand, exec_idiv, 0},
    {0},
};
