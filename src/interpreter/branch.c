/* Near control transfers: JMP, Jcc, CALL, RET, LOOP, JRCXZ. Far ones are far.c's. */
#include "interpreter/alu.h"
#include "interpreter/block.h"
#include "x86/paging.h"
#include "x86/segment.h"

/* A target outside the code segment, or not canonical, faults at the branch (SDM 2A
 * "JMP", "CALL"). */
static bool target_is_valid(struct cpu *cpu, uint64_t rip)
{
    if (likely(cpu->is_long64)) {
        return likely(x86_canonical(rip)) || cpu_raise(cpu, X86_GP, 0);
    }
    return rip <= cpu->state.seg[X86_CS].limit || cpu_raise(cpu, X86_GP, 0);
}

/* Operand size in bytes, to which a target is truncated. In 64-bit mode it is 8; on AMD's
 * processors a 66 prefix makes it 2 (APM 3 "JMP (Near)"), Intel's ignore it (SDM 2A
 * "JMP"). */
static uint8_t operand_bytes(const struct binding *binding)
{
    const ZydisDecodedInstruction *decoded = binding->decoded;
    if (!binding->cpu->is_long64) {
        return (uint8_t)(decoded->operand_width / 8);
    }
    bool is_short = false;
    for (unsigned i = 0; i < decoded->raw.prefix_count; i++) {
        is_short |= decoded->raw.prefixes[i].value == 0x66;
    }
    bool is_amd = binding->cpu->cpuid->vendor == CPU_VENDOR_AMD;
    return is_amd && is_short && !decoded->raw.rex.W ? 2 : 8;
}

/* aux of direct branches: the operand size. */
static inline uint64_t direct_target(struct cpu *cpu, const struct insn *insn)
{
    uint64_t rip = insn_next_rip(cpu, insn) + (uint64_t)(int64_t)insn->disp;
    if (likely(insn->aux == 8)) {
        return rip;
    }
    return insn->aux == 2 ? (uint16_t)rip : (uint32_t)rip;
}

static inline const struct insn *jump_direct(struct cpu *cpu, const struct insn *insn)
{
    uint64_t rip = direct_target(cpu, insn);
    if (unlikely(!target_is_valid(cpu, rip))) {
        return insn_fault(cpu, insn);
    }
    return block_jump(cpu, insn, rip);
}

static const struct insn *jmp(struct cpu *cpu, const struct insn *insn)
{
    return jump_direct(cpu, insn);
}

/* Within the page, with the target block remembered. */
static const struct insn *jmp_near(struct cpu *cpu, const struct insn *insn)
{
    return block_chain(cpu, insn,
                       insn_next_rip(cpu, insn) + (uint64_t)(int64_t)insn->disp);
}

#define CONDITIONAL(cc, code)                                                           \
    static const struct insn *jcc_##cc(struct cpu *cpu, const struct insn *insn)        \
    {                                                                                   \
        if (alu_condition(cpu->arith, code)) {                                          \
            return jump_direct(cpu, insn);                                              \
        }                                                                               \
        NEXT(cpu, insn);                                                                \
    }                                                                                   \
    static const struct insn *jcc_##cc##_near(struct cpu *cpu, const struct insn *insn) \
    {                                                                                   \
        if (alu_condition(cpu->arith, code)) {                                          \
            return block_chain(                                                         \
                cpu, insn, insn_next_rip(cpu, insn) + (uint64_t)(int64_t)insn->disp);   \
        }                                                                               \
        NEXT(cpu, insn);                                                                \
    }                                                                                   \
    static insn_exec *const exec_j##cc[] = {jcc_##cc, jcc_##cc##_near};

ALU_CONDITIONS(CONDITIONAL)

static insn_exec *const exec_jmp[] = {jmp, jmp_near};

/* Fills disp and aux; true if the target lies in the same page and may be remembered. */
static bool bind_direct(struct binding *binding, struct insn *insn)
{
    const ZydisDecodedOperand *operand = &binding->operand[0];
    insn->disp = (int32_t)operand->imm.value.s;
    insn->aux = operand_bytes(binding);
    int64_t target = insn->offset + binding->decoded->length + (int64_t)insn->disp;
    bool is_whole = insn->offset + binding->decoded->length <= (int64_t)FRAME_SIZE;
    bool is_checked = insn->aux != 8 || binding->cpu->code_mode & CODE_MODE_SINGLE;
    return is_whole && !is_checked && target >= 0 && target < (int64_t)FRAME_SIZE;
}

static bool is_relative(const struct binding *binding)
{
    return binding->operand[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
           binding->decoded->meta.branch_type != ZYDIS_BRANCH_TYPE_FAR;
}

static bool bind_relative(struct binding *binding, const struct insn_row *row,
                          struct insn *insn)
{
    if (!is_relative(binding)) {
        return false;
    }
    insn->exec = row->exec[bind_direct(binding, insn)];
    return true;
}

/* Indirect: through a register or memory of aux bytes. */

static inline struct loaded indirect_target(struct cpu *cpu, const struct insn *insn,
                                            bool is_memory)
{
    if (is_memory) {
        return access_load(cpu, insn_address(cpu, insn), insn->aux);
    }
    return (struct loaded){reg_read(cpu, insn->dst, insn->aux), true};
}

static inline const struct insn *jump_indirect(struct cpu *cpu, const struct insn *insn,
                                               bool is_memory)
{
    struct loaded target = indirect_target(cpu, insn, is_memory);
    if (unlikely(!target.ok || !target_is_valid(cpu, target.value))) {
        return insn_fault(cpu, insn);
    }
    return block_jump(cpu, insn, target.value);
}

static const struct insn *jmp_r(struct cpu *cpu, const struct insn *insn)
{
    return jump_indirect(cpu, insn, false);
}

static const struct insn *jmp_m(struct cpu *cpu, const struct insn *insn)
{
    return jump_indirect(cpu, insn, true);
}

static insn_exec *const exec_jmp_indirect[] = {jmp_r, jmp_m};

static inline bool push_return(struct cpu *cpu, const struct insn *insn)
{
    uint64_t rip = insn_next_rip(cpu, insn);
    if (likely(insn->aux == 8)) {
        uint64_t rsp = cpu->reg[X86_RSP] - 8;
        if (unlikely(!access_store(cpu, rsp, 8, rip))) {
            if (cpu->fault_noncanonical) {
                cpu->fault.vector = X86_SS_FAULT;
            }
            return false;
        }
        cpu->reg[X86_RSP] = rsp;
        return true;
    }
    return stack_push(cpu, insn->aux, rip);
}

/* Would the return address's push fault? */
static bool push_is_possible(struct cpu *cpu, const struct insn *insn)
{
    const struct x86_segment *ss = &cpu->state.seg[X86_SS];
    uint64_t rsp = cpu->reg[X86_RSP] - insn->aux;
    if (!cpu->is_long64) {
        rsp = cpu->stack_bits == 16 ? (uint16_t)rsp : (uint32_t)rsp;
        if (!x86_segment_allows(ss, rsp, insn->aux, true)) {
            return cpu_raise(cpu, X86_SS_FAULT, 0);
        }
        rsp = (uint32_t)(ss->base + rsp);
    }
    if (access_check_alignment(cpu, rsp, insn->aux) &&
        access_probe(cpu, rsp, insn->aux, true)) {
        return true;
    }
    if (cpu->fault_noncanonical) {
        cpu->fault.vector = X86_SS_FAULT;
    }
    return false;
}

/*
 * Which of a bad target and a bad stack faults first, the manuals tell differently: SDM
 * 2A "CALL" checks the target before the push, APM 3 "CALL (Near)" pushes first. The
 * processors of both find the stack's fault first. If the target then faults, RSP stays;
 * Intel's have stored the return address, AMD's have not.
 */
static __attribute__((noinline)) bool call_to_nowhere(struct cpu *cpu,
                                                      const struct insn *insn)
{
    uint64_t rsp = cpu->reg[X86_RSP];
    bool is_amd = cpu->cpuid->vendor == CPU_VENDOR_AMD;
    cpu->has_fault = false;
    if (is_amd ? push_is_possible(cpu, insn) : push_return(cpu, insn)) {
        cpu->reg[X86_RSP] = rsp;
        cpu_raise(cpu, X86_GP, 0);
    }
    return false;
}

static inline bool call_begin(struct cpu *cpu, const struct insn *insn, uint64_t rip)
{
    if (unlikely(!target_is_valid(cpu, rip))) {
        return call_to_nowhere(cpu, insn);
    }
    return push_return(cpu, insn);
}

static const struct insn *call(struct cpu *cpu, const struct insn *insn)
{
    uint64_t rip = direct_target(cpu, insn);
    if (unlikely(!call_begin(cpu, insn, rip))) {
        return insn_fault(cpu, insn);
    }
    return block_jump(cpu, insn, rip);
}

static const struct insn *call_near(struct cpu *cpu, const struct insn *insn)
{
    if (unlikely(!push_return(cpu, insn))) {
        return insn_fault(cpu, insn);
    }
    return block_chain(cpu, insn,
                       insn_next_rip(cpu, insn) + (uint64_t)(int64_t)insn->disp);
}

static inline const struct insn *call_indirect(struct cpu *cpu, const struct insn *insn,
                                               bool is_memory)
{
    struct loaded target = indirect_target(cpu, insn, is_memory);
    if (unlikely(!target.ok || !call_begin(cpu, insn, target.value))) {
        return insn_fault(cpu, insn);
    }
    return block_jump(cpu, insn, target.value);
}

static const struct insn *call_r(struct cpu *cpu, const struct insn *insn)
{
    return call_indirect(cpu, insn, false);
}

static const struct insn *call_m(struct cpu *cpu, const struct insn *insn)
{
    return call_indirect(cpu, insn, true);
}

static insn_exec *const exec_call[] = {call, call_near};
static insn_exec *const exec_call_indirect[] = {call_r, call_m};

static bool bind_indirect(struct binding *binding, const struct insn_row *row,
                          struct insn *insn)
{
    if (is_relative(binding) ||
        binding->decoded->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR) {
        return false;
    }
    bind_simple(binding, row, insn);
    insn->aux = operand_bytes(binding);
    insn->exec = row->exec[binding->operand[0].type == ZYDIS_OPERAND_TYPE_MEMORY];
    return true;
}

/* RET: imm bytes of arguments are dropped. */

static const struct insn *ret64(struct cpu *cpu, const struct insn *insn)
{
    uint64_t rsp = cpu->reg[X86_RSP];
    struct loaded target = access_load(cpu, rsp, 8);
    if (unlikely(!target.ok)) {
        if (cpu->fault_noncanonical) {
            cpu->fault.vector = X86_SS_FAULT;
        }
        return insn_fault(cpu, insn);
    }
    if (unlikely(!target_is_valid(cpu, target.value))) {
        return insn_fault(cpu, insn);
    }
    cpu->reg[X86_RSP] = rsp + 8 + insn->imm;
    return block_jump(cpu, insn, target.value);
}

static const struct insn *ret(struct cpu *cpu, const struct insn *insn)
{
    struct loaded target = stack_peek(cpu, 0, insn->aux);
    if (!target.ok || !target_is_valid(cpu, target.value)) {
        return insn_fault(cpu, insn);
    }
    stack_adjust(cpu, insn->aux + (int64_t)insn->imm);
    return block_jump(cpu, insn, target.value);
}

static insn_exec *const exec_ret[] = {ret, ret64};

static bool bind_ret(struct binding *binding, const struct insn_row *row,
                     struct insn *insn)
{
    if (binding->decoded->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR) {
        return false;
    }
    if (binding->operand[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        insn->imm = binding->operand[0].imm.value.u & 0xffff;
    }
    insn->aux = operand_bytes(binding);
    insn->exec = row->exec[insn->aux == 8];
    return true;
}

/* LOOP and JRCXZ count in RCX of the address size, kept in size. */

static inline uint64_t count_down(struct cpu *cpu, const struct insn *insn,
                                  uint64_t *count)
{
    *count = reg_read(cpu, REG_OFFSET(X86_RCX), insn->size) - 1;
    *count = insn->size == 8   ? *count
             : insn->size == 4 ? (uint32_t)*count
                               : (uint16_t)*count;
    return *count;
}

/* A target that faults leaves the counter as it was. */
#define LOOP(name, condition)                                                \
    static const struct insn *name(struct cpu *cpu, const struct insn *insn) \
    {                                                                        \
        uint64_t count;                                                      \
        count_down(cpu, insn, &count);                                       \
        bool is_taken = count != 0 && (condition);                           \
        uint64_t rip = direct_target(cpu, insn);                             \
        if (unlikely(is_taken && !target_is_valid(cpu, rip))) {              \
            return insn_fault(cpu, insn);                                    \
        }                                                                    \
        reg_write(cpu, REG_OFFSET(X86_RCX), insn->size, count);              \
        if (is_taken) {                                                      \
            return block_jump(cpu, insn, rip);                               \
        }                                                                    \
        NEXT(cpu, insn);                                                     \
    }                                                                        \
    static insn_exec *const exec_##name[] = {name};

LOOP(loop, true)
LOOP(loope, cpu->arith &ARITH_ZF)
LOOP(loopne, !(cpu->arith & ARITH_ZF))

static const struct insn *jcxz(struct cpu *cpu, const struct insn *insn)
{
    if (reg_read(cpu, REG_OFFSET(X86_RCX), insn->size) == 0) {
        return jump_direct(cpu, insn);
    }
    NEXT(cpu, insn);
}

static insn_exec *const exec_jcxz[] = {jcxz};

static bool bind_counted(struct binding *binding, const struct insn_row *row,
                         struct insn *insn)
{
    bind_direct(binding, insn);
    insn->size = (uint8_t)(binding->decoded->address_width / 8);
    insn->exec = row->exec[0];
    return true;
}

#define ROW(mnemonic, bind, exec)                                             \
    {                                                                         \
        ZYDIS_MNEMONIC_##mnemonic, INSN_INNOCUOUS, bind, exec, ROW_ENDS_BLOCK \
    }

/* A conditional branch that is not taken goes on within its block. */
#define CONDITIONAL_ROW(mnemonic, bind, exec)                    \
    {                                                            \
        ZYDIS_MNEMONIC_##mnemonic, INSN_INNOCUOUS, bind, exec, 0 \
    }

const struct insn_row insn_rows_branch[] = {
    ROW(JMP, bind_relative, exec_jmp),
    ROW(JMP, bind_indirect, exec_jmp_indirect),
    ROW(CALL, bind_relative, exec_call),
    ROW(CALL, bind_indirect, exec_call_indirect),
    ROW(RET, bind_ret, exec_ret),
    CONDITIONAL_ROW(JO, bind_relative, exec_jo),
    CONDITIONAL_ROW(JNO, bind_relative, exec_jno),
    CONDITIONAL_ROW(JB, bind_relative, exec_jb),
    CONDITIONAL_ROW(JNB, bind_relative, exec_jnb),
    CONDITIONAL_ROW(JZ, bind_relative, exec_jz),
    CONDITIONAL_ROW(JNZ, bind_relative, exec_jnz),
    CONDITIONAL_ROW(JBE, bind_relative, exec_jbe),
    CONDITIONAL_ROW(JNBE, bind_relative, exec_jnbe),
    CONDITIONAL_ROW(JS, bind_relative, exec_js),
    CONDITIONAL_ROW(JNS, bind_relative, exec_jns),
    CONDITIONAL_ROW(JP, bind_relative, exec_jp),
    CONDITIONAL_ROW(JNP, bind_relative, exec_jnp),
    CONDITIONAL_ROW(JL, bind_relative, exec_jl),
    CONDITIONAL_ROW(JNL, bind_relative, exec_jnl),
    CONDITIONAL_ROW(JLE, bind_relative, exec_jle),
    CONDITIONAL_ROW(JNLE, bind_relative, exec_jnle),
    CONDITIONAL_ROW(LOOP, bind_counted, exec_loop),
    CONDITIONAL_ROW(LOOPE, bind_counted, exec_loope),
    CONDITIONAL_ROW(LOOPNE, bind_counted, exec_loopne),
    CONDITIONAL_ROW(JCXZ, bind_counted, exec_jcxz),
    CONDITIONAL_ROW(JECXZ, bind_counted, exec_jcxz),
    CONDITIONAL_ROW(JRCXZ, bind_counted, exec_jcxz),
    {0},
};
