/*
 * Integer arithmetic and logic: ADD OR ADC SBB AND SUB XOR CMP TEST, INC DEC NEG NOT,
 * LOCK forms included. One routine for each operation, operand form and size, made by
 * macros from the primitives in alu.h.
 */
#include "interpreter/alu.h"
#include "interpreter/insn.h"

/* Operand forms, destination first: register, memory, immediate; L is memory with LOCK.
 */
enum { FORM_RR, FORM_RI, FORM_RM, FORM_MR, FORM_MI, FORM_LR, FORM_LI, FORM_COUNT };

/* Sources as the macros below see them. */
#define SOURCE_REG(type) ((type)reg_read(cpu, insn->src, sizeof(type)))
#define SOURCE_IMM(type) ((type)insn->imm)

#define TO_REGISTER(name, bits, type, form, writes, source)                \
    static const struct insn *name##_##form##bits(struct cpu *cpu,         \
                                                  const struct insn *insn) \
    {                                                                      \
        type a = (type)reg_read(cpu, insn->dst, sizeof(type));             \
        arith_t flags = cpu->arith;                                        \
        a = alu_##name##bits(a, source(type), &flags);                     \
        cpu->arith = flags;                                                \
        if (writes) {                                                      \
            reg_write(cpu, insn->dst, sizeof(type), a);                    \
        }                                                                  \
        NEXT(cpu, insn);                                                   \
    }

#define REGISTER_FROM_MEMORY(name, bits, type, writes)                                  \
    static const struct insn *name##_rm##bits(struct cpu *cpu, const struct insn *insn) \
    {                                                                                   \
        struct loaded b = access_load(cpu, insn_address(cpu, insn), sizeof(type));      \
        if (unlikely(!b.ok)) {                                                          \
            return insn_fault(cpu, insn);                                               \
        }                                                                               \
        type a = (type)reg_read(cpu, insn->dst, sizeof(type));                          \
        arith_t flags = cpu->arith;                                                     \
        a = alu_##name##bits(a, (type)b.value, &flags);                                 \
        cpu->arith = flags;                                                             \
        if (writes) {                                                                   \
            reg_write(cpu, insn->dst, sizeof(type), a);                                 \
        }                                                                               \
        NEXT(cpu, insn);                                                                \
    }

#define TO_MEMORY(name, bits, type, form, source)                          \
    static const struct insn *name##_##form##bits(struct cpu *cpu,         \
                                                  const struct insn *insn) \
    {                                                                      \
        uint64_t ea = insn_address(cpu, insn);                             \
        uint8_t *host = access_modify_begin(cpu, ea, sizeof(type), false); \
        if (unlikely(!host)) {                                             \
            return insn_fault(cpu, insn);                                  \
        }                                                                  \
        arith_t flags = cpu->arith;                                        \
        type a = (type)access_host_load(host, sizeof(type));               \
        a = alu_##name##bits(a, source(type), &flags);                     \
        access_host_store(host, sizeof(type), a);                          \
        cpu->arith = flags;                                                \
        access_modify_end(cpu, ea, host, sizeof(type), false);             \
        NEXT(cpu, insn);                                                   \
    }

#define TO_MEMORY_LOCKED(name, bits, type, form, source)                   \
    static const struct insn *name##_##form##bits(struct cpu *cpu,         \
                                                  const struct insn *insn) \
    {                                                                      \
        uint64_t ea = insn_address(cpu, insn);                             \
        uint8_t *host = access_modify_begin(cpu, ea, sizeof(type), true);  \
        if (unlikely(!host)) {                                             \
            return insn_fault(cpu, insn);                                  \
        }                                                                  \
        arith_t flags = cpu->arith;                                        \
        alu_lock_##name##bits(host, source(type), &flags);                 \
        cpu->arith = flags;                                                \
        access_modify_end(cpu, ea, host, sizeof(type), true);              \
        NEXT(cpu, insn);                                                   \
    }

/* CMP and TEST only read their memory operand. */
#define COMPARE_MEMORY(name, bits, type, form, source)                             \
    static const struct insn *name##_##form##bits(struct cpu *cpu,                 \
                                                  const struct insn *insn)         \
    {                                                                              \
        struct loaded a = access_load(cpu, insn_address(cpu, insn), sizeof(type)); \
        if (unlikely(!a.ok)) {                                                     \
            return insn_fault(cpu, insn);                                          \
        }                                                                          \
        arith_t flags;                                                             \
        alu_##name##bits((type)a.value, source(type), &flags);                     \
        cpu->arith = flags;                                                        \
        NEXT(cpu, insn);                                                           \
    }

#define BINARY_HANDLERS(bits, type, suffix, modifier, name) \
    TO_REGISTER(name, bits, type, rr, true, SOURCE_REG)     \
    TO_REGISTER(name, bits, type, ri, true, SOURCE_IMM)     \
    REGISTER_FROM_MEMORY(name, bits, type, true)            \
    TO_MEMORY(name, bits, type, mr, SOURCE_REG)             \
    TO_MEMORY(name, bits, type, mi, SOURCE_IMM)             \
    TO_MEMORY_LOCKED(name, bits, type, lr, SOURCE_REG)      \
    TO_MEMORY_LOCKED(name, bits, type, li, SOURCE_IMM)

#define COMPARE_HANDLERS(bits, type, suffix, modifier, name) \
    TO_REGISTER(name, bits, type, rr, false, SOURCE_REG)     \
    TO_REGISTER(name, bits, type, ri, false, SOURCE_IMM)     \
    REGISTER_FROM_MEMORY(name, bits, type, false)            \
    COMPARE_MEMORY(name, bits, type, mr, SOURCE_REG)         \
    COMPARE_MEMORY(name, bits, type, mi, SOURCE_IMM)

#define FORM_ROW(name, form) \
    name##_##form##8, name##_##form##16, name##_##form##32, name##_##form##64

#define BINARY(name)                                                                    \
    ALU_SIZES(BINARY_HANDLERS, name)                                                    \
    static insn_exec *const exec_##name[FORM_COUNT * 4] = {                             \
        FORM_ROW(name, rr), FORM_ROW(name, ri), FORM_ROW(name, rm), FORM_ROW(name, mr), \
        FORM_ROW(name, mi), FORM_ROW(name, lr), FORM_ROW(name, li)};

#define COMPARE(name)                                                                   \
    ALU_SIZES(COMPARE_HANDLERS, name)                                                   \
    static insn_exec *const exec_##name[FORM_COUNT * 4] = {                             \
        FORM_ROW(name, rr), FORM_ROW(name, ri), FORM_ROW(name, rm), FORM_ROW(name, mr), \
        FORM_ROW(name, mi)};

BINARY(add)
BINARY(or)
BINARY(adc)
BINARY(sbb)
BINARY(and)
BINARY(sub)
BINARY(xor)
COMPARE(cmp)
COMPARE(test)

static bool is_memory(const struct binding *binding, unsigned operand)
{
    return binding->operand[operand].type == ZYDIS_OPERAND_TYPE_MEMORY;
}

static bool bind_binary(struct binding *binding, const struct insn_row *row,
                        struct insn *insn)
{
    bind_simple(binding, row, insn);
    unsigned form = FORM_RR;
    bool is_immediate = binding->operand[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    if (is_memory(binding, 0)) {
        bool is_locked = binding->decoded->attributes & ZYDIS_ATTRIB_HAS_LOCK;
        form = (is_locked ? FORM_LR : FORM_MR) + is_immediate;
    } else {
        form = is_memory(binding, 1) ? FORM_RM : is_immediate ? FORM_RI : FORM_RR;
    }
    insn->exec = row->exec[form * 4 + bind_log2_size(binding->operand[0].size)];
    return insn->exec != NULL;
}

enum { UNARY_R, UNARY_M, UNARY_L, UNARY_COUNT };

#define UNARY_HANDLERS(bits, type, suffix, modifier, name)                               \
    static const struct insn *name##_r##bits(struct cpu *cpu, const struct insn *insn)   \
    {                                                                                    \
        arith_t flags = cpu->arith;                                                      \
        type a = alu_##name##bits((type)reg_read(cpu, insn->dst, sizeof(type)), &flags); \
        cpu->arith = flags;                                                              \
        reg_write(cpu, insn->dst, sizeof(type), a);                                      \
        NEXT(cpu, insn);                                                                 \
    }                                                                                    \
    static const struct insn *name##_m##bits(struct cpu *cpu, const struct insn *insn)   \
    {                                                                                    \
        uint64_t ea = insn_address(cpu, insn);                                           \
        uint8_t *host = access_modify_begin(cpu, ea, sizeof(type), false);               \
        if (unlikely(!host)) {                                                           \
            return insn_fault(cpu, insn);                                                \
        }                                                                                \
        arith_t flags = cpu->arith;                                                      \
        type a = alu_##name##bits((type)access_host_load(host, sizeof(type)), &flags);   \
        access_host_store(host, sizeof(type), a);                                        \
        cpu->arith = flags;                                                              \
        access_modify_end(cpu, ea, host, sizeof(type), false);                           \
        NEXT(cpu, insn);                                                                 \
    }                                                                                    \
    static const struct insn *name##_l##bits(struct cpu *cpu, const struct insn *insn)   \
    {                                                                                    \
        uint64_t ea = insn_address(cpu, insn);                                           \
        uint8_t *host = access_modify_begin(cpu, ea, sizeof(type), true);                \
        if (unlikely(!host)) {                                                           \
            return insn_fault(cpu, insn);                                                \
        }                                                                                \
        arith_t flags = cpu->arith;                                                      \
        alu_lock_##name##bits(host, &flags);                                             \
        cpu->arith = flags;                                                              \
        access_modify_end(cpu, ea, host, sizeof(type), true);                            \
        NEXT(cpu, insn);                                                                 \
    }

#define UNARY(name)                                          \
    ALU_SIZES(UNARY_HANDLERS, name)                          \
    static insn_exec *const exec_##name[UNARY_COUNT * 4] = { \
        FORM_ROW(name, r), FORM_ROW(name, m), FORM_ROW(name, l)};

UNARY(inc)
UNARY(dec)
UNARY(neg)
UNARY(not )

static bool bind_unary(struct binding *binding, const struct insn_row *row,
                       struct insn *insn)
{
    bind_simple(binding, row, insn);
    bool is_locked = binding->decoded->attributes & ZYDIS_ATTRIB_HAS_LOCK;
    unsigned form = !is_memory(binding, 0) ? UNARY_R : is_locked ? UNARY_L : UNARY_M;
    insn->exec = row->exec[form * 4 + bind_log2_size(binding->operand[0].size)];
    return true;
}

const struct insn_row insn_rows_arith[] = {
    {ZYDIS_MNEMONIC_ADD, INSN_INNOCUOUS, bind_binary, exec_add, 0},
    {ZYDIS_MNEMONIC_OR, INSN_INNOCUOUS, bind_binary, exec_or, 0},
    {ZYDIS_MNEMONIC_ADC, INSN_INNOCUOUS, bind_binary, exec_adc, 0},
    {ZYDIS_MNEMONIC_SBB, INSN_INNOCUOUS, bind_binary, exec_sbb, 0},
    {ZYDIS_MNEMONIC_AND, INSN_INNOCUOUS, bind_binary, exec_and, 0},
    {ZYDIS_MNEMONIC_SUB, INSN_INNOCUOUS, bind_binary, exec_sub, 0},
    {ZYDIS_MNEMONIC_XOR, INSN_INNOCUOUS, bind_binary, exec_xor, 0},
    {ZYDIS_MNEMONIC_CMP, INSN_INNOCUOUS, bind_binary, exec_cmp, 0},
    {ZYDIS_MNEMONIC_TEST, INSN_INNOCUOUS, bind_binary, exec_test, 0},
    {ZYDIS_MNEMONIC_INC, INSN_INNOCUOUS, bind_unary, exec_inc, 0},
    {ZYDIS_MNEMONIC_DEC, INSN_INNOCUOUS, bind_unary, exec_dec, 0},
    {ZYDIS_MNEMONIC_NEG, INSN_INNOCUOUS, bind_unary, exec_neg, 0},
    {ZYDIS_MNEMONIC_NOT, INSN_INNOCUOUS, bind_unary, exec_not, 0},
    {0},
};
