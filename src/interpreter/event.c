/*
 * Event delivery. An attempt checks everything and writes the frame before any register
 * changes, so a failed one leaves the state before delivery; what failed then combines
 * with the event by the rules of SDM 3A 6.15.
 */

#include "interpreter/event.h"

#include "interpreter/access.h"
#include "interpreter/breakpoint.h"
#include "interpreter/task.h"
#include "interpreter/transfer.h"

#define IDT_ERROR(vector) ((uint32_t)(vector)*8 + 2)
#define ERROR_EXT         1u

static bool is_software(const struct x86_event *event)
{
    return event->type == X86_EVENT_SOFTWARE ||
           event->type == X86_EVENT_SOFTWARE_EXCEPTION;
}

/* SDM 3A 6.13: the program's own INT n, INT3 and INTO are not external to it. */
static uint32_t external_bit(const struct x86_event *event)
{
    return is_software(event) ? 0 : ERROR_EXT;
}

static bool error_has_external_bit(uint8_t vector)
{
    return vector == X86_TS || vector == X86_NP || vector == X86_SS_FAULT ||
           vector == X86_GP;
}

/* SDM 3B 17.3.1.1: RF is set in the image that a fault pushes, so that returning to the
 * instruction does not hit its breakpoint again. */
static uint64_t pushed_flags(const struct cpu *cpu, const struct x86_event *event)
{
    /* Not at instruction breakpoints: their handlers decide. */
    static const uint32_t faults = 1u << X86_DE | 1u << X86_BR | 1u << X86_UD |
                                   1u << X86_NM | 1u << X86_TS | 1u << X86_NP |
                                   1u << X86_SS_FAULT | 1u << X86_GP | 1u << X86_PF |
                                   1u << X86_MF | 1u << X86_AC_FAULT | 1u << X86_XM;
    uint64_t flags = cpu_rflags(cpu) & ~(uint64_t)X86_FLAG_RF;
    bool is_fault = event->type == X86_EVENT_EXCEPTION && event->vector < 32 &&
                    faults >> event->vector & 1;
    /* Not of INT n, INT1 and their kind, which are instructions of their own. */
    bool is_between = !event->length && cpu_resumes(cpu);
    return flags | (is_fault || is_between ? X86_FLAG_RF : 0);
}

/* The code segment a gate leads to. */
struct handler {
    struct x86_gate gate;
    struct x86_segment code;
    unsigned cpl;     /* of the handler */
    bool is_inner;    /* more privileged than the interrupted code */
    bool is_trap;     /* trap gate: IF stays */
    unsigned size;    /* of a pushed value */
    uint64_t flags;   /* as pushed */
    uint64_t address; /* of the first instruction */
};

static bool deliver_real(struct cpu *cpu, const struct x86_event *event)
{
    struct x86_state *state = &cpu->state;
    if (event->vector * 4u + 3 > state->idtr.limit) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    uint16_t entry[2];
    if (!access_read_system(cpu, state->idtr.base + event->vector * 4u, entry,
                            sizeof(entry))) {
        return false;
    }
    uint64_t flags = cpu_rflags(cpu);
    const uint64_t frame[] = {flags, state->seg[X86_CS].selector, cpu->rip};
    struct transfer_stack stack = transfer_current_stack(cpu);
    if (!transfer_push(cpu, &stack, frame, 3, 2)) {
        return false;
    }
    transfer_set_rsp(cpu, stack.rsp, stack.bits);
    struct x86_segment code = transfer_real_segment(cpu, X86_CS, entry[1]);
    transfer_set_cs(cpu, &code, 0);
    cpu_set_rflags(
        cpu, flags & ~(uint64_t)(X86_FLAG_IF | X86_FLAG_TF | X86_FLAG_AC | X86_FLAG_RF));
    cpu->rip = entry[0];
    return true;
}

static bool gate_type_allowed(const struct cpu *cpu, unsigned type)
{
    if (cpu->is_long) {
        return type == X86_TYPE_INTERRUPT_GATE || type == X86_TYPE_TRAP_GATE;
    }
    return type == X86_TYPE_INTERRUPT_GATE || type == X86_TYPE_TRAP_GATE ||
           type == X86_TYPE_INTERRUPT_GATE16 || type == X86_TYPE_TRAP_GATE16 ||
           type == X86_TYPE_TASK_GATE;
}

static bool read_gate(struct cpu *cpu, const struct x86_event *event,
                      struct x86_gate *gate)
{
    const struct x86_table *idtr = &cpu->state.idtr;
    unsigned size = cpu->is_long ? 16 : 8;
    uint32_t offset = event->vector * size;
    if (offset + size - 1 > idtr->limit) {
        return cpu_raise(cpu, X86_GP, IDT_ERROR(event->vector));
    }
    uint64_t raw[2] = {0, 0};
    if (!access_read_system(cpu, idtr->base + offset, raw, size)) {
        return false;
    }
    x86_gate_unpack(gate, raw[0], raw[1]);

    unsigned dpl = (gate->access & X86_ACCESS_DPL) >> X86_ACCESS_DPL_SHIFT;
    if (gate->access & X86_ACCESS_S ||
        !gate_type_allowed(cpu, gate->access & X86_ACCESS_TYPE) ||
        (is_software(event) && dpl < cpu->cpl)) {
        return cpu_raise(cpu, X86_GP, IDT_ERROR(event->vector));
    }
    if (!(gate->access & X86_ACCESS_P)) {
        return cpu_raise(cpu, X86_NP, IDT_ERROR(event->vector));
    }
    return true;
}

static bool check_handler_code(struct cpu *cpu, struct handler *handler)
{
    uint16_t selector = handler->gate.selector;
    uint32_t error = selector & 0xfffcu;
    if (error == 0) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    struct transfer_descriptor code;
    if (!transfer_fetch(cpu, selector, X86_GP, &code)) {
        return false;
    }
    uint32_t access = code.segment.access;
    unsigned dpl = (access & X86_ACCESS_DPL) >> X86_ACCESS_DPL_SHIFT;
    bool is_code = (access & X86_ACCESS_S) && (access & X86_ACCESS_CODE);
    bool is_64 = (access & (X86_ACCESS_L | X86_ACCESS_DB)) == X86_ACCESS_L;
    bool is_vm86 = cpu->state.rflags & X86_FLAG_VM;
    bool is_conforming = access & X86_ACCESS_EXPAND;
    if (!is_code || dpl > cpu->cpl || (cpu->is_long && !is_64) ||
        (is_vm86 && (is_conforming || dpl != 0))) {
        return cpu_raise(cpu, X86_GP, error);
    }
    if (!(access & X86_ACCESS_P)) {
        return cpu_raise(cpu, X86_NP, error);
    }
    if (!transfer_mark_accessed(cpu, &code)) {
        return false;
    }
    handler->code = code.segment;
    handler->cpl = is_conforming ? cpu->cpl : dpl;
    handler->is_inner = handler->cpl < cpu->cpl;
    return true;
}

/* Checks the handler behind the gate: SDM 2A "INT n", SDM 3A 6.12 and 6.14. */
static bool find_handler(struct cpu *cpu, const struct x86_event *event,
                         struct handler *handler)
{
    unsigned type = handler->gate.access & X86_ACCESS_TYPE;
    if (!check_handler_code(cpu, handler)) {
        return false;
    }
    handler->is_trap = type & 1;
    handler->size = cpu->is_long ? 8 : type & 8 ? 4 : 2;
    handler->flags = pushed_flags(cpu, event);
    handler->address = handler->gate.offset;
    if (handler->size == 2) {
        handler->address = (uint16_t)handler->address;
    }
    return transfer_check_target(cpu, &handler->code, handler->address);
}

/* Registers change only here. */
static void enter_handler(struct cpu *cpu, const struct handler *handler,
                          const struct transfer_stack *stack)
{
    uint64_t clear = X86_FLAG_TF | X86_FLAG_NT | X86_FLAG_RF | X86_FLAG_VM;
    if (!handler->is_trap) {
        clear |= X86_FLAG_IF;
    }
    uint64_t flags = cpu_rflags(cpu) & ~clear;
    if (cpu->state.rflags & X86_FLAG_VM) {
        transfer_load_null(cpu, X86_ES, 0);
        transfer_load_null(cpu, X86_DS, 0);
        transfer_load_null(cpu, X86_FS, 0);
        transfer_load_null(cpu, X86_GS, 0);
    }
    /* Leaving vm86 before CS is set: its selector is one of protected mode. */
    cpu->state.rflags &= ~(uint64_t)X86_FLAG_VM;
    transfer_set_stack(cpu, stack);
    transfer_set_cs(cpu, &handler->code, handler->cpl);
    cpu_set_rflags(cpu, flags);
    cpu->rip = handler->address;
}

/* SDM 3A 6.12.1.2, 8.3: the handler is a task. What fails when it has been entered fails
 * there. */
static bool deliver_to_task(struct cpu *cpu, const struct x86_event *event,
                            const struct x86_gate *gate, bool *has_switched)
{
    const struct task_switch request = {
        .cause = TASK_INTERRUPT,
        .selector = gate->selector,
        .return_rip = cpu->rip,
        .flags = pushed_flags(cpu, event),
        .has_error = event->has_error,
        .error = event->error,
    };
    enum task_result result = task_switch(cpu, &request);
    *has_switched = result != TASK_REFUSED;
    return result == TASK_SWITCHED;
}

static bool deliver_protected(struct cpu *cpu, const struct x86_event *event,
                              bool *has_switched)
{
    struct handler handler;
    if (!read_gate(cpu, event, &handler.gate)) {
        return false;
    }
    if ((handler.gate.access & X86_ACCESS_TYPE) == X86_TYPE_TASK_GATE) {
        return deliver_to_task(cpu, event, &handler.gate, has_switched);
    }
    if (!find_handler(cpu, event, &handler)) {
        return false;
    }
    const struct x86_segment *seg = cpu->state.seg;
    struct transfer_stack stack = transfer_current_stack(cpu);
    uint64_t frame[10];
    unsigned count = 0;
    if (handler.is_inner) {
        if (!transfer_inner_stack(cpu, handler.cpl, 0, &stack)) {
            return false;
        }
        if (cpu->state.rflags & X86_FLAG_VM) {
            frame[count++] = seg[X86_GS].selector;
            frame[count++] = seg[X86_FS].selector;
            frame[count++] = seg[X86_DS].selector;
            frame[count++] = seg[X86_ES].selector;
        }
        frame[count++] = seg[X86_SS].selector;
        frame[count++] = cpu->reg[X86_RSP];
    }
    frame[count++] = handler.flags;
    frame[count++] = seg[X86_CS].selector;
    frame[count++] = cpu->rip;
    if (event->has_error) {
        frame[count++] = event->error;
    }
    if (!transfer_push(cpu, &stack, frame, count, handler.size)) {
        return false;
    }
    enter_handler(cpu, &handler, &stack);
    return true;
}

static bool deliver_long(struct cpu *cpu, const struct x86_event *event)
{
    struct handler handler;
    if (!read_gate(cpu, event, &handler.gate) || !find_handler(cpu, event, &handler)) {
        return false;
    }
    const struct x86_segment *seg = cpu->state.seg;
    struct transfer_stack stack = transfer_current_stack(cpu);
    if (handler.is_inner) {
        if (!transfer_inner_stack(cpu, handler.cpl, handler.gate.ist, &stack)) {
            return false;
        }
    } else if (handler.gate.ist) {
        uint16_t unused;
        if (!transfer_tss_stack(cpu, handler.cpl, handler.gate.ist, &unused,
                                &stack.rsp)) {
            return false;
        }
    }
    stack.bits = 64;
    /* SDM 3A 6.14.2: aligned before anything is pushed. */
    stack.rsp &= ~15ull;

    uint64_t frame[6] = {
        seg[X86_SS].selector, cpu->reg[X86_RSP], handler.flags,
        seg[X86_CS].selector, cpu->rip,
    };
    unsigned count = 5;
    if (event->has_error) {
        frame[count++] = event->error;
    }
    if (!transfer_push(cpu, &stack, frame, count, 8)) {
        return false;
    }
    enter_handler(cpu, &handler, &stack);
    return true;
}

/* has_switched: a failure belongs to another task than the event did. */
static bool deliver_once(struct cpu *cpu, const struct x86_event *event,
                         bool *has_switched)
{
    *has_switched = false;
    if (!(cpu->state.cr0 & X86_CR0_PE)) {
        return deliver_real(cpu, event);
    }
    return cpu->is_long ? deliver_long(cpu, event)
                        : deliver_protected(cpu, event, has_switched);
}

/* What an event changes before its handler is looked for. For #DB the "address" is the
 * set of conditions found, as in DR6; 0 if DR6 is already right. */
static void apply_side_effects(struct cpu *cpu, const struct x86_event *event,
                               gva_t fault_address)
{
    struct x86_state *state = &cpu->state;
    if (event->type == X86_EVENT_NMI) {
        state->nmi_blocked = true;
    }
    if (event->type == X86_EVENT_PRIVILEGED_SOFTWARE && cpu->debug_traps) {
        /* INT1 right behind a load of SS takes along what that held back (SDM 3A 6.8.3):
         * one #DB tells both. */
        state->dr6 = (state->dr6 & ~(uint64_t)DR6_HITS) | cpu->debug_traps;
        cpu->debug_traps = 0;
    }
    if (event->type != X86_EVENT_EXCEPTION) {
        return;
    }
    if (event->vector == X86_PF) {
        state->cr2 = fault_address;
    }
    if (event->vector == X86_DB) {
        if (fault_address) {
            state->dr6 = (state->dr6 & ~(uint64_t)DR6_HITS) | fault_address;
        }
        state->dr7 &= ~(uint64_t)DR7_GD;
        state->debugctl &= ~(DEBUGCTL_LBR | DEBUGCTL_BTF);
    }
}

static struct x86_event exception_event(const struct x86_exception *fault)
{
    return (struct x86_event){
        .vector = fault->vector,
        .type = X86_EVENT_EXCEPTION,
        /* Also out of vm86 mode, whose handlers are protected mode's; a real-mode frame
         * has no place for it. */
        .has_error = x86_exception_has_error(fault->vector),
        .error = fault->error,
    };
}

void event_deliver(struct cpu *cpu, const struct x86_event *event, gva_t fault_address)
{
    struct x86_event current = *event;
    bool has_switched;
    for (;;) {
        apply_side_effects(cpu, &current, fault_address);
        cpu->has_fault = false;
        cpu->fault_noncanonical = false;
        if (deliver_once(cpu, &current, &has_switched)) {
            if (current.vector == X86_DB && current.type == X86_EVENT_EXCEPTION) {
                /* Its own frame does not hit again, which would never end. */
                cpu->debug_traps &= ~DR6_HITS;
            }
            /* SDM 3B 18.3.1.4: INT n, INT3 and INTO clear TF without a trap behind them.
             */
            cpu->faults += current.length != 0;
            return;
        }

        struct x86_exception second = cpu->fault;
        cpu->has_fault = false;
        cpu->fault_noncanonical = false;
        if (error_has_external_bit(second.vector)) {
            second.error |= external_bit(&current);
        }
        if (current.length && !has_switched) {
            /* The instruction that asked for the event faults instead. */
            cpu->rip -= current.length;
            cpu->faults++;
        }
        fault_address = second.address;
        switch (x86_exception_meets(&current, second.vector)) {
        case X86_DELIVER_SECOND:
            current = exception_event(&second);
            break;
        case X86_DOUBLE_FAULT:
            current = (struct x86_event){
                .vector = X86_DF, .type = X86_EVENT_EXCEPTION, .has_error = true};
            break;
        case X86_TRIPLE_FAULT:
            cpu->state.activity = X86_SHUTDOWN;
            return;
        }
    }
}

void event_deliver_fault(struct cpu *cpu)
{
    cpu->faults++;
    cpu->debug_traps = 0; /* the instruction did not complete */
    if (cpu->fault.vector == X86_DB && cpu->fault.address & DR6_BD) {
        cpu_set_resume(cpu); /* SDM 3B 18.3.1.1: a fault that pushes RF */
    }
    cpu->hooks->count(cpu, EXIT_EXCEPTION);
    struct x86_event event = exception_event(&cpu->fault);
    event_deliver(cpu, &event, cpu->fault.address);
}
