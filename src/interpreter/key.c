#include "interpreter/key.h"

#include "interpreter/operation.h"

#define KEY_0 3u /* its two bits: most pages have it, and it is never noted */

void key_note(struct tlb_context *context, unsigned index)
{
    if (context->keyed_count < TLB_KEYED_MAX) {
        context->keyed[context->keyed_count] = (uint16_t)index;
    }
    context->keyed_count += context->keyed_count <= TLB_KEYED_MAX;
}

static void drop_keyed(struct tlb_context *context)
{
    for (unsigned i = 0; i < context->keyed_count; i++) {
        for (unsigned view = 0; view < TLB_VIEWS; view++) {
            cpu_clear_stack(&context->view[view]);
            cpu_clear_entry(&context->view[view].entry[context->keyed[i]],
                            context->keyed[i]);
        }
    }
    context->keyed_count = 0;
}

void key_set_rights(struct cpu *cpu, uint32_t pkru)
{
    uint32_t lost = pkru & ~cpu->state.pkru;
    bool forgets_all = lost & KEY_0;
    cpu->state.pkru = pkru;
    /* Without CR4.PKE no entry depends on it, and setting that drops all. */
    if (!lost || !(cpu->state.cr4 & X86_CR4_PKE)) {
        return;
    }
    for (unsigned i = 0; i < TLB_CONTEXTS; i++) {
        forgets_all |= cpu->tlb_contexts[i].keyed_count > TLB_KEYED_MAX;
    }
    for (unsigned i = 0; i < TLB_CONTEXTS && !forgets_all; i++) {
        drop_keyed(&cpu->tlb_contexts[i]);
    }
    if (forgets_all) {
        cpu_flush_all(cpu);
    }
}

/* SDM 2B "RDPKRU", 2D "WRPKRU": at every CPL, in every mode. */
static bool has_keys(struct cpu *cpu)
{
    if (!(cpu->state.cr4 & X86_CR4_PKE)) {
        return cpu_raise(cpu, X86_UD, 0);
    }
    return !(uint32_t)cpu->reg[X86_RCX] || cpu_raise(cpu, X86_GP, 0);
}

OPERATION(rdpkru)
{
    if (!has_keys(cpu)) {
        return false;
    }
    cpu->reg[X86_RAX] = cpu->state.pkru;
    cpu->reg[X86_RDX] = 0;
    return true;
}

OPERATION(wrpkru)
{
    if (!has_keys(cpu)) {
        return false;
    }
    if ((uint32_t)cpu->reg[X86_RDX]) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    key_set_rights(cpu, (uint32_t)cpu->reg[X86_RAX]);
    return true;
}

HANDLER(rdpkru)
HANDLER(wrpkru)

const struct insn_row insn_rows_key[] = {
    {ZYDIS_MNEMONIC_RDPKRU, INSN_BEHAVIOUR_SENSITIVE, bind_simple, rdpkru_routines, 0},
    {ZYDIS_MNEMONIC_WRPKRU, INSN_CONTROL_SENSITIVE, bind_simple, wrpkru_routines, 0},
    {0},
};
