#pragma once
/* Descriptors and the checks on them that do not touch memory (SDM 3A chapters 3 and 5).
 */

#include <stdbool.h>
#include <stdint.h>

#include "x86/exception.h"
#include "x86/state.h"

#define X86_SELECTOR_RPL(selector) ((selector)&3u)
#define X86_SELECTOR_TI            4u /* set: LDT */

enum x86_system_type { /* access & X86_ACCESS_TYPE with S clear */
                       X86_TYPE_TSS16 = 1,
                       X86_TYPE_LDT = 2,
                       X86_TYPE_TSS16_BUSY = 3,
                       X86_TYPE_CALL_GATE16 = 4,
                       X86_TYPE_TASK_GATE = 5,
                       X86_TYPE_INTERRUPT_GATE16 = 6,
                       X86_TYPE_TRAP_GATE16 = 7,
                       X86_TYPE_TSS = 9, /* 32-bit, or 64-bit in long mode */
                       X86_TYPE_TSS_BUSY = 11,
                       X86_TYPE_CALL_GATE = 12,
                       X86_TYPE_INTERRUPT_GATE = 14,
                       X86_TYPE_TRAP_GATE = 15,
};

/* Code and data descriptors, and the first 8 bytes of system descriptors, to the hidden
 * part. high is the second 8 bytes of a 16-byte system descriptor in long mode, else 0.
 * The selector is stored as given. */
void x86_segment_unpack(struct x86_segment *segment, uint16_t selector, uint64_t low,
                        uint64_t high);
/* The 8-byte form (the base's low 32 bits). */
uint64_t x86_segment_pack(const struct x86_segment *segment);

/* A flat segment as a boot protocol or SYSCALL loads it. */
struct x86_segment x86_segment_flat_code(uint16_t selector, bool is_long, unsigned dpl);
struct x86_segment x86_segment_flat_data(uint16_t selector, unsigned dpl);
/* A real-mode segment: base selector * 16, limit 64K, read/write. */
struct x86_segment x86_segment_real(uint16_t selector);
struct x86_segment x86_segment_null(uint16_t selector);

struct x86_gate {
    uint16_t selector;
    uint64_t offset;
    uint32_t access;         /* type, S, DPL, P at bits 0-7 as in struct x86_segment */
    uint8_t ist;             /* long mode: 1-7, 0 for none */
    uint8_t parameter_count; /* legacy call gates */
};

/* high is the second 8 bytes of a long-mode gate, else 0. */
void x86_gate_unpack(struct x86_gate *gate, uint64_t low, uint64_t high);

/*
 * May size bytes (at least 1) at offset be accessed through the segment? 64-bit mode has
 * no limit checks; the caller does not ask. Handles expand-down and unusable segments.
 * Whether the failure is #SS or #GP is the caller's business.
 */
bool x86_segment_allows(const struct x86_segment *segment, uint64_t offset, unsigned size,
                        bool is_write);

/* The limit alone, for instruction fetches, which execute-only code allows as well. */
bool x86_segment_within(const struct x86_segment *segment, uint64_t offset,
                        unsigned size);
