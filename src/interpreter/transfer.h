#pragma once
/* What far transfers, interrupts and returns share: fetching descriptors, loading segment
 * registers with all checks, stacks from the TSS. Used by event.c, far.c, segment.c. */

#include "interpreter/cpu.h"
#include "x86/segment.h"

/* A stack that frames are pushed on or popped from, not necessarily the one in force. */
struct transfer_stack {
    struct x86_segment ss;
    uint64_t rsp;
    unsigned bits;  /* width of the stack pointer: 16, 32, 64 */
    bool is_system; /* of an inner level than the current one: supervisor accesses */
};

/* A descriptor as found in its table. */
struct transfer_descriptor {
    uint64_t low, high;
    uint64_t address;
    struct x86_segment segment; /* unpacked, selector as asked for */
};

/* Reads the 8- (or, for system descriptors in long mode, 16-) byte descriptor a selector
 * names, with table limits checked; #GP(selector) (or the given vector) if outside.
 * address is that of the descriptor. */
bool transfer_fetch_descriptor(struct cpu *cpu, uint16_t selector, uint8_t vector,
                               uint64_t *low, uint64_t *high, uint64_t *address);
/* The same, unpacked. */
bool transfer_fetch(struct cpu *cpu, uint16_t selector, uint8_t vector,
                    struct transfer_descriptor *out);
/* Is a descriptor named by this selector there at all? Raises nothing but the page faults
 * of reading it (cpu->has_fault tells). For LAR, LSL, VERR, VERW. */
bool transfer_probe_descriptor(struct cpu *cpu, uint16_t selector,
                               struct transfer_descriptor *out);
/* Sets the accessed bit of a code or data descriptor in memory and in out->segment. */
bool transfer_mark_accessed(struct cpu *cpu, struct transfer_descriptor *descriptor);
/* Replaces the type of a TSS descriptor in memory (busy or available). */
bool transfer_write_type(struct cpu *cpu, const struct transfer_descriptor *descriptor,
                         unsigned type);

/* MOV/POP/L?S to a data or stack segment register with every check of SDM 2B "MOV"; real
 * and vm86 mode included. */
bool transfer_load_segment(struct cpu *cpu, enum x86_segment_register reg,
                           uint16_t selector);
/* The same for DS, ES, FS, GS of protected mode, raising vector for what #GP stands for.
 */
bool transfer_load_data(struct cpu *cpu, enum x86_segment_register reg, uint16_t selector,
                        uint8_t vector);
/* The checks for a new SS at a privilege level, raising vector (#GP for returns, #TS for
 * stacks from the TSS); nothing is loaded. */
bool transfer_check_stack(struct cpu *cpu, uint16_t selector, unsigned cpl,
                          uint8_t vector, struct x86_segment *out);
/* Loads a data segment register with a null selector. */
void transfer_load_null(struct cpu *cpu, enum x86_segment_register reg,
                        uint16_t selector);
/* The segment that a register gets in real or vm86 mode: base moves, the rest stays (real
 * mode) or is fixed (vm86). */
struct x86_segment transfer_real_segment(const struct cpu *cpu,
                                         enum x86_segment_register reg,
                                         uint16_t selector);
/* After a return to an outer level: data segments more privileged than it become null
 * (SDM 3A 5.8.6). */
void transfer_drop_data_segments(struct cpu *cpu);

/* SDM 2A "JMP", "RET": offsets in compatibility mode have 32 bits, also where the operand
 * size is 64. */
static inline uint64_t transfer_offset(const struct cpu *cpu,
                                       const struct x86_segment *code, uint64_t offset)
{
    bool is_compat = cpu->is_long && !(code->access & X86_ACCESS_L);
    return is_compat ? (uint32_t)offset : offset;
}
/* May execution continue at offset of this code segment? Canonical in 64-bit code, within
 * the limit elsewhere; #GP(0) if not. */
bool transfer_check_target(struct cpu *cpu, const struct x86_segment *code,
                           uint64_t offset);
/* The code segment that RET or IRET return to; nothing is loaded. The offset is checked
 * behind the stack (SDM 2A "IRET", 2B "RET": operation). */
bool transfer_check_return(struct cpu *cpu, uint16_t selector, struct x86_segment *code);
/* The stack they return to, at level cpl with that code: null SS where 64-bit code may
 * have it. Nothing is loaded. */
bool transfer_check_return_stack(struct cpu *cpu, uint16_t selector, uint64_t rsp,
                                 const struct x86_segment *code, unsigned cpl,
                                 struct transfer_stack *stack);
/* Sets CS (and the CPL) to an already checked code segment; SS's DPL follows. */
void transfer_set_cs(struct cpu *cpu, const struct x86_segment *code, unsigned cpl);

/* Stack of an inner level from the TSS: RSPn, or IST in long mode (ist 1-7). */
bool transfer_tss_stack(struct cpu *cpu, unsigned dpl, unsigned ist, uint16_t *ss,
                        uint64_t *rsp);
/* Such a stack, its SS checked for that level (#TS, #SS) and ready for pushing. */
bool transfer_inner_stack(struct cpu *cpu, unsigned dpl, unsigned ist,
                          struct transfer_stack *stack);
/* The stack in force. */
struct transfer_stack transfer_current_stack(const struct cpu *cpu);
/* Width of the stack pointer of a stack segment in the current mode. */
unsigned transfer_stack_bits(const struct cpu *cpu, const struct x86_segment *ss,
                             bool is_long64);
/* Pushes count values of size bytes, value[0] first (at the highest address); #SS on
 * limit or canonical violation. All is checked, then written; moves stack->rsp only. */
bool transfer_push(struct cpu *cpu, struct transfer_stack *stack, const uint64_t *value,
                   unsigned count, unsigned size);
/* Reads count values of size bytes upwards from the stack pointer, without moving it. */
bool transfer_peek(struct cpu *cpu, const struct transfer_stack *stack, uint64_t *value,
                   unsigned count, unsigned size);
/* The same for what a return pops: instruction or stack pointer, the selector that goes
 * with it, and what follows. */
bool transfer_peek_frame(struct cpu *cpu, const struct transfer_stack *stack,
                         uint64_t *value, unsigned count, unsigned size);
/* Loads SS:RSP from a stack; of RSP only the bits its width covers change. */
void transfer_set_stack(struct cpu *cpu, const struct transfer_stack *stack);
void transfer_set_rsp(struct cpu *cpu, uint64_t rsp, unsigned bits);
