#pragma once
/*
 * What translated code works on besides the host's registers: one record for each vCPU
 * thread in static TLS, which code reaches through fs at constant offsets, without a
 * register. gs holds the base of the view of memory in force (struct tlb_area).
 *
 * Addresses of code are linear ones here and in the code cache, RIP plus the base of CS,
 * wherever the guest does not see them.
 *
 * Registers while translated code runs: guest RAX, RCX, RDX, RBX, RBP, RSI, RDI and R12
 * to R15 are the host's, guest RSP is host r11, guest R8 to R11 are in gpr[]. Host r8, r9
 * and r10 are scratch between guest instructions, but for r10 within a group of accesses
 * (group.c); host rsp is the return stack.
 */

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock_line.h"
#include "base/factor.h"

struct cpu;

/* Bytes of status; code compares several at once. */
enum {
    STATUS_ZERO,      /* always */
    STATUS_FPU,       /* the guest's x87 state is in the host's unit */
    STATUS_ATTENTION, /* something wants a look; set by any thread, with poll */
    STATUS_VECTOR,    /* the guest's vector state and MXCSR are in the host's registers */
    STATUS_NO_AVX,    /* the guest has not switched AVX on */
    STATUS_ZERO_BEHIND,
    STATUS_SIZE = 8,
};

/* Where translated code went by itself. */
enum {
    MOVED_NOWHERE,
    MOVED_TO_KERNEL, /* by SYSCALL */
    MOVED_TO_USER,   /* by SYSRET */
};

#define FRAME_XSAVE_SIZE 576 /* legacy area and header */

struct frame {
    uint64_t gpr[16];
    uint64_t code_base; /* linear address of the page that user code runs in */
    uint64_t fs_base, gs_base;
    int64_t budget; /* instructions that may still retire; only where they are counted */
    uint32_t arith; /* arithmetic flags, as struct cpu has them */
    _Atomic uint8_t status[STATUS_SIZE];
    /* Read by heads that need nothing but status[STATUS_ATTENTION]: a place that can be
     * read, or POLL_TRAP, which faults (signal.c). */
#define POLL_TRAP (1ull << 63) /* not canonical: SDM 1 3.3.7.1 */
    _Atomic uint64_t poll;
    uint64_t host_rsp;   /* return stack, while other code runs */
    uint64_t stack_base; /* where the return stack of the guest's privilege begins */
    /* For changes of privilege without leaving: where the return stacks of the kernel and
     * the user begin, how far the user's is filled while the kernel runs, and their views
     * of memory; view is what gs holds. */
    uint64_t level_base[2], user_rsp;
    uint64_t level_view[2], view_ac, view;
    uint8_t has_levels; /* this may be done: level.c */
    uint8_t moved;      /* it was, to MOVED_*; struct cpu does not know yet */
    uint64_t c_rsp;
    uint64_t target; /* where to enter */
    uint64_t exit_value;
    uint64_t scratch, spill[3];
    uint64_t rax, limit; /* while the stack's page is looked up */
    uint64_t rcx;        /* while a check without flags is made */
    uint32_t index_mask; /* of an address, the bits that index the TLB */
    uint64_t page_mask;  /* those of its page */
    /* Of groups of accesses (group.c): host address of their bytes, the last being r10's,
     * while other code runs; and what struct tlb_entry's frame is for them. */
#define GROUP_IN_R10 7
#define GROUP_SLOTS  7 /* others, at the same time */
    uint64_t group_base[GROUP_SLOTS + 1], group_frame[GROUP_SLOTS + 1];
    uint32_t exit_reason;
    uint32_t exit_info;   /* EXIT_INFO of the place that left; a link's number */
    uint32_t last_branch; /* EXIT_INFO of the last indirect one */
    /* Of blocks' branches to themselves one in so many leaves; how many there are yet
     * until one does (unroll.c). */
#define BACKS_EACH 256
    uint32_t backs_left;
    uint32_t host_mxcsr;
    uint8_t had_vectors; /* leaving saved the guest's vector state */
    struct cpu *cpu;
    /* What the guest's TSC is by the host's: cpu_hooks.tsc_line. length 0: not known. */
    struct clock_line tsc_line;
    struct factor tsc_factor;
    /* Outside 64-bit mode, by enum x86_segment_register. An odd one is not a writable
     * data segment of 4 GiB: what accesses it is the interpreter's. */
    uint32_t segment_base[6], segment_limit[6], segment_access[6];
    uint64_t segment_descriptor[6]; /* as it was in its table */
    uint8_t segment_odd[6];
    uint8_t fpu[FRAME_XSAVE_SIZE] __attribute__((aligned(64)));
};

extern __thread struct frame translator_frame __attribute__((tls_model("initial-exec")));

/* Offset of a field of this thread's frame from fs. */
static inline int32_t frame_offset(size_t field)
{
    intptr_t frame;
    __asm__("movq translator_frame@gottpoff(%%rip), %0" : "=r"(frame));
    return (int32_t)(frame + (intptr_t)field);
}

/* Block (its number in the cache) and instruction (its ordinal in the block). */
#define EXIT_INFO(block, ordinal) ((uint32_t)(block) << 8 | (ordinal))
#define EXIT_BLOCK(info)          ((info) >> 8)
#define EXIT_ORDINAL(info)        ((info)&0xff)

/* Why translated code left. */
enum {
    LEAVE_HEAD,   /* a block's head: attention, a gate that is closed, or it is stale */
    LEAVE_LINK,   /* a direct exit that is not linked: exit_info */
    LEAVE_JUMP,   /* to guest address exit_value */
    LEAVE_TARGET, /* the same, from an indirect JMP whose targets are being learnt */
    LEAVE_READ,   /* exit_value is not in the TLB for reading */
    LEAVE_WRITE,  /* ... for writing */
    LEAVE_INTERPRET, /* the instruction has no code of its own */
    LEAVE_QUICK,     /* the instruction is quick_run's */
    LEAVE_PLAIN,     /* the frame of a group that stores is watched */
    LEAVE_WATCHED,   /* a store to host address exit_value whose frame is watched */
    LEAVE_COUNT,
};
