#pragma once
/*
 * Making a block: the decoded guest instructions, and the state of the code being made
 * for them.
 *
 * To translate one more kind of instruction: a function emit_*, a row in emit_table.c.
 * What has no row, or whose function returns false, is left to the interpreter.
 */

#include <Zydis/Zydis.h>

#include "engine/engine.h"
#include "engine/translator/cache.h"
#include "engine/translator/decoded.h"
#include "interpreter/cpu.h"

struct emit;
struct guest_insn;

/* Makes the code of one instruction; false: nothing was made, the interpreter does it. */
typedef bool emit_fn(struct emit *emit, const struct guest_insn *insn);

/* How an instruction's access is checked. */
struct access {
    enum access_kind {
        ACCESS_ALONE,
        ACCESS_FIRST,  /* of a group: its check is for all of them */
        ACCESS_MEMBER, /* was checked with the first */
    } kind;
    int8_t group;
    uint8_t slot;         /* where the group's host address is: of frame.group_base */
    uint8_t offset, size; /* its bytes among the group's */
    bool stores;
    uint8_t look_from, look_size; /* of the group's bytes, that are looked at behind it */
    /* Of the group, where it is the first. */
    uint8_t group_size;
    bool group_stores;
    bool looks_first; /* begins only while nobody watches the frame */
    bool is_early;    /* checked at the block's head; a member by its kind */
};

/* What is used of most lies in four lines of the host's cache. */
struct guest_insn {
    /* Its own, and its block's. */
    uint8_t bytes[INSN_BYTES_MAX + 9]; /* eight may be read from any on */
    uint16_t offset;                   /* in the page */
    uint8_t recovery; /* how flags are found where it is left: struct block_insn's */
    uint8_t recovery_found; /* how they would be before it; 0: they are not */
    bool recovery_lasts;    /* and behind it */
    uint32_t flags_live;    /* must be known behind it, in the host's or in memory */
    uint32_t flags_live_before;
    bool flags_awaited; /* it or one behind it in the block reads those before it */
    struct access access;
    /* Its bytes, so many from there, that its code is to read from the guest's memory:
     * a displacement or an immediate (soften.h). 0: none. */
    uint8_t soft_at, soft_size;
    bool keeps_base; /* r10 is a group's, behind the first's check */
    bool needs_base; /* its code counts on a group's having been checked */
    /* Of its kind, from here on (decode.h). */
    struct decoded decoded;
    emit_fn *emit; /* NULL: the interpreter's */
    /* Not 0: emit_copy copies these bytes, and immediates; between them, if it has an
     * operand in memory, comes ModRM with this reg. */
    uint8_t copied_size, copied_reg;
    uint8_t copied[INSN_BYTES_MAX + 1];
    bool ends_block;
    bool uses_vector, uses_fpu;
    int8_t displaced, immediate; /* the operand that has, or is, such a one; -1: none */
    int8_t memory;               /* the first operand in memory, or -1 */
    uint8_t accesses;            /* operands in memory, those not written out included */
    uint8_t borrowed; /* operands' guest registers that lie in memory, but addresses' */
    uint16_t gpr_written;     /* by number */
    bool is_unconcerned : 1;  /* by the stack pointer (emit_stack.c) */
    bool moves_values : 1;    /* from register to register, perhaps (values.c) */
    bool has_high_byte : 1;   /* AH, CH, DH or BH is an operand */
    bool keeps_addresses : 1; /* see group_plan */
    bool may_join : 1;        /* the same */
    bool stores : 1;          /* its store may be of code, and leave behind it */
    /* A guest register that lies in memory can be had there as the operand in ModRM.rm:
     * the one there, if it is read, or written whole; the one in ModRM.reg. */
    bool reads_frame : 1, writes_frame : 1, swaps_frame : 1;
    bool adds_page : 1;   /* as it addresses what it reads, at no cost (emit_adds_page) */
    bool counts_bits : 1; /* what it does to flags depends on its immediate: a shift */
    bool is_origin : 1;   /* its flags can be computed anew, perhaps (recover.c) */
    bool can_recover : 1; /* who leaves at it finds the registers as before it */
    bool may_be_left : 1; /* and perhaps is */
    bool is_exit : 1;     /* leads elsewhere than behind it, perhaps or always */
    bool is_call : 1;     /* by its own code, as the next */
    bool is_branch : 1;   /* on a condition */
    bool knows_held : 1;  /* its function knows of what scratch registers hold */
    bool may_leave : 1;   /* translated code, whatever its access is */
    bool has_operand : 1; /* in memory, which it accesses */
    bool is_way_in : 1;   /* who has left at it comes back behind it, perhaps */
    /* When translated code may be left at it, which shows all flags. */
    enum shows {
        SHOWS_NOTHING,
        SHOWS_BY_ACCESS, /* where its access is checked */
        SHOWS_ALWAYS,
    } shows : 2;
    uint16_t flags_read,
        flags_kill;       /* arithmetic flags; kill: all bits written whatever */
    uint16_t flags_write; /* perhaps written */
    /* struct block_insn's host_flags, and those if its access is checked alone. */
    uint8_t host_flags, host_flags_alone;
    struct operand operand[ZYDIS_MAX_OPERAND_COUNT];
} __attribute__((aligned(64)));

static_assert(offsetof(struct guest_insn, decoded) == 64, "its own part is a line");

/* Code that is rarely run, made behind the block. */
struct cold {
    enum cold_kind {
        COLD_LEAVE,    /* out, by a reason, with the instruction's number */
        COLD_STACK,    /* the address that ends at host is not in the stack's page */
        COLD_MISS,     /* out, host + the tag at r9 being the address that missed */
        COLD_WATCHED,  /* out, r8 being the host address stored to, or base + target */
        COLD_LINK,     /* out, by a link */
        COLD_JUMP,     /* on at a guest address of this page or another */
        COLD_CALL,     /* the same, and back to where code goes on: behind */
        COLD_MISMATCH, /* a return to somewhere else: r8 */
        COLD_TARGET,   /* out, an indirect JMP leading to r8 */
        COLD_ROUND,    /* on in the first block of an unrolled loop */
    } kind;
    uint8_t *place[2]; /* displacements that lead here; [1] may be NULL */
    uint8_t reason, ordinal;
    bool from_host; /* the guest's flags are in the host's */
    bool is_write;
    bool adds_page;  /* COLD_STACK: later */
    uint8_t size;    /* COLD_STACK: of the access */
    uint8_t *behind; /* COLD_STACK, COLD_CALL: where code goes on */
    uint8_t host;    /* register */
    bool by_base;    /* of the group with this slot */
    uint8_t slot;
    uint8_t patches; /* the block's patch of this number - 1 leads here; 0: none */
    int64_t target;  /* relative to the page */
    uint32_t link;
};

#define COLD_MAX 896

/* What a host register holds besides the code being made (scratch.c): a guest register
 * by its number, or the host address of the bytes of the group with a slot. */
#define HELD_NOTHING    0
#define HELD_BASE(slot) (16u + (slot))
struct held {
    uint8_t what;
    bool is_newer; /* than what the frame has */
    uint8_t used;  /* the instruction that did last */
};

/* A group that is checked at the block's head (early.c): its bytes are where registers
 * say, and disp. */
struct early {
    uint8_t ordinal; /* of the instruction with its first access */
    uint8_t slot, size;
    bool is_write, looks_first;
#define EARLY_RIP 16     /* the page's address */
    uint8_t base, index; /* guest registers, or HOST_NONE */
    uint8_t scale;
    int32_t disp;
    bool is_round; /* made at the beginning of each pass of an unrolled loop */
};
#define EARLY_MAX 6

/* So many instructions behind a block are looked at (flags.c). */
#define AHEAD_MAX 8

/* What must hold of frame.status for a block's code to run: one compare. */
struct gate {
    unsigned first, size;
    uint32_t value;
    bool fpu, vector, avx; /* what that asks for */
};

struct emit {
    struct code code;
    struct code_cache *cache;
    struct cpu *cpu;
    struct block *block;
    unsigned mode;
    bool is_64;           /* else 32-bit code */
    bool is_fixed;        /* page is known now */
    uint8_t width;        /* of addresses, and of what is pushed: 8 or 4 bytes */
    uint64_t page;        /* linear address of the page */
    unsigned watched_end; /* of the page, from the block's beginning on: in whole lines */
    /* What was looked at behind the block, if it tells that flags are dead there. */
    uint16_t ahead_at, ahead_size; /* offset in the page */
    uint8_t ahead_bytes[AHEAD_MAX * INSN_BYTES_MAX];
    struct gate gate;
    unsigned ordinal;
    bool flags_in_memory;  /* the guest's flags are in frame.arith, not in the host's */
    bool flags_are_stored; /* they are in frame.arith, too */
    uint8_t ahead;         /* so many instructions behind the block overwrite all flags */
    uint8_t settles;       /* struct link's, of a link that is made now */
    struct recovery recovery[LOOP_INSN_MAX + 1];
    unsigned recovery_count;
    int32_t stack_moves; /* what guest RSP is to be moved by yet */
    bool ended;          /* no way leads behind the last instruction */
    bool has_branched;   /* on a condition */
    bool keeps_base;     /* of the instruction being made */
    struct early early[EARLY_MAX];
    unsigned early_count;
    int8_t loop_end; /* up to here the block may lead behind those checks; or -1 */
    /* Of an unrolled loop: instructions of a round, or 0; how the flags at its beginning
     * are found, 0 if they are not; whether they go to memory there. */
    uint8_t round, round_recovery;
    bool round_spills;
    const uint8_t *round_failed; /* its code where a check failed */
    struct held held[3];         /* by host r8, r9 and r10 */
    bool is_held;                /* perhaps; else nothing is */
    bool holds; /* the instruction being made may leave something there */
    struct cold cold[COLD_MAX];
    unsigned cold_count;
};

#define FRAME(field) frame_offset(offsetof(struct frame, field))
static inline int32_t frame_gpr(unsigned guest)
{
    return frame_offset(offsetof(struct frame, gpr) + guest * 8u);
}
static inline int32_t frame_status(unsigned number)
{
    return frame_offset(offsetof(struct frame, status) + number);
}

/* The function for an instruction that the guest is offered; fills the rest of insn that
 * depends on its kind. */
emit_fn *emit_find(struct guest_insn *insn);

/* How the instructions of a table row are run. */
enum engine_way emit_way(const struct insn_row *row);

static inline const struct operand *insn_memory(const struct guest_insn *insn)
{
    return insn->memory < 0 ? NULL : &insn->operand[insn->memory];
}

/* Guest registers. */
static inline bool guest_is_gpr(ZydisRegister reg)
{
    return reg >= ZYDIS_REGISTER_AL && reg <= ZYDIS_REGISTER_R15;
}
/* The number of a general register, or of the one that a part belongs to. Zydis counts
 * AL CL DL BL AH CH DH BH SPL BPL SIL DIL R8B ... R15B AX ... R15W EAX ... */
static inline unsigned guest_number(ZydisRegister reg)
{
    if (reg >= ZYDIS_REGISTER_AX) {
        return (reg - ZYDIS_REGISTER_AX) % 16;
    }
    unsigned id = reg - ZYDIS_REGISTER_AL;
    return id >= 4 ? id - 4 : id;
}
static inline bool guest_in_memory(unsigned guest)
{
    return guest >= 8 && guest < 12;
}
/* The host register of one that has one. */
static inline unsigned guest_host(unsigned guest)
{
    return guest == HOST_RSP ? HOST_GUEST_RSP : guest;
}
static inline void emit_load_gpr(struct emit *emit, unsigned host, unsigned guest)
{
    if (guest_in_memory(guest)) {
        host_fs(&emit->code, true, HOST_MOV_LOAD, host, frame_gpr(guest));
    } else {
        host_mov(&emit->code, host, guest_host(guest));
    }
}

/* flags.c: what an instruction does to flags, its function being known. */
void flags_find(const struct emit *emit, struct guest_insn *insn);
/* The same, insn->counts_bits and its immediate being another. */
void flags_count_bits(struct guest_insn *insn);
/* Which are live behind a block's last instruction; end: the offset behind it. */
uint32_t flags_find_end(struct emit *emit, const struct guest_insn *insns, unsigned count,
                        unsigned end);
/* Which must be known at each of a block's instructions, some being live at its end, its
 * accesses being known so far; and which it need not keep, for they can be found anew. */
void flags_find_live(struct guest_insn *insns, unsigned count, uint32_t live);
/* May translated code be left at the instruction, or behind it by its store? Its access's
 * kind is known. */
static inline bool flags_are_shown(const struct guest_insn *insn)
{
    unsigned is_checked = insn->access.kind != ACCESS_MEMBER;
    return insn->shows + is_checked > SHOWS_BY_ACCESS;
}
static inline bool flags_are_shown_behind(const struct guest_insn *insn)
{
    return insn->stores && (insn->access.kind == ACCESS_ALONE || insn->access.look_size);
}
/* How many of them it takes until all flags have been overwritten. */
unsigned flags_count_settling(const struct emit *emit, const struct guest_insn *insns,
                              unsigned count);
/* Does it read some, or leave some that are live? */
static inline bool flags_are_read(const struct guest_insn *insn)
{
    return insn->flags_read ||
           (insn->flags_write && insn->flags_live & ~insn->flags_kill);
}
/* Has it a check, which overwrites the host's? Its access's kind is known. */
bool flags_are_spilled(const struct guest_insn *insn);
/* Would its check rather leave them alone, for somebody in the block reads them soon? */
bool flags_are_kept(const struct guest_insn *insn);

/* recover.c: what that finds out that is the same in every block. */
void recover_plan(struct guest_insn *insn);
/* Where a block's instructions may be left, how to find flags that nobody has
 * kept. */
void recover_find(struct emit *emit, struct guest_insn *insns, unsigned count);

struct cold *emit_cold(struct emit *emit, enum cold_kind kind, uint8_t *place);
void emit_colds(struct emit *emit);
/* The instruction at an aligned place leads to what is cold when the block is dead. */
void emit_patch(struct emit *emit, const uint8_t *place, struct cold *cold);
/* Is the instruction being made the block's last? */
static inline bool emit_is_last(const struct emit *emit)
{
    return emit->ordinal + 1u == emit->block->count;
}

/* Flags. Before code that overwrites the host's: what is live goes to memory; clobbers
 * r8.
 */
void emit_spill_flags(struct emit *emit, uint32_t live);
/* Brings them back into the host's; clobbers r10, r9 while that is a group's base. */
void emit_restore_flags(struct emit *emit);
/* The host's are the guest's from here on. */
static inline void emit_note_flags(struct emit *emit)
{
    emit->flags_in_memory = emit->flags_are_stored = false;
}

/* scratch.c. Before an instruction's code: emit->holds, and what that asks for. */
void scratch_begin(struct emit *emit, const struct guest_insn *insn);
/* The scratch register that holds something; HOST_NONE: none does. */
unsigned scratch_find_held(const struct emit *emit, unsigned what);
static inline unsigned scratch_find(const struct emit *emit, unsigned what)
{
    return emit->is_held || what == HELD_NOTHING ? scratch_find_held(emit, what)
                                                 : HOST_NONE;
}
/* One holds it from now on, for as long as may be; is_newer: the frame's is old. */
void scratch_hold(struct emit *emit, unsigned host, unsigned what, bool is_newer);
/* The best one to overwrite of those free, a bit each by host number. */
unsigned scratch_choose(const struct emit *emit, unsigned free);
/* Before a host register is overwritten; before what is held is changed in the frame, or
 * elsewhere. What is newer is stored; flags stay. */
void scratch_overwrite_held(struct emit *emit, unsigned host);
static inline void scratch_overwrite(struct emit *emit, unsigned host)
{
    if (emit->is_held) {
        scratch_overwrite_held(emit, host);
    }
}
void scratch_release(struct emit *emit, unsigned what);
/* The instruction makes it anew, in the frame. */
void scratch_forget(struct emit *emit, unsigned what);
/* What is newer is stored, and stays. */
void scratch_save(struct emit *emit);
/* Nothing is held any more; nothing is newer. */
void scratch_clear(struct emit *emit);

/* Registers and memory as wide as addresses are: 32-bit results are zero-extended. */
static inline void emit_mov(struct emit *emit, unsigned to, unsigned from)
{
    host_op_reg(&emit->code, emit->is_64, HOST_MOV_LOAD, to, from);
}
static inline void emit_lea_base(struct emit *emit, unsigned to, unsigned base,
                                 int32_t disp)
{
    struct host_mem mem = {(uint8_t)base, HOST_NONE, 0, disp};
    host_op_mem(&emit->code, emit->is_64, HOST_LEA, to, &mem);
}

/* Memory. Where size bytes are, checked: of an operand, or disp behind where a host
 * register points in the stack. Spills the flags if need be. The place is based on r8,
 * with r9 as emit_check leaves it if the access is alone, or on r10; on both
 * if emit_adds_page says so. */
struct host_mem emit_operand(struct emit *emit, const struct guest_insn *insn,
                             const struct operand *operand, unsigned size, bool is_write);
struct host_mem emit_stack(struct emit *emit, const struct guest_insn *insn,
                           unsigned base, int32_t disp, bool is_write);
/* Is the place of an access that is alone based on r8 and r9, the sum being made as it is
 * addressed? */
bool emit_adds_page(const struct emit *emit, const struct guest_insn *insn);
/* A scratch register that is free then, to store a value by. */
static inline unsigned emit_value_register(const struct access *access)
{
    return access->kind == ACCESS_ALONE   ? HOST_R10
           : access->slot == GROUP_IN_R10 ? HOST_R8
                                          : HOST_R9;
}
/* Host r8 = linear address of extra bytes behind the operand (the offset only: LEA);
 * clobbers r9; overwrites flags if the segment has a base. */
void emit_address(struct emit *emit, const struct guest_insn *insn,
                  const struct operand *operand, bool with_segment, int32_t extra);
/* A host register = the operand's offset and extra, as LEA has it; clobbers r8 and r9. */
void emit_address_to(struct emit *emit, unsigned host, const struct guest_insn *insn,
                     const struct operand *operand, int32_t extra);
/* Host r8 = host address of the size bytes at linear address r8, r9 = the entry's place;
 * overwrites flags, which have been spilled. Marks where the instruction may fault. */
void emit_check(struct emit *emit, unsigned size, bool is_write);
/* The same up to the offset in the page, in r8. */
void emit_check_offset(struct emit *emit, unsigned size, bool is_write);
/* The checks that the block, or a pass of an unrolled loop, begins with; the flags have
 * been spilled. */
void emit_early(struct emit *emit, bool is_round);
/* The check of an access of the stack, by the TLB, that did not find it in the page of
 * the last one. */
void emit_cold_stack(struct emit *emit, const struct cold *cold);
/* What is missing then: r8 += the page's host address. */
void emit_add_page(struct emit *emit);
/* Host r8 = the host address of a group's bytes that were checked; flags stay. */
void emit_load_base(struct emit *emit, unsigned slot);
/* To the interpreter, on a condition; the flags have been spilled. */
void emit_leave_if(struct emit *emit, unsigned condition);
/* Does an instruction that stores look? A group's look may be a later store's. */
static inline bool emit_looks(const struct emit *emit, const struct access *access)
{
    return emit->cache->looks && (access->kind == ACCESS_ALONE || access->look_size);
}
/* Behind an instruction's store of size bytes (to r8, with r9 as emit_check left it,
 * unless the access is a group's). live: flags in the host's that must stay. */
void emit_watch(struct emit *emit, const struct guest_insn *insn, unsigned size,
                uint32_t live);
/* Host r8 = linear address of the stack disp behind where base points; overwrites flags.
 */
void emit_stack_address(struct emit *emit, unsigned base, int32_t disp);
/* The same for another host register than r8, in 64-bit code or a flat stack. */
void emit_stack_address_to(struct emit *emit, unsigned host, unsigned base, int32_t disp);
/* Host register = linear address of an offset relative to the page; flags stay. */
void emit_page_address(struct emit *emit, unsigned host, int64_t offset);
/* The page that position-independent code runs in is that of linear address r8;
 * overwrites both. */
void emit_code_base(struct emit *emit);
/* The same as the guest sees it; overwrites flags. */
void emit_code_address(struct emit *emit, unsigned host, int64_t offset);

/* Host r8 = linear address of the code that it holds the guest's address of; overwrites
 * flags. */
void emit_add_code_base(struct emit *emit);

/* Control. Goes to guest code of an offset relative to the page; condition: a Jcc's, or
 * -1. The state of flags stays as it is for what follows. */
void emit_goto(struct emit *emit, int condition, int64_t target, uint32_t live);
/* Can a link lead to an offset relative to the page? */
bool emit_can_link(const struct emit *emit, int64_t target);
/* A link's jump or call (opcode E8, E9, or a condition): its number. */
uint32_t emit_link(struct emit *emit, int opcode, unsigned target);
/* Goes to another page (JMP_MEMORY or CALL_MEMORY) by the first of the two entries that
 * the view may have for that address; overwrites flags, which are in memory. The place of
 * the branch of who finds something else there; NULL: nothing was made, it has to be
 * looked up. */
#define CALL_MEMORY 2
#define JMP_MEMORY  4
uint8_t *emit_known_jump(struct emit *emit, int64_t target, unsigned kind);
void emit_leave(struct emit *emit, unsigned reason);

/* group.c: finds the groups of a block's accesses, whose functions are known; segments
 * have no bases but FS and GS. Groups end at the block's splits. */
void group_accesses(struct emit *emit, struct guest_insn *insn, unsigned count);

/* member.c: what group_accesses finds out that is the same in every block. */
void group_plan(struct guest_insn *insn);

/* May translated code be left at the instruction? Its access's kind is known. */
static inline bool group_may_leave(const struct guest_insn *insn)
{
    return insn->may_leave || insn->access.kind == ACCESS_FIRST ||
           (insn->has_operand && insn->access.kind != ACCESS_MEMBER);
}

/* emit_head.c. What the block begins with. */
void emit_head(struct emit *emit, const struct guest_insn *insns);
void emit_round_head(struct emit *emit, const struct guest_insn *insns);
/* The block must not be entered if it could go beyond the limit. */
void emit_limit(struct emit *emit);
/* Whoever was called may have left translated code, and the units' state with it. What
 * wants a look is seen at the next head, as loops have one. offset: where the call
 * returns to. */
void emit_gate_again(struct emit *emit, int64_t offset);
/* emit_copy.c */
emit_fn emit_copy, emit_nothing, emit_lea;
/* What emit_copy finds out that is the same in every block. */
void emit_copy_plan(const struct emit *emit, struct guest_insn *insn);
/* emit_string.c */
emit_fn emit_stos, emit_movs, emit_lods, emit_scas, emit_cmps;
/* emit_system.c */
emit_fn emit_cli, emit_sti, emit_cld, emit_swapgs, emit_pushf, emit_popf, emit_rdpkru,
    emit_read_control;
/* emit_level.c */
emit_fn emit_syscall, emit_sysret, emit_ac;
/* Leaves to quick.c, and goes on behind. */
emit_fn emit_quick;
/* The same on a condition; it goes on where emit_quick_resume was called. */
void emit_leave_quick_if(struct emit *emit, unsigned condition);
void emit_quick_resume(struct emit *emit);
/* emit_time.c */
emit_fn emit_rdtsc;
/* emit_bit.c */
emit_fn emit_bit_string;
/* emit_stack.c */
emit_fn emit_push, emit_pop, emit_leave_frame;
/* emit_segment.c */
emit_fn emit_push_segment, emit_read_segment, emit_load_segment;
/* What emit_stack.c finds out that is the same in every block. */
void emit_stack_plan(struct guest_insn *insn);
/* Does it do without guest RSP, which may be moved later? */
bool emit_moves_later(const struct guest_insn *insn);
void emit_settle_stack(struct emit *emit);
/* emit_branch.c */
emit_fn emit_call, emit_ret, emit_jmp, emit_jcc, emit_loop, emit_jrcxz;

/*
 * Makes the block at a place, known to the cache from then on. NULL: the guest is storing
 * to the code, its first instruction crosses into a page that the place does not name, or
 * there is no room (*is_full). The lock is held. former: one that was there, whose splits
 * and targets it has, or NULL; splits: others instead, or NULL.
 */
struct block *translate(struct code_cache *cache, struct cpu *cpu,
                        const struct code_place *place, const struct block *former,
                        const struct splits *splits, bool *is_full);
/* The same of the loop that a block closes (block->back), unrolled, or the one there is.
 * NULL: it cannot be, now. */
struct block *translate_loop(struct code_cache *cache, struct cpu *cpu,
                             const struct block *block);
