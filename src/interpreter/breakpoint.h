#pragma once
/*
 * The guest's own breakpoints: its debug registers at work (SDM 3B chapter 18; 17 in
 * older editions). Instruction breakpoints are faults found by the run loop, at which
 * blocks begin; data and I/O breakpoints are traps: their conditions gather in
 * cpu->debug_traps and are delivered behind the instruction. While there are data
 * breakpoints their pages stay out of the software TLB and blocks have one instruction.
 * What a debugger outside asks for is interpreter/debug.h's.
 */

#include "interpreter/cpu.h"

/* After any change of DR0 to DR3, DR7, or CR4.DE. */
void breakpoint_update(struct cpu *cpu);
/* A task switch takes back the local breakpoints; has_trap: its TSS asks for a trap. */
void breakpoint_switch_task(struct cpu *cpu, bool has_trap);

/* Does an instruction breakpoint lie somewhere at this offset of a page? */
bool breakpoint_has_offset(const struct cpu *cpu, unsigned offset);
/* The instruction breakpoints hit by the next instruction, as DR6 has them; none if
 * RFLAGS.RF holds. */
uint32_t breakpoint_hits(const struct cpu *cpu);
/* Has any byte of the page a data breakpoint? */
bool breakpoint_watches_page(const struct cpu *cpu, gva_t page);
/* Notes the conditions that an access fulfils. */
void breakpoint_note_access(struct cpu *cpu, gva_t gva, unsigned size, bool is_write);
void breakpoint_note_port(struct cpu *cpu, uint16_t port, unsigned size);

/* What the next instruction is to a debugger that steps from branch to branch. */
enum branch_kind {
    BRANCH_NONE,
    BRANCH_CONDITIONAL, /* taken if RIP is not that of the instruction behind */
    BRANCH_ALWAYS,
};
enum branch_kind breakpoint_branch(struct cpu *cpu, uint64_t *next_rip);
