/* SHL SHR SAR ROL ROR RCL RCR, SHLD SHRD. A masked count of 0 changes neither operand nor
 * flags, but still writes. */
#include "interpreter/alu.h"
#include "interpreter/insn.h"

/* Counts are masked to 5 bits, 6 for 64-bit operands (SDM 2B "SAL/SAR/SHL/SHR"). */
#define COUNT_MASK(type) (sizeof(type) == 8 ? 63 : 31)
#define COUNT_IMM        ((uint8_t)insn->imm)
#define COUNT_CL         ((uint8_t)cpu->reg[X86_RCX])

#define SHIFT_REGISTER(name, bits, type, form, how)                        \
    static const struct insn *name##_##form##bits(struct cpu *cpu,         \
                                                  const struct insn *insn) \
    {                                                                      \
        uint8_t count = how & COUNT_MASK(type);                            \
        type a = (type)reg_read(cpu, insn->dst, sizeof(type));             \
        if (likely(count)) {                                               \
            arith_t flags = cpu->arith;                                    \
            a = alu_##name##bits(a, count, &flags);                        \
            cpu->arith = flags;                                            \
        }                                                                  \
        reg_write(cpu, insn->dst, sizeof(type), a);                        \
        NEXT(cpu, insn);                                                   \
    }

#define SHIFT_MEMORY(name, bits, type, form, how)                          \
    static const struct insn *name##_##form##bits(struct cpu *cpu,         \
                                                  const struct insn *insn) \
    {                                                                      \
        uint64_t ea = insn_address(cpu, insn);                             \
        uint8_t *host = access_modify_begin(cpu, ea, sizeof(type), false); \
        if (unlikely(!host)) {                                             \
            return insn_fault(cpu, insn);                                  \
        }                                                                  \
        uint8_t count = how & COUNT_MASK(type);                            \
        type a = (type)access_host_load(host, sizeof(type));               \
        if (count) {                                                       \
            arith_t flags = cpu->arith;                                    \
            a = alu_##name##bits(a, count, &flags);                        \
            cpu->arith = flags;                                            \
        }                                                                  \
        access_host_store(host, sizeof(type), a);                          \
        access_modify_end(cpu, ea, host, sizeof(type), false);             \
        NEXT(cpu, insn);                                                   \
    }

#define SHIFT_HANDLERS(bits, type, suffix, modifier, name) \
    SHIFT_REGISTER(name, bits, type, ri, COUNT_IMM)        \
    SHIFT_REGISTER(name, bits, type, rc, COUNT_CL)         \
    SHIFT_MEMORY(name, bits, type, mi, COUNT_IMM)          \
    SHIFT_MEMORY(name, bits, type, mc, COUNT_CL)

#define FORM_ROW(name, form) \
    name##_##form##8, name##_##form##16, name##_##form##32, name##_##form##64

#define SHIFT(name)                                                                  \
    ALU_SIZES(SHIFT_HANDLERS, name)                                                  \
    static insn_exec *const exec_##name[] = {FORM_ROW(name, ri), FORM_ROW(name, rc), \
                                             FORM_ROW(name, mi), FORM_ROW(name, mc)};

SHIFT(shl)
SHIFT(shr)
SHIFT(sar)
SHIFT(rol)
SHIFT(ror)
SHIFT(rcl)
SHIFT(rcr)

static bool is_memory(const struct binding *binding)
{
    return binding->operand[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
}

static bool bind_shift(struct binding *binding, const struct insn_row *row,
                       struct insn *insn)
{
    bind_simple(binding, row, insn);
    bool is_cl = binding->operand[1].type == ZYDIS_OPERAND_TYPE_REGISTER;
    unsigned form = is_memory(binding) * 2 + is_cl;
    insn->exec = row->exec[form * 4 + bind_log2_size(binding->operand[0].size)];
    return true;
}

/* SHLD and SHRD: dst, register src, count. */

#define DOUBLE_PRIMITIVE(bits, type, suffix, modifier, name)                      \
    static inline type name##bits(type a, type b, uint8_t count, arith_t *flags)  \
    {                                                                             \
        __asm__(ALU_LOAD_FLAGS #name suffix " %%cl, %" modifier "[b], %" modifier \
                                            "[a]" ALU_SAVE_FLAGS                  \
                : [a] "+r"(a), "+&a"(*flags)                                      \
                : [b] "r"(b), "c"(count)                                          \
                : "cc");                                                          \
        return a;                                                                 \
    }

#define DOUBLE_REGISTER(bits, type, name, form, how)                               \
    static const struct insn *name##_##form##bits(struct cpu *cpu,                 \
                                                  const struct insn *insn)         \
    {                                                                              \
        uint8_t count = how & COUNT_MASK(type);                                    \
        type a = (type)reg_read(cpu, insn->dst, sizeof(type));                     \
        if (likely(count)) {                                                       \
            arith_t flags = cpu->arith;                                            \
            a = name##bits(a, (type)reg_read(cpu, insn->src, sizeof(type)), count, \
                           &flags);                                                \
            cpu->arith = flags;                                                    \
        }                                                                          \
        reg_write(cpu, insn->dst, sizeof(type), a);                                \
        NEXT(cpu, insn);                                                           \
    }

#define DOUBLE_MEMORY(bits, type, name, form, how)                                  \
    static const struct insn *name##_##form##bits(struct cpu *cpu,                  \
                                                  const struct insn *insn)          \
    {                                                                               \
        uint64_t ea = insn_address(cpu, insn);                                      \
        uint8_t *host = access_modify_begin(cpu, ea, sizeof(type), false);          \
        if (unlikely(!host)) {                                                      \
            return insn_fault(cpu, insn);                                           \
        }                                                                           \
        uint8_t count = how & COUNT_MASK(type);                                     \
        if (count) {                                                                \
            arith_t flags = cpu->arith;                                             \
            type a = (type)access_host_load(host, sizeof(type));                    \
            type b = (type)reg_read(cpu, insn->src, sizeof(type));                  \
            access_host_store(host, sizeof(type), name##bits(a, b, count, &flags)); \
            cpu->arith = flags;                                                     \
        }                                                                           \
        access_modify_end(cpu, ea, host, sizeof(type), false);                      \
        NEXT(cpu, insn);                                                            \
    }

#define DOUBLE_HANDLERS(bits, type, suffix, modifier, name) \
    DOUBLE_PRIMITIVE(bits, type, suffix, modifier, name)    \
    DOUBLE_REGISTER(bits, type, name, ri, COUNT_IMM)        \
    DOUBLE_REGISTER(bits, type, name, rc, COUNT_CL)         \
    DOUBLE_MEMORY(bits, type, name, mi, COUNT_IMM)          \
    DOUBLE_MEMORY(bits, type, name, mc, COUNT_CL)

#define WIDE_ROW(name, form) NULL, name##_##form##16, name##_##form##32, name##_##form##64

#define DOUBLE(name)                                                                 \
    DOUBLE_HANDLERS(16, uint16_t, "w", "w", name)                                    \
    DOUBLE_HANDLERS(32, uint32_t, "l", "k", name)                                    \
    DOUBLE_HANDLERS(64, uint64_t, "q", "q", name)                                    \
    static insn_exec *const exec_##name[] = {WIDE_ROW(name, ri), WIDE_ROW(name, rc), \
                                             WIDE_ROW(name, mi), WIDE_ROW(name, mc)};

DOUBLE(shld)
DOUBLE(shrd)

static bool bind_double(struct binding *binding, const struct insn_row *row,
                        struct insn *insn)
{
    bind_simple(binding, row, insn);
    bool is_cl = binding->operand[2].type == ZYDIS_OPERAND_TYPE_REGISTER;
    unsigned form = is_memory(binding) * 2 + is_cl;
    insn->src = bind_register(binding->operand[1].reg.value);
    insn->exec = row->exec[form * 4 + bind_log2_size(binding->operand[0].size)];
    return true;
}

const struct insn_row insn_rows_shift[] = {
    {ZYDIS_MNEMONIC_SHL, INSN_INNOCUOUS, bind_shift, exec_shl, 0},
    {ZYDIS_MNEMONIC_SHR, INSN_INNOCUOUS, bind_shift, exec_shr, 0},
    {ZYDIS_MNEMONIC_SAR, INSN_INNOCUOUS, bind_shift, exec_sar, 0},
    {ZYDIS_MNEMONIC_ROL, INSN_INNOCUOUS, bind_shift, exec_rol, 0},
    {ZYDIS_MNEMONIC_ROR, INSN_INNOCUOUS, bind_shift, exec_ror, 0},
    {ZYDIS_MNEMONIC_RCL, INSN_INNOCUOUS, bind_shift, exec_rcl, 0},
    {ZYDIS_MNEMONIC_RCR, INSN_INNOCUOUS, bind_shift, exec_rcr, 0},
    {ZYDIS_MNEMONIC_SHLD, INSN_INNOCUOUS, bind_double, exec_shld, 0},
    {ZYDIS_MNEMONIC_SHRD, INSN_INNOCUOUS, bind_double, exec_shrd, 0},
    {0},
};
