/* Decimal arithmetic and SALC, which 64-bit mode does not have: SDM 2A "AAA", "AAD",
 * "AAM", "AAS", "DAA", "DAS". What the manual leaves undefined of their flags is as
 * processors have it. */

#include "interpreter/alu.h"
#include "interpreter/operation.h"

#define ARITH_RESULT (ARITH_SF | ARITH_ZF | ARITH_PF)

static uint8_t get_al(const struct cpu *cpu)
{
    return (uint8_t)cpu->reg[X86_RAX];
}

static void set_ax(struct cpu *cpu, uint8_t ah, uint8_t al)
{
    cpu->reg[X86_RAX] = (cpu->reg[X86_RAX] & ~0xffffull) | (uint64_t)ah << 8 | al;
}

static void set_al(struct cpu *cpu, uint8_t al)
{
    cpu->reg[X86_RAX] = (cpu->reg[X86_RAX] & ~0xffull) | al;
}

/* What an addition or subtraction made, but with the digits' carries. */
static void set_flags(struct cpu *cpu, arith_t made, arith_t carries)
{
    cpu->arith = (made & ~(arith_t)(ARITH_CF | ARITH_AF)) | carries;
}

static bool needs_low_digit(const struct cpu *cpu)
{
    return (get_al(cpu) & 15) > 9 || cpu->arith & ARITH_AF;
}

/* AAA, and with aux AAS. */
OPERATION(adjust_ascii)
{
    bool is_adjusted = needs_low_digit(cpu);
    uint16_t ax = (uint16_t)cpu->reg[X86_RAX], change = is_adjusted ? 0x106 : 0;
    arith_t made = 0;
    ax = insn->aux ? alu_sub16(ax, change, &made) : alu_add16(ax, change, &made);
    set_ax(cpu, (uint8_t)(ax >> 8), ax & 15);
    set_flags(cpu, made, is_adjusted ? ARITH_AF | ARITH_CF : 0);
    return true;
}

/* DAA, and with aux DAS. */
OPERATION(adjust_packed)
{
    uint8_t al = get_al(cpu), change = 0;
    arith_t made = 0, carries = 0;
    if (needs_low_digit(cpu)) {
        bool borrows = insn->aux && al < 6;
        change = 6;
        carries = ARITH_AF | (borrows ? ARITH_CF : 0);
    }
    if (al > 0x99 || cpu->arith & ARITH_CF) {
        change += 0x60;
        carries |= ARITH_CF;
    }
    set_al(cpu, insn->aux ? alu_sub8(al, change, &made) : alu_add8(al, change, &made));
    set_flags(cpu, made, carries);
    return true;
}

OPERATION(aam)
{
    uint8_t al = get_al(cpu), base = (uint8_t)insn->imm;
    if (base == 0) {
        return cpu_raise(cpu, X86_DE, 0);
    }
    set_ax(cpu, al / base, al % base);
    cpu->arith = 0;
    alu_test8(al % base, al % base, &cpu->arith);
    return true;
}

OPERATION(aad)
{
    uint8_t tens = (uint8_t)((cpu->reg[X86_RAX] >> 8) * insn->imm);
    set_ax(cpu, 0, alu_add8(get_al(cpu), tens, &cpu->arith));
    return true;
}

OPERATION(salc)
{
    set_al(cpu, cpu->arith & ARITH_CF ? 0xff : 0);
    return true;
}

HANDLER(adjust_ascii)
HANDLER(adjust_packed)
HANDLER(aam)
HANDLER(aad)
HANDLER(salc)

static bool bind_decimal(struct binding *binding, const struct insn_row *row,
                         struct insn *insn)
{
    bool has_base =
        row->mnemonic == ZYDIS_MNEMONIC_AAD || row->mnemonic == ZYDIS_MNEMONIC_AAM;
    insn->exec = row->exec[0];
    insn->aux =
        row->mnemonic == ZYDIS_MNEMONIC_AAS || row->mnemonic == ZYDIS_MNEMONIC_DAS;
    insn->imm = has_base ? binding->operand[0].imm.value.u & 0xff : 0;
    return true;
}

#define ROW(name, routines)                                              \
    {                                                                    \
        ZYDIS_MNEMONIC_##name, INSN_INNOCUOUS, bind_decimal, routines, 0 \
    }

const struct insn_row insn_rows_decimal[] = {
    ROW(AAA, adjust_ascii_routines),  ROW(AAD, aad_routines),
    ROW(AAM, aam_routines),           ROW(AAS, adjust_ascii_routines),
    ROW(DAA, adjust_packed_routines), ROW(DAS, adjust_packed_routines),
    ROW(SALC, salc_routines),         {0},
};
