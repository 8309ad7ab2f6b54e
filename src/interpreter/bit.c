/* Single bits: BT BTS BTR BTC, BSF BSR, BSWAP. */
#include "interpreter/alu.h"
#include "interpreter/insn.h"

/* Bit offset by register or immediate, base in a register or in memory; L is memory with
 * LOCK. */
enum { FORM_RR, FORM_RI, FORM_MR, FORM_MI, FORM_LR, FORM_LI, FORM_COUNT };

#define BIT_PRIMITIVE(bits, type, suffix, modifier, name)                    \
    static inline type alu_##name##bits(type a, type offset, arith_t *flags) \
    {                                                                        \
        __asm__(ALU_LOAD_FLAGS #name suffix " %" modifier "[b], %" modifier  \
                                            "[a]\n\tlahf"                    \
                : [a] "+r"(a), "+&a"(*flags)                                 \
                : [b] "r"(offset)                                            \
                : "cc");                                                     \
        return a;                                                            \
    }

/* LAHF leaves bit 0, OF, as it was: none of these changes it. */
#define BIT_LOCKED(bits, type, suffix, modifier, name)                                   \
    static inline void alu_lock_##name##bits(uint8_t *host, type offset, arith_t *flags) \
    {                                                                                    \
        __asm__ volatile(                                                                \
            ALU_LOAD_FLAGS "lock " #name suffix " %" modifier "[b], %[m]\n\tlahf"        \
            : [m] "+m"(*(type __attribute__((may_alias)) *)host), "+&a"(*flags)          \
            : [b] "r"(offset)                                                            \
            : "cc", "memory");                                                           \
    }

#define OFFSET_REG(type) ((type)reg_read(cpu, insn->src, sizeof(type)))
#define OFFSET_IMM(type) ((type)insn->imm)

/* A register offset addresses a bit string: its upper bits, signed, select the element
 * (SDM 2A "BT"). */
static inline uint64_t element_reg(struct cpu *cpu, const struct insn *insn,
                                   unsigned size)
{
    unsigned unused = 64 - size * 8;
    int64_t bit = (int64_t)(reg_read(cpu, insn->src, size) << unused) >> unused;
    int64_t element = bit >> (3 + __builtin_ctz(size));
    return insn_linear(
        cpu, insn, insn_offset(cpu, insn) + (uint64_t)(element * (int64_t)size), size);
}

static inline uint64_t element_imm(struct cpu *cpu, const struct insn *insn,
                                   unsigned size)
{
    return insn_address(cpu, insn);
}

#define IN_REGISTER(name, bits, type, form, source)                             \
    static const struct insn *name##_##form##bits(struct cpu *cpu,              \
                                                  const struct insn *insn)      \
    {                                                                           \
        arith_t flags = cpu->arith;                                             \
        type a = alu_##name##bits((type)reg_read(cpu, insn->dst, sizeof(type)), \
                                  source(type) % (bits), &flags);               \
        cpu->arith = flags;                                                     \
        reg_write(cpu, insn->dst, sizeof(type), a);                             \
        NEXT(cpu, insn);                                                        \
    }

#define TEST_IN_REGISTER(name, bits, type, form, source)                   \
    static const struct insn *name##_##form##bits(struct cpu *cpu,         \
                                                  const struct insn *insn) \
    {                                                                      \
        arith_t flags = cpu->arith;                                        \
        alu_##name##bits((type)reg_read(cpu, insn->dst, sizeof(type)),     \
                         source(type) % (bits), &flags);                   \
        cpu->arith = flags;                                                \
        NEXT(cpu, insn);                                                   \
    }

#define TEST_IN_MEMORY(name, bits, type, form, source, element)               \
    static const struct insn *name##_##form##bits(struct cpu *cpu,            \
                                                  const struct insn *insn)    \
    {                                                                         \
        struct loaded a =                                                     \
            access_load(cpu, element(cpu, insn, sizeof(type)), sizeof(type)); \
        if (unlikely(!a.ok)) {                                                \
            return insn_fault(cpu, insn);                                     \
        }                                                                     \
        arith_t flags = cpu->arith;                                           \
        alu_##name##bits((type)a.value, source(type) % (bits), &flags);       \
        cpu->arith = flags;                                                   \
        NEXT(cpu, insn);                                                      \
    }

#define IN_MEMORY(name, bits, type, form, source, element)                     \
    static const struct insn *name##_##form##bits(struct cpu *cpu,             \
                                                  const struct insn *insn)     \
    {                                                                          \
        uint64_t ea = element(cpu, insn, sizeof(type));                        \
        uint8_t *host = access_modify_begin(cpu, ea, sizeof(type), false);     \
        if (unlikely(!host)) {                                                 \
            return insn_fault(cpu, insn);                                      \
        }                                                                      \
        arith_t flags = cpu->arith;                                            \
        type a = (type)access_host_load(host, sizeof(type));                   \
        access_host_store(host, sizeof(type),                                  \
                          alu_##name##bits(a, source(type) % (bits), &flags)); \
        cpu->arith = flags;                                                    \
        access_modify_end(cpu, ea, host, sizeof(type), false);                 \
        NEXT(cpu, insn);                                                       \
    }

#define IN_MEMORY_LOCKED(name, bits, type, form, source, element)          \
    static const struct insn *name##_##form##bits(struct cpu *cpu,         \
                                                  const struct insn *insn) \
    {                                                                      \
        uint64_t ea = element(cpu, insn, sizeof(type));                    \
        uint8_t *host = access_modify_begin(cpu, ea, sizeof(type), true);  \
        if (unlikely(!host)) {                                             \
            return insn_fault(cpu, insn);                                  \
        }                                                                  \
        arith_t flags = cpu->arith;                                        \
        alu_lock_##name##bits(host, source(type) % (bits), &flags);        \
        cpu->arith = flags;                                                \
        access_modify_end(cpu, ea, host, sizeof(type), true);              \
        NEXT(cpu, insn);                                                   \
    }

#define MODIFY_HANDLERS(bits, type, suffix, modifier, name)         \
    BIT_PRIMITIVE(bits, type, suffix, modifier, name)               \
    BIT_LOCKED(bits, type, suffix, modifier, name)                  \
    IN_REGISTER(name, bits, type, rr, OFFSET_REG)                   \
    IN_REGISTER(name, bits, type, ri, OFFSET_IMM)                   \
    IN_MEMORY(name, bits, type, mr, OFFSET_REG, element_reg)        \
    IN_MEMORY(name, bits, type, mi, OFFSET_IMM, element_imm)        \
    IN_MEMORY_LOCKED(name, bits, type, lr, OFFSET_REG, element_reg) \
    IN_MEMORY_LOCKED(name, bits, type, li, OFFSET_IMM, element_imm)

#define TEST_HANDLERS(bits, type, suffix, modifier, name)         \
    BIT_PRIMITIVE(bits, type, suffix, modifier, name)             \
    TEST_IN_REGISTER(name, bits, type, rr, OFFSET_REG)            \
    TEST_IN_REGISTER(name, bits, type, ri, OFFSET_IMM)            \
    TEST_IN_MEMORY(name, bits, type, mr, OFFSET_REG, element_reg) \
    TEST_IN_MEMORY(name, bits, type, mi, OFFSET_IMM, element_imm)

#define WIDE_SIZES(X, ...)                   \
    X(16, uint16_t, "w", "w", ##__VA_ARGS__) \
    X(32, uint32_t, "l", "k", ##__VA_ARGS__) \
    X(64, uint64_t, "q", "q", ##__VA_ARGS__)

#define FORM_ROW(name, form) NULL, name##_##form##16, name##_##form##32, name##_##form##64

#define MODIFY(name)                                                \
    WIDE_SIZES(MODIFY_HANDLERS, name)                               \
    static insn_exec *const exec_##name[FORM_COUNT * 4] = {         \
        FORM_ROW(name, rr), FORM_ROW(name, ri), FORM_ROW(name, mr), \
        FORM_ROW(name, mi), FORM_ROW(name, lr), FORM_ROW(name, li)};

WIDE_SIZES(TEST_HANDLERS, bt)
static insn_exec *const exec_bt[FORM_COUNT * 4] = {FORM_ROW(bt, rr), FORM_ROW(bt, ri),
                                                   FORM_ROW(bt, mr), FORM_ROW(bt, mi)};
MODIFY(bts)
MODIFY(btr)
MODIFY(btc)

static bool bind_bit(struct binding *binding, const struct insn_row *row,
                     struct insn *insn)
{
    bind_simple(binding, row, insn);
    bool is_immediate = binding->operand[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    bool is_locked = binding->decoded->attributes & ZYDIS_ATTRIB_HAS_LOCK;
    unsigned form = FORM_RR;
    if (binding->operand[0].type == ZYDIS_OPERAND_TYPE_MEMORY) {
        form = is_locked ? FORM_LR : FORM_MR;
    }
    insn->exec =
        row->exec[(form + is_immediate) * 4 + bind_log2_size(binding->operand[0].size)];
    return insn->exec != NULL;
}

/* BSF and BSR: the host decides what a source of 0 leaves in the destination, and what
 * becomes of the flags that are undefined. */
#define SCAN_PRIMITIVE(bits, type, suffix, modifier, name)                            \
    static inline uint64_t alu_##name##bits(uint64_t old, type value, arith_t *flags) \
    {                                                                                 \
        __asm__(ALU_LOAD_ALL #name suffix " %" modifier "[v], %" modifier             \
                                          "[r]" ALU_SAVE_FLAGS                        \
                : [r] "+r"(old), "+&a"(*flags)                                        \
                : [v] "r"(value)                                                      \
                : "cc");                                                              \
        return old;                                                                   \
    }

#define SCAN_HANDLER(name, bits, type, form, load)                              \
    static const struct insn *name##_##form##bits(struct cpu *cpu,              \
                                                  const struct insn *insn)      \
    {                                                                           \
        struct loaded value = load;                                             \
        if (unlikely(!value.ok)) {                                              \
            return insn_fault(cpu, insn);                                       \
        }                                                                       \
        arith_t flags = cpu->arith;                                             \
        REG64(cpu, insn->dst) =                                                 \
            alu_##name##bits(REG64(cpu, insn->dst), (type)value.value, &flags); \
        cpu->arith = flags;                                                     \
        NEXT(cpu, insn);                                                        \
    }

#define FROM_REGISTER(type) \
    ((struct loaded){reg_read(cpu, insn->src, sizeof(type)), true})
#define FROM_MEMORY(type) access_load(cpu, insn_address(cpu, insn), sizeof(type))

#define SCAN_HANDLERS(bits, type, suffix, modifier, name)   \
    SCAN_PRIMITIVE(bits, type, suffix, modifier, name)      \
    SCAN_HANDLER(name, bits, type, rr, FROM_REGISTER(type)) \
    SCAN_HANDLER(name, bits, type, rm, FROM_MEMORY(type))

WIDE_SIZES(SCAN_HANDLERS, bsf)
WIDE_SIZES(SCAN_HANDLERS, bsr)

static insn_exec *const exec_bsf[] = {FORM_ROW(bsf, rr), FORM_ROW(bsf, rm)};
static insn_exec *const exec_bsr[] = {FORM_ROW(bsr, rr), FORM_ROW(bsr, rm)};

static bool bind_scan(struct binding *binding, const struct insn_row *row,
                      struct insn *insn)
{
    bind_simple(binding, row, insn);
    bool is_memory = binding->operand[1].type == ZYDIS_OPERAND_TYPE_MEMORY;
    insn->exec = row->exec[is_memory * 4 + bind_log2_size(binding->operand[0].size)];
    return insn->exec != NULL;
}

static const struct insn *bswap64(struct cpu *cpu, const struct insn *insn)
{
    REG64(cpu, insn->dst) = __builtin_bswap64(REG64(cpu, insn->dst));
    NEXT(cpu, insn);
}

static const struct insn *bswap32(struct cpu *cpu, const struct insn *insn)
{
    REG64(cpu, insn->dst) = __builtin_bswap32(REG32(cpu, insn->dst));
    NEXT(cpu, insn);
}

/* Undefined by the manual; current processors clear the register. */
static const struct insn *bswap16(struct cpu *cpu, const struct insn *insn)
{
    REG16(cpu, insn->dst) = 0;
    NEXT(cpu, insn);
}

static insn_exec *const exec_bswap[] = {NULL, bswap16, bswap32, bswap64};

static bool bind_sized(struct binding *binding, const struct insn_row *row,
                       struct insn *insn)
{
    bind_simple(binding, row, insn);
    insn->exec = row->exec[bind_log2_size(binding->operand[0].size)];
    return insn->exec != NULL;
}

const struct insn_row insn_rows_bit[] = {
    {ZYDIS_MNEMONIC_BT, INSN_INNOCUOUS, bind_bit, exec_bt, 0},
    {ZYDIS_MNEMONIC_BTS, INSN_INNOCUOUS, bind_bit, exec_bts, 0},
    {ZYDIS_MNEMONIC_BTR, INSN_INNOCUOUS, bind_bit, exec_btr, 0},
    {ZYDIS_MNEMONIC_BTC, INSN_INNOCUOUS, bind_bit, exec_btc, 0},
    {ZYDIS_MNEMONIC_BSF, INSN_INNOCUOUS, bind_scan, exec_bsf, 0},
    {ZYDIS_MNEMONIC_BSR, INSN_INNOCUOUS, bind_scan, exec_bsr, 0},
    {ZYDIS_MNEMONIC_BSWAP, INSN_INNOCUOUS, bind_sized, exec_bswap, 0},
    {0},
};
