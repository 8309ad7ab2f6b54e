/* XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B, with and without LOCK. On plain memory the locked
 * host instruction serves both. */
#include "interpreter/alu.h"
#include "interpreter/insn.h"

#include <string.h>

/* XADD */

#define XADD_HANDLERS(bits, type, suffix, modifier)                                   \
    static const struct insn *xadd_rr##bits(struct cpu *cpu, const struct insn *insn) \
    {                                                                                 \
        type a = (type)reg_read(cpu, insn->dst, sizeof(type));                        \
        type b = (type)reg_read(cpu, insn->src, sizeof(type));                        \
        arith_t flags;                                                                \
        type sum = alu_add##bits(a, b, &flags);                                       \
        cpu->arith = flags;                                                           \
        reg_write(cpu, insn->src, sizeof(type), a);                                   \
        reg_write(cpu, insn->dst, sizeof(type), sum);                                 \
        NEXT(cpu, insn);                                                              \
    }                                                                                 \
    static const struct insn *xadd_mr##bits(struct cpu *cpu, const struct insn *insn) \
    {                                                                                 \
        uint64_t ea = insn_address(cpu, insn);                                        \
        uint8_t *host = access_modify_begin(cpu, ea, sizeof(type), insn->aux);        \
        if (unlikely(!host)) {                                                        \
            return insn_fault(cpu, insn);                                             \
        }                                                                             \
        type value = (type)reg_read(cpu, insn->src, sizeof(type));                    \
        arith_t flags;                                                                \
        __asm__ volatile(                                                             \
            "lock xadd" suffix " %" modifier "[v], %[m]" ALU_SAVE_FLAGS               \
            : [v] "+r"(value), [m] "+m"(*(type __attribute__((may_alias)) *)host),    \
              "=&a"(flags)                                                            \
            :                                                                         \
            : "cc", "memory");                                                        \
        cpu->arith = flags;                                                           \
        reg_write(cpu, insn->src, sizeof(type), value);                               \
        access_modify_end(cpu, ea, host, sizeof(type), insn->aux);                    \
        NEXT(cpu, insn);                                                              \
    }

ALU_SIZES(XADD_HANDLERS)

/*
 * CMPXCHG. A mismatch loads the accumulator and, on hardware, writes the old value back:
 * the destination must be writable either way (SDM 2A "CMPXCHG").
 */

#define CMPXCHG_HANDLERS(bits, type, suffix, modifier)                                   \
    static const struct insn *cmpxchg_rr##bits(struct cpu *cpu, const struct insn *insn) \
    {                                                                                    \
        type expected = (type)cpu->reg[X86_RAX];                                         \
        type value = (type)reg_read(cpu, insn->dst, sizeof(type));                       \
        arith_t flags;                                                                   \
        alu_cmp##bits(expected, value, &flags);                                          \
        cpu->arith = flags;                                                              \
        if (expected == value) {                                                         \
            reg_write(cpu, insn->dst, sizeof(type),                                      \
                      reg_read(cpu, insn->src, sizeof(type)));                           \
        } else {                                                                         \
            reg_write(cpu, REG_OFFSET(X86_RAX), sizeof(type), value);                    \
        }                                                                                \
        NEXT(cpu, insn);                                                                 \
    }                                                                                    \
    static const struct insn *cmpxchg_mr##bits(struct cpu *cpu, const struct insn *insn) \
    {                                                                                    \
        uint64_t ea = insn_address(cpu, insn);                                           \
        uint8_t *host = access_modify_begin(cpu, ea, sizeof(type), insn->aux);           \
        if (unlikely(!host)) {                                                           \
            return insn_fault(cpu, insn);                                                \
        }                                                                                \
        type expected = (type)cpu->reg[X86_RAX];                                         \
        type value = expected;                                                           \
        __asm__ volatile(                                                                \
            "lock cmpxchg" suffix " %" modifier "[n], %[m]"                              \
            : "+a"(value), [m] "+m"(*(type __attribute__((may_alias)) *)host)            \
            : [n] "r"((type)reg_read(cpu, insn->src, sizeof(type)))                      \
            : "cc", "memory");                                                           \
        arith_t flags;                                                                   \
        alu_cmp##bits(expected, value, &flags);                                          \
        cpu->arith = flags;                                                              \
        if (expected != value) {                                                         \
            reg_write(cpu, REG_OFFSET(X86_RAX), sizeof(type), value);                    \
        }                                                                                \
        access_modify_end(cpu, ea, host, sizeof(type), insn->aux);                       \
        NEXT(cpu, insn);                                                                 \
    }

ALU_SIZES(CMPXCHG_HANDLERS)

#define FORM_ROW(name, form) \
    name##_##form##8, name##_##form##16, name##_##form##32, name##_##form##64

static insn_exec *const exec_xadd[] = {FORM_ROW(xadd, rr), FORM_ROW(xadd, mr)};
static insn_exec *const exec_cmpxchg[] = {FORM_ROW(cmpxchg, rr), FORM_ROW(cmpxchg, mr)};

static bool is_locked(const struct binding *binding)
{
    return binding->decoded->attributes & ZYDIS_ATTRIB_HAS_LOCK;
}

static bool bind_exchange(struct binding *binding, const struct insn_row *row,
                          struct insn *insn)
{
    bind_simple(binding, row, insn);
    bool is_memory = binding->operand[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
    insn->aux = is_locked(binding);
    insn->exec = row->exec[is_memory * 4 + bind_log2_size(binding->operand[0].size)];
    return true;
}

/* CMPXCHG8B, CMPXCHG16B: (R|E)DX:(R|E)AX against memory, (R|E)CX:(R|E)BX into it; only ZF
 * changes. */

static const struct insn *cmpxchg8b(struct cpu *cpu, const struct insn *insn)
{
    uint64_t ea = insn_address(cpu, insn);
    uint8_t *host = access_modify_begin(cpu, ea, 8, insn->aux);
    if (unlikely(!host)) {
        return insn_fault(cpu, insn);
    }
    uint64_t expected = cpu->reg[X86_RDX] << 32 | (uint32_t)cpu->reg[X86_RAX];
    uint64_t desired = cpu->reg[X86_RCX] << 32 | (uint32_t)cpu->reg[X86_RBX];
    uint64_t value = expected;
    __asm__ volatile("lock cmpxchgq %[n], %[m]"
                     : "+a"(value), [m] "+m"(*(u64_any *)host)
                     : [n] "r"(desired)
                     : "cc", "memory");
    if (value == expected) {
        cpu->arith |= ARITH_ZF;
    } else {
        cpu->arith &= ~ARITH_ZF;
        cpu->reg[X86_RAX] = (uint32_t)value;
        cpu->reg[X86_RDX] = value >> 32;
    }
    access_modify_end(cpu, ea, host, 8, insn->aux);
    NEXT(cpu, insn);
}

/* The operand must be aligned: #GP otherwise (SDM 2A "CMPXCHG8B/CMPXCHG16B"). */
static const struct insn *cmpxchg16b(struct cpu *cpu, const struct insn *insn)
{
    uint64_t ea = insn_address(cpu, insn);
    if (ea % 16 != 0 && !cpu->has_fault) {
        return insn_raise(cpu, insn, X86_GP, 0);
    }
    uint8_t *host = access_modify_begin(cpu, ea, 16, insn->aux);
    if (unlikely(!host)) {
        return insn_fault(cpu, insn);
    }
    uint64_t low = cpu->reg[X86_RAX], high = cpu->reg[X86_RDX];
    bool is_equal;
    __asm__ volatile("lock cmpxchg16b %[m]"
                     : "+a"(low), "+d"(high), "=@ccz"(is_equal),
                       [m] "+m"(*(unsigned __int128 __attribute__((may_alias)) *)host)
                     : "b"(cpu->reg[X86_RBX]), "c"(cpu->reg[X86_RCX])
                     : "memory");
    cpu->arith = (cpu->arith & ~ARITH_ZF) | (is_equal ? ARITH_ZF : 0);
    if (!is_equal) {
        cpu->reg[X86_RAX] = low;
        cpu->reg[X86_RDX] = high;
    }
    access_modify_end(cpu, ea, host, 16, insn->aux);
    NEXT(cpu, insn);
}

static insn_exec *const exec_cmpxchg8b[] = {cmpxchg8b};
static insn_exec *const exec_cmpxchg16b[] = {cmpxchg16b};

static bool bind_wide(struct binding *binding, const struct insn_row *row,
                      struct insn *insn)
{
    bind_simple(binding, row, insn);
    insn->aux = is_locked(binding);
    return true;
}

const struct insn_row insn_rows_atomic[] = {
    {ZYDIS_MNEMONIC_XADD, INSN_INNOCUOUS, bind_exchange, exec_xadd, 0},
    {ZYDIS_MNEMONIC_CMPXCHG, INSN_INNOCUOUS, bind_exchange, exec_cmpxchg, 0},
    {ZYDIS_MNEMONIC_CMPXCHG8B, INSN_INNOCUOUS, bind_wide, exec_cmpxchg8b, 0},
    {ZYDIS_MNEMONIC_CMPXCHG16B, INSN_INNOCUOUS, bind_wide, exec_cmpxchg16b, 0},
    {0},
};
