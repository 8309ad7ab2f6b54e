#pragma once
/*
 * Changes of privilege as today's systems make them. SYSCALL and SYSRET between 64-bit
 * code are translated code's: it changes the return stack and the view of memory, and
 * struct cpu follows when it leaves. Returns from interrupts, SYSENTER and SYSEXIT are
 * routines'.
 */

#include "engine/translator/run.h"

/* What SYSCALL must clear for it, so that there is nothing else to look at: of AC depends
 * the view, TF ends translated code, and the kernel's arithmetic flags are then known. */
#define LEVEL_CLEARED (X86_FLAGS_ARITH | X86_FLAG_TF | X86_FLAG_AC)

/* Can the host change gs in user mode? The code that is made depends on it. */
bool level_is_possible(void);
/* Before translated code is entered: what it needs to know. */
void level_prepare(struct translator_cpu *translator);
/* IRETQ, IRETD, SYSENTER and SYSEXIT, the state being in the frame: rip is where to. A
 * return leads to its own level or to flat segments of a user's. False: it is not such a
 * one, or faults, and nothing was done. */
bool level_change(struct translator_cpu *translator, ZydisMnemonic mnemonic,
                  uint64_t *rip);
/* Is it one of these? */
static inline bool level_is_changed_by(ZydisMnemonic mnemonic)
{
    return mnemonic == ZYDIS_MNEMONIC_IRETQ || mnemonic == ZYDIS_MNEMONIC_IRETD ||
           mnemonic == ZYDIS_MNEMONIC_SYSENTER || mnemonic == ZYDIS_MNEMONIC_SYSEXIT;
}
/* It has left, and the frame's moved is not MOVED_NOWHERE. */
void level_follow(struct translator_cpu *translator);
