#include "interpreter/run.h"

#include "interpreter/block.h"
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

/* False: stopped by a breakpoint, nothing was executed. */
static bool run_block(struct cpu *cpu)
{
    if (unlikely(cpu->debug) && debug_breaks_at(cpu, debug_address(cpu))) {
        return false;
    }
    const struct block *block = block_find(cpu);
    if (likely(block != NULL)) {
        execute(cpu, block);
    } else {
        event_deliver_fault(cpu);
    }
    return true;
}

/* SDM 3B 18.3.1.4: the trap after an instruction that began with TF set. */
static void deliver_single_step(struct cpu *cpu)
{
    cpu->state.dr6 |= 1u << 14;
    struct x86_event event = {
        .pending = true, .vector = X86_DB, .type = X86_EVENT_EXCEPTION};
    event_deliver(cpu, &event, 0);
}

static bool step(struct cpu *cpu)
{
    bool was_tracing = cpu->state.rflags & X86_FLAG_TF;
    uint64_t faults = cpu->faults;
    cpu->single_step = true;
    cpu->hides_step = false;
    cpu_update_mode(cpu);
    cpu_set_attention(cpu);
    bool is_done = run_block(cpu);
    cpu->single_step = false;
    cpu_update_mode(cpu);
    if (is_done && was_tracing && !cpu->hides_step && cpu->faults == faults &&
        cpu->state.activity == X86_RUNNING) {
        deliver_single_step(cpu);
    }
    return is_done;
}

void cpu_step(struct cpu *cpu)
{
    bool had_shadow = cpu->state.interrupt_shadow && cpu->rip == cpu->shadow_rip;
    if (step(cpu) && had_shadow) {
        cpu->state.interrupt_shadow = false;
    }
}

void cpu_run(struct cpu *cpu)
{
    while (cpu->state.activity == X86_RUNNING) {
        if (unlikely(cpu->retired >= cpu->limit)) {
            return;
        }
        if (unlikely(cpu->state.rflags & X86_FLAG_TF)) {
            cpu_step(cpu);
            return; /* attention stays set: events between steps are the caller's */
        }
        if (unlikely(cpu_has_attention(cpu))) {
            return;
        }
        run_block(cpu);
    }
}
