#pragma once
/*
 * Handlers made from plain functions: an OPERATION does the work, may use locals in
 * memory as it likes, and returns false after recording an exception. (A handler with an
 * array of its own whose address it passes on could not call the next one as a tail call:
 * a guest's loop would fill the host's stack.) HANDLER lets
 * execution go on with the next instruction, ENDING_HANDLER returns to the run loop (for
 * rows with ROW_ENDS_BLOCK). Both define the routines table that the row names.
 */

#include "interpreter/insn.h"

#define OPERATION(name) \
    static __attribute__((noinline)) bool name(struct cpu *cpu, const struct insn *insn)

#define HANDLER_BODY(name, cpu, insn)     \
    {                                     \
        if (unlikely(!name(cpu, insn))) { \
            return insn_fault(cpu, insn); \
        }                                 \
        NEXT(cpu, insn);                  \
    }

#define HANDLER(name)                                                               \
    static const struct insn *exec_##name(struct cpu *cpu, const struct insn *insn) \
        HANDLER_BODY(name, cpu,                                                     \
                     insn) static insn_exec *const name##_routines[] = {exec_##name};

/* The same under a name that rows of other files have. */
#define SHARED_HANDLER(handler, name)                                    \
    const struct insn *handler(struct cpu *cpu, const struct insn *insn) \
        HANDLER_BODY(name, cpu, insn)

#define ENDING_HANDLER(name)                                                        \
    static const struct insn *exec_##name(struct cpu *cpu, const struct insn *insn) \
    {                                                                               \
        return name(cpu, insn) ? insn_leave(cpu, insn) : insn_fault(cpu, insn);     \
    }                                                                               \
    static insn_exec *const name##_routines[] = {exec_##name};

/* #GP(0) unless at CPL 0. */
static inline bool operation_privileged(struct cpu *cpu)
{
    return cpu->cpl == 0 || cpu_raise(cpu, X86_GP, 0);
}

/* SDM 3A 2.5: CR4.UMIP hides descriptor tables from programs. */
static inline bool operation_umip(struct cpu *cpu)
{
    bool is_hidden = cpu->cpl > 0 && (cpu->state.cr4 & X86_CR4_UMIP);
    return !is_hidden || cpu_raise(cpu, X86_GP, 0);
}

/* RIP behind this instruction, truncated outside 64-bit mode. */
static inline uint64_t operation_next_rip(const struct cpu *cpu, const struct insn *insn)
{
    uint64_t rip = insn_next_rip(cpu, insn);
    return cpu->is_long64 ? rip : (uint32_t)rip;
}

/* The instruction behind this one will not be interrupted (SDM 3A 6.8.3). */
static inline void operation_shadow(struct cpu *cpu, const struct insn *insn)
{
    cpu->state.interrupt_shadow = X86_SHADOW_STI;
    cpu->shadow_rip = operation_next_rip(cpu, insn);
}

/* After a load of SS a single-step trap does not come between either (SDM 3A 6.8.3). */
static inline void operation_stack_shadow(struct cpu *cpu, const struct insn *insn)
{
    operation_shadow(cpu, insn);
    cpu->state.interrupt_shadow = X86_SHADOW_SS;
    cpu->hides_step = true;
}
