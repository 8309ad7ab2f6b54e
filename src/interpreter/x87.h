#pragma once
/*
 * x87, and what saves and restores vector state. Arithmetic runs on the host's unit with
 * the guest's own control word, so results and exceptions are the hardware's: state goes
 * in by FXRSTOR and comes out by FXSAVE, which does not wait, so an exception that became
 * pending is seen as the guest's ES bit and never by the host.
 *
 * With CR0.NE clear a pending exception is #MF, too: no machine here wires FERR# to an
 * interrupt controller.
 */

#include "interpreter/insn.h"

#define X87_FCW_INIT  0x037fu
#define X87_FCW_MASKS 0x003fu
#define X87_FSW_FLAGS 0x003fu /* IE DE ZE OE UE PE */
#define X87_FSW_PE    0x0020u
#define X87_FSW_SF    0x0040u
#define X87_FSW_ES    0x0080u
#define X87_FSW_TOP   0x3800u
#define X87_FSW_B     0x8000u

#define MXCSR_INIT    0x1f80u

/* May the instruction run? Raises #NM, for a waiting one also #MF. */
bool x87_check(struct cpu *cpu, bool waits);
unsigned x87_top(const struct x86_fpu *fpu);
/* Changes TOP; the physical registers keep their contents. */
void x87_set_top(struct x86_fpu *fpu, unsigned top);
/* ES and B as flags and masks ask for (SDM 1 8.1.3.3). */
void x87_update_summary(struct x86_fpu *fpu);
/* FNINIT. */
void x87_init(struct x86_fpu *fpu);

/* Which XSAVE components differ from their initial state: XGETBV with ECX = 1 masks it
 * with XCR0. */
uint64_t xsave_in_use(const struct cpu *cpu);
/* Bits of MXCSR a guest may set. */
uint32_t xsave_mxcsr_mask(const struct cpu *cpu);

/* Rows are in x87.c. */
insn_exec x87_fnstcw, x87_fnstsw, x87_fnstsw_ax, x87_fnclex, x87_fninit, x87_fnstenv,
    x87_fldenv, x87_fnsave, x87_frstor, x87_fwait, x87_nop, x87_emms;
insn_exec xsave_fxsave, xsave_fxrstor, xsave_xsave, xsave_xsaveopt, xsave_xsavec,
    xsave_xrstor, xsave_ldmxcsr, xsave_stmxcsr, xsave_vldmxcsr, xsave_vstmxcsr;

/* insn->aux of the rows that bind with x87_bind_control. */
#define X87_WIDE 1u /* REX.W: 64-bit instruction and data pointers */
#define X87_16   2u /* 16-bit operand size: the short environment */
