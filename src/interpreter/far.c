/* Far jumps, calls and returns, through call gates and between levels: SDM 3A 5.8, SDM 2A
 * "CALL", "JMP", SDM 2B "RET". */

#include "interpreter/operation.h"
#include "interpreter/part.h"
#include "interpreter/task.h"
#include "interpreter/transfer.h"

#define SELECTOR_ERROR(selector) ((uint32_t)(selector)&0xfffcu)

/* Where a far transfer goes. */
struct target {
    uint16_t selector;
    uint64_t offset;
    unsigned size; /* of the operand, and of what CALL pushes: 2, 4, 8 */
    struct x86_segment code;
    unsigned cpl;
    bool is_inner;               /* through a gate to a more privileged level */
    unsigned parameters;         /* that a gate copies */
    struct transfer_stack stack; /* CALL: after the push */
    uint16_t task;               /* not 0: the selector of a TSS, and only that counts */
    bool is_checked_late;        /* the offset, when the return address has been pushed */
};

static unsigned dpl_of(uint32_t access)
{
    return (access & X86_ACCESS_DPL) >> X86_ACCESS_DPL_SHIFT;
}

static bool is_code(uint32_t access)
{
    return (access & (X86_ACCESS_S | X86_ACCESS_CODE)) ==
           (X86_ACCESS_S | X86_ACCESS_CODE);
}

/* In long mode L and D together are reserved. */
static bool has_valid_width(const struct cpu *cpu, uint32_t access)
{
    const uint32_t both = X86_ACCESS_L | X86_ACCESS_DB;
    return !cpu->is_long || (access & both) != both;
}

static uint64_t truncate(uint64_t offset, unsigned size)
{
    return size == 2 ? (uint16_t)offset : size == 4 ? (uint32_t)offset : offset;
}

/* ---- Targets of JMP and CALL ---- */

static bool check_present_code(struct cpu *cpu, struct transfer_descriptor *descriptor,
                               struct target *target)
{
    const struct x86_segment *segment = &descriptor->segment;
    if (!(segment->access & X86_ACCESS_P)) {
        return cpu_raise(cpu, X86_NP, SELECTOR_ERROR(segment->selector));
    }
    if (!transfer_mark_accessed(cpu, descriptor)) {
        return false;
    }
    target->code = *segment;
    target->offset =
        transfer_offset(cpu, segment, truncate(target->offset, target->size));
    return target->is_checked_late ||
           transfer_check_target(cpu, &target->code, target->offset);
}

/*
 * SDM 2A "CALL" checks the offset before the push and does not tell what a fault leaves
 * below the stack pointer. Intel's processors push value by value where no gate is
 * passed, and look at the offset last.
 */
static bool find_direct(struct cpu *cpu, struct transfer_descriptor *descriptor,
                        bool is_call, struct target *target)
{
    uint32_t access = descriptor->segment.access;
    unsigned dpl = dpl_of(access);
    bool is_allowed =
        access & X86_ACCESS_EXPAND
            ? dpl <= cpu->cpl
            : dpl == cpu->cpl && X86_SELECTOR_RPL(target->selector) <= cpu->cpl;
    if (!is_allowed || !has_valid_width(cpu, access)) {
        return cpu_raise(cpu, X86_GP, SELECTOR_ERROR(target->selector));
    }
    target->cpl = cpu->cpl;
    target->is_checked_late = is_call && cpu->cpuid->vendor == CPU_VENDOR_INTEL;
    return check_present_code(cpu, descriptor, target);
}

/* The code segment behind a call gate. Only CALL may go to an inner level. */
static bool find_gate_code(struct cpu *cpu, const struct x86_gate *gate, bool is_call,
                           struct target *target)
{
    uint16_t selector = gate->selector;
    if (!SELECTOR_ERROR(selector)) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    struct transfer_descriptor descriptor;
    if (!transfer_fetch(cpu, selector, X86_GP, &descriptor)) {
        return false;
    }
    uint32_t access = descriptor.segment.access;
    unsigned dpl = dpl_of(access);
    bool is_conforming = access & X86_ACCESS_EXPAND;
    bool is_64 = (access & (X86_ACCESS_L | X86_ACCESS_DB)) == X86_ACCESS_L;
    bool is_reachable = is_call || is_conforming ? dpl <= cpu->cpl : dpl == cpu->cpl;
    if (!is_code(access) || !is_reachable || (cpu->is_long && !is_64)) {
        return cpu_raise(cpu, X86_GP, SELECTOR_ERROR(selector));
    }
    target->cpl = is_conforming ? cpu->cpl : dpl;
    target->is_inner = target->cpl < cpu->cpl;
    target->offset = gate->offset;
    return check_present_code(cpu, &descriptor, target);
}

static bool find_through_gate(struct cpu *cpu,
                              const struct transfer_descriptor *descriptor, bool is_call,
                              struct target *target)
{
    struct x86_gate gate;
    x86_gate_unpack(&gate, descriptor->low, descriptor->high);
    unsigned dpl = dpl_of(gate.access);
    uint32_t error = SELECTOR_ERROR(target->selector);
    if (dpl < cpu->cpl || dpl < X86_SELECTOR_RPL(target->selector)) {
        return cpu_raise(cpu, X86_GP, error);
    }
    if (!(gate.access & X86_ACCESS_P)) {
        return cpu_raise(cpu, X86_NP, error);
    }
    bool is_16 = (gate.access & X86_ACCESS_TYPE) == X86_TYPE_CALL_GATE16;
    target->size = cpu->is_long ? 8 : is_16 ? 2 : 4;
    target->parameters = cpu->is_long ? 0 : gate.parameter_count & 31;
    return find_gate_code(cpu, &gate, is_call, target);
}

/* SDM 2A "JMP", TASK-GATE and TASK-STATE-SEGMENT: the privilege to go there. */
static bool find_task(struct cpu *cpu, const struct transfer_descriptor *descriptor,
                      struct target *target)
{
    uint32_t access = descriptor->segment.access;
    uint32_t error = SELECTOR_ERROR(target->selector);
    bool is_gate = (access & X86_ACCESS_TYPE) == X86_TYPE_TASK_GATE;
    if (dpl_of(access) < cpu->cpl ||
        dpl_of(access) < X86_SELECTOR_RPL(target->selector)) {
        return cpu_raise(cpu, X86_GP, error);
    }
    target->task = target->selector;
    if (is_gate) {
        if (!(access & X86_ACCESS_P)) {
            return cpu_raise(cpu, X86_NP, error);
        }
        target->task = (uint16_t)(descriptor->low >> 16);
        if (!SELECTOR_ERROR(target->task)) {
            return cpu_raise(cpu, X86_GP, 0);
        }
    }
    return true;
}

static bool find_system(struct cpu *cpu, const struct transfer_descriptor *descriptor,
                        bool is_call, struct target *target)
{
    unsigned type = descriptor->segment.access & X86_ACCESS_TYPE;
    switch (type) {
    case X86_TYPE_CALL_GATE16:
        if (cpu->is_long) {
            break;
        }
        return find_through_gate(cpu, descriptor, is_call, target);
    case X86_TYPE_CALL_GATE:
        return find_through_gate(cpu, descriptor, is_call, target);
    case X86_TYPE_TASK_GATE:
    case X86_TYPE_TSS:
    case X86_TYPE_TSS16:
        if (cpu->is_long) {
            break;
        }
        return find_task(cpu, descriptor, target);
    default:
        break;
    }
    return cpu_raise(cpu, X86_GP, SELECTOR_ERROR(target->selector));
}

static bool find_target(struct cpu *cpu, bool is_call, struct target *target)
{
    if (!cpu->is_protected) {
        target->code = transfer_real_segment(cpu, X86_CS, target->selector);
        target->cpl = cpu->cpl;
        return transfer_check_target(cpu, &target->code, target->offset);
    }
    if (!SELECTOR_ERROR(target->selector)) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    struct transfer_descriptor descriptor;
    if (!transfer_fetch(cpu, target->selector, X86_GP, &descriptor)) {
        return false;
    }
    if (!(descriptor.segment.access & X86_ACCESS_S)) {
        return find_system(cpu, &descriptor, is_call, target);
    }
    if (!is_code(descriptor.segment.access)) {
        return cpu_raise(cpu, X86_GP, SELECTOR_ERROR(target->selector));
    }
    return find_direct(cpu, &descriptor, is_call, target);
}

/* ---- JMP, CALL ---- */

/* aux: operand size; from imm (offset, selector << 32) or from memory. */
static bool read_pointer(struct cpu *cpu, const struct insn *insn, bool is_memory,
                         struct target *target)
{
    uint8_t pointer[10];
    *target = (struct target){.size = insn->aux};
    if (!is_memory) {
        target->offset = (uint32_t)insn->imm;
        target->selector = (uint16_t)(insn->imm >> 32);
        return true;
    }
    const struct parts parts = {.alignment = insn->aux, .count = 2, {insn->aux, 2}};
    if (!part_read(cpu, insn, &parts, pointer)) {
        return false;
    }
    target->offset = access_host_load(pointer, target->size);
    target->selector = *(const u16_any *)(pointer + target->size);
    return true;
}

/* What a call through a gate to an inner level finds there: the outer stack pointer and
 * the parameters from it (SDM 3A 5.8.5). */
static bool push_outer_stack(struct cpu *cpu, struct target *target)
{
    struct transfer_stack outer = transfer_current_stack(cpu);
    uint64_t parameter[31];
    const uint64_t pointer[] = {outer.ss.selector, outer.rsp};
    if (!transfer_push(cpu, &target->stack, pointer, 2, target->size)) {
        return false;
    }
    /* One by one, the first parameter lowest: 31 exceed a frame. */
    for (unsigned i = 0; i < target->parameters; i++) {
        struct transfer_stack place = outer;
        place.rsp += (uint64_t)i * target->size;
        if (!transfer_peek(cpu, &place, &parameter[i], 1, target->size)) {
            return false;
        }
    }
    for (unsigned i = target->parameters; i-- > 0;) {
        if (!transfer_push(cpu, &target->stack, &parameter[i], 1, target->size)) {
            return false;
        }
    }
    return true;
}

static bool push_return(struct cpu *cpu, const struct insn *insn, struct target *target)
{
    target->stack = transfer_current_stack(cpu);
    bool is_to_64 = cpu->is_long && target->code.access & X86_ACCESS_L;
    if (target->is_checked_late) {
        /* Intel's processors push in the new mode. */
        target->stack.bits = transfer_stack_bits(cpu, &target->stack.ss, is_to_64);
    }
    if (target->is_inner) {
        if (!transfer_inner_stack(cpu, target->cpl, 0, &target->stack) ||
            !push_outer_stack(cpu, target)) {
            return false;
        }
    }
    const uint64_t frame[] = {cpu->state.seg[X86_CS].selector,
                              operation_next_rip(cpu, insn)};
    if (!target->is_checked_late) {
        return transfer_push(cpu, &target->stack, frame, 2, target->size);
    }
    return transfer_push(cpu, &target->stack, &frame[0], 1, target->size) &&
           transfer_push(cpu, &target->stack, &frame[1], 1, target->size) &&
           transfer_check_target(cpu, &target->code, target->offset);
}

static bool transfer_to_task(struct cpu *cpu, const struct insn *insn,
                             enum task_cause cause, const struct target *target)
{
    const struct task_switch request = {
        .cause = cause,
        .selector = target->task,
        .return_rip = operation_next_rip(cpu, insn),
        .flags = cpu_rflags(cpu) & ~(uint64_t)X86_FLAG_RF,
    };
    return task_switch_and_fault(cpu, &request);
}

static __attribute__((noinline)) bool far_jump(struct cpu *cpu, const struct insn *insn,
                                               bool is_memory)
{
    struct target target;
    if (!read_pointer(cpu, insn, is_memory, &target) ||
        !find_target(cpu, false, &target)) {
        return false;
    }
    if (target.task) {
        return transfer_to_task(cpu, insn, TASK_JUMP, &target);
    }
    transfer_set_cs(cpu, &target.code, target.cpl);
    cpu->rip = target.offset;
    return true;
}

static __attribute__((noinline)) bool far_call(struct cpu *cpu, const struct insn *insn,
                                               bool is_memory)
{
    struct target target;
    if (!read_pointer(cpu, insn, is_memory, &target) ||
        !find_target(cpu, true, &target)) {
        return false;
    }
    if (target.task) {
        return transfer_to_task(cpu, insn, TASK_CALL, &target);
    }
    if (!push_return(cpu, insn, &target)) {
        return false;
    }
    if (target.is_inner) {
        transfer_set_stack(cpu, &target.stack);
    } else {
        transfer_set_rsp(cpu, target.stack.rsp, target.stack.bits);
    }
    transfer_set_cs(cpu, &target.code, target.cpl);
    cpu->rip = target.offset;
    return true;
}

/* ---- RET ---- */

/* The code segment a return goes to, for RET and IRET. */
bool transfer_check_return(struct cpu *cpu, uint16_t selector, struct x86_segment *code)
{
    if (!SELECTOR_ERROR(selector)) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    struct transfer_descriptor descriptor;
    if (!transfer_fetch(cpu, selector, X86_GP, &descriptor)) {
        return false;
    }
    uint32_t access = descriptor.segment.access;
    unsigned rpl = X86_SELECTOR_RPL(selector);
    unsigned dpl = dpl_of(access);
    bool is_conforming = access & X86_ACCESS_EXPAND;
    if (!is_code(access) || rpl < cpu->cpl || (is_conforming ? dpl > rpl : dpl != rpl) ||
        !has_valid_width(cpu, access)) {
        return cpu_raise(cpu, X86_GP, SELECTOR_ERROR(selector));
    }
    if (!(access & X86_ACCESS_P)) {
        return cpu_raise(cpu, X86_NP, SELECTOR_ERROR(selector));
    }
    if (!transfer_mark_accessed(cpu, &descriptor)) {
        return false;
    }
    *code = descriptor.segment;
    return true;
}

/* The stack a return to an outer level (or any IRET of 64-bit mode) goes to. */
bool transfer_check_return_stack(struct cpu *cpu, uint16_t selector, uint64_t rsp,
                                 const struct x86_segment *code, unsigned cpl,
                                 struct transfer_stack *stack)
{
    bool is_64 = cpu->is_long && code->access & X86_ACCESS_L;
    if (!SELECTOR_ERROR(selector) && is_64 && cpl < 3 &&
        X86_SELECTOR_RPL(selector) == cpl) {
        stack->ss = x86_segment_null(selector);
        stack->ss.access |= cpl << X86_ACCESS_DPL_SHIFT;
    } else if (!transfer_check_stack(cpu, selector, cpl, X86_GP, &stack->ss)) {
        return false;
    }
    stack->rsp = rsp;
    stack->bits = transfer_stack_bits(cpu, &stack->ss, is_64);
    return true;
}

/* Frames of values pop from the stack as they lie: RIP, CS and, outwards, RSP, SS behind
 * the released parameters. The stack pointer moves in the new mode: with all its bits
 * into 64-bit code, where SDM 2B "RET" adds to RSP. */
OPERATION(far_return)
{
    unsigned size = insn->size;
    struct transfer_stack stack = transfer_current_stack(cpu);
    uint64_t frame[2], pointer[2];
    if (!transfer_peek_frame(cpu, &stack, frame, 2, size)) {
        return false;
    }
    uint16_t selector = (uint16_t)frame[1];
    /* The sum is one of the old mode's width. */
    uint64_t released = 2u * size + insn->imm;
    stack.rsp += stack.bits == 16 ? (uint16_t)released : released;
    struct x86_segment code;
    if (!cpu->is_protected) {
        code = transfer_real_segment(cpu, X86_CS, selector);
        if (!transfer_check_target(cpu, &code, frame[0])) {
            return false;
        }
        transfer_set_rsp(cpu, stack.rsp, stack.bits);
        transfer_set_cs(cpu, &code, cpu->cpl);
        cpu->rip = frame[0];
        return true;
    }
    if (!transfer_check_return(cpu, selector, &code)) {
        return false;
    }
    unsigned rpl = X86_SELECTOR_RPL(selector);
    uint64_t offset = transfer_offset(cpu, &code, frame[0]);
    if (rpl == cpu->cpl) {
        if (!transfer_check_target(cpu, &code, offset)) {
            return false;
        }
        transfer_set_cs(cpu, &code, rpl);
        transfer_set_rsp(cpu, stack.rsp, cpu->stack_bits);
    } else {
        struct transfer_stack outer = stack;
        if (!transfer_peek_frame(cpu, &stack, pointer, 2, size) ||
            !transfer_check_return_stack(cpu, (uint16_t)pointer[1],
                                         pointer[0] + insn->imm, &code, rpl, &outer) ||
            !transfer_check_target(cpu, &code, offset)) {
            return false;
        }
        transfer_set_stack(cpu, &outer);
        transfer_set_cs(cpu, &code, rpl);
        transfer_drop_data_segments(cpu);
    }
    cpu->rip = offset;
    return true;
}

/* ---- Handlers and rows ---- */

/* RF does not outlast the transfer, unless it is the new task's. */
static struct cpu *begin(struct cpu *cpu)
{
    cpu->state.rflags &= ~(uint64_t)X86_FLAG_RF;
    return cpu;
}

/* The operations leave the target in cpu->rip; a task may have set RF for it. */
static const struct insn *leave(struct cpu *cpu, const struct insn *insn)
{
    insn_leave_to(cpu, insn, cpu->rip);
    cpu->resume_count = cpu->retired;
    return NULL;
}

#define FAR_HANDLER(name, call)                                                     \
    static const struct insn *exec_##name(struct cpu *cpu, const struct insn *insn) \
    {                                                                               \
        return (call) ? leave(cpu, insn) : insn_fault(cpu, insn);                   \
    }

FAR_HANDLER(jump_direct, far_jump(begin(cpu), insn, false))
FAR_HANDLER(jump_indirect, far_jump(begin(cpu), insn, true))
FAR_HANDLER(call_direct, far_call(begin(cpu), insn, false))
FAR_HANDLER(call_indirect, far_call(begin(cpu), insn, true))
FAR_HANDLER(far_return, far_return(begin(cpu), insn))

static insn_exec *const jump_routines[] = {exec_jump_direct, exec_jump_indirect};
static insn_exec *const call_routines[] = {exec_call_direct, exec_call_indirect};
static insn_exec *const far_return_routines[] = {exec_far_return};

static bool bind_far(struct binding *binding, const struct insn_row *row,
                     struct insn *insn)
{
    const ZydisDecodedOperand *operand = &binding->operand[0];
    if (binding->decoded->meta.branch_type != ZYDIS_BRANCH_TYPE_FAR) {
        return false;
    }
    bool is_memory = operand->type == ZYDIS_OPERAND_TYPE_MEMORY;
    if (is_memory) {
        bind_memory(binding, insn, operand);
    } else {
        insn->imm = (uint64_t)operand->ptr.segment << 32 | operand->ptr.offset;
    }
    insn->exec = row->exec[is_memory];
    insn->aux = binding->decoded->operand_width / 8;
    return true;
}

static bool bind_far_return(struct binding *binding, const struct insn_row *row,
                            struct insn *insn)
{
    if (binding->decoded->meta.branch_type != ZYDIS_BRANCH_TYPE_FAR) {
        return false;
    }
    insn->exec = row->exec[0];
    insn->size = binding->decoded->operand_width / 8;
    if (binding->decoded->operand_count_visible) {
        insn->imm = binding->operand[0].imm.value.u & 0xffff;
    }
    return true;
}

/* What a selector leads to depends on tables and levels that a VMM may have shifted. */
const struct insn_row insn_rows_far[] = {
    {ZYDIS_MNEMONIC_JMP, INSN_CONTROL_SENSITIVE, bind_far, jump_routines, ROW_ENDS_BLOCK,
     "far"},
    {ZYDIS_MNEMONIC_CALL, INSN_CONTROL_SENSITIVE, bind_far, call_routines, ROW_ENDS_BLOCK,
     "far"},
    {ZYDIS_MNEMONIC_RET, INSN_CONTROL_SENSITIVE, bind_far_return, far_return_routines,
     ROW_ENDS_BLOCK, "far"},
    {0},
};
