/* Stack frames and the push and pop of all registers: SDM 2A "ENTER", "LEAVE", SDM 2B
 * "POPA", "PUSHA". */

#include "interpreter/operation.h"
#include "interpreter/transfer.h"

/* SDM 2A: the nesting level is taken modulo 32. */
#define LEVEL_MASK 31u

/*
 * imm: bytes of locals, aux: nesting level, size: of a pushed value. The frame is pushed
 * as a whole, so a fault on the way leaves nothing changed.
 */
OPERATION(enter)
{
    unsigned size = insn->size;
    unsigned level = insn->aux;
    struct transfer_stack stack = transfer_current_stack(cpu);
    uint64_t pushed = cpu->reg[X86_RBP];
    if (!transfer_push(cpu, &stack, &pushed, 1, size)) {
        return false;
    }
    /* SDM 2A "ENTER": FrameTemp is ESP, whatever a 16-bit stack uses of it: it does not
     * wrap around with SP. */
    uint64_t frame = stack.bits == 16 ? cpu->reg[X86_RSP] - size : stack.rsp;
    /* The display: the enclosing levels' frame pointers, found through RBP. */
    struct transfer_stack outer = stack;
    outer.rsp = cpu->reg[X86_RBP];
    for (unsigned i = 1; i < level; i++) {
        outer.rsp -= size;
        if (!transfer_peek(cpu, &outer, &pushed, 1, size) ||
            !transfer_push(cpu, &stack, &pushed, 1, size)) {
            return false;
        }
    }
    if (level > 0 && !transfer_push(cpu, &stack, &frame, 1, size)) {
        return false;
    }
    uint64_t mask = stack.bits == 64 ? ~0ull : (1ull << stack.bits) - 1;
    uint64_t rsp = (stack.rsp - insn->imm) & mask;
    /* SDM 2A: the new top of the stack must be writable, though nothing is pushed. */
    uint64_t address = rsp;
    if (!cpu->is_long64) {
        if (!x86_segment_allows(&stack.ss, rsp, size, true)) {
            return cpu_raise(cpu, X86_SS_FAULT, 0);
        }
        address = (uint32_t)(stack.ss.base + rsp);
    }
    if (!access_check_alignment(cpu, address, size) ||
        !access_probe(cpu, address, size, true)) {
        return false;
    }
    transfer_set_rsp(cpu, rsp, stack.bits);
    reg_write(cpu, REG_OFFSET(X86_RBP), size, frame);
    return true;
}

/* Compilers use this one: no locals in memory. */
static const struct insn *exec_leave(struct cpu *cpu, const struct insn *insn)
{
    uint64_t rbp = cpu->reg[X86_RBP];
    struct loaded saved = stack_peek(cpu, (int64_t)(rbp - cpu->reg[X86_RSP]), insn->size);
    if (unlikely(!saved.ok)) {
        return insn_fault(cpu, insn);
    }
    transfer_set_rsp(cpu, rbp + insn->size, cpu->stack_bits);
    reg_write(cpu, REG_OFFSET(X86_RBP), insn->size, saved.value);
    NEXT(cpu, insn);
}

static insn_exec *const leave_routines[] = {exec_leave};

/* SDM 2B "PUSHA", real-address and virtual-8086 mode: an odd SP that would run over the
 * end of the segment on the way is #GP, not #SS. */
static bool pusha_runs_over(const struct cpu *cpu)
{
    uint16_t sp = (uint16_t)cpu->reg[X86_RSP];
    return !cpu->is_protected && sp & 1 && sp >= 7 && sp <= 15;
}

OPERATION(pusha)
{
    struct transfer_stack stack = transfer_current_stack(cpu);
    if (pusha_runs_over(cpu)) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    /* RAX, RCX, RDX, RBX, the old RSP, RBP, RSI, RDI: each for itself, which shows when
     * one faults. */
    for (unsigned i = 0; i < 8; i++) {
        if (!transfer_push(cpu, &stack, &cpu->reg[i], 1, insn->size)) {
            return false;
        }
    }
    transfer_set_rsp(cpu, stack.rsp, stack.bits);
    return true;
}

OPERATION(popa)
{
    struct transfer_stack stack = transfer_current_stack(cpu);
    /* One by one: what was popped before a fault stays so. */
    for (unsigned reg = 8; reg-- > 0; stack.rsp += insn->size) {
        uint64_t value;
        if (!transfer_peek(cpu, &stack, &value, 1, insn->size)) {
            return false;
        }
        if (reg != X86_RSP) {
            reg_write(cpu, REG_OFFSET(reg), insn->size, value);
        }
    }
    transfer_set_rsp(cpu, stack.rsp, stack.bits);
    return true;
}

HANDLER(enter)
HANDLER(pusha)
HANDLER(popa)

static bool bind_frame(struct binding *binding, const struct insn_row *row,
                       struct insn *insn)
{
    insn->exec = row->exec[0];
    insn->size = binding->decoded->operand_width / 8;
    if (row->mnemonic == ZYDIS_MNEMONIC_ENTER) {
        insn->imm = binding->operand[0].imm.value.u & 0xffff;
        insn->aux = binding->operand[1].imm.value.u & LEVEL_MASK;
    }
    return true;
}

const struct insn_row insn_rows_stack[] = {
    {ZYDIS_MNEMONIC_ENTER, INSN_INNOCUOUS, bind_frame, enter_routines, 0},
    {ZYDIS_MNEMONIC_LEAVE, INSN_INNOCUOUS, bind_frame, leave_routines, 0},
    {ZYDIS_MNEMONIC_PUSHA, INSN_INNOCUOUS, bind_frame, pusha_routines, 0},
    {ZYDIS_MNEMONIC_PUSHAD, INSN_INNOCUOUS, bind_frame, pusha_routines, 0},
    {ZYDIS_MNEMONIC_POPA, INSN_INNOCUOUS, bind_frame, popa_routines, 0},
    {ZYDIS_MNEMONIC_POPAD, INSN_INNOCUOUS, bind_frame, popa_routines, 0},
    {0},
};
