#pragma once
/*
 * Instructions: the decoded form, the table row, and what handlers share.
 *
 * To add an instruction: one row (mnemonic, class, bind, exec) in the table of the file
 * that holds its kind; bind turns Zydis' decoding into a struct insn by choosing the exec
 * routine for the operand form.
 */

#include <Zydis/Zydis.h>

#include "interpreter/access.h"
#include "interpreter/cpu.h"

struct insn;
struct insn_row;

/*
 * Executes one instruction and goes on: a handler ends with NEXT(cpu, insn), or
 * insn_fault(), insn_leave(), insn_branch(). The value is what the run loop executes
 * next, NULL to look at events and find the block at cpu->rip.
 */
typedef const struct insn *insn_exec(struct cpu *cpu, const struct insn *insn);

struct insn {
    insn_exec *exec;
    union {
        uint64_t imm;         /* sign-extended to 64 bits */
        struct block *target; /* direct branches: cached successor */
        const void *extra;    /* the row's own data, from bind_alloc */
    };
    int32_t disp;
    /* Byte offsets into cpu->reg (AH..BH are the parent's offset + 1), see REG_OFFSET. */
    uint8_t dst, src, base, index;
    uint8_t scale;   /* shift */
    uint8_t special; /* nonzero: the address needs insn_address_special; INSN_* below */
    uint8_t length;
    uint8_t size;    /* of the memory operand in bytes (0: none, or up to the handler) */
    uint16_t offset; /* of the first byte in its page */
    uint8_t ordinal; /* place in its block */
    uint8_t aux;     /* the row's own: condition code, REP prefix, ... */
};

_Static_assert(sizeof(struct insn) == 32, "two decoded instructions per cache line");

#define REG_OFFSET(reg) ((uint8_t)((reg)*8))

#define INSN_SEGMENT    0x07 /* enum x86_segment_register */
#define INSN_BASED      0x08 /* add that segment's base, FS or GS in 64-bit mode */
#define INSN_ADDRESS32  0x10
#define INSN_ADDRESS16  0x20
#define INSN_LEGACY                                                               \
    0x40 /* not 64-bit mode: base, limit and rights of INSN_SEGMENT apply, linear \
            address is 32-bit */
#define INSN_WRITES 0x80 /* the operand is written: the segment must be writable */

/*
 * How the field classifies it, on the bare processor (Popek & Goldberg 1974; Robin &
 * Irvine 2000; the reasons are in sensitive.c). An instruction is sensitive unless it is
 * innocuous; their theorem wants every sensitive one to be privileged.
 */
enum insn_class {
    INSN_INNOCUOUS,
    INSN_CONTROL_SENSITIVE,   /* changes privilege, segments, flags, where it can */
    INSN_BEHAVIOUR_SENSITIVE, /* shows, or silently depends on, what is not the program's
                               */
    INSN_PRIVILEGED, /* traps outside CPL 0, unless IOPL, I/O map or CR4 allow it */
};

struct binding; /* what bind works on */

/*
 * A mnemonic may have several rows, in several tables (MOV to a register, a segment
 * register, a control register; MOVSD the string move and the SSE move; near and far
 * JMP): bind returns false for a form that is not its row's, and the next row is asked.
 * If none accepts it: #UD.
 */
typedef bool insn_bind(struct binding *binding, const struct insn_row *row,
                       struct insn *insn);

struct insn_row {
    ZydisMnemonic mnemonic;
    enum insn_class class;
    insn_bind *bind;        /* false: not this row; #UD if there is no other */
    insn_exec *const *exec; /* the routines bind chooses from */
    unsigned flags;         /* ROW_* */
    const char
        *form; /* the operands, of a sensitive row whose mnemonic has others, too */
};

#define ROW_ENDS_BLOCK \
    1u /* control transfer, or it changes what decoding or events depend on */

/* clang-format off: one line a table. */
/* The tables, one per kind of instruction, each ended by a row with bind == NULL; insn.c
 * lists them. */
extern const struct insn_row
    insn_rows_arith[]; /* arith.c: ADD..CMP, INC, DEC, NEG, NOT */
extern const struct insn_row insn_rows_muldiv[]; /* muldiv.c: MUL, IMUL, DIV, IDIV */
extern const struct insn_row insn_rows_shift[];  /* shift.c: shifts, rotates */
extern const struct insn_row insn_rows_bit[];    /* bit.c: BT.., BSF, BSR, BSWAP */
extern const struct insn_row
    insn_rows_move[]; /* move.c: MOV, LEA, XCHG, CMOV, SET, extensions */
extern const struct insn_row insn_rows_atomic[]; /* atomic.c: XADD, CMPXCHG.. */
extern const struct insn_row
    insn_rows_branch[]; /* branch.c: near jumps, calls, returns, loops */
extern const struct insn_row insn_rows_push[];    /* push.c: PUSH, POP */
extern const struct insn_row insn_rows_decimal[]; /* decimal.c: AAA to DAS, SALC */
extern const struct insn_row insn_rows_stack[];   /* stack.c: ENTER, LEAVE, PUSHA, POPA */
extern const struct insn_row
    insn_rows_string[]; /* string.c: MOVS..SCAS, INS, OUTS, with REP */
extern const struct insn_row insn_rows_far[];       /* far.c: far jumps, calls, returns */
extern const struct insn_row insn_rows_interrupt[]; /* interrupt.c: INT n, IRET.. */
extern const struct insn_row insn_rows_syscall[];   /* syscall.c: SYSCALL, SYSRET.. */
extern const struct insn_row
    insn_rows_segment[]; /* segment.c: MOV/PUSH/POP sreg, LGDT.., SWAPGS */
extern const struct insn_row insn_rows_selector[]; /* selector.c: LAR, LSL, VERR.. */
extern const struct insn_row
    insn_rows_system[]; /* system.c: MSR, CPUID, HLT, IN/OUT, INVLPG, NOP.. */
extern const struct insn_row insn_rows_control[]; /* control.c: CR, DR, XCR0 */
extern const struct insn_row insn_rows_key[];     /* key.c: RDPKRU, WRPKRU */
extern const struct insn_row insn_rows_flag[];    /* flag.c: CLI, STI, PUSHF, CLC.. */
extern const struct insn_row
    insn_rows_native[]; /* native.c: SSE..AVX2, AES, SHA, BMI: on the host's units */
extern const struct insn_row
    insn_rows_x87[]; /* x87.c: x87, FXSAVE, XSAVE, EMMS, LDMXCSR */
/* clang-format on */

/* Makes the index of the tables; before the first look-up, in any number of threads. */
void insn_index_rows(void);
/* The tables by name, index 0, 1, ... until NULL. */
const struct insn_row *insn_table(unsigned index, const char **name);
/* The rows of a mnemonic, alternative = 0, 1, ... until NULL: the first whose bind
 * accepts the operands is the one. */
const struct insn_row *insn_find_row(ZydisMnemonic mnemonic, unsigned alternative);

/* What bind functions get. */
struct binding {
    struct cpu *cpu;
    const ZydisDecodedInstruction *decoded;
    const ZydisDecodedOperand
        *operand;         /* ZYDIS_MAX_OPERAND_COUNT, hidden ones behind the visible */
    const uint8_t *bytes; /* the instruction's own bytes */
    struct block_cache *blocks;
};

/* Memory that lives as long as the decoded block; NULL if the cache is full (bind then
 * returns false and the whole block is decoded again after the cache was emptied). */
void *bind_alloc(struct binding *binding, unsigned size);
/* Byte offset of a GPR operand in cpu->reg; AH..BH included. */
uint8_t bind_register(ZydisRegister reg);
/* Fills base, index, scale, disp, special and size from a memory operand (also for
 * LEA-like ones: AGEN). */
void bind_memory(struct binding *binding, struct insn *insn,
                 const ZydisDecodedOperand *operand);
/* SDM 2A table 2-3: SIB.base 5 with ModRM.mod 0 means a displacement and no base; the
 * decoder shows R13D where REX.B is set and addresses have 32 bits. */
bool bind_has_no_base(const ZydisDecodedInstruction *decoded);
/* Width of a value operand as 0..3 for 1, 2, 4, 8 bytes. */
unsigned bind_log2_size(unsigned bits);

/* A row with one routine. Fills dst (operand 0) and src (operand 1) if registers, the
 * memory operand if there is one, imm if there is one. size: operand 0's width unless a
 * memory operand gave one. */
insn_bind bind_simple;

/* Does a memory operand's displacement fit struct insn? Only MOV's 64-bit moffs forms do
 * not. */
bool bind_displacement_fits(const ZydisDecodedOperand *operand);

/* Registers by byte offset. */
static inline void *insn_reg(struct cpu *cpu, uint8_t offset)
{
    return (uint8_t *)cpu->reg + offset;
}
#define REG8(cpu, offset)  (*(uint8_t *)insn_reg(cpu, offset))
#define REG16(cpu, offset) (*(uint16_t *)insn_reg(cpu, offset))
#define REG32(cpu, offset)      \
    (*(uint32_t *)insn_reg(cpu, \
                           offset)) /* for reading; a write must zero the upper half */
#define REG64(cpu, offset) (*(uint64_t *)insn_reg(cpu, offset))

/* Reads and writes of a GPR of 1, 2, 4, 8 bytes with the architecture's rules for the
 * rest of it. */
static inline uint64_t reg_read(struct cpu *cpu, uint8_t offset, unsigned size)
{
    return access_host_load(insn_reg(cpu, offset), size);
}
static inline void reg_write(struct cpu *cpu, uint8_t offset, unsigned size,
                             uint64_t value)
{
    access_host_store(insn_reg(cpu, offset), size == 4 ? 8 : size,
                      size == 4 ? (uint32_t)value : value);
}

/* Address of the memory operand: linear, segment applied. A limit violation records the
 * fault and yields an address on which every access fails. */
uint64_t insn_address_special(struct cpu *cpu, const struct insn *insn, uint64_t offset,
                              unsigned size);
/* The same of an offset that does not wrap around at the end of its address size. */
uint64_t insn_address_in_segment(struct cpu *cpu, const struct insn *insn,
                                 uint64_t offset, unsigned size);
/* The offset part alone (LEA). */
static inline uint64_t insn_offset(struct cpu *cpu, const struct insn *insn)
{
    return REG64(cpu, insn->base) + (REG64(cpu, insn->index) << insn->scale) +
           (uint64_t)(int64_t)insn->disp;
}
/* The same within the address size. */
static inline uint64_t insn_truncated_offset(struct cpu *cpu, const struct insn *insn)
{
    uint64_t offset = insn_offset(cpu, insn);
    return insn->special & INSN_ADDRESS32   ? (uint32_t)offset
           : insn->special & INSN_ADDRESS16 ? (uint16_t)offset
                                            : offset;
}
static inline __attribute__((always_inline)) uint64_t
insn_address(struct cpu *cpu, const struct insn *insn)
{
    uint64_t ea = insn_offset(cpu, insn);
    if (unlikely(insn->special)) {
        return insn_address_special(cpu, insn, ea, insn->size);
    }
    return ea;
}

/* The linear address of an offset computed otherwise (bit strings, moffs). */
static inline uint64_t insn_linear(struct cpu *cpu, const struct insn *insn,
                                   uint64_t offset, unsigned size)
{
    return unlikely(insn->special) ? insn_address_special(cpu, insn, offset, size)
                                   : offset;
}

/* Own address, and that of the instruction behind, as RIP shows them (truncated outside
 * 64-bit mode). */
static inline uint64_t insn_rip(const struct cpu *cpu, const struct insn *insn)
{
    return cpu->reg[REG_CODE_BASE] + insn->offset;
}
static inline uint64_t insn_next_rip(const struct cpu *cpu, const struct insn *insn)
{
    return cpu->reg[REG_CODE_BASE] + insn->offset + insn->length;
}

/*
 * Ends of a handler.
 *
 * Threaded dispatch: each handler calls the next one's as a tail call. Builds that cannot
 * (sanitizers, -O0) return to the run loop after each instruction instead; the handlers
 * are the same.
 */
#if DOPPEL_THREADED
#define NEXT(cpu, insn) return (insn)[1].exec((cpu), (insn) + 1)
#else
#define NEXT(cpu, insn) return ((void)(cpu), (insn) + 1)
#endif

/* Delivers the recorded exception; RIP is this instruction's. Always NULL. */
const struct insn *insn_fault(struct cpu *cpu, const struct insn *insn);
/* Retires this instruction and returns to the run loop at the next one: for rows with
 * ROW_ENDS_BLOCK. Always NULL. */
const struct insn *insn_leave(struct cpu *cpu, const struct insn *insn);
/* The same at another address (already checked for canonicality and limits). */
const struct insn *insn_leave_to(struct cpu *cpu, const struct insn *insn, uint64_t rip);
/* Leaves with RIP at this very instruction, not retired: a REP instruction interrupted
 * between iterations. */
const struct insn *insn_again(struct cpu *cpu, const struct insn *insn);

/* Shorthand for raising inside a handler: return insn_raise(cpu, insn, X86_GP, 0). */
static inline const struct insn *insn_raise(struct cpu *cpu, const struct insn *insn,
                                            uint8_t vector, uint32_t error)
{
    cpu_raise(cpu, vector, error);
    return insn_fault(cpu, insn);
}

/* Stack accesses at SS:RSP of 2, 4, 8 bytes; #SS on failure. RSP moves only when the
 * access succeeded. */
bool stack_push(struct cpu *cpu, unsigned size, uint64_t value);
/* The same, but only the first bytes of the place are written. */
bool stack_push_part(struct cpu *cpu, unsigned size, unsigned stored, uint64_t value);
struct loaded stack_pop(struct cpu *cpu, unsigned size);
/* Read at displacement from the stack pointer without moving it; then move it. */
struct loaded stack_peek(struct cpu *cpu, int64_t displacement, unsigned size);
void stack_adjust(struct cpu *cpu, int64_t bytes);
