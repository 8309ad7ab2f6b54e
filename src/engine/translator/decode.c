#include "engine/translator/decode.h"
#include "engine/translator/values.h"

#include <assert.h>
#include <string.h>

#include "interpreter/insn.h"
#include "interpreter/isa.h"
#include "interpreter/native.h"

/* ---- working one out -------------------------------------------------------------- */

/* Branches by near or far, interrupts, and what the interpreter's table says ends a
 * block. */
static bool ends_block(const struct guest_insn *insn)
{
    const struct insn_row *row;
    switch (insn->decoded.meta.category) {
    case ZYDIS_CATEGORY_COND_BR:
        return false;
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_UNCOND_BR:
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_SYSCALL:
    case ZYDIS_CATEGORY_SYSRET:
        return true;
    default:
        break;
    }
    if (insn->emit) {
        return false;
    }
    for (unsigned i = 0; (row = insn_find_row(insn->decoded.mnemonic, i)); i++) {
        if (row->flags & ROW_ENDS_BLOCK) {
            return true;
        }
    }
    return false;
}

static bool is_jcc(const struct guest_insn *insn)
{
    return insn->decoded.meta.category == ZYDIS_CATEGORY_COND_BR;
}

/* What is asked of operands most. */
static void find_operands(struct guest_insn *insn)
{
    for (unsigned i = 0; i < insn->decoded.operand_count; i++) {
        const struct operand *operand = &insn->operand[i];
        if (operand->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            insn->memory = insn->accesses++ ? insn->memory : (int8_t)i;
        }
        if (operand->type == ZYDIS_OPERAND_TYPE_REGISTER &&
            operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE &&
            guest_is_gpr(operand->reg.value)) {
            insn->gpr_written |= (uint16_t)(1u << guest_number(operand->reg.value));
        }
    }
}

/* #GP for an operand that is misaligned? */
static bool is_aligned(const struct guest_insn *insn)
{
    const struct operand *operand = insn_memory(insn);
    if (insn->decoded.mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B) {
        return true;
    }
    if (!insn->uses_vector || !operand || operand->size < 128) {
        return false;
    }
    if (insn->decoded.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
        return insn->decoded.meta.exception_class == ZYDIS_EXCEPTION_CLASS_AVX1;
    }
    return !native_is_unaligned(insn->decoded.mnemonic);
}

static void plan_host_flags(struct guest_insn *insn)
{
    insn->host_flags =
        (insn->is_exit ? INSN_BRANCHES : 0) | (is_aligned(insn) ? INSN_ALIGNED : 0);
    insn->host_flags_alone = insn->is_way_in ? 0 : INSN_FAULTS;
}

/* As Zydis has it. */
struct full {
    ZydisDecodedInstruction decoded;
    ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
};

/* All of its kind, of an insn that is zero but for bytes and offset. */
static bool work_out(const struct emit *emit, struct guest_insn *insn, unsigned room,
                     struct full *full)
{
    const ZydisDecoder *decoder = code_decoder(emit->cache, emit->mode);
    insn->memory = -1;
    ZyanStatus status =
        ZydisDecoderDecodeFull(decoder, insn->bytes, room, &full->decoded, full->operand);
    if (status == ZYDIS_STATUS_NO_MORE_DATA && room < INSN_BYTES_MAX) {
        return false;
    }
    if (!ZYAN_SUCCESS(status)) {
        insn->decoded.mnemonic = ZYDIS_MNEMONIC_INVALID;
        insn->ends_block = true; /* the interpreter raises what it raises */
    } else {
        decoded_take(&insn->decoded, &full->decoded);
        for (unsigned i = 0; i < full->decoded.operand_count; i++) {
            operand_take(&insn->operand[i], &full->operand[i]);
        }
        find_operands(insn);
        if (native_isa_offered(emit->cpu->cpuid, &full->decoded)) {
            insn->emit = emit_find(insn);
        }
        insn->ends_block = ends_block(insn);
    }
    insn->is_exit = is_jcc(insn) || insn->ends_block;
    flags_find(emit, insn);
    group_plan(insn);
    emit_stack_plan(insn);
    values_plan(insn);
    recover_plan(insn);
    plan_host_flags(insn);
    if (insn->emit == emit_copy) {
        emit_copy_plan(emit, insn);
    }
    return true;
}

/* ---- kinds ------------------------------------------------------------------------ */

/*
 * What is known: an index of kinds in sets that lie in a line of the host's cache each,
 * and what is copied of them, in the order in which they were met. Zero at first.
 */
#define LINE      64u
#define WAYS      4u
#define SETS      8192u
#define KIND_MODE MODE_32
/* In struct found's mode; 0: there is none. */
#define KIND_IS_THERE 0x80u

struct set {
    uint64_t head[WAYS];
    struct found kind[WAYS];
};

struct known {
    struct set set[SETS];
    uint32_t used; /* lines of the copies' memory */
    uint8_t next;  /* way that is given to another kind when a set is full */
};

/* Huge pages, so that the index lies in one. */
#define MEMORY_SIZE (8u << 20)
#define INDEX_LINES ((unsigned)((sizeof(struct known) + LINE - 1) / LINE))
#define COPY_LINES  (MEMORY_SIZE / LINE - INDEX_LINES)
/* What is copied is all from decoded on. A kind's lines, at most; those of a block and
 * what is looked at behind it. */
#define KIND        (offsetof(struct guest_insn, decoded))
#define KIND_LINES  ((unsigned)((sizeof(struct guest_insn) - KIND + LINE - 1) / LINE))
#define BLOCK_LINES (2 * BLOCK_INSN_MAX * KIND_LINES)

/* Users look at the first three, whatever there are. */
#define OPERANDS_MIN 3u

static_assert(sizeof(struct set) == LINE, "a set is a line");

size_t decode_size(void)
{
    return MEMORY_SIZE;
}

static unsigned kind_mode(const struct emit *emit)
{
    return (emit->mode & KIND_MODE) | KIND_IS_THERE;
}

/* One head with two modes lies in two sets. */
static struct set *find_set(const struct emit *emit, struct head head)
{
    struct known *known = emit->cache->known;
    uint64_t hash = (head.bytes ^ (emit->mode & KIND_MODE)) * 0x9e3779b97f4a7c15ull;
    return &known->set[(hash >> 40) % SETS];
}

/* Its own part is not there. */
static const struct guest_insn *kind_copy(const struct emit *emit,
                                          const struct found *kind)
{
    const uint8_t *memory = emit->cache->known;
    return (const void *)(memory + (size_t)kind->place * LINE - KIND);
}

void decode_begin(struct emit *emit)
{
    struct known *known = emit->cache->known;
    if (known->used + BLOCK_LINES > COPY_LINES) {
        memset(known, 0, sizeof(*known));
    }
}

static bool is_immediate(const ZydisDecodedOperand *operand)
{
    return operand->type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
           operand->encoding >= ZYDIS_OPERAND_ENCODING_UIMM8;
}

/* Is all that differs among instructions of this head a displacement of the operand in
 * memory, and an immediate behind it that is an operand's value? */
static bool is_regular(const struct full *full, struct head head)
{
    const ZydisDecodedInstruction *decoded = &full->decoded;
    unsigned end = head.size;
    if (decoded->raw.disp.size) {
        if (decoded->raw.disp.offset != end || decoded->raw.disp.size > 32) {
            return false;
        }
        end += decoded->raw.disp.size / 8;
    }
    if (decoded->raw.imm[0].size) {
        if (decoded->raw.imm[0].offset != end) {
            return false;
        }
        end += decoded->raw.imm[0].size / 8;
    }
    if (end != decoded->length || decoded->raw.imm[1].size) {
        return false;
    }
    unsigned immediates = 0;
    for (unsigned i = 0; i < decoded->operand_count; i++) {
        const ZydisDecodedOperand *operand = &full->operand[i];
        if (operand->type == ZYDIS_OPERAND_TYPE_POINTER ||
            operand->encoding == ZYDIS_OPERAND_ENCODING_IS4) {
            return false;
        }
        if (is_immediate(operand)) {
            immediates++;
            if (operand->imm.value.u != decoded->raw.imm[0].value.u) {
                return false;
            }
        }
    }
    return immediates == (decoded->raw.imm[0].size != 0);
}

static size_t kind_size(unsigned operands)
{
    return offsetof(struct guest_insn, operand[operands]) - KIND;
}

/* A way of the set that is free, or taken from another. */
static unsigned free_way(const struct emit *emit, const struct set *set)
{
    for (unsigned i = 0; i < WAYS; i++) {
        if (!set->kind[i].mode) {
            return i;
        }
    }
    struct known *known = emit->cache->known;
    return known->next++ % WAYS;
}

/* Not at all if it is irregular. */
static void remember(const struct emit *emit, struct guest_insn *insn,
                     const struct full *full, struct head head)
{
    unsigned count = insn->decoded.operand_count, displaced = 0;
    insn->displaced = insn->immediate = -1;
    if (insn->decoded.length == 0 || !is_regular(full, head)) {
        return;
    }
    for (unsigned i = 0; i < count; i++) {
        const ZydisDecodedOperand *operand = &full->operand[i];
        if (is_immediate(operand)) {
            insn->immediate = (int8_t)i;
        }
        if (operand->type == ZYDIS_OPERAND_TYPE_MEMORY &&
            operand->mem.disp.has_displacement) {
            insn->displaced = (int8_t)i;
            displaced++;
        }
    }
    if (displaced > 1) {
        return;
    }
    struct known *known = emit->cache->known;
    struct set *set = find_set(emit, head);
    unsigned way = free_way(emit, set);
    struct found *kind = &set->kind[way];
    set->head[way] = head.bytes;
    *kind = (struct found){
        .place = INDEX_LINES + known->used,
        .mode = (uint8_t)kind_mode(emit),
        .length = insn->decoded.length,
        .operands = (uint8_t)(count < OPERANDS_MIN ? OPERANDS_MIN : count),
        .ends_block = insn->ends_block,
        .is_jcc = is_jcc(insn),
        .is_call = insn->is_call,
    };
    size_t size = kind_size(kind->operands);
    known->used += (uint32_t)((size + LINE - 1) / LINE);
    memcpy((void *)(uintptr_t)&kind_copy(emit, kind)->decoded, &insn->decoded, size);
}

static inline __attribute__((always_inline)) const struct found *
find_known(const struct emit *emit, const struct set *set, struct head head)
{
    unsigned found = 0;
    /* Which one it is nobody could predict. */
#pragma GCC unroll 4
    for (unsigned i = 0; i < WAYS; i++) {
        found |= (unsigned)(set->head[i] == head.bytes) << i;
    }
    if (!found || !head.size) {
        return NULL;
    }
    const struct found *kind = &set->kind[__builtin_ctz(found)];
    return kind->mode == kind_mode(emit) ? kind : NULL;
}

/* size: 8 to 64 bits. Eight bytes can be read. */
static int64_t read_signed(const uint8_t *bytes, unsigned size)
{
    uint64_t value;
    memcpy(&value, bytes, sizeof(value));
    return (int64_t)(value << (64 - size)) >> (64 - size);
}

/* The displacement and the immediate that insn's bytes have. kind is read, not what was
 * just copied of it. */
static void fill_in(struct guest_insn *insn, const struct guest_insn *kind)
{
    const struct decoded *decoded = &kind->decoded;
    if (decoded->raw.disp.size) {
        int64_t disp =
            read_signed(insn->bytes + decoded->raw.disp.offset, decoded->raw.disp.size);
        insn->decoded.raw.disp.value = disp;
        if (kind->displaced >= 0) {
            insn->operand[kind->displaced].mem.disp.value = disp;
        }
    }
    if (kind->immediate >= 0) {
        unsigned size = decoded->raw.imm[0].size;
        int64_t value = read_signed(insn->bytes + decoded->raw.imm[0].offset, size);
        if (!decoded->raw.imm[0].is_signed) {
            value &= (int64_t)(~0ull >> (64 - size));
        }
        insn->operand[kind->immediate].imm.value.s = value;
    }
}

/* Works out and remembers the instruction whose bytes and offset insn has. */
static bool learn(const struct emit *emit, struct guest_insn *insn, struct head head,
                  unsigned room)
{
    struct full full;
    unsigned offset = insn->offset;
    uint8_t bytes[INSN_BYTES_MAX];
    memcpy(bytes, insn->bytes, sizeof(bytes));
    memset(insn, 0, sizeof(*insn));
    memcpy(insn->bytes, bytes, sizeof(bytes));
    insn->offset = (uint16_t)offset;
    if (!work_out(emit, insn, room, &full)) {
        return false;
    }
    if (head.size) {
        remember(emit, insn, &full, head);
    }
    return true;
}

/* How many there are; first: the first eight. */
static unsigned read_bytes(const struct emit *emit, struct guest_insn *insn,
                           uint64_t *first)
{
    const struct code_place *place = &emit->block->place;
    if (insn->offset > FRAME_SIZE - 16) {
        unsigned room = code_read(emit->cache, place, insn->offset, insn->bytes);
        memcpy(first, insn->bytes, sizeof(*first));
        return room;
    }
    uint64_t bytes[2];
    memcpy(bytes, memory_host(emit->cache->memory, place->frame) + insn->offset, 16);
    memcpy(insn->bytes, bytes, 16);
    *first = bytes[0];
    return INSN_BYTES_MAX;
}

static __attribute__((noinline)) bool find_unknown(const struct emit *emit,
                                                   struct guest_insn *insn,
                                                   struct found *found, struct head head,
                                                   unsigned room)
{
    bool is_whole = learn(emit, insn, head, room);
    *found = (struct found){
        .length = insn->decoded.length,
        .ends_block = insn->ends_block,
        .is_jcc = is_jcc(insn),
        .is_call = insn->is_call,
    };
    return is_whole;
}

/* Behind RET and JMP is other code, mostly, or none. */
static bool leads_away(uint8_t opcode)
{
    return opcode == 0xc3 || opcode == 0xe9 || opcode == 0xeb;
}

unsigned decode_read(const struct emit *emit, struct guest_insn *insn,
                     struct peeked *peeked)
{
    uint64_t first;
    peeked->room = read_bytes(emit, insn, &first);
    peeked->head = head_find(insn->bytes, first, peeked->room, emit->is_64);
    peeked->set = find_set(emit, peeked->head);
    __builtin_prefetch(peeked->set);
    return leads_away((uint8_t)first) ? 0 : peeked->head.length;
}

bool decode_find(const struct emit *emit, struct guest_insn *insn,
                 const struct peeked *peeked, struct found *found)
{
    const struct found *kind = find_known(emit, peeked->set, peeked->head);
    if (!kind) {
        return find_unknown(emit, insn, found, peeked->head, peeked->room);
    }
    *found = *kind;
    const uint8_t *copy = (const void *)&kind_copy(emit, kind)->decoded;
    __builtin_prefetch(copy);
    __builtin_prefetch(copy + LINE);
    __builtin_prefetch(copy + 2 * LINE);
    return found->length <= peeked->room;
}

/* Bytes of most kinds, by few instructions. */
#define TAKEN (offsetof(struct guest_insn, operand[OPERANDS_MIN]) - KIND)
static void take_most(struct guest_insn *insn, const struct guest_insn *kind)
{
    typedef uint64_t vector __attribute__((vector_size(16), may_alias));
    vector *to = (void *)&insn->decoded;
    const vector *from = (const void *)&kind->decoded;
    static_assert(TAKEN % sizeof(vector) == 0, "whole vectors");
#pragma GCC unroll 16
    for (unsigned i = 0; i < TAKEN / sizeof(vector); i++) {
        to[i] = from[i];
    }
}

void decode_take(const struct emit *emit, struct guest_insn *insn,
                 const struct found *found)
{
    if (!found->place) {
        return;
    }
    const struct guest_insn *kind = kind_copy(emit, found);
    take_most(insn, kind);
    if (unlikely(found->operands > OPERANDS_MIN)) {
        memcpy(&insn->operand[OPERANDS_MIN], &kind->operand[OPERANDS_MIN],
               (found->operands - OPERANDS_MIN) * sizeof(struct operand));
    }
    fill_in(insn, kind);
    if (kind->counts_bits) {
        flags_count_bits(insn);
    }
}

const struct decoded *decode_ahead(const struct emit *emit,
                                   const uint8_t bytes[INSN_BYTES_MAX], unsigned room)
{
    static struct guest_insn scratch; /* under the lock */
    uint64_t first;
    memcpy(&first, bytes, sizeof(first));
    struct head head = head_find(bytes, first, room, emit->is_64);
    const struct found *kind = find_known(emit, find_set(emit, head), head);
    if (kind) {
        return kind->length <= room ? &kind_copy(emit, kind)->decoded : NULL;
    }
    memcpy(scratch.bytes, bytes, INSN_BYTES_MAX);
    bool is_whole = learn(emit, &scratch, head, room) && scratch.decoded.length != 0;
    return is_whole ? &scratch.decoded : NULL;
}
