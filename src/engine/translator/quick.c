/* Instructions that translated code leaves to C, but not to the interpreter: as its
 * routines, with the guest's state in the frame. */
#include "engine/translator/exchange.h"

bool quick_run(struct translator_cpu *translator, const struct block_insn *insn)
{
    struct cpu *cpu = translator->cpu;
    struct frame *frame = &translator_frame;
    if (insn->mnemonic == ZYDIS_MNEMONIC_STAC || insn->mnemonic == ZYDIS_MNEMONIC_CLAC) {
        cpu_set_ac(cpu, insn->mnemonic == ZYDIS_MNEMONIC_STAC);
        thread_set_gs(cpu->tlb);
        return true;
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
