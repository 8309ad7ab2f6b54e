/* Instructions that translated code leaves to C, but not to the interpreter: as its
 * routines, with the guest's state in the frame. */
#include "engine/translator/exchange.h"
#include "interpreter/transfer.h"

/* A selector for FS or GS, at CPL 0 of 32-bit code. */
static bool load_segment(struct cpu *cpu)
{
    const struct frame *frame = &translator_frame;
    if (!transfer_load_data(cpu, (enum x86_segment_register)(uint32_t)frame->spill[0],
                            (uint16_t)frame->scratch, X86_GP)) {
        cpu->has_fault = cpu->fault_noncanonical = false;
        return false;
    }
    exchange_segments_in(cpu);
    return true;
}

bool quick_run(struct translator_cpu *translator, const struct block_insn *insn)
{
    struct cpu *cpu = translator->cpu;
    struct frame *frame = &translator_frame;
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_STAC:
    case ZYDIS_MNEMONIC_CLAC:
        cpu_set_ac(cpu, insn->mnemonic == ZYDIS_MNEMONIC_STAC);
        thread_set_gs(cpu->tlb);
        return true;
    case ZYDIS_MNEMONIC_MOV:
    case ZYDIS_MNEMONIC_POP:
        return load_segment(cpu);
    default:
        break;
    }
    if (cpu->state.cr4 & X86_CR4_TSD && cpu->cpl > 0) {
        return false;
    }
    cpu->hooks->count(cpu, EXIT_RDTSC);
    uint64_t tsc = cpu->hooks->tsc(cpu);
    if (!cpu->hooks->tsc_line(cpu, &frame->tsc_line, &frame->tsc_factor)) {
        frame->tsc_line.length = 0;
    }
    frame->gpr[X86_RAX] = (uint32_t)tsc;
    frame->gpr[X86_RDX] = tsc >> 32;
    if (insn->mnemonic == ZYDIS_MNEMONIC_RDTSCP) {
        frame->gpr[X86_RCX] = (uint32_t)cpu->state.tsc_aux;
    }
    return true;
}
