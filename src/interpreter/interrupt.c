/* Software interrupts and the return from interrupts: SDM 2A "INT n", "IRET", "BOUND". */

#include "interpreter/event.h"
#include "interpreter/operation.h"
#include "interpreter/part.h"
#include "interpreter/task.h"
#include "interpreter/transfer.h"

/* ---- INT n, INT3, INT1, INTO, BOUND ---- */

/* RF, if it was loaded, holds for the instruction behind. */
static const struct insn *leave(struct cpu *cpu, const struct insn *insn)
{
    insn_leave_to(cpu, insn, cpu->rip);
    cpu->resume_count = cpu->retired;
    return NULL;
}

static unsigned iopl(const struct cpu *cpu)
{
    return (cpu->state.rflags & X86_FLAG_IOPL) >> X86_FLAG_IOPL_SHIFT;
}

/* What becomes of INT n in virtual-8086 mode (SDM 3B table 20-2). */
enum vm86_interrupt {
    VM86_FAULT,    /* #GP(0), or what reading the TSS raised: recorded */
    VM86_IDT,      /* through a gate, as in protected mode */
    VM86_REDIRECT, /* within the 8086 program, through its own vector table */
};

#define TSS_MAP_BASE    102 /* where the I/O permission bitmap's offset lies */
#define REDIRECTION_MAP 32  /* bytes, in front of that bitmap */

static enum vm86_interrupt fault_or_gate(struct cpu *cpu)
{
    return iopl(cpu) == 3 || cpu_raise(cpu, X86_GP, 0) ? VM86_IDT : VM86_FAULT;
}

/* The vector's bit in the TSS's redirection bitmap. */
static bool read_redirection(struct cpu *cpu, uint8_t vector, bool *is_redirected)
{
    const struct x86_segment *tr = &cpu->state.tr;
    uint16_t base = 0;
    uint8_t bits = 0;
    bool is_32 = (tr->access & X86_TYPE_TSS) == X86_TYPE_TSS; /* busy or not */
    if (!is_32 || tr->limit < TSS_MAP_BASE + 1) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    if (!access_read_system(cpu, tr->base + TSS_MAP_BASE, &base, sizeof(base))) {
        return false;
    }
    uint32_t offset = base - REDIRECTION_MAP + vector / 8u;
    if (offset > tr->limit) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    if (!access_read_system(cpu, tr->base + offset, &bits, 1)) {
        return false;
    }
    *is_redirected = !(bits >> vector % 8 & 1);
    return true;
}

static enum vm86_interrupt vm86_interrupt(struct cpu *cpu, uint8_t vector)
{
    bool is_redirected = false;
    if (cpu->state.cr4 & X86_CR4_VME && !read_redirection(cpu, vector, &is_redirected)) {
        return VM86_FAULT;
    }
    return is_redirected ? VM86_REDIRECT : fault_or_gate(cpu);
}

/* SDM 3B 20.3.3.4 and 20.3.3.5: as an 8086 would; below IOPL 3 VIF stands for IF, in the
 * flags that are pushed as well, which also show IOPL 3. */
static bool redirect(struct cpu *cpu, const struct insn *insn)
{
    uint16_t entry[2];
    uint64_t flags = cpu_rflags(cpu) & ~(uint64_t)X86_FLAG_RF;
    uint64_t image = flags, interrupt = X86_FLAG_IF;
    if (iopl(cpu) < 3) {
        interrupt = X86_FLAG_VIF;
        image = (image & ~(uint64_t)X86_FLAG_IF) | X86_FLAG_IOPL |
                (flags & X86_FLAG_VIF ? X86_FLAG_IF : 0);
    }
    const uint64_t frame[] = {image, cpu->state.seg[X86_CS].selector,
                              operation_next_rip(cpu, insn)};
    struct transfer_stack stack = transfer_current_stack(cpu);
    if (!access_read(cpu, (uint8_t)insn->imm * 4u, entry, sizeof(entry)) ||
        !transfer_push(cpu, &stack, frame, 3, 2)) {
        return false;
    }
    struct x86_segment code = transfer_real_segment(cpu, X86_CS, entry[1]);
    transfer_set_rsp(cpu, stack.rsp, stack.bits);
    transfer_set_cs(cpu, &code, 3);
    cpu_set_rflags(cpu, flags & ~(X86_FLAG_TF | interrupt));
    cpu->rip = entry[0];
    cpu->faults++; /* TF was cleared without a trap behind it, as event_deliver does */
    return true;
}

/* imm: the vector, aux: enum x86_event_type. */
static const struct insn *int_through_gate(struct cpu *cpu, const struct insn *insn)
{
    const struct x86_event event = {
        .vector = (uint8_t)insn->imm,
        .type = insn->aux,
        .length = insn->length,
    };
    cpu->rip = operation_next_rip(cpu, insn);
    event_deliver(cpu, &event, 0);
    return leave(cpu, insn);
}

static const struct insn *int_vm86(struct cpu *cpu, const struct insn *insn)
{
    switch (vm86_interrupt(cpu, (uint8_t)insn->imm)) {
    case VM86_IDT:
        return int_through_gate(cpu, insn);
    case VM86_REDIRECT:
        return redirect(cpu, insn) ? leave(cpu, insn) : insn_fault(cpu, insn);
    default:
        return insn_fault(cpu, insn);
    }
}

static const struct insn *exec_int(struct cpu *cpu, const struct insn *insn)
{
    bool is_vm86 = cpu->state.rflags & X86_FLAG_VM;
    if (is_vm86 && insn->aux == X86_EVENT_SOFTWARE) {
        return int_vm86(cpu, insn);
    }
    return int_through_gate(cpu, insn);
}

static const struct insn *exec_into(struct cpu *cpu, const struct insn *insn)
{
    return cpu->arith & ARITH_OF ? exec_int(cpu, insn) : insn_leave(cpu, insn);
}

static int64_t sign_extended(uint64_t value, unsigned size)
{
    return (int64_t)(value << (64 - size * 8)) >> (64 - size * 8);
}

static bool load_bound(struct cpu *cpu, const struct insn *insn, unsigned offset,
                       int64_t *bound)
{
    unsigned size = insn->aux;
    struct loaded loaded = access_load(cpu, part_address(cpu, insn, offset, size), size);
    *bound = sign_extended(loaded.value, size);
    return loaded.ok;
}

/* Both bounds? */
static bool is_within_limit(struct cpu *cpu, const struct insn *insn)
{
    insn_address(cpu, insn);
    return !cpu->has_fault;
}

/* Signed bounds, the lower first. Intel's processors do not look at the upper one if the
 * index is below the lower. */
OPERATION(bound)
{
    unsigned size = insn->aux;
    int64_t index = sign_extended(reg_read(cpu, insn->dst, size), size);
    int64_t lower, upper;
    bool is_amd = cpu->cpuid->vendor == CPU_VENDOR_AMD;
    if ((is_amd && !is_within_limit(cpu, insn)) || !load_bound(cpu, insn, 0, &lower)) {
        return false;
    }
    if (index < lower && !is_amd) {
        return cpu_raise(cpu, X86_BR, 0);
    }
    return load_bound(cpu, insn, size, &upper) &&
           ((index >= lower && index <= upper) || cpu_raise(cpu, X86_BR, 0));
}

/* ---- IRET ---- */

/* In the order in which they lie on the stack. */
enum frame_slot {
    FRAME_RIP,
    FRAME_CS,
    FRAME_FLAGS,
    FRAME_RSP,
    FRAME_SS,
    FRAME_ES,
    FRAME_DS,
    FRAME_FS,
    FRAME_GS,
    FRAME_SLOTS,
};

/* The flags that IRET may change at this level. */
static uint64_t writable_flags(const struct cpu *cpu, unsigned size)
{
    uint64_t writable = X86_FLAGS_ARITH | X86_FLAG_TF | X86_FLAG_DF | X86_FLAG_NT |
                        X86_FLAG_AC | X86_FLAG_ID | X86_FLAG_RF;
    if (cpu->cpl <= iopl(cpu)) {
        writable |= X86_FLAG_IF;
    }
    if (cpu->cpl == 0) {
        writable |= X86_FLAG_IOPL;
        writable |= cpu->is_protected ? X86_FLAG_VIF | X86_FLAG_VIP : 0;
    }
    return size == 2 ? writable & 0xffff : writable;
}

static void load_flags(struct cpu *cpu, uint64_t flags, uint64_t writable)
{
    uint64_t kept = cpu_rflags(cpu) & ~(writable | X86_FLAG_RF);
    cpu_set_rflags(cpu, kept | (flags & writable));
}

static bool return_real(struct cpu *cpu, unsigned size)
{
    bool is_vm86 = cpu->state.rflags & X86_FLAG_VM;
    uint64_t writable = writable_flags(cpu, size);
    bool is_virtual = is_vm86 && iopl(cpu) < 3;
    if (is_virtual && (!(cpu->state.cr4 & X86_CR4_VME) || size != 2)) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    struct transfer_stack stack = transfer_current_stack(cpu);
    uint64_t frame[3];
    if (!transfer_peek_frame(cpu, &stack, frame, 3, size)) {
        return false;
    }
    struct x86_segment code =
        transfer_real_segment(cpu, X86_CS, (uint16_t)frame[FRAME_CS]);
    if (!transfer_check_target(cpu, &code, frame[FRAME_RIP])) {
        return false;
    }
    uint64_t flags = frame[FRAME_FLAGS];
    if (is_virtual) {
        /* SDM 2A "IRET": IF of the image is VIF's. */
        bool wants_if = flags & X86_FLAG_IF;
        if ((wants_if && cpu->state.rflags & X86_FLAG_VIP) || flags & X86_FLAG_TF) {
            return cpu_raise(cpu, X86_GP, 0);
        }
        writable |= X86_FLAG_VIF;
        flags |= wants_if ? X86_FLAG_VIF : 0;
    }
    transfer_set_rsp(cpu, stack.rsp + 3u * size, stack.bits);
    transfer_set_cs(cpu, &code, cpu->cpl);
    load_flags(cpu, flags, writable);
    cpu->rip = frame[FRAME_RIP];
    return true;
}

/* SDM 3A 20.2.3: to virtual-8086 mode. */
static bool return_vm86(struct cpu *cpu, const uint64_t *frame)
{
    static const struct {
        enum x86_segment_register reg;
        enum frame_slot slot;
    } segments[] = {{X86_ES, FRAME_ES}, {X86_CS, FRAME_CS}, {X86_SS, FRAME_SS},
                    {X86_DS, FRAME_DS}, {X86_FS, FRAME_FS}, {X86_GS, FRAME_GS}};
    if (frame[FRAME_RIP] > 0xffff) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    cpu_set_rflags(cpu, frame[FRAME_FLAGS]);
    for (unsigned i = 0; i < sizeof(segments) / sizeof(segments[0]); i++) {
        cpu->state.seg[segments[i].reg] = transfer_real_segment(
            cpu, segments[i].reg, (uint16_t)frame[segments[i].slot]);
    }
    cpu->reg[X86_RSP] = (uint32_t)frame[FRAME_RSP];
    cpu_update_mode(cpu);
    cpu->rip = frame[FRAME_RIP];
    return true;
}

/* SDM 2A "IRET", TASK-RETURN: to the task whose selector lies at the start of the TSS. */
static bool return_task(struct cpu *cpu, uint64_t next_rip)
{
    const struct x86_segment *tr = &cpu->state.tr;
    struct task_switch request = {
        .cause = TASK_RETURN,
        .return_rip = next_rip,
        .flags = cpu_rflags(cpu) & ~(uint64_t)X86_FLAG_RF,
    };
    if (tr->limit < sizeof(request.selector) - 1) {
        return cpu_raise(cpu, X86_TS, tr->selector & 0xfffcu);
    }
    return access_read_system(cpu, tr->base, &request.selector,
                              sizeof(request.selector)) &&
           task_switch_and_fault(cpu, &request);
}

/* Pops RSP and SS, and checks them. */
static bool return_stack(struct cpu *cpu, const struct transfer_stack *stack,
                         unsigned size, const struct x86_segment *code, unsigned cpl,
                         struct transfer_stack *outer)
{
    uint64_t pointer[2];
    return transfer_peek_frame(cpu, stack, pointer, 2, size) &&
           transfer_check_return_stack(cpu, (uint16_t)pointer[1], pointer[0], code, cpl,
                                       outer);
}

static bool return_protected(struct cpu *cpu, const struct insn *insn)
{
    unsigned size = insn->size;
    if (cpu->state.rflags & X86_FLAG_NT) {
        return cpu->is_long ? cpu_raise(cpu, X86_GP, 0)
                            : return_task(cpu, operation_next_rip(cpu, insn));
    }
    struct transfer_stack stack = transfer_current_stack(cpu);
    uint64_t frame[FRAME_SLOTS];
    if (!transfer_peek_frame(cpu, &stack, frame, 3, size)) {
        return false;
    }
    uint64_t flags = frame[FRAME_FLAGS];
    if (flags & X86_FLAG_VM && size == 4 && cpu->cpl == 0 && !cpu->is_long) {
        return transfer_peek(cpu, &stack, frame, FRAME_SLOTS, size) &&
               return_vm86(cpu, frame);
    }

    struct x86_segment code;
    unsigned rpl = X86_SELECTOR_RPL(frame[FRAME_CS]);
    if (!transfer_check_return(cpu, (uint16_t)frame[FRAME_CS], &code)) {
        return false;
    }
    bool is_outer = rpl > cpu->cpl;
    bool pops_stack = is_outer || cpu->is_long64; /* 64-bit mode always does */
    uint64_t writable = writable_flags(cpu, size);
    uint64_t offset = transfer_offset(cpu, &code, frame[FRAME_RIP]);
    struct transfer_stack outer = stack;
    stack.rsp += 3u * size;
    if ((pops_stack && !return_stack(cpu, &stack, size, &code, rpl, &outer)) ||
        !transfer_check_target(cpu, &code, offset)) {
        return false;
    }
    if (pops_stack) {
        transfer_set_stack(cpu, &outer);
        transfer_set_cs(cpu, &code, rpl);
    } else {
        /* The stack pointer moves in the new mode, as that of a far RET. */
        transfer_set_cs(cpu, &code, rpl);
        transfer_set_rsp(cpu, stack.rsp, cpu->stack_bits);
    }
    load_flags(cpu, flags, writable);
    if (is_outer) {
        transfer_drop_data_segments(cpu);
    }
    cpu->rip = offset;
    return true;
}

OPERATION(iret)
{
    /* SDM 3A 6.7.1: NMIs are accepted again, even if this IRET faults. */
    if (cpu->state.nmi_blocked) {
        cpu->state.nmi_blocked = false;
        cpu_set_attention(cpu);
    }
    return cpu->is_protected ? return_protected(cpu, insn) : return_real(cpu, insn->size);
}

static const struct insn *exec_iret(struct cpu *cpu, const struct insn *insn)
{
    return iret(cpu, insn) ? leave(cpu, insn) : insn_fault(cpu, insn);
}

HANDLER(bound)

/* ---- Rows ---- */

static insn_exec *const int_routines[] = {exec_int};
static insn_exec *const into_routines[] = {exec_into};
static insn_exec *const iret_routines[] = {exec_iret};

static bool bind_int(struct binding *binding, const struct insn_row *row,
                     struct insn *insn)
{
    static const struct {
        ZydisMnemonic mnemonic;
        uint8_t vector;
        enum x86_event_type type;
    } forms[] = {
        {ZYDIS_MNEMONIC_INT1, X86_DB, X86_EVENT_PRIVILEGED_SOFTWARE},
        {ZYDIS_MNEMONIC_INT3, X86_BP, X86_EVENT_SOFTWARE_EXCEPTION},
        {ZYDIS_MNEMONIC_INTO, X86_OF, X86_EVENT_SOFTWARE_EXCEPTION},
    };
    insn->exec = row->exec[0];
    insn->aux = X86_EVENT_SOFTWARE;
    insn->imm = binding->operand[0].imm.value.u & 0xff;
    for (unsigned i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        if (forms[i].mnemonic == row->mnemonic) {
            insn->aux = forms[i].type;
            insn->imm = forms[i].vector;
        }
    }
    return true;
}

static bool bind_iret(struct binding *binding, const struct insn_row *row,
                      struct insn *insn)
{
    insn->exec = row->exec[0];
    insn->size = binding->decoded->operand_width / 8;
    return true;
}

static bool bind_bound(struct binding *binding, const struct insn_row *row,
                       struct insn *insn)
{
    insn->exec = row->exec[0];
    insn->dst = bind_register(binding->operand[0].reg.value);
    bind_memory(binding, insn, &binding->operand[1]);
    insn->aux = (uint8_t)(binding->operand[0].size / 8);
    return true;
}

#define ROW(name, bind, routines, flags)                                     \
    {                                                                        \
        ZYDIS_MNEMONIC_##name, INSN_CONTROL_SENSITIVE, bind, routines, flags \
    }

const struct insn_row insn_rows_interrupt[] = {
    ROW(INT, bind_int, int_routines, ROW_ENDS_BLOCK),
    ROW(INT1, bind_int, int_routines, ROW_ENDS_BLOCK),
    ROW(INT3, bind_int, int_routines, ROW_ENDS_BLOCK),
    ROW(INTO, bind_int, into_routines, ROW_ENDS_BLOCK),
    ROW(IRET, bind_iret, iret_routines, ROW_ENDS_BLOCK),
    ROW(IRETD, bind_iret, iret_routines, ROW_ENDS_BLOCK),
    ROW(IRETQ, bind_iret, iret_routines, ROW_ENDS_BLOCK),
    {ZYDIS_MNEMONIC_BOUND, INSN_INNOCUOUS, bind_bound, bound_routines, 0},
    {0},
};
