/* Instructions that read and write flags as such: SDM 1 3.4.3, SDM 3A 6.8 and 20.3. */

#include "interpreter/operation.h"

#define AH_FLAGS 0xd5u /* what LAHF and SAHF move */

/* ---- Arithmetic flags and DF ---- */

static const struct insn *exec_clc(struct cpu *cpu, const struct insn *insn)
{
    cpu->arith &= ~ARITH_CF;
    NEXT(cpu, insn);
}

static const struct insn *exec_stc(struct cpu *cpu, const struct insn *insn)
{
    cpu->arith |= ARITH_CF;
    NEXT(cpu, insn);
}

static const struct insn *exec_cmc(struct cpu *cpu, const struct insn *insn)
{
    cpu->arith ^= ARITH_CF;
    NEXT(cpu, insn);
}

static const struct insn *exec_cld(struct cpu *cpu, const struct insn *insn)
{
    cpu->state.rflags &= ~(uint64_t)X86_FLAG_DF;
    NEXT(cpu, insn);
}

static const struct insn *exec_std(struct cpu *cpu, const struct insn *insn)
{
    cpu->state.rflags |= X86_FLAG_DF;
    NEXT(cpu, insn);
}

static const struct insn *exec_lahf(struct cpu *cpu, const struct insn *insn)
{
    REG8(cpu, REG_OFFSET(X86_RAX) + 1) =
        (uint8_t)((cpu->arith >> 8 & AH_FLAGS) | X86_FLAG_1);
    NEXT(cpu, insn);
}

static const struct insn *exec_sahf(struct cpu *cpu, const struct insn *insn)
{
    uint32_t ah = REG8(cpu, REG_OFFSET(X86_RAX) + 1);
    cpu->arith = (cpu->arith & ARITH_OF) | ((ah & AH_FLAGS) | X86_FLAG_1) << 8;
    NEXT(cpu, insn);
}

/* ---- IF ---- */

static unsigned iopl(const struct cpu *cpu)
{
    return (cpu->state.rflags & X86_FLAG_IOPL) >> X86_FLAG_IOPL_SHIFT;
}

/* What CLI and STI act on. */
enum interrupt_flag {
    INTERRUPT_FLAG_REAL,
    INTERRUPT_FLAG_VIRTUAL, /* VIF: CR4.VME in vm86 mode, CR4.PVI in ring 3 */
    INTERRUPT_FLAG_NONE,    /* #GP(0) */
};

static enum interrupt_flag interrupt_flag(const struct cpu *cpu)
{
    const struct x86_state *state = &cpu->state;
    if (iopl(cpu) >= cpu->cpl) { /* real mode counts as CPL 0 */
        return INTERRUPT_FLAG_REAL;
    }
    bool is_vm86 = state->rflags & X86_FLAG_VM;
    uint64_t extension = is_vm86 ? X86_CR4_VME : X86_CR4_PVI;
    return state->cr4 & extension && cpu->cpl == 3 ? INTERRUPT_FLAG_VIRTUAL
                                                   : INTERRUPT_FLAG_NONE;
}

static const struct insn *exec_cli(struct cpu *cpu, const struct insn *insn)
{
    enum interrupt_flag flag = interrupt_flag(cpu);
    if (unlikely(flag == INTERRUPT_FLAG_NONE)) {
        return insn_raise(cpu, insn, X86_GP, 0);
    }
    cpu->state.rflags &=
        ~(uint64_t)(flag == INTERRUPT_FLAG_REAL ? X86_FLAG_IF : X86_FLAG_VIF);
    NEXT(cpu, insn);
}

static const struct insn *exec_sti(struct cpu *cpu, const struct insn *insn)
{
    enum interrupt_flag flag = interrupt_flag(cpu);
    bool is_virtual = flag == INTERRUPT_FLAG_VIRTUAL;
    if (unlikely(flag == INTERRUPT_FLAG_NONE ||
                 (is_virtual && cpu->state.rflags & X86_FLAG_VIP))) {
        return insn_raise(cpu, insn, X86_GP, 0);
    }
    if (is_virtual) {
        cpu->state.rflags |= X86_FLAG_VIF;
        NEXT(cpu, insn);
    }
    if (!(cpu->state.rflags & X86_FLAG_IF)) {
        cpu->state.rflags |= X86_FLAG_IF;
        operation_shadow(cpu, insn);
    }
    if (cpu->wants_window) {
        cpu_set_attention(cpu);
        return insn_leave(cpu, insn);
    }
    NEXT(cpu, insn);
}

/* ---- PUSHF, POPF ---- */

static bool is_vm86(const struct cpu *cpu)
{
    return cpu->state.rflags & X86_FLAG_VM;
}

/* With CR4.VME, 16-bit PUSHF and POPF of vm86 mode work on VIF in IF's place. */
static bool has_virtual_image(const struct cpu *cpu, const struct insn *insn)
{
    return cpu->state.cr4 & X86_CR4_VME && insn->size == 2;
}

static const struct insn *exec_pushf(struct cpu *cpu, const struct insn *insn)
{
    uint64_t image = cpu_rflags(cpu) & ~(uint64_t)(X86_FLAG_VM | X86_FLAG_RF);
    if (unlikely(is_vm86(cpu) && iopl(cpu) < 3)) {
        if (!has_virtual_image(cpu, insn)) {
            return insn_raise(cpu, insn, X86_GP, 0);
        }
        bool vif = image & X86_FLAG_VIF;
        image =
            (image & ~(uint64_t)X86_FLAG_IF) | X86_FLAG_IOPL | (vif ? X86_FLAG_IF : 0);
    }
    if (unlikely(!stack_push(cpu, insn->size, image))) {
        return insn_fault(cpu, insn);
    }
    NEXT(cpu, insn);
}

/* The flags POPF may change, for this CPL, IOPL and operand size (SDM 2B "POPF"). */
static uint64_t popf_writable(const struct cpu *cpu, unsigned size)
{
    uint64_t writable = X86_FLAGS_ARITH | X86_FLAG_TF | X86_FLAG_DF | X86_FLAG_NT |
                        X86_FLAG_AC | X86_FLAG_ID;
    if (cpu->cpl == 0) {
        writable |= X86_FLAG_IOPL;
    }
    if (cpu->cpl <= iopl(cpu)) {
        writable |= X86_FLAG_IF;
    }
    return size == 2 ? writable & 0xffff : writable;
}

OPERATION(popf_virtual)
{
    struct loaded image = stack_peek(cpu, 0, 2);
    if (!image.ok) {
        return false;
    }
    bool wants_if = image.value & X86_FLAG_IF;
    if ((wants_if && cpu->state.rflags & X86_FLAG_VIP) || image.value & X86_FLAG_TF) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    uint64_t writable = popf_writable(cpu, 2) | X86_FLAG_VIF;
    uint64_t flags = image.value | (wants_if ? X86_FLAG_VIF : 0);
    stack_adjust(cpu, 2);
    cpu_set_rflags(cpu, (cpu_rflags(cpu) & ~writable) | (flags & writable));
    return true;
}

static const struct insn *exec_popf(struct cpu *cpu, const struct insn *insn)
{
    if (unlikely(is_vm86(cpu) && iopl(cpu) < 3)) {
        if (!has_virtual_image(cpu, insn)) {
            return insn_raise(cpu, insn, X86_GP, 0);
        }
        return popf_virtual(cpu, insn) ? insn_leave(cpu, insn) : insn_fault(cpu, insn);
    }
    struct loaded image = stack_pop(cpu, insn->size);
    if (unlikely(!image.ok)) {
        return insn_fault(cpu, insn);
    }
    uint64_t writable = popf_writable(cpu, insn->size);
    uint64_t kept = cpu_rflags(cpu) & ~(writable | X86_FLAG_RF);
    cpu_set_rflags(cpu, kept | (image.value & writable));
    if (unlikely(cpu_has_attention(cpu))) {
        return insn_leave(cpu, insn);
    }
    NEXT(cpu, insn);
}

/* ---- AC ---- */

/* Only the view of memory depends on AC, not what code means: the block goes on. */
static const struct insn *exec_stac(struct cpu *cpu, const struct insn *insn)
{
    if (unlikely(cpu->cpl > 0)) {
        return insn_raise(cpu, insn, X86_UD, 0);
    }
    cpu_set_ac(cpu, true);
    NEXT(cpu, insn);
}

static const struct insn *exec_clac(struct cpu *cpu, const struct insn *insn)
{
    if (unlikely(cpu->cpl > 0)) {
        return insn_raise(cpu, insn, X86_UD, 0);
    }
    cpu_set_ac(cpu, false);
    NEXT(cpu, insn);
}

static bool bind_flags_image(struct binding *binding, const struct insn_row *row,
                             struct insn *insn)
{
    insn->exec = row->exec[0];
    insn->size = binding->decoded->operand_width / 8;
    return true;
}

#define ROUTINE(name)    \
    (insn_exec *const[]) \
    {                    \
        exec_##name      \
    }

const struct insn_row insn_rows_flag[] = {
    {ZYDIS_MNEMONIC_CLC, INSN_INNOCUOUS, bind_simple, ROUTINE(clc), 0},
    {ZYDIS_MNEMONIC_STC, INSN_INNOCUOUS, bind_simple, ROUTINE(stc), 0},
    {ZYDIS_MNEMONIC_CMC, INSN_INNOCUOUS, bind_simple, ROUTINE(cmc), 0},
    {ZYDIS_MNEMONIC_CLD, INSN_INNOCUOUS, bind_simple, ROUTINE(cld), 0},
    {ZYDIS_MNEMONIC_STD, INSN_INNOCUOUS, bind_simple, ROUTINE(std), 0},
    {ZYDIS_MNEMONIC_LAHF, INSN_INNOCUOUS, bind_simple, ROUTINE(lahf), 0},
    {ZYDIS_MNEMONIC_SAHF, INSN_INNOCUOUS, bind_simple, ROUTINE(sahf), 0},
    {ZYDIS_MNEMONIC_CLI, INSN_PRIVILEGED, bind_simple, ROUTINE(cli), 0},
    {ZYDIS_MNEMONIC_STI, INSN_PRIVILEGED, bind_simple, ROUTINE(sti), 0},
    {ZYDIS_MNEMONIC_STAC, INSN_PRIVILEGED, bind_simple, ROUTINE(stac), 0},
    {ZYDIS_MNEMONIC_CLAC, INSN_PRIVILEGED, bind_simple, ROUTINE(clac), 0},
    /* They show and ignore the real IF and IOPL without trapping: with them the Pentium
     * failed the theorem's test. */
    {ZYDIS_MNEMONIC_PUSHF, INSN_BEHAVIOUR_SENSITIVE, bind_flags_image, ROUTINE(pushf), 0},
    {ZYDIS_MNEMONIC_PUSHFD, INSN_BEHAVIOUR_SENSITIVE, bind_flags_image, ROUTINE(pushf),
     0},
    {ZYDIS_MNEMONIC_PUSHFQ, INSN_BEHAVIOUR_SENSITIVE, bind_flags_image, ROUTINE(pushf),
     0},
    {ZYDIS_MNEMONIC_POPF, INSN_CONTROL_SENSITIVE, bind_flags_image, ROUTINE(popf), 0},
    {ZYDIS_MNEMONIC_POPFD, INSN_CONTROL_SENSITIVE, bind_flags_image, ROUTINE(popf), 0},
    {ZYDIS_MNEMONIC_POPFQ, INSN_CONTROL_SENSITIVE, bind_flags_image, ROUTINE(popf), 0},
    {0},
};
