#include "interpreter/run.h"

#include "interpreter/block.h"
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

static void run_block(struct cpu *cpu)
{
    const struct block *block = block_find(cpu);
    if (likely(block != NULL)) {
        execute(cpu, block);
    } else {
        event_deliver_fault(cpu);
    }
}

/* SDM 3B 18.3.1.4: the trap after an instruction that began with TF set. */
static void deliver_single_step(struct cpu *cpu)
{
    cpu->state.dr6 |= 1u << 14;
    struct x86_event event = {
        .pending = true, .vector = X86_DB, .type = X86_EVENT_EXCEPTION};
    event_deliver(cpu, &event, 0);
}

static void step(struct cpu *cpu)
{
    bool was_tracing = cpu->state.rflags & X86_FLAG_TF;
    uint64_t faults = cpu->faults;
    cpu->single_step = true;
    cpu_update_mode(cpu);
    cpu_set_attention(cpu);
    run_block(cpu);
    cpu->single_step = false;
    cpu_update_mode(cpu);
    if (was_tracing && cpu->faults == faults && cpu->state.activity == X86_RUNNING) {
        deliver_single_step(cpu);
    }
}

void cpu_step(struct cpu *cpu)
{
    bool had_shadow = cpu->state.interrupt_shadow && cpu->rip == cpu->shadow_rip;
    step(cpu);
    if (had_shadow) {
        cpu->state.interrupt_shadow = false;
    }
}

void cpu_run(struct cpu *cpu)
{
    while (cpu->state.activity == X86_RUNNING) {
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
