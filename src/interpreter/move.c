/* MOV between general registers, memory and immediates; MOVZX MOVSX MOVSXD, LEA, XCHG,
 * CMOVcc, SETcc, CBW..CQO, XLAT. */
#include "interpreter/alu.h"
#include "interpreter/insn.h"

#define FORM_ROW(name, form) \
    name##_##form##8, name##_##form##16, name##_##form##32, name##_##form##64
#define WIDE_ROW(name, form) NULL, name##_##form##16, name##_##form##32, name##_##form##64

static bool is_general(const ZydisDecodedOperand *operand)
{
    if (operand->type != ZYDIS_OPERAND_TYPE_REGISTER) {
        return true;
    }
    ZydisRegisterClass class = ZydisRegisterGetClass(operand->reg.value);
    return class == ZYDIS_REGCLASS_GPR8 || class == ZYDIS_REGCLASS_GPR16 ||
           class == ZYDIS_REGCLASS_GPR32 || class == ZYDIS_REGCLASS_GPR64;
}

/* MOV */

enum { MOV_RR, MOV_RI, MOV_RM, MOV_MR, MOV_MI, MOV_LOAD_OFFSET, MOV_STORE_OFFSET };

#define MOV_HANDLERS(bits, type, suffix, modifier)                                       \
    static const struct insn *mov_rr##bits(struct cpu *cpu, const struct insn *insn)     \
    {                                                                                    \
        reg_write(cpu, insn->dst, sizeof(type), reg_read(cpu, insn->src, sizeof(type))); \
        NEXT(cpu, insn);                                                                 \
    }                                                                                    \
    static const struct insn *mov_ri##bits(struct cpu *cpu, const struct insn *insn)     \
    {                                                                                    \
        reg_write(cpu, insn->dst, sizeof(type), insn->imm);                              \
        NEXT(cpu, insn);                                                                 \
    }                                                                                    \
    static const struct insn *mov_rm##bits(struct cpu *cpu, const struct insn *insn)     \
    {                                                                                    \
        struct loaded value = access_load(cpu, insn_address(cpu, insn), sizeof(type));   \
        if (unlikely(!value.ok)) {                                                       \
            return insn_fault(cpu, insn);                                                \
        }                                                                                \
        reg_write(cpu, insn->dst, sizeof(type), value.value);                            \
        NEXT(cpu, insn);                                                                 \
    }                                                                                    \
    static const struct insn *mov_mr##bits(struct cpu *cpu, const struct insn *insn)     \
    {                                                                                    \
        if (unlikely(!access_store(cpu, insn_address(cpu, insn), sizeof(type),           \
                                   reg_read(cpu, insn->src, sizeof(type))))) {           \
            return insn_fault(cpu, insn);                                                \
        }                                                                                \
        NEXT(cpu, insn);                                                                 \
    }                                                                                    \
    static const struct insn *mov_mi##bits(struct cpu *cpu, const struct insn *insn)     \
    {                                                                                    \
        if (unlikely(                                                                    \
                !access_store(cpu, insn_address(cpu, insn), sizeof(type), insn->imm))) { \
            return insn_fault(cpu, insn);                                                \
        }                                                                                \
        NEXT(cpu, insn);                                                                 \
    }                                                                                    \
    /* With a 64-bit absolute address, kept in imm. */                                   \
    static const struct insn *mov_lo##bits(struct cpu *cpu, const struct insn *insn)     \
    {                                                                                    \
        uint64_t ea = insn_linear(cpu, insn, insn->imm, sizeof(type));                   \
        struct loaded value = access_load(cpu, ea, sizeof(type));                        \
        if (unlikely(!value.ok)) {                                                       \
            return insn_fault(cpu, insn);                                                \
        }                                                                                \
        reg_write(cpu, insn->dst, sizeof(type), value.value);                            \
        NEXT(cpu, insn);                                                                 \
    }                                                                                    \
    static const struct insn *mov_so##bits(struct cpu *cpu, const struct insn *insn)     \
    {                                                                                    \
        uint64_t ea = insn_linear(cpu, insn, insn->imm, sizeof(type));                   \
        if (unlikely(!access_store(cpu, ea, sizeof(type),                                \
                                   reg_read(cpu, insn->src, sizeof(type))))) {           \
            return insn_fault(cpu, insn);                                                \
        }                                                                                \
        NEXT(cpu, insn);                                                                 \
    }

ALU_SIZES(MOV_HANDLERS)

static insn_exec *const exec_mov[] = {
    FORM_ROW(mov, rr), FORM_ROW(mov, ri), FORM_ROW(mov, rm), FORM_ROW(mov, mr),
    FORM_ROW(mov, mi), FORM_ROW(mov, lo), FORM_ROW(mov, so),
};

static bool bind_mov(struct binding *binding, const struct insn_row *row,
                     struct insn *insn)
{
    const ZydisDecodedOperand *dst = &binding->operand[0], *src = &binding->operand[1];
    if (!is_general(dst) || !is_general(src)) {
        return false;
    }
    bind_simple(binding, row, insn);
    bool is_load = src->type == ZYDIS_OPERAND_TYPE_MEMORY;
    bool is_store = dst->type == ZYDIS_OPERAND_TYPE_MEMORY;
    bool is_immediate = src->type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    const ZydisDecodedOperand *memory = is_load ? src : dst;
    unsigned form = is_load ? MOV_RM : is_store ? MOV_MR : MOV_RR;
    if (is_immediate) {
        form += MOV_RI - MOV_RR;
    } else if ((is_load || is_store) && !bind_displacement_fits(memory)) {
        form = is_load ? MOV_LOAD_OFFSET : MOV_STORE_OFFSET;
        insn->imm = (uint64_t)memory->mem.disp.value;
    }
    insn->exec = row->exec[form * 4 + bind_log2_size(dst->size)];
    return true;
}

/* MOVZX, MOVSX, MOVSXD: from (8, 16, 32) to (16, 32, 64). */

#define EXTEND_HANDLERS(name, from, from_bits, to_bits, cast)                          \
    static const struct insn *name##_r##from_bits##_##to_bits(struct cpu *cpu,         \
                                                              const struct insn *insn) \
    {                                                                                  \
        reg_write(cpu, insn->dst, (to_bits) / 8,                                       \
                  (uint64_t)(cast)(from)reg_read(cpu, insn->src, sizeof(from)));       \
        NEXT(cpu, insn);                                                               \
    }                                                                                  \
    static const struct insn *name##_m##from_bits##_##to_bits(struct cpu *cpu,         \
                                                              const struct insn *insn) \
    {                                                                                  \
        struct loaded value = access_load(cpu, insn_address(cpu, insn), sizeof(from)); \
        if (unlikely(!value.ok)) {                                                     \
            return insn_fault(cpu, insn);                                              \
        }                                                                              \
        reg_write(cpu, insn->dst, (to_bits) / 8, (uint64_t)(cast)(from)value.value);   \
        NEXT(cpu, insn);                                                               \
    }

#define EXTEND_FROM(name, from, from_bits, cast)     \
    EXTEND_HANDLERS(name, from, from_bits, 16, cast) \
    EXTEND_HANDLERS(name, from, from_bits, 32, cast) \
    EXTEND_HANDLERS(name, from, from_bits, 64, cast)

#define EXTEND_ROW(name, form, from_bits)                               \
    NULL, name##_##form##from_bits##_16, name##_##form##from_bits##_32, \
        name##_##form##from_bits##_64

EXTEND_FROM(movzx, uint8_t, 8, uint64_t)
EXTEND_FROM(movzx, uint16_t, 16, uint64_t)
EXTEND_FROM(movsx, int8_t, 8, int64_t)
EXTEND_FROM(movsx, int16_t, 16, int64_t)
EXTEND_FROM(movsx, int32_t, 32, int64_t)

static insn_exec *const exec_movzx[] = {
    EXTEND_ROW(movzx, r, 8),
    EXTEND_ROW(movzx, m, 8),
    EXTEND_ROW(movzx, r, 16),
    EXTEND_ROW(movzx, m, 16),
};
static insn_exec *const exec_movsx[] = {
    EXTEND_ROW(movsx, r, 8),  EXTEND_ROW(movsx, m, 8),  EXTEND_ROW(movsx, r, 16),
    EXTEND_ROW(movsx, m, 16), EXTEND_ROW(movsx, r, 32), EXTEND_ROW(movsx, m, 32),
};

static bool bind_extend(struct binding *binding, const struct insn_row *row,
                        struct insn *insn)
{
    bind_simple(binding, row, insn);
    bool is_memory = binding->operand[1].type == ZYDIS_OPERAND_TYPE_MEMORY;
    unsigned from = bind_log2_size(binding->operand[1].size);
    /* SDM 2B "MOVSXD": to 16 bits, from 16; AMD's processors read 32. */
    if (row->mnemonic == ZYDIS_MNEMONIC_MOVSXD && binding->operand[0].size == 16 &&
        binding->cpu->cpuid->vendor != CPU_VENDOR_AMD) {
        from = 1;
        insn->size = 2;
    }
    insn->exec =
        row->exec[(from * 2 + is_memory) * 4 + bind_log2_size(binding->operand[0].size)];
    return insn->exec != NULL;
}

/* LEA: the offset, truncated to the address size and then to the operand size. */

#define LEA_HANDLER(bits, type, suffix, modifier)                                     \
    static const struct insn *lea_r##bits(struct cpu *cpu, const struct insn *insn)   \
    {                                                                                 \
        uint64_t offset = insn_offset(cpu, insn);                                     \
        if (unlikely(insn->special & (INSN_ADDRESS32 | INSN_ADDRESS16))) {            \
            offset =                                                                  \
                insn->special & INSN_ADDRESS32 ? (uint32_t)offset : (uint16_t)offset; \
        }                                                                             \
        reg_write(cpu, insn->dst, sizeof(type), offset);                              \
        NEXT(cpu, insn);                                                              \
    }

LEA_HANDLER(16, uint16_t, , )
LEA_HANDLER(32, uint32_t, , )
LEA_HANDLER(64, uint64_t, , )

static insn_exec *const exec_lea[] = {WIDE_ROW(lea, r)};

static bool bind_sized(struct binding *binding, const struct insn_row *row,
                       struct insn *insn)
{
    bind_simple(binding, row, insn);
    insn->exec = row->exec[bind_log2_size(binding->operand[0].size)];
    return insn->exec != NULL;
}

/* XCHG: with memory always locked. */

#define XCHG_HANDLERS(bits, type, suffix, modifier)                                   \
    static const struct insn *xchg_rr##bits(struct cpu *cpu, const struct insn *insn) \
    {                                                                                 \
        uint64_t a = reg_read(cpu, insn->dst, sizeof(type));                          \
        uint64_t b = reg_read(cpu, insn->src, sizeof(type));                          \
        reg_write(cpu, insn->dst, sizeof(type), b);                                   \
        reg_write(cpu, insn->src, sizeof(type), a);                                   \
        NEXT(cpu, insn);                                                              \
    }                                                                                 \
    static const struct insn *xchg_mr##bits(struct cpu *cpu, const struct insn *insn) \
    {                                                                                 \
        uint64_t ea = insn_address(cpu, insn);                                        \
        uint8_t *host = access_modify_begin(cpu, ea, sizeof(type), true);             \
        if (unlikely(!host)) {                                                        \
            return insn_fault(cpu, insn);                                             \
        }                                                                             \
        type value = (type)reg_read(cpu, insn->src, sizeof(type));                    \
        __asm__ volatile(                                                             \
            "xchg" suffix " %" modifier "[v], %[m]"                                   \
            : [v] "+r"(value), [m] "+m"(*(type __attribute__((may_alias)) *)host)     \
            :                                                                         \
            : "memory");                                                              \
        reg_write(cpu, insn->src, sizeof(type), value);                               \
        access_modify_end(cpu, ea, host, sizeof(type), true);                         \
        NEXT(cpu, insn);                                                              \
    }

ALU_SIZES(XCHG_HANDLERS)

static insn_exec *const exec_xchg[] = {FORM_ROW(xchg, rr), FORM_ROW(xchg, mr)};

static bool bind_xchg(struct binding *binding, const struct insn_row *row,
                      struct insn *insn)
{
    bind_simple(binding, row, insn);
    bool is_memory = false;
    for (unsigned i = 0; i < 2; i++) {
        if (binding->operand[i].type == ZYDIS_OPERAND_TYPE_MEMORY) {
            is_memory = true;
            insn->src = bind_register(binding->operand[1 - i].reg.value);
        }
    }
    insn->exec = row->exec[is_memory * 4 + bind_log2_size(binding->operand[0].size)];
    return true;
}

/* F3 90 with REX.B is no PAUSE on AMD's processors: the register is R8, and the prefix
 * means nothing (APM 3 1.2.6). Intel's take it for PAUSE all the same (SDM 2D table
 * */
static bool bind_xchg_r8(struct binding *binding, const struct insn_row *row,
                         struct insn *insn)
{
    const ZydisDecodedInstruction *decoded = binding->decoded;
    if (!decoded->raw.rex.B || binding->cpu->cpuid->vendor != CPU_VENDOR_AMD) {
        return false;
    }
    insn->dst = REG_OFFSET(X86_R8);
    insn->src = REG_OFFSET(X86_RAX);
    bool is_short = decoded->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE;
    insn->exec = row->exec[decoded->raw.rex.W ? 3 : is_short ? 1 : 2];
    return true;
}

/* CMOVcc: the load happens, and a 32-bit destination is zero-extended, whether or not the
 * condition holds. */

#define CMOV_HANDLER(bits, type, cc, code, form, load)                         \
    static const struct insn *cmov##cc##_##form##bits(struct cpu *cpu,         \
                                                      const struct insn *insn) \
    {                                                                          \
        struct loaded value = load;                                            \
        if (unlikely(!value.ok)) {                                             \
            return insn_fault(cpu, insn);                                      \
        }                                                                      \
        uint64_t old = reg_read(cpu, insn->dst, sizeof(type));                 \
        reg_write(cpu, insn->dst, sizeof(type),                                \
                  alu_condition(cpu->arith, code) ? value.value : old);        \
        NEXT(cpu, insn);                                                       \
    }

#define FROM_REGISTER(type) \
    ((struct loaded){reg_read(cpu, insn->src, sizeof(type)), true})
#define FROM_MEMORY(type) access_load(cpu, insn_address(cpu, insn), sizeof(type))

#define CMOV_HANDLERS(cc, code)                                       \
    CMOV_HANDLER(16, uint16_t, cc, code, r, FROM_REGISTER(uint16_t))  \
    CMOV_HANDLER(32, uint32_t, cc, code, r, FROM_REGISTER(uint32_t))  \
    CMOV_HANDLER(64, uint64_t, cc, code, r, FROM_REGISTER(uint64_t))  \
    CMOV_HANDLER(16, uint16_t, cc, code, m, FROM_MEMORY(uint16_t))    \
    CMOV_HANDLER(32, uint32_t, cc, code, m, FROM_MEMORY(uint32_t))    \
    CMOV_HANDLER(64, uint64_t, cc, code, m, FROM_MEMORY(uint64_t))    \
    static insn_exec *const exec_cmov##cc[] = {WIDE_ROW(cmov##cc, r), \
                                               WIDE_ROW(cmov##cc, m)};

ALU_CONDITIONS(CMOV_HANDLERS)

static bool bind_from(struct binding *binding, const struct insn_row *row,
                      struct insn *insn)
{
    bind_simple(binding, row, insn);
    bool is_memory = binding->operand[1].type == ZYDIS_OPERAND_TYPE_MEMORY;
    insn->exec = row->exec[is_memory * 4 + bind_log2_size(binding->operand[0].size)];
    return insn->exec != NULL;
}

/* SETcc */

#define SET_HANDLERS(cc, code)                                                      \
    static const struct insn *set##cc##_r(struct cpu *cpu, const struct insn *insn) \
    {                                                                               \
        REG8(cpu, insn->dst) = alu_condition(cpu->arith, code);                     \
        NEXT(cpu, insn);                                                            \
    }                                                                               \
    static const struct insn *set##cc##_m(struct cpu *cpu, const struct insn *insn) \
    {                                                                               \
        if (unlikely(!access_store(cpu, insn_address(cpu, insn), 1,                 \
                                   alu_condition(cpu->arith, code)))) {             \
            return insn_fault(cpu, insn);                                           \
        }                                                                           \
        NEXT(cpu, insn);                                                            \
    }                                                                               \
    static insn_exec *const exec_set##cc[] = {set##cc##_r, set##cc##_m};

ALU_CONDITIONS(SET_HANDLERS)

static bool bind_set(struct binding *binding, const struct insn_row *row,
                     struct insn *insn)
{
    bind_simple(binding, row, insn);
    insn->exec = row->exec[binding->operand[0].type == ZYDIS_OPERAND_TYPE_MEMORY];
    return true;
}

/* Sign extension within and out of the accumulator. */

#define ACCUMULATOR(name, size, expression)                                  \
    static const struct insn *name(struct cpu *cpu, const struct insn *insn) \
    {                                                                        \
        int64_t rax = (int64_t)cpu->reg[X86_RAX];                            \
        reg_write(cpu, size, (uint64_t)(expression));                        \
        NEXT(cpu, insn);                                                     \
    }

#define TO_RAX(size) REG_OFFSET(X86_RAX), size
#define TO_RDX(size) REG_OFFSET(X86_RDX), size

ACCUMULATOR(cbw, TO_RAX(2), (int8_t)rax)
ACCUMULATOR(cwde, TO_RAX(4), (int16_t)rax)
ACCUMULATOR(cdqe, TO_RAX(8), (int32_t)rax)
ACCUMULATOR(cwd, TO_RDX(2), (int16_t)rax >> 15)
ACCUMULATOR(cdq, TO_RDX(4), (int32_t)rax >> 31)
ACCUMULATOR(cqo, TO_RDX(8), rax >> 63)

static bool bind_plain(struct binding *binding, const struct insn_row *row,
                       struct insn *insn)
{
    insn->exec = row->exec[0];
    return true;
}

/* The operand's address is the table's: AL is added, within the address size. */
static const struct insn *xlat(struct cpu *cpu, const struct insn *insn)
{
    uint64_t offset = insn_offset(cpu, insn) + (uint8_t)cpu->reg[X86_RAX];
    struct loaded value = access_load(cpu, insn_linear(cpu, insn, offset, 1), 1);
    if (unlikely(!value.ok)) {
        return insn_fault(cpu, insn);
    }
    reg_write(cpu, REG_OFFSET(X86_RAX), 1, value.value);
    NEXT(cpu, insn);
}

static insn_exec *const exec_xlat[] = {xlat};

static bool bind_xlat(struct binding *binding, const struct insn_row *row,
                      struct insn *insn)
{
    insn->exec = row->exec[0];
    bind_memory(binding, insn, &binding->operand[0]);
    return true;
}

#define ROW(mnemonic, bind, exec)                                \
    {                                                            \
        ZYDIS_MNEMONIC_##mnemonic, INSN_INNOCUOUS, bind, exec, 0 \
    }

static insn_exec *const exec_cbw[] = {cbw};
static insn_exec *const exec_cwde[] = {cwde};
static insn_exec *const exec_cdqe[] = {cdqe};
static insn_exec *const exec_cwd[] = {cwd};
static insn_exec *const exec_cdq[] = {cdq};
static insn_exec *const exec_cqo[] = {cqo};

/* clang-format off */
const struct insn_row insn_rows_move[] = {
    ROW(MOV, bind_mov, exec_mov),          ROW(MOVZX, bind_extend, exec_movzx),
    ROW(MOVSX, bind_extend, exec_movsx),   ROW(MOVSXD, bind_extend, exec_movsx),
    ROW(LEA, bind_sized, exec_lea),        ROW(XCHG, bind_xchg, exec_xchg),
    ROW(PAUSE, bind_xchg_r8, exec_xchg),   ROW(CBW, bind_plain, exec_cbw),
    ROW(CWDE, bind_plain, exec_cwde),      ROW(CDQE, bind_plain, exec_cdqe),
    ROW(CWD, bind_plain, exec_cwd),        ROW(CDQ, bind_plain, exec_cdq),
    ROW(CQO, bind_plain, exec_cqo),        ROW(CMOVO, bind_from, exec_cmovo),
    ROW(CMOVNO, bind_from, exec_cmovno),   ROW(CMOVB, bind_from, exec_cmovb),
    ROW(CMOVNB, bind_from, exec_cmovnb),   ROW(CMOVZ, bind_from, exec_cmovz),
    ROW(CMOVNZ, bind_from, exec_cmovnz),   ROW(CMOVBE, bind_from, exec_cmovbe),
    ROW(CMOVNBE, bind_from, exec_cmovnbe), ROW(CMOVS, bind_from, exec_cmovs),
    ROW(CMOVNS, bind_from, exec_cmovns),   ROW(CMOVP, bind_from, exec_cmovp),
    ROW(CMOVNP, bind_from, exec_cmovnp),   ROW(CMOVL, bind_from, exec_cmovl),
    ROW(CMOVNL, bind_from, exec_cmovnl),   ROW(CMOVLE, bind_from, exec_cmovle),
    ROW(CMOVNLE, bind_from, exec_cmovnle), ROW(SETO, bind_set, exec_seto),
    ROW(SETNO, bind_set, exec_setno),      ROW(SETB, bind_set, exec_setb),
    ROW(SETNB, bind_set, exec_setnb),      ROW(SETZ, bind_set, exec_setz),
    ROW(SETNZ, bind_set, exec_setnz),      ROW(SETBE, bind_set, exec_setbe),
    ROW(SETNBE, bind_set, exec_setnbe),    ROW(SETS, bind_set, exec_sets),
    ROW(SETNS, bind_set, exec_setns),      ROW(SETP, bind_set, exec_setp),
    ROW(SETNP, bind_set, exec_setnp),      ROW(SETL, bind_set, exec_setl),
    ROW(SETNL, bind_set, exec_setnl),      ROW(SETLE, bind_set, exec_setle),
    ROW(SETNLE, bind_set, exec_setnle),    ROW(XLAT, bind_xlat, exec_xlat),
    {0},
};
/* clang-format on */
