#include "interpreter/run.h"

#include "interpreter/block.h"
#include "interpreter/breakpoint.h"
#include "interpreter/debug.h"
#include "interpreter/event.h"

static void execute(struct cpu *cpu, const struct block *block)
{
    const struct insn *insn = block->insn;
    cpu->reg[REG_CODE_BASE] = cpu->rip - block->offset;
    cpu->block = block;
    /* One round with threaded dispatch, else one an instruction. */
    while (insn) {
        insn = insn->exec(cpu, insn);
    }
}

/* SDM 3A 6.9: instruction breakpoints come before anything else of the instruction, its
 * fetch included. */
static void deliver_breakpoint(struct cpu *cpu, uint32_t hits)
{
    cpu_raise(cpu, X86_DB, 0);
    cpu->fault.address = hits | cpu->debug_traps; /* and what a load of SS held back */
    event_deliver_fault(cpu);
}

/* False: stopped by a debugger's breakpoint, nothing was executed. */
static bool run_block(struct cpu *cpu)
{
    if (unlikely(cpu->needs_interpreter)) {
        /* SDM 3B 18.3.1.1: Intel's processors suppress its breakpoint. */
        bool is_behind_ss = cpu_is_behind_ss(cpu);
        if (cpu->debug && debug_breaks_at(cpu, debug_address(cpu))) {
            return false;
        }
        bool is_suppressed = is_behind_ss && cpu->cpuid->vendor == CPU_VENDOR_INTEL;
        uint32_t hits = is_suppressed ? 0 : breakpoint_hits(cpu);
        if (is_behind_ss) {
            cpu->state.interrupt_shadow = X86_SHADOW_NONE; /* not at another arrival */
        }
        if (hits) {
            deliver_breakpoint(cpu, hits);
            return true;
        }
    }
    const struct block *block = block_find(cpu);
    if (likely(block != NULL)) {
        execute(cpu, block);
    } else {
        event_deliver_fault(cpu);
    }
    return true;
}

/* Traps behind an instruction, all conditions in one #DB. Not behind one that loaded SS:
 * then they wait for the end of the next (SDM 3A 6.8.3). */
static void deliver_traps(struct cpu *cpu)
{
    uint32_t traps = cpu->debug_traps;
    if (!traps || cpu_is_behind_ss(cpu)) {
        return;
    }
    const struct x86_event event = {
        .pending = true, .vector = X86_DB, .type = X86_EVENT_EXCEPTION};
    cpu->debug_traps = 0;
    cpu->state.activity = X86_RUNNING; /* SDM 2A, HLT: a debug exception ends it */
    event_deliver(cpu, &event, traps);
}

/* SDM 3B 18.3.1.4, 18.4.3: the trap after an instruction that began with TF set, or with
 * DEBUGCTL.BTF only if it was a branch that was taken. */
static bool step(struct cpu *cpu)
{
    bool was_tracing = cpu->state.rflags & X86_FLAG_TF;
    uint64_t faults = cpu->faults;
    enum branch_kind branch = BRANCH_ALWAYS;
    uint64_t next_rip = 0;
    if (was_tracing && cpu->state.debugctl & DEBUGCTL_BTF) {
        branch = breakpoint_branch(cpu, &next_rip);
    }
    cpu->single_step = true;
    cpu->hides_step = false;
    cpu_update_mode(cpu);
    cpu_set_attention(cpu);
    bool is_done = run_block(cpu);
    cpu->single_step = false;
    cpu_update_mode(cpu);
    bool is_taken =
        branch == BRANCH_ALWAYS || (branch == BRANCH_CONDITIONAL && cpu->rip != next_rip);
    if (is_done && was_tracing && is_taken && !cpu->hides_step && cpu->faults == faults) {
        cpu->debug_traps |= DR6_BS;
    }
    deliver_traps(cpu);
    return is_done;
}

void cpu_run_block(struct cpu *cpu)
{
    run_block(cpu);
}

void cpu_step(struct cpu *cpu)
{
    bool had_shadow = cpu->state.interrupt_shadow && cpu->rip == cpu->shadow_rip;
    if (step(cpu) && had_shadow) {
        cpu->state.interrupt_shadow = X86_SHADOW_NONE;
    }
}

void cpu_run(struct cpu *cpu)
{
    while (cpu->state.activity == X86_RUNNING) {
        if (unlikely(cpu->debug_traps)) {
            deliver_traps(cpu);
        }
        if (unlikely(cpu->retired >= cpu->limit)) {
            return;
        }
        /* Also when TF has just been set: an IRET that sets IF, too, lets an interrupt in
         * before the instruction that will be trapped. */
        if (unlikely(cpu_has_attention(cpu))) {
            return;
        }
        if (unlikely(cpu->state.rflags & X86_FLAG_TF)) {
            cpu_step(cpu);
            return; /* attention stays set: events between steps are the caller's */
        }
        run_block(cpu);
    }
}
