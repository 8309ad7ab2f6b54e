#include "interpreter/port.h"

#include "interpreter/breakpoint.h"
#include "x86/segment.h"

/* SDM 1 19.5.2: two bytes of the bitmap are read even where one would do, so the last
 * byte of the TSS must lie behind the bitmap. */
static bool bitmap_allows(struct cpu *cpu, uint16_t port, unsigned size)
{
    const struct x86_segment *tr = &cpu->state.tr;
    unsigned type = tr->access & X86_ACCESS_TYPE;
    bool has_bitmap = type == X86_TYPE_TSS || type == X86_TYPE_TSS_BUSY;
    uint16_t start;
    uint16_t bits;
    if (!(tr->access & X86_ACCESS_P) || !has_bitmap || tr->limit < 103) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    if (!access_read_system(cpu, tr->base + 102, &start, sizeof(start))) {
        return false;
    }
    uint32_t offset = start + port / 8u;
    if (offset + 1 > tr->limit) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    if (!access_read_system(cpu, tr->base + offset, &bits, sizeof(bits))) {
        return false;
    }
    if (bits >> (port & 7) & ((1u << size) - 1)) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    return true;
}

bool port_check(struct cpu *cpu, uint16_t port, unsigned size)
{
    const struct x86_state *state = &cpu->state;
    unsigned iopl = (state->rflags & X86_FLAG_IOPL) >> X86_FLAG_IOPL_SHIFT;
    bool is_vm86 = state->rflags & X86_FLAG_VM;
    if (!(state->cr0 & X86_CR0_PE) || (!is_vm86 && cpu->cpl <= iopl)) {
        return true;
    }
    return bitmap_allows(cpu, port, size);
}

/* aux: the port is in DX; else it is imm. */
static uint16_t port_number(const struct cpu *cpu, const struct insn *insn)
{
    return (uint16_t)(insn->aux ? cpu->reg[X86_RDX] : insn->imm);
}

static __attribute__((noinline)) bool port_in(struct cpu *cpu, const struct insn *insn)
{
    uint16_t port = port_number(cpu, insn);
    if (!port_check(cpu, port, insn->size)) {
        return false;
    }
    uint32_t value = ~0u;
    cpu->hooks->io(cpu, port, insn->size, false, 1, (uint8_t *)&value);
    breakpoint_note_port(cpu, port, insn->size);
    reg_write(cpu, REG_OFFSET(X86_RAX), insn->size, value);
    return true;
}

static __attribute__((noinline)) bool port_out(struct cpu *cpu, const struct insn *insn)
{
    uint16_t port = port_number(cpu, insn);
    if (!port_check(cpu, port, insn->size)) {
        return false;
    }
    uint32_t value = (uint32_t)cpu->reg[X86_RAX];
    cpu->hooks->io(cpu, port, insn->size, true, 1, (uint8_t *)&value);
    breakpoint_note_port(cpu, port, insn->size);
    return true;
}

/* These end their block: what a port does may ask for this processor's attention. */
static const struct insn *exec_in(struct cpu *cpu, const struct insn *insn)
{
    return port_in(cpu, insn) ? insn_leave(cpu, insn) : insn_fault(cpu, insn);
}

static const struct insn *exec_out(struct cpu *cpu, const struct insn *insn)
{
    return port_out(cpu, insn) ? insn_leave(cpu, insn) : insn_fault(cpu, insn);
}

insn_exec *const port_in_routines[] = {exec_in};
insn_exec *const port_out_routines[] = {exec_out};

bool port_bind(struct binding *binding, const struct insn_row *row, struct insn *insn)
{
    const ZydisDecodedOperand *first = &binding->operand[0];
    const ZydisDecodedOperand *second = &binding->operand[1];
    bool is_in = row->mnemonic == ZYDIS_MNEMONIC_IN;
    const ZydisDecodedOperand *port = is_in ? second : first;
    const ZydisDecodedOperand *data = is_in ? first : second;
    insn->exec = row->exec[0];
    insn->size = (uint8_t)(data->size / 8);
    insn->aux = port->type == ZYDIS_OPERAND_TYPE_REGISTER;
    insn->imm = insn->aux ? 0 : port->imm.value.u & 0xff;
    return true;
}
