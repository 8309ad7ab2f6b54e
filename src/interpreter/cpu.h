#pragma once
/*
 * The interpreter's processor: the common architectural state, arranged for speed, plus
 * the caches that belong to one vCPU (software TLB, decoded blocks). Only the vCPU's own
 * thread touches it, except `attention`.
 *
 * While guest code runs, the truth about GPRs is reg[], about the arithmetic flags arith,
 * about RIP the current instruction; state.gpr and state.rip are stale. state.rflags
 * holds every flag but the arithmetic ones, always. cpu_sync_out and cpu_sync_in convert
 * to and from the common form.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "allocator/memory.h"
#include "base/clock.h"
#include "base/factor.h"
#include "x86/cpuid.h"
#include "x86/exception.h"
#include "x86/exit_reason.h"
#include "x86/lapic.h"
#include "x86/state.h"

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* Pseudo registers behind the 16 GPRs, so that every address is base + (index << scale) +
 * disp. */
enum {
    REG_CODE_BASE =
        16, /* RIP of the current block's first instruction, rounded down to its page */
    REG_ZERO = 17, /* always 0 */
    REG_COUNT = 18,
};

/* Arithmetic flags as LAHF and SETO leave them: bits 8-15 SF ZF 0 AF 0 PF 1 CF, bit 0 OF.
 */
typedef uint32_t arith_t;

#define ARITH_OF 0x0001u
#define ARITH_CF 0x0100u
#define ARITH_PF 0x0400u
#define ARITH_AF 0x1000u
#define ARITH_ZF 0x4000u
#define ARITH_SF 0x8000u

static inline uint32_t arith_to_flags(arith_t arith)
{
    return (arith >> 8 & (X86_FLAGS_ARITH & 0xff)) | (arith & ARITH_OF) << 11;
}

static inline arith_t arith_from_flags(uint64_t rflags)
{
    return (uint32_t)(rflags & 0xd5) << 8 | 0x200 | ((uint32_t)rflags >> 11 & 1);
}

/*
 * Software TLB. An entry caches one page of one address space as one privilege view sees
 * it. `read` and `write` are the page's address, or an address that no access indexing
 * this entry can match. An access of n bytes at ea hits if ea - tag <= 4096 - n: one
 * compare covers tag and page crossing. Only RAM is cached.
 */
struct tlb_entry {
    uint64_t read, write;
    uint8_t *host; /* of the page */
    const _Atomic uint64_t
        *frame; /* the frame's entry: a store looks at its watch bits afterwards */
};

#define TLB_BITS     12
#define TLB_SIZE     (1u << TLB_BITS)
#define TLB_CONTEXTS 4 /* address spaces kept, by CR3 */

enum tlb_view {
    TLB_USER,
    TLB_KERNEL,    /* CPL < 3, RFLAGS.AC clear */
    TLB_KERNEL_AC, /* CPL < 3, RFLAGS.AC set: SMAP does not apply */
    TLB_VIEWS,
};

/* SDM 2A 2.3.11: longer ones raise #GP. */
#define INSN_BYTES_MAX 15

/*
 * Where jumps of translated code went, by RIP, in pairs: what another jump takes the
 * place of moves to the pair's other entry. An empty entry has tag 0 and the target
 * jump_miss; the tag of 32-bit code whose segments have bases has a bit more. The index
 * is made of the address by the three cheapest instructions that let each bit of the
 * offset in the page count, whatever its alignment: a page's entries lie in one block of
 * FRAME_SIZE.
 */
struct tlb_jump {
    uint64_t tag;
    const void *target;
};

#define AREA_JUMP_BITS      14
#define AREA_JUMP_MIX       4 /* the bit so many above goes into each; 1 << this: bytes */
#define AREA_JUMP_COUNT     (1u << AREA_JUMP_BITS)
#define AREA_JUMP_BASED_TAG (1ull << 32)
#define AREA_JUMP_OTHER     2u /* the bit in which the indices of a pair differ */

/* Bits for what ends with a load of CR3, and for what lasts: a kernel's pages. */
#define AREA_FILTER_PASSING 4096u
#define AREA_FILTER_LASTING 32768u
#define AREA_FILTER_BITS    (AREA_FILTER_PASSING + AREA_FILTER_LASTING)

/* Likewise, of the words that tell in which lines of their pages jumps lie. */
#define AREA_LINES_PASSING 128u
#define AREA_LINES_LASTING 1024u
#define AREA_LINES         (AREA_LINES_PASSING + AREA_LINES_LASTING)

/* How many fills are remembered, so that emptying costs what was filled. */
#define AREA_FILLED_MAX 4096

#define AREA_ENTRIES    (TLB_SIZE + AREA_JUMP_COUNT)

/* An address that is not canonical; a processor's check of it comes when the access has
 * faulted, which it does in a page at host address 0. */
#define STACK_NEVER (1ull << 62)

/* All that belongs to one view of one address space. */
struct tlb_area {
    struct tlb_entry entry[TLB_SIZE]; /* first: struct cpu's tlb points here */
    struct tlb_jump jump[AREA_JUMP_COUNT];
    /* For code that is not to look for it: a copy of the entry by which the stack was
     * accessed last. Where that has no tag, or all entries of its page are dropped, the
     * copy's is STACK_NEVER, at which is no memory. */
    struct tlb_entry stack;
    const void *jump_miss;
    /* Pages that may have jumps, which pass or last, hashed, and in which of their lines
     * (jump.c). */
    uint64_t jump_filter[AREA_FILTER_BITS / 64];
    uint64_t jump_lines[AREA_LINES];
    bool has_jumps;
    /* Indices are those of entries, then of jumps + TLB_SIZE. What lasts, as far as it is
     * not empty, is of global pages in the upper half: loads of CR3 leave it (SDM 3A
     * 4.10.2.4). The rest is in the list. */
    uint64_t lasting[AREA_ENTRIES / 64];
    uint16_t filled[AREA_FILLED_MAX];
    unsigned filled_count; /* more than AREA_FILLED_MAX: unknown which */
    bool is_ready;         /* it has been emptied as a whole once */
    /* Entries by which the page may be stored to, but for their frame's being watched, if
     * they are filled: interpreter/hold.h. */
    uint64_t held[TLB_SIZE / 64];
};

#define TLB_NO_KEY    UINT64_MAX

#define TLB_KEYED_MAX 64

/*
 * What makes code need a look at every instruction or every access, in struct cpu's
 * needs_interpreter. While any of these holds only cpu_run and cpu_step execute the guest
 * as the architecture says; code prepared beforehand (translated) must not run.
 */
#define NEEDS_STEP      1u /* RFLAGS.TF, or somebody executes a single instruction */
#define NEEDS_BREAK     2u /* instruction breakpoints, of DR7 or a debugger */
#define NEEDS_WATCH     4u /* data or I/O breakpoints, of DR7 or a debugger */
#define NEEDS_ALIGNMENT 8u /* CR0.AM, RFLAGS.AC and CPL 3: #AC */

/* As many as there are 2M regions in 4 GiB. */
#define LARGE_FILTER_BITS 2048u

struct tlb_context {
    uint64_t key;        /* CR3 as loaded (PCID and base), or TLB_NO_KEY when empty */
    uint64_t used;       /* for least-recently-used replacement */
    uint64_t generation; /* changes when the context is flushed; part of code_key */
    bool is_stale;       /* when it is next used, what lasts has ended, too */
    /* Which 2M (4M: two of them) and 1G regions have entries from large pages, hashed:
     * INVLPG drops a large page whole, though it is cached in 4K pieces. */
    uint64_t large_filter[2][LARGE_FILTER_BITS / 64]; /* [1]: of those that last */
    uint64_t giant_filter[2];
    /* Entries of pages with protection keys, for key.c. */
    uint16_t keyed[TLB_KEYED_MAX];
    unsigned keyed_count; /* more than TLB_KEYED_MAX: unknown which */
    struct tlb_area view[TLB_VIEWS];
};

/* Where recent jumps went, by RIP: 64 entries for each of 64 page colours, so that INVLPG
 * drops only its page's. */
struct jump_entry {
    uint64_t rip, key;
    const struct block *block;
};

#define JUMP_PAGE_BITS 6
#define JUMP_SLOT_BITS 6
#define JUMP_COUNT     (1u << (JUMP_PAGE_BITS + JUMP_SLOT_BITS))

/* Recent translations for fetches. */
struct fetch_entry {
    uint64_t page, key; /* linear page number; code_key */
    frame_t frame;
    bool lasts; /* as in struct tlb_area */
};

#define FETCH_COUNT 256

/* What decoding and fetching depend on, in struct cpu's code_mode: bits 0-1 the code
 * width (0: 16, 1: 32, 2: 64), and: */
#define CODE_MODE_USER   4u
#define CODE_MODE_SINGLE 8u  /* blocks of one instruction */
#define CODE_MODE_REAL   16u /* real or virtual-8086 mode: some encodings do not exist */
#define CODE_MODE_BITS   5

struct block;
struct cpu_debug;   /* interpreter/debug.h */
struct block_cache; /* interpreter/block.h */
struct native;      /* interpreter/native.h */
struct hold;        /* interpreter/hold.c */
struct insn;
struct cpu;

/* What the interpreter asks of the engine around it. Called on the vCPU's own thread. */
struct cpu_hooks {
    /* Port access, as struct vcpu_exit.io: count accesses of size bytes. */
    void (*io)(struct cpu *cpu, uint16_t port, unsigned size, bool is_write,
               uint32_t count, uint8_t *data);
    /* Physical access to what is not RAM (or a write to ROM); 1 to 64 bytes within a
     * page. The APIC's page is recognised by the engine. */
    void (*mmio)(struct cpu *cpu, gpa_t gpa, unsigned size, bool is_write, uint8_t *data);
    /* RDMSR and WRMSR of everything but what needs the interpreter's own caches. False:
     * #GP. */
    bool (*msr_read)(struct cpu *cpu, uint32_t index, uint64_t *value);
    bool (*msr_write)(struct cpu *cpu, uint32_t index, uint64_t value);
    uint64_t (*get_cr8)(struct cpu *cpu);
    void (*set_cr8)(struct cpu *cpu, uint64_t value);
    /* The TSC of the guest, state.tsc_offset included. */
    uint64_t (*tsc)(struct cpu *cpu);
    /* The TSC, by the host's, without state.tsc_offset: *factor times what *line tells,
     * as long as clock_get_line says. False: it has to be asked for each time. */
    bool (*tsc_line)(struct cpu *cpu, struct clock_line *line, struct factor *factor);
    /* Guest time in nanoseconds. */
    uint64_t (*now)(struct cpu *cpu);
    /* VMCALL/VMMCALL. False: #UD. */
    bool (*hypercall)(struct cpu *cpu);
    /* A counted event that does not leave the engine. */
    void (*count)(struct cpu *cpu, enum exit_reason reason);
    /* All other vCPUs stopped at an instruction boundary, for locked accesses that cross
     * a page. */
    void (*exclusive_begin)(struct cpu *cpu);
    void (*exclusive_end)(struct cpu *cpu);
};

/* For people; each written by the vCPU's thread alone. */
struct cpu_counters {
    _Atomic uint64_t tlb_filled;
    _Atomic uint64_t tlb_replaced;    /* an entry by another page's with its index */
    _Atomic uint64_t pages_dropped;   /* INVLPG, INVPCID of an address */
    _Atomic uint64_t regions_dropped; /* likewise, the page was a large one */
    _Atomic uint64_t spaces_entered;  /* CR3 loads */
    _Atomic uint64_t spaces_kept;     /* whose entries were there and stayed */
    _Atomic uint64_t spaces_dropped; /* all entries of an address space, by CR3, CR0, CR4,
                                        INVPCID, or because slots moved */
    _Atomic uint64_t spaces_replaced; /* by one more than there is room for */
};

struct cpu {
    uint64_t reg[REG_COUNT];
    arith_t arith;
    _Atomic uint32_t attention; /* nonzero: leave the block chain and look at events; set
                                   by any thread */
    struct tlb_entry *tlb;      /* the view in force: tlb_context->view[] */
    struct jump_entry *jump;
    const struct block *block; /* the one running, for stores into its own code */
    uint64_t code_key; /* generation and mode that cached block look-ups must match */
    uint64_t rip;      /* next instruction; valid between blocks only */
    uint64_t retired;  /* exact between blocks; see cpu_retired */
    uint64_t faults;   /* exceptions and software interrupts by instructions so far */

    /* Mode, derived from state by cpu_update_mode. */
    uint8_t cpl;
    bool is_long64;            /* 64-bit mode */
    bool is_long;              /* EFER.LMA */
    bool is_protected;         /* CR0.PE and not VM */
    uint8_t code_bits;         /* default operand and address size: 16, 32, 64 */
    uint8_t code_mode;         /* CODE_MODE_* */
    uint8_t stack_bits;        /* width of the stack pointer: 16, 32, 64 */
    uint8_t needs_interpreter; /* NEEDS_*; attention is set when it becomes nonzero */

    /* The exception raised by the instruction in progress. */
    bool has_fault;
    bool fault_noncanonical; /* a #GP for a non-canonical address: #SS if the access was
                                through SS */
    struct x86_exception fault;

    bool wants_window; /* an interrupt is pending but masked: look again when IF is set */
    uint64_t shadow_rip; /* with state.interrupt_shadow: the instruction that is not
                            interrupted */
    bool hides_step; /* this step ends without a single-step trap: it loaded SS, or is a
                        SYSCALL that masked TF */

    struct x86_state state;
    struct tlb_context *tlb_context;  /* current one of tlb_contexts */
    struct tlb_context *tlb_contexts; /* TLB_CONTEXTS of them */
    uint64_t tlb_clock;
    uint64_t generations; /* the last one given out */
    struct fetch_entry *fetch;
    struct block_cache *blocks;
    struct native *native;   /* host code for vector instructions */
    struct cpu_debug *debug; /* NULL: nobody debugs */
    bool single_step;        /* blocks of one instruction: RFLAGS.TF, interrupt shadow */

    /*
     * Deterministic runs: a pseudo instruction in front of each one notes the count, and
     * leaves to the run loop when there is something to look at or the limit is reached.
     * Set before anything is decoded. All others run without it, and without a limit.
     */
    bool is_counting;
    uint64_t counted; /* retired before the instruction in progress */
    uint64_t limit;   /* of retired: cpu_run returns there; UINT64_MAX: none */

    struct memory *memory;
    struct hold *hold; /* NULL: whoever stores looks at the frame's watch bits then */
    const struct cpuid_policy *cpuid;
    struct lapic *lapic;
    const struct cpu_hooks *hooks;
    void *opaque; /* the engine's */

    /* The guest's enabled debug registers by what they stop at, a bit each: see
     * interpreter/breakpoint.h. */
    uint8_t break_execute, break_data, break_port;
    const void *jump_miss; /* what an empty jump entry leads to */
    uint64_t layout;       /* of memory, that everything cached was made for */
    uint64_t flushes;      /* advances when any translation may have ceased to hold */
    bool drops_blocks;     /* what is decoded is to be dropped before the next look-up */
    uint32_t debug_traps;  /* conditions, as in DR6, for a #DB behind this instruction */
    uint64_t resume_count; /* RFLAGS.RF holds while `retired` is this */
    struct cpu_counters counters;

    /* Bounce buffer for operands wider than a register, and for MMIO and page-crossing
     * accesses. */
    uint8_t operand[64] __attribute__((aligned(64)));
};

/* Has this host's processor what the routines rest on? The error names what is missing.
 */
int cpu_check_host(struct error *err);
struct cpu *cpu_new(struct memory *memory, const struct cpuid_policy *cpuid,
                    struct lapic *lapic, const struct cpu_hooks *hooks, void *opaque,
                    struct error *err);
void cpu_free(struct cpu *cpu);

/* Common form to working form and back; cpu_sync_in drops every cache that depends on
 * what may have changed. */
void cpu_sync_in(struct cpu *cpu, const struct x86_state *state);
void cpu_sync_out(struct cpu *cpu, struct x86_state *state);

/* Call after any change to CR0, CR3, CR4, EFER, CS, SS, RFLAGS.AC/TF/VM: recomputes mode,
 * TLB view, code key, and whether code needs the interpreter. */
void cpu_update_mode(struct cpu *cpu);

/* In the half of the addresses where kernels live, and where alone entries last? */
static inline bool cpu_is_upper(const struct cpu *cpu, gva_t gva)
{
    return gva >> (cpu->state.efer & X86_EFER_LMA ? 63 : 31) & 1;
}

/* From now on blocks have one instruction, or as many as there are. */
void cpu_set_single(struct cpu *cpu, bool is_single);

/* The jump cache's entries for a page. */
static inline struct jump_entry *cpu_jump_page(struct cpu *cpu, uint64_t rip)
{
    unsigned page = (rip >> FRAME_SHIFT ^ rip >> (FRAME_SHIFT + JUMP_PAGE_BITS)) &
                    ((1u << JUMP_PAGE_BITS) - 1);
    return &cpu->jump[page << JUMP_SLOT_BITS];
}
static inline struct jump_entry *cpu_jump_entry(struct cpu *cpu, uint64_t rip)
{
    unsigned slot = (rip ^ rip >> JUMP_SLOT_BITS) & ((1u << JUMP_SLOT_BITS) - 1);
    return cpu_jump_page(cpu, rip) + slot;
}

/* Is this the instruction behind one that loaded SS? */
static inline bool cpu_is_behind_ss(const struct cpu *cpu)
{
    return cpu->state.interrupt_shadow == X86_SHADOW_SS && cpu->rip == cpu->shadow_rip;
}

/* Every flag; of RF only whether it was set at some time, see cpu_resumes. */
static inline uint64_t cpu_rflags(const struct cpu *cpu)
{
    return (cpu->state.rflags & ~(uint64_t)X86_FLAGS_ARITH) | arith_to_flags(cpu->arith) |
           X86_FLAG_1;
}

/* RFLAGS.RF set by an instruction (IRET, a task switch) or an interrupted repetition
 * holds for the next instruction: until another one has retired. */
static inline void cpu_set_resume(struct cpu *cpu)
{
    cpu->state.rflags |= X86_FLAG_RF;
    cpu->resume_count = cpu->retired;
}
static inline bool cpu_resumes(const struct cpu *cpu)
{
    return cpu->state.rflags & X86_FLAG_RF && cpu->resume_count == cpu->retired;
}

/* Sets all of RFLAGS; the caller has decided which bits may change. Looks at pending
 * interrupts when IF becomes set, single-steps when TF is, changes the view with AC. */
void cpu_set_rflags(struct cpu *cpu, uint64_t rflags);

/* The tag that nothing matches at an index: of a page that belongs to another, and does
 * not lie behind one of this, where an access may begin that ends there. */
static inline uint64_t cpu_never(unsigned index)
{
    return (uint64_t)(index ^ 2) << FRAME_SHIFT;
}
/* Empties an entry: nothing matches it, and stores that found their place otherwise look
 * further. */
void cpu_clear_entry(struct tlb_entry *entry, unsigned index);
/* The same of the stack's copy. */
void cpu_clear_stack(struct tlb_area *area);
/* Takes a page's entries out of every view and context, for accesses to it to be seen. */
void cpu_clear_page(struct cpu *cpu, gva_t gva);
/* RFLAGS.AC at CPL 0, and the view of memory that goes with it: STAC, CLAC. */
void cpu_set_ac(struct cpu *cpu, bool ac);
/* Drops translations: of one page in every view and context (INVLPG), of the address
 * space with a PCID (CR4.PCIDE being set) but for global pages, of all address spaces but
 * for global pages, of all. They also make cached block look-ups miss. */
void cpu_flush_page(struct cpu *cpu, gva_t gva);
void cpu_flush_pcid(struct cpu *cpu, unsigned pcid);
void cpu_flush_spaces(struct cpu *cpu);
void cpu_flush_all(struct cpu *cpu);
/* Drops them all if something else is at an address of the guest's than was. */
void cpu_follow_layout(struct cpu *cpu);
/* Notes that an entry being filled is part of a larger page. */
void cpu_note_large_page(struct tlb_context *context, gva_t gva, uint64_t page_size,
                         bool lasts);
/* Notes that an entry of a view, or a jump, is about to be filled. */
void cpu_note_filled(struct tlb_area *area, unsigned index, bool lasts);
/* Fills a jump entry; what it held goes to the pair's other one. */
void cpu_note_jump(struct tlb_area *area, unsigned index, uint64_t tag,
                   const void *target, bool lasts);
/* The jump entry for an address. */
static inline unsigned cpu_area_jump(uint64_t rip)
{
    return (rip ^ rip >> AREA_JUMP_MIX) & (AREA_JUMP_COUNT - 1);
}
/* Forgets where jumps went, in every view and context; target is what an empty entry
 * leads to from now on. */
void cpu_forget_jumps(struct cpu *cpu, const void *target);
/* After CR3 was loaded: selects (or recycles) the TLB context; without keep its entries
 * are dropped. */
void cpu_switch_context(struct cpu *cpu, bool keep);

/*
 * Records the exception of the instruction in progress; the handler then returns
 * insn_fault(cpu, insn). Returns false so that a function with a bool result can end
 * `return cpu_raise(...)`.
 */
bool cpu_raise(struct cpu *cpu, uint8_t vector, uint32_t error);
bool cpu_raise_page_fault(struct cpu *cpu, const struct x86_exception *fault);

/* Instructions retired, that in progress not included (of a REP: iterations done). Exact
 * within a block only while is_counting. */
static inline uint64_t cpu_retired(const struct cpu *cpu)
{
    return cpu->counted > cpu->retired ? cpu->counted : cpu->retired;
}

/* Somebody wants a look at events. */
#define ATTENTION_LOOK 1u
/* Blocks end after themselves, nothing else: what cpu_run_block leaves is wanted. */
#define ATTENTION_STOP 2u

static inline bool cpu_has_attention(const struct cpu *cpu)
{
    return atomic_load_explicit(&cpu->attention, memory_order_relaxed) != 0;
}
/* The same for what goes on within an instruction. */
static inline bool cpu_wants_look(const struct cpu *cpu)
{
    return atomic_load_explicit(&cpu->attention, memory_order_relaxed) == ATTENTION_LOOK;
}
static inline void cpu_set_attention(struct cpu *cpu)
{
    atomic_store(&cpu->attention, ATTENTION_LOOK);
}
