#pragma once
/*
 * Instructions executed on the host's own units. A vector instruction does the same on
 * guest and host, so it is not emulated: bind copies it into a stub, a few host
 * instructions that load the guest's registers into the host's, execute it, and store the
 * results. Vector registers keep their numbers; general registers and the memory operand
 * are renamed. Addresses are checked before a stub runs.
 *
 * A stub belongs to a normalised encoding; each cpu has its own store of them, which is
 * emptied together with the cpu's decoded blocks.
 */

#include "base/error.h"
#include "interpreter/insn.h"

struct native;

/*
 * A cpu's stubs; the first call also takes over SIGFPE for the process (what is not ours
 * goes on to the previous handler).
 */
struct native *native_new(struct error *err);
void native_free(struct native *native);

/* Bytes of stub code in use. */
unsigned native_used(const struct native *native);

/* For rows of SSE, AVX, MMX, BMI and what else runs unchanged. */
insn_bind native_bind;
/* Operands that are masked or gathered, element by element. */
insn_bind native_bind_masked;
/* VZEROUPPER, VZEROALL. */
insn_bind native_bind_zero;

/* Why vector state is not available to an instruction; raises #UD, #NM or #MF. */
bool native_check_sse(struct cpu *cpu);
bool native_check_avx(struct cpu *cpu);
bool native_check_mmx(struct cpu *cpu);
/* Legacy instructions whose 16-byte operands need no alignment (SDM 2A 2.4, class 4). */
bool native_is_unaligned(ZydisMnemonic mnemonic);
/* The state in which an MMX instruction leaves the x87: TOP 0, nothing empty. */
void native_enter_mmx(struct cpu *cpu);
