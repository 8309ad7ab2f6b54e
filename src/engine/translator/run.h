#pragma once
/* The loop of a vCPU: translated code, and what it leaves to others. */

#include "engine/translator/cache.h"
#include "interpreter/cpu.h"

#define RETURN_STACK_SIZE (64u << 10) /* of each privilege, behind a guard page */
#define SIGNAL_STACK_SIZE (64u << 10)

/* Counters of one vCPU, for people; written by its thread. */
struct translator_stats {
    _Atomic uint64_t entered, left[LEAVE_COUNT];
    _Atomic uint64_t jumps_found, jumps_noted, jumps_emptied;
    _Atomic uint64_t blocks_found, blocks_made, links_made;
    _Atomic uint64_t returns_emptied;
    _Atomic uint64_t misses_filled, misses_interpreted;
    _Atomic uint64_t interpreted, interpreted_blocks, interpreted_elsewhere;
    /* Instructions that translated code left for, because they have no code. */
    _Atomic uint64_t mnemonic[ZYDIS_MNEMONIC_MAX_VALUE + 1];
};

struct translator_cpu {
    struct code_cache *cache;
    struct cpu *cpu;
    struct frame *_Atomic frame; /* of the thread while it is inside translator_run */
    atomic_uint notifiers;       /* who perhaps uses it just now */
    uint8_t *return_stack;       /* user's, kernel's, each above its guard page */
    uint64_t epoch;
    uint64_t flushes;       /* of cpu->flushes, when the return stacks were last right */
    unsigned stack_kind[2]; /* whose code's sites are on the kernel's, the user's return
                               stack: code_jump_kind */
    bool was_user;          /* whose return stack is in frame.host_rsp */
    unsigned mode;
    bool entered_user; /* level and CS with which translated code was entered last */
    uint16_t entered_cs;
    uint32_t miss_info;      /* the instruction that missed last */
    uint64_t miss_page[2];   /* the last two that it missed */
    unsigned misses;         /* how often in a row these */
    uint64_t early_page;     /* of the early check that failed last (early.c) */
    uint64_t spaces_counted; /* of the processor's spaces_replaced, in cache->spaces */
    struct translator_stats stats;
    uint8_t *signal_stack;
};

int translator_cpu_init(struct translator_cpu *translator, struct code_cache *cache,
                        struct cpu *cpu, struct error *err);
void translator_cpu_fini(struct translator_cpu *translator);

/* RIP as the translator has addresses of code, and back. */
static inline uint64_t run_linear_rip(const struct cpu *cpu)
{
    return cpu->is_long64 ? cpu->rip : (uint32_t)(cpu->rip + cpu->state.seg[X86_CS].base);
}
static inline uint64_t run_guest_rip(const struct cpu *cpu, uint64_t linear)
{
    return cpu->is_long64 ? linear : (uint32_t)(linear - cpu->state.seg[X86_CS].base);
}

/* Where to enter translated code. */
struct entry {
    uint32_t target;       /* offset in the cache */
    const uint8_t *status; /* what the code asks for: struct block's */
    uint64_t page;         /* linear address of the guest code's page */
};

enum found {
    FOUND_ENTRY,
    FOUND_NOTHING, /* the interpreter's turn: a fault, no RAM, a limit close by */
    FOUND_NO_ROOM, /* the cache is full */
    FOUND_CLOSED,  /* a block whose units may not hold the guest's state */
};

/* prepare.c: does translated code stand for the processor's mode? */
bool prepare_can_translate(const struct cpu *cpu);
/* Which code: MODE_... of a block's place. */
unsigned prepare_mode(const struct cpu *cpu);
/* Has the guest switched AVX on? */
bool prepare_has_avx(const struct cpu *cpu);
/* Return stacks, jump entries and gs are made to fit what happened since translated code
 * last ran. */
void prepare_code(struct translator_cpu *translator);

/* leave.c: handles why code left. True: go on at *entry with the guest's state in the
 * frame. False: it is in struct cpu, at an instruction boundary. */
bool leave_handle(struct translator_cpu *translator, struct entry *entry);

/* Did a check that a block begins with fail? The exit's info names the instruction that
 * it was for, which has not begun (early.c). */
bool leave_is_early(const struct translator_cpu *translator);

/* One instruction at cpu->rip; whatever it does is done. */
void run_interpret_one(struct translator_cpu *translator);
/* Has the vCPU's loop something to look at before more guest code? */
bool run_wants_look(const struct cpu *cpu);

/* find.c: the entry for guest code at a linear address, translated if need be. left: why
 * translated code left; its link, or jumps to there, know the way from now on. */
enum found find_entry(struct translator_cpu *translator, uint64_t linear, unsigned left,
                      struct entry *entry);
/* Where the view's jump entries lead, as for a jump of translated code. */
bool find_jump(struct translator_cpu *translator, uint64_t linear, struct entry *entry);
enum miss {
    MISS_FILLED,
    MISS_FAULTS, /* a page fault, recorded in the cpu, is all that the instruction does */
    MISS_OTHER,  /* the interpreter finds out: no RAM, bytes of two pages ... */
};
/* miss.c: fills the TLB for the access that left by LEAVE_READ or LEAVE_WRITE. */
enum miss miss_fill(struct translator_cpu *translator, const struct block_insn *insn);
/* quick.c: executes an instruction that left by LEAVE_QUICK; false: it faults. */
bool quick_run(struct translator_cpu *translator, const struct block_insn *insn);
/* The same place in the block's plain variant; false: that cannot be had. */
bool find_plain(struct translator_cpu *translator, struct block *block, unsigned ordinal,
                struct entry *entry);
/* The beginning of the block's plain variant, since a check made there for the group that
 * begins at an instruction failed; false: that cannot be had. */
bool find_late(struct translator_cpu *translator, struct block *block, unsigned ordinal,
               struct entry *entry);
/* May the host's units hold the guest's state, where the block needs that? */
bool find_is_open(const struct cpu *cpu, const struct block *block);
/* May what is left of the block run without going beyond the limit? */
bool find_fits_limit(const struct cpu *cpu, const struct block *block, unsigned done);

/* Guest code until attention is set or the processor is no longer running. On the vCPU's
 * own thread. */
void translator_run(struct translator_cpu *translator);

/* Any thread: translated code looks at attention soon. */
void translator_notify(struct translator_cpu *translator);

/* signal.c: faults of translated code. The cache is known to the handlers from now on. */
int signal_watch_cache(const struct code_cache *cache, struct error *err);
void signal_forget_cache(const struct code_cache *cache);
/* This thread runs translated code: a stack for the handlers. */
void signal_prepare_thread(struct translator_cpu *translator);
